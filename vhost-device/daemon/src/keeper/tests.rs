// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Connections between a front-end and workers, both played by the test.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;

use super::message::{Message, Read, Reader, request};
use super::session::{End, Session};

/// One end of a socket, with what has arrived so far.
struct Peer {
    stream: UnixStream,
    reader: Reader,
}

impl Peer {
    fn pair() -> (Self, UnixStream) {
        let (one, two) = UnixStream::pair().unwrap();
        for end in [&one, &two] {
            end.set_nonblocking(true).unwrap();
        }
        let reader = Reader::default();
        (
            Self {
                stream: one,
                reader,
            },
            two,
        )
    }

    fn send(&self, message: &Message) {
        message.send(&self.stream).unwrap();
    }

    /// All messages that have arrived.
    fn received(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Read::Message(message) = self.reader.read(&self.stream).unwrap() {
            messages.push(message);
        }
        messages
    }

    /// Answers every question that has arrived with `answer`, and returns all that arrived.
    fn serve(&mut self, answer: u64) -> Vec<Message> {
        let messages = self.received();
        for message in messages.iter().filter(|message| message.asks()) {
            self.send(&message.reply(answer.to_ne_bytes().to_vec()));
        }
        messages
    }
}

/// A connection and its front-end.
fn connection() -> (Session, Peer) {
    let (front, other) = Peer::pair();
    (Session::new(1, other, false).unwrap(), front)
}

/// Gives the connection a worker, which has answered the replay.
fn attach(session: &mut Session) -> (Peer, Vec<Message>) {
    let (mut back, other) = Peer::pair();
    session.attach(other).unwrap();
    session.write_back().unwrap();
    let replayed = back.serve(0);
    assert!(hear(session).unwrap(), "the replay has an end");
    (back, replayed)
}

/// Passes on all that the front-end has sent.
fn pass(session: &mut Session) -> Result<(), End> {
    for _ in 0..64 {
        session.read_front()?;
        session.write_back()?;
        session.send_answer()?;
    }
    Ok(())
}

/// Hears the worker, and passes its answer on. Returns whether the replay has ended.
fn hear(session: &mut Session) -> Result<bool, End> {
    let resumed = session.read_back()?;
    session.send_answer()?;
    Ok(resumed)
}

fn requests(messages: &[Message]) -> Vec<u32> {
    messages.iter().map(|message| message.request).collect()
}

fn state(request: u32, index: u32, value: u32) -> Message {
    let body = [index, value].map(u32::to_ne_bytes).concat();
    Message::new(request, body, Vec::new())
}

fn file(name: &str) -> (OwnedFd, u64) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(name.as_bytes()).unwrap();
    let inode = file.metadata().unwrap().ino();
    (file.into(), inode)
}

fn inode(file: &impl AsFd) -> u64 {
    let file: File = file.as_fd().try_clone_to_owned().unwrap().into();
    file.metadata().unwrap().ino()
}

/// A table of one region: guest address, bytes, front-end's address.
fn table(guest: u64, bytes: u64, user: u64) -> (Message, u64) {
    let (file, inode) = file("memory");
    let mut body = [1_u32, 0].map(u32::to_ne_bytes).concat();
    body.extend([guest, bytes, user, 0].map(u64::to_ne_bytes).concat());
    (
        Message::new(request::SET_MEM_TABLE, body, vec![file]),
        inode,
    )
}

fn addresses(index: u32, parts: [u64; 3]) -> Message {
    let mut body = [index, 0].map(u32::to_ne_bytes).concat();
    body.extend(parts.map(u64::to_ne_bytes).concat());
    body.extend(0_u64.to_ne_bytes());
    Message::new(request::SET_VRING_ADDR, body, Vec::new())
}

