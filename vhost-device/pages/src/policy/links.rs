// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nodes and lists: the memory of all policies, shared by all guests.
//!
//! A frame is in one list at most, so one node a frame is enough for every guest and every policy:
//! two links of four bytes, and a tag of two that says whose the frame is, which of the guest's lists
//! it is in, and how often it was hit (up to three times). A list is its two ends and its length;
//! its members are the nodes' numbers, not pointers, so nothing here is unsafe.
//!
//! Nodes come in blocks of [`BLOCK`] frames, made when a frame of the block is first claimed: growing
//! copies nothing and takes no more than a block.

/// Frames are numbered below this.
pub const FRAME_LIMIT: u32 = 1 << 30;
/// Guests are numbered below this: what a tag has room for.
pub const GUESTS_MAX: u32 = 1 << 12;
/// The highest count of hits that a tag holds.
pub const COUNT_MAX: u8 = 3;
/// Frames in a block of nodes.
const BLOCK: usize = 4096;

/// No frame.
const NIL: u32 = u32::MAX;

const _: () = assert!(crate::engine::FRAMES_MAX <= FRAME_LIMIT && FRAME_LIMIT < NIL);
const _: () = assert!(crate::engine::GUESTS_MAX <= GUESTS_MAX as usize);

/// A node's neighbours in its list; a policy that keeps no list may put anything else here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The neighbour towards the front.
    pub previous: u32,
    /// The neighbour towards the back.
    pub next: u32,
}

impl Link {
    /// What a frame that was never linked has: no neighbours.
    pub const NONE: Self = Self {
        previous: NIL,
        next: NIL,
    };
}

/// Where a frame is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere.
    Out,
    /// In its policy's first list, or in its only one.
    First,
    /// In its policy's second list.
    Second,
    /// Among the victims that could not leave. Not the policy's business.
    Returned,
}

/// Whose a frame is (12 bits), its count (2 bits) and its place (2 bits).
///
/// A frame that is [`Out`](Place::Out) was a member of the guest, and its count says whether it is
/// on its way out: 1 or 2 for a victim from the first or second list. Of a frame that is
/// [`Returned`](Place::Returned) the count's low bit says which list it waits in, and the high bit is
/// set if it came from the second list of its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag(u16);

impl Tag {
    const FREE: Self = Self(0);

    fn new(guest: u16, count: u8, place: Place) -> Self {
        let place = match place {
            Place::Out => 0,
            Place::First => 1,
            Place::Second => 2,
            Place::Returned => 3,
        };
        Self(guest << 4 | u16::from(count & COUNT_MAX) << 2 | place)
    }

    fn guest(self) -> u16 {
        self.0 >> 4
    }

    fn count(self) -> u8 {
        let [low, _] = self.0.to_le_bytes();
        low >> 2 & COUNT_MAX
    }

    fn place(self) -> Place {
        match self.0 & 3 {
            0 => Place::Out,
            1 => Place::First,
            2 => Place::Second,
            _ => Place::Returned,
        }
    }
}

/// The nodes of [`BLOCK`] frames. Tags stand apart: a hit of most policies reads and writes a tag
/// alone, and 32 of them share a cache line.
#[derive(Debug)]
struct Block {
    links: Box<[Link]>,
    tags: Box<[Tag]>,
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Nodes {
    blocks: Vec<Option<Block>>,
}

/// Block and place in it of a frame.
fn place_of(frame: u32) -> (usize, usize) {
    let frame = frame as usize;
    (frame / BLOCK, frame % BLOCK)
}

impl Nodes {
    fn tag(&self, frame: u32) -> Tag {
        let (block, at) = place_of(frame);
        let block = self.blocks.get(block).and_then(Option::as_ref);
        block.map_or(Tag::FREE, |block| block.tags[at])
    }

    fn set_tag(&mut self, frame: u32, tag: Tag) {
        let (block, at) = place_of(frame);
        if let Some(Some(block)) = self.blocks.get_mut(block) {
            block.tags[at] = tag;
        }
    }

    /// The link of a frame.
    #[must_use]
    pub fn link(&self, frame: u32) -> Link {
        let (block, at) = place_of(frame);
        let block = self.blocks.get(block).and_then(Option::as_ref);
        block.map_or(Link::NONE, |block| block.links[at])
    }

    /// Sets the link of a frame, which must have been given to the policy.
    pub fn set_link(&mut self, frame: u32, link: Link) {
        let (block, at) = place_of(frame);
        if let Some(Some(block)) = self.blocks.get_mut(block) {
            block.links[at] = link;
        }
    }