#[test]
fn the_next_worker_is_told_what_the_last_one_knew() {
    let (mut session, front) = connection();
    let (mut back, first) = attach(&mut session);
    assert_eq!(
        requests(&first),
        [request::GET_FEATURES; 2],
        "nothing was agreed on yet"
    );
    let (memory, memory_inode) = table(0x1000, 0x10000, 0x7000_0000);
    let (kick, kick_inode) = file("kick");
    let kick = Message::new(
        request::SET_VRING_KICK,
        3_u64.to_ne_bytes().to_vec(),
        vec![kick],
    );
    let sent = [
        Message::new(request::SET_OWNER, Vec::new(), Vec::new()),
        Message::new(
            request::SET_FEATURES,
            0x1_4000_0000_u64.to_ne_bytes().to_vec(),
            Vec::new(),
        ),
        memory,
        state(request::SET_VRING_NUM, 3, 64),
        state(request::SET_VRING_BASE, 3, 5),
        addresses(3, [0x7000_1000, 0x7000_2000, 0x7000_3000]),
        kick,
        state(request::SET_VRING_ENABLE, 3, 1),
    ];
    for message in &sent {
        front.send(message);
    }
    pass(&mut session).unwrap();
    assert_eq!(requests(&back.received()), requests(&sent));
    session.detach();
    let (_, replayed) = attach(&mut session);
    let wanted = [
        request::GET_FEATURES,
        request::SET_OWNER,
        request::SET_FEATURES,
        request::SET_MEM_TABLE,
        request::SET_VRING_NUM,
        request::SET_VRING_BASE,
        request::SET_VRING_ADDR,
        request::SET_VRING_KICK,
        request::SET_VRING_ENABLE,
        request::GET_FEATURES,
    ];
    assert_eq!(requests(&replayed), wanted);
    for (sent, replayed) in sent.iter().zip(&replayed[1..]) {
        assert_eq!(sent.body, replayed.body, "request {}", sent.request);
    }
    assert_eq!(inode(&replayed[3].files[0]), memory_inode);
    assert_eq!(inode(&replayed[7].files[0]), kick_inode);
}

#[test]
fn a_message_that_died_with_its_worker_is_sent_again() {
    let (mut session, mut front) = connection();
    let (mut back, _) = attach(&mut session);
    let question = state(request::GET_VRING_BASE, 2, 0);
    front.send(&question);
    pass(&mut session).unwrap();
    assert_eq!(requests(&back.received()), [request::GET_VRING_BASE]);
    session.detach();
    assert!(!session.front().1, "the front-end waits for its answer");
    let (mut back, other) = Peer::pair();
    session.attach(other).unwrap();
    session.write_back().unwrap();
    assert_eq!(requests(&back.serve(0)), [request::GET_FEATURES; 2]);
    hear(&mut session).unwrap();
    assert_eq!(requests(&back.serve(7)), [request::GET_VRING_BASE]);
    hear(&mut session).unwrap();
    let answers = front.received();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].long(0), Some(7));
    assert!(session.front().1);
}

#[test]
fn a_stopped_ring_is_not_started_for_the_next_worker() {
    let (mut session, mut front) = connection();
    let (mut back, _) = attach(&mut session);
    for descriptor in [request::SET_VRING_KICK, request::SET_VRING_CALL] {
        let body = 1_u64.to_ne_bytes().to_vec();
        front.send(&Message::new(descriptor, body, vec![file("event").0]));
    }
    front.send(&state(request::GET_VRING_BASE, 1, 0));
    pass(&mut session).unwrap();
    back.serve(0);
    hear(&mut session).unwrap();
    assert_eq!(front.received().len(), 1);
    session.detach();
    let (_, replayed) = attach(&mut session);
    assert_eq!(requests(&replayed), [request::GET_FEATURES; 2]);
}

#[test]
fn a_ring_stays_where_it_is_when_memory_moves_in_the_front_end() {
    let (mut session, front) = connection();
    let (_back, _) = attach(&mut session);
    front.send(&table(0x1000, 0x10000, 0x7000_0000).0);
    front.send(&addresses(0, [0x7000_1000, 0x7000_2000, 0x7000_3000]));
    front.send(&table(0x1000, 0x10000, 0x9000_0000).0);
    pass(&mut session).unwrap();
    session.detach();
    let (_, replayed) = attach(&mut session);
    let told = replayed
        .iter()
        .find(|message| message.request == request::SET_VRING_ADDR)
        .unwrap();
    let wanted = addresses(0, [0x9000_1000, 0x9000_2000, 0x9000_3000]);
    assert_eq!(told.body, wanted.body);
}

#[test]
fn regions_come_and_go_one_by_one() {
    let (mut session, front) = connection();
    let (_back, _) = attach(&mut session);
    let region = |request, at: u64| {
        let mut body = 0_u64.to_ne_bytes().to_vec();
        body.extend([at << 20, 4096, at << 30, 0].map(u64::to_ne_bytes).concat());
        Message::new(request, body, vec![file("memory").0])
    };
    for at in 0..12 {
        front.send(&region(request::ADD_MEM_REG, at));
    }
    front.send(&region(request::REM_MEM_REG, 5));
    pass(&mut session).unwrap();
    session.detach();
    let (_, replayed) = attach(&mut session);
    let regions = replayed
        .iter()
        .filter(|message| message.request == request::ADD_MEM_REG);
    let at: Vec<_> = regions
        .map(|message| message.long(1).unwrap() >> 20)
        .collect();
    assert_eq!(
        at,
        [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11],
        "more than a table holds"
    );
}

#[test]
fn without_a_worker_the_record_answers() {
    let (mut session, mut front) = connection();
    let (mut back, _) = attach(&mut session);
    let config = Message::new(
        request::GET_CONFIG,
        vec![0, 0, 0, 0, 4, 0, 0, 0],
        Vec::new(),
    );
    front.send(&config);
    pass(&mut session).unwrap();
    back.serve(0x4d45_4d54);
    hear(&mut session).unwrap();
    front.send(&state(request::GET_VRING_BASE, 0, 0));
    pass(&mut session).unwrap();
    // The worker dies with the question, and no other comes.
    assert!(session.answer_alone().is_ok());
    session.send_answer().unwrap();
    front.send(&config);
    front.send(&state(request::SET_VRING_ENABLE, 0, 0));
    pass(&mut session).unwrap();
    let answers = front.received();
    let wanted = [
        request::GET_CONFIG,
        request::GET_VRING_BASE,
        request::GET_CONFIG,
    ];
    assert_eq!(requests(&answers), wanted);
    assert_eq!(answers[0].body, answers[2].body);
    front.send(&Message::new(
        request::GET_QUEUE_NUM,
        Vec::new(),
        Vec::new(),
    ));
    assert!(
        matches!(pass(&mut session), Err(End::Broken(_))),
        "what nobody knows"
    );
}

#[test]
fn a_message_in_pieces_is_put_together_and_nonsense_is_refused() {
    let (mut session, front) = connection();
    let (mut back, _) = attach(&mut session);
    let words = [request::SET_VRING_NUM, 1, 8, 0, 64];
    for byte in words.map(u32::to_ne_bytes).concat() {
        (&front.stream).write_all(&[byte]).unwrap();
        pass(&mut session).unwrap();
    }
    let received = back.received();
    assert_eq!(requests(&received), [request::SET_VRING_NUM]);
    assert_eq!(received[0].word(1), Some(64));
    let huge = [request::SET_VRING_NUM, 1, 1 << 20].map(u32::to_ne_bytes);
    (&front.stream).write_all(&huge.concat()).unwrap();
    assert!(matches!(pass(&mut session), Err(End::Broken(_))));
}

#[test]
fn a_front_end_that_goes_is_noticed_and_so_is_one_that_does_not_read() {
    let (mut session, front) = connection();
    let (_back, _) = attach(&mut session);
    drop(front);
    assert!(matches!(pass(&mut session), Err(End::Gone)));

    let (mut session, front) = connection();
    let (mut back, _) = attach(&mut session);
    let question = Message::new(request::GET_CONFIG, vec![0; 256], Vec::new());
    let end = (0..100_000).find_map(|_| {
        // Full in this direction too, sooner or later.
        let _ = question.send(&front.stream);
        let read = pass(&mut session);
        for asked in back.received() {
            back.send(&asked.reply(vec![0; 256]));
        }
        read.and_then(|()| session.read_back()).err()
    });
    assert!(matches!(end, Some(End::Broken(_))), "{end:?}");
}

/// Any bytes that a front-end may send in place of messages: numbers, lengths and descriptors at random.
#[test]
fn random_messages_harm_nobody_and_leave_a_record_that_can_be_replayed() {
    let seed = std::env::var("TMEM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let mut random: u64 = seed.unwrap_or(0x9e37_79b9_7f4a_7c15);
    println!("seed {random}; replay with TMEM_SEED={random}");
    let mut next = move || {
        // Xorshift; the seed is not 0.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..200 {
        let (mut session, front) = connection();
        let (mut back, _) = attach(&mut session);
        for _ in 0..20 {
            let request = u32::try_from(next() % 46).unwrap();
            let small = next() % 2 == 0;
            let words = (0..next() % 9).map(|_| if small { next() % 4 } else { next() });
            let body: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
            let files = (0..next() % 3).map(|_| file("any").0);
            front.send(&Message::new(request, body, files.collect()));
            if pass(&mut session).is_err() {
                break;
            }
            back.serve(next());
            if hear(&mut session).is_err() {
                break;
            }
            if next() % 4 == 0 {
                session.detach();
                back = attach(&mut session).0;
            }
            if next() % 16 == 0 {
                let mut files = Vec::new();
                let saved = session.save("vm0", &mut files);
                assert_eq!(saved.number, 1);
                let _ = session.answer_alone();
            }
        }
    }
}