    /// Where a frame is linked.
    #[must_use]
    pub fn place(&self, frame: u32) -> Place {
        self.tag(frame).place()
    }

    /// Says where a frame is linked, for a policy that keeps no list; its count becomes 0.
    pub fn set_place(&mut self, frame: u32, place: Place) {
        let tag = Tag::new(self.tag(frame).guest(), 0, place);
        self.set_tag(frame, tag);
    }

    /// The count of a linked frame, 0 to [`COUNT_MAX`].
    #[must_use]
    pub fn count(&self, frame: u32) -> u8 {
        self.tag(frame).count()
    }

    /// Sets the count of a linked frame; what does not fit is as good as [`COUNT_MAX`].
    pub fn set_count(&mut self, frame: u32, count: u8) {
        let tag = self.tag(frame);
        self.set_tag(
            frame,
            Tag::new(tag.guest(), count.min(COUNT_MAX), tag.place()),
        );
    }

    /// Makes `list` end with a frame that is linked nowhere; its count becomes 0.
    pub fn push_back(&mut self, list: &mut List, place: Place, frame: u32) {
        let link = Link {
            previous: list.back,
            next: NIL,
        };
        self.set_link(frame, link);
        match list.back {
            NIL => list.front = frame,
            back => self.change_link(back, |link| link.next = frame),
        }
        list.back = frame;
        list.len += 1;
        self.set_place(frame, place);
    }

    /// Takes the front of `list` out.
    pub fn pop_front(&mut self, list: &mut List) -> Option<u32> {
        let frame = list.front()?;
        self.unlink(list, frame);
        Some(frame)
    }

    /// Takes a member out of the list that it is in.
    pub fn unlink(&mut self, list: &mut List, frame: u32) {
        let Link { previous, next } = self.link(frame);
        match previous {
            NIL => list.front = next,
            previous => self.change_link(previous, |link| link.next = next),
        }
        match next {
            NIL => list.back = previous,
            next => self.change_link(next, |link| link.previous = previous),
        }
        list.len -= 1;
        self.take_out(frame);
    }

    /// A frame is linked nowhere from now on. Until the next insertion its tag tells where it was:
    /// see [`Nodes::victim_of`].
    pub fn take_out(&mut self, frame: u32) {
        let tag = self.tag(frame);
        let from = match (tag.place(), tag.count()) {
            (Place::Out, _) => 0,
            (Place::First, _) | (Place::Returned, 0 | 1) => 1,
            (Place::Second, _) | (Place::Returned, _) => 2,
        };
        self.set_tag(frame, Tag::new(tag.guest(), from, Place::Out));
    }

    fn change_link(&mut self, frame: u32, change: impl FnOnce(&mut Link)) {
        let mut link = self.link(frame);
        change(&mut link);
        self.set_link(frame, link);
    }

    /// A frame that is linked nowhere is `guest`'s from now on. False if there can be no such frame.
    pub(super) fn claim(&mut self, frame: u32, guest: u16) -> bool {
        if frame >= FRAME_LIMIT {
            return false;
        }
        let (number, _) = place_of(frame);
        if number >= self.blocks.len() {
            self.blocks.resize_with(number + 1, || None);
        }
        self.blocks[number].get_or_insert_with(|| Block {
            links: vec![Link::NONE; BLOCK].into_boxed_slice(),
            tags: vec![Tag::FREE; BLOCK].into_boxed_slice(),
        });
        self.set_tag(frame, Tag::new(guest, 0, Place::Out));
        true
    }

    /// Whose member a linked frame is.
    pub(super) fn guest(&self, frame: u32) -> Option<u16> {
        let tag = self.tag(frame);
        (tag.place() != Place::Out).then(|| tag.guest())
    }

    /// Whose victim a frame is that is on its way out, and from which list it comes.
    pub(super) fn victim_of(&self, frame: u32) -> Option<(u16, Place)> {
        let tag = self.tag(frame);
        match (tag.place(), tag.count()) {
            (Place::Out, 1) => Some((tag.guest(), Place::First)),
            (Place::Out, 2) => Some((tag.guest(), Place::Second)),
            _ => None,
        }
    }

    /// Makes `list`, one of two, end with a victim that could not leave.
    pub(super) fn push_returned(&mut self, list: &mut List, which: u8, frame: u32, from: Place) {
        self.push_back(list, Place::Returned, frame);
        let from = if from == Place::Second { 2 } else { 0 };
        self.set_count(frame, which & 1 | from);
    }

    /// Which of two lists a frame waits in that was put back.
    pub(super) fn returned_in(&self, frame: u32) -> u8 {
        self.count(frame) & 1
    }

    /// Forgets a frame that is linked nowhere.
    pub(super) fn forget(&mut self, frame: u32) {
        self.set_tag(frame, Tag::FREE);
    }

    /// Gives the memory of blocks back of which no frame is known.
    pub(super) fn trim(&mut self) {
        for block in &mut self.blocks {
            if block
                .as_ref()
                .is_some_and(|block| block.tags.iter().all(|tag| *tag == Tag::FREE))
            {
                *block = None;
            }
        }
        while let Some(None) = self.blocks.last() {
            self.blocks.pop();
        }
        self.blocks.shrink_to_fit();
    }

    /// Bytes of memory that the nodes take.
    pub(super) fn bytes(&self) -> usize {
        let block = BLOCK * (size_of::<Link>() + size_of::<Tag>());
        self.blocks.iter().flatten().count() * block
            + self.blocks.capacity() * size_of::<Option<Block>>()
    }
}

/// A list of frames. Its methods are those of [`Nodes`], where the links are.
#[derive(Debug)]
pub struct List {
    front: u32,
    back: u32,
    len: u32,
}

impl List {
    /// A list without members.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            front: NIL,
            back: NIL,
            len: 0,
        }
    }

    /// The member that is taken out next.
    #[must_use]
    pub fn front(&self) -> Option<u32> {
        (self.front != NIL).then_some(self.front)
    }

    /// Members.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Default for List {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(nodes: &Nodes, list: &List) -> Vec<u32> {
        let mut found = Vec::new();
        let mut at = list.front;
        while at != NIL {
            found.push(at);
            at = nodes.link(at).next;
        }
        found
    }

    #[test]
    fn a_member_leaves_from_the_front_the_middle_and_the_back() {
        let (mut nodes, mut list) = (Nodes::default(), List::new());
        for frame in 0..5 {
            assert!(nodes.claim(frame, 7));
            nodes.push_back(&mut list, Place::First, frame);
        }
        nodes.unlink(&mut list, 2);
        nodes.unlink(&mut list, 4);
        assert_eq!(nodes.pop_front(&mut list), Some(0));
        assert_eq!(members(&nodes, &list), [1, 3]);
        assert_eq!((list.len(), list.back), (2, 3));
        assert_eq!(nodes.pop_front(&mut list), Some(1));
        assert_eq!(nodes.pop_front(&mut list), Some(3));
        assert_eq!(nodes.pop_front(&mut list), None);
        assert!(list.is_empty());
    }

    #[test]
    fn a_tag_keeps_guest_count_and_place_apart() {
        for guest in [0, 1, 1023, 4095] {
            for count in 0..=COUNT_MAX {
                for place in [Place::Out, Place::First, Place::Second, Place::Returned] {
                    let tag = Tag::new(guest, count, place);
                    assert_eq!(
                        (tag.guest(), tag.count(), tag.place()),
                        (guest, count, place)
                    );
                }
            }
        }
    }

    #[test]
    fn a_victims_tag_tells_where_it_came_from_until_it_is_forgotten() {
        let (mut nodes, mut list) = (Nodes::default(), List::new());
        assert!(nodes.claim(9000, 3));
        assert_eq!(nodes.victim_of(9000), None);
        nodes.push_back(&mut list, Place::Second, 9000);
        assert_eq!(nodes.guest(9000), Some(3));
        nodes.pop_front(&mut list);
        assert_eq!(nodes.victim_of(9000), Some((3, Place::Second)));
        assert_eq!(nodes.guest(9000), None);
        nodes.forget(9000);
        assert_eq!(nodes.victim_of(9000), None);
    }

    #[test]
    fn blocks_come_with_their_first_frame_and_go_when_trimmed() {
        let mut nodes = Nodes::default();
        assert!(!nodes.claim(FRAME_LIMIT, 0));
        assert_eq!(nodes.bytes(), 0);
        assert!(nodes.claim(FRAME_LIMIT - 1, 1));
        assert!(nodes.claim(0, 1));
        assert_eq!(nodes.blocks.iter().flatten().count(), 2);
        nodes.forget(FRAME_LIMIT - 1);
        nodes.trim();
        // Guest 1's frame is known still.
        assert_eq!(nodes.blocks.len(), 1);
        nodes.forget(0);
        nodes.trim();
        assert_eq!(nodes.bytes(), 0);
    }
}
