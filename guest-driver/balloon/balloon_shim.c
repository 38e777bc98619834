// SPDX-License-Identifier: GPL-2.0
/*
 * Kernel macros, inline functions and tables for the Rust half of the balloon,
 * and the assertions that hold its hand-written declarations (ffi.rs) to the
 * headers.
 */
#include <linux/balloon.h>
#include <linux/device/bus.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/oom.h>
#include <linux/page_reporting.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/virtio.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>

#include "balloon_shim.h"

/* log2 of the pages in a block, and their number; they stand in ffi.rs too. */
#define BLOCK_ORDER 9
#define BLOCK_PAGES (1 << BLOCK_ORDER)
static_assert(BLOCK_ORDER <= MAX_PAGE_ORDER);

#define VTMEM_UNKNOWN U64_MAX

/* ---- Blocks ---- */

/*
 * Not movable: blocks do not migrate, so they must not come from memory that
 * relies on it. They give up early; whoever asks has single pages to fall back to.
 */
struct page *vtmem_balloon_alloc_block(void)
{
	return alloc_pages(GFP_HIGHUSER | __GFP_NOMEMALLOC | __GFP_NORETRY |
			   __GFP_NOWARN, BLOCK_ORDER);
}

void vtmem_balloon_free_block(struct page *page)
{
	__free_pages(page, BLOCK_ORDER);
}

/*
 * Takes a block out of the guest's memory: its pages are offline, so that dumps
 * and hibernation leave them alone, and no longer managed.
 */
void vtmem_balloon_block_in(struct page *page)
{
	unsigned int n;

	for (n = 0; n < BLOCK_PAGES; n++)
		__SetPageOffline(page + n);
	adjust_managed_page_count(page, -BLOCK_PAGES);
	mod_node_page_state(page_pgdat(page), NR_BALLOON_PAGES, BLOCK_PAGES);
	count_vm_events(BALLOON_INFLATE, BLOCK_PAGES);
}

void vtmem_balloon_block_out(struct page *page)
{
	unsigned int n;

	set_page_private(page, 0);
	for (n = 0; n < BLOCK_PAGES; n++)
		__ClearPageOffline(page + n);
	adjust_managed_page_count(page, BLOCK_PAGES);
	mod_node_page_state(page_pgdat(page), NR_BALLOON_PAGES, -BLOCK_PAGES);
	count_vm_events(BALLOON_DEFLATE, BLOCK_PAGES);
}

void vtmem_balloon_split(struct page *page)
{
	split_page(page, BLOCK_ORDER);
}

/* A stack of blocks is linked through their first pages, which nobody else uses. */
struct page *vtmem_balloon_next(const struct page *page)
{
	return (struct page *)page_private(page);
}

void vtmem_balloon_set_next(struct page *page, struct page *next)
{
	set_page_private(page, (unsigned long)next);
}

struct page *vtmem_balloon_nth(struct page *page, unsigned int n)
{
	return page + n;
}

u64 vtmem_balloon_frame(struct page *page)
{
	return page_to_pfn(page);
}

/*
 * Whether the zone of a page has less free memory than kswapd works for. Whoever
 * takes more then is served at the expense of those who free memory.
 */
bool vtmem_balloon_is_low(struct page *page)
{
	struct zone *zone = page_zone(page);

	return zone_page_state(zone, NR_FREE_PAGES) < high_wmark_pages(zone);
}

/* ---- Single pages ---- */

/* Not __free_page: compaction may have a look at the page just now. */
void vtmem_balloon_put_page(struct page *page)
{
	put_page(page);
}

void vtmem_balloon_init(struct balloon_dev_info *info)
{
	balloon_devinfo_init(info);
	info->migratepage = vtmem_balloon_migrate;
	info->adjust_managed_page_count = true;
}

unsigned int vtmem_balloon_take(struct balloon_dev_info *info,
				struct page **pages, unsigned int n)
{
	struct page *page, *next;
	unsigned int taken = 0;
	LIST_HEAD(list);

	balloon_page_list_dequeue(info, &list, n);
	list_for_each_entry_safe(page, next, &list, lru) {
		list_del(&page->lru);
		pages[taken++] = page;
	}
	return taken;
}

/* ---- The guest's memory ---- */

u64 vtmem_balloon_ram(void)
{
	return totalram_pages();
}

void vtmem_balloon_look(struct vtmem_balloon_memory *memory)
{
	unsigned long *events = kcalloc(NR_VM_EVENT_ITEMS, sizeof(*events),
					GFP_NOIO | __GFP_NOWARN);

	memory->total = totalram_pages();
	memory->available = max(si_mem_available(), 0L);
	memory->free = global_zone_page_state(NR_FREE_PAGES);
	memory->refaults = global_node_page_state(WORKINGSET_REFAULT_ANON) +
			   global_node_page_state(WORKINGSET_REFAULT_FILE);
	memory->swap_ins = VTMEM_UNKNOWN;
	memory->swap_outs = VTMEM_UNKNOWN;
	memory->major_faults = VTMEM_UNKNOWN;
	if (!events)
		return;
	all_vm_events(events);
	memory->swap_ins = events[PSWPIN];
	memory->swap_outs = events[PSWPOUT];
	memory->major_faults = events[PGMAJFAULT];
	kfree(events);
}

/* ---- Queues ---- */

/*
 * For reports of free memory: without a look at the allocator's reserves, and
 * without waking anybody. Where the indirect table is not to be had, the chain
 * takes the ring itself, which is idle.
 */
int vtmem_balloon_vq_add(struct virtqueue *vq, struct scatterlist *out,
			 struct scatterlist *in, void *token)
{
	struct scatterlist *sgs[] = { out, in };

	return virtqueue_add_sgs(vq, sgs, 1, 1, token, __GFP_NOWARN);
}

/* ---- Free page reporting ---- */

struct vtmem_balloon_reporting {
	struct page_reporting_dev_info info;
	void *owner;
};

static int vtmem_balloon_on_report(struct page_reporting_dev_info *info,
				   struct scatterlist *sg, unsigned int nents)
{
	struct vtmem_balloon_reporting *reporting =
		container_of(info, struct vtmem_balloon_reporting, info);

	return vtmem_balloon_report(reporting->owner, sg, nents);
}

/* Whether free pages hold a pattern that they must still have when they are used. */
bool vtmem_balloon_poisons(void)
{
	return page_poisoning_enabled_static();
}

static int vtmem_balloon_look_beside(struct device *dev, void *data)
{
	struct virtio_device *vdev = dev_to_virtio(dev);

	if (vdev->id.device != VIRTIO_ID_BALLOON)
		return 0;
	/* Its driver, once it comes, fails altogether without reporting. */
	return !READ_ONCE(dev->driver) ||
	       __virtio_test_bit(vdev, VIRTIO_BALLOON_F_REPORTING);
}

/* Whether a virtio-balloon reports free pages, or may do so later. */
bool vtmem_balloon_beside(struct virtio_device *vdev)
{
	return bus_for_each_dev(vdev->dev.bus, NULL, NULL,
				vtmem_balloon_look_beside);
}

int vtmem_balloon_reporting_start(void *owner, void **out)
{
	struct vtmem_balloon_reporting *reporting =
		kzalloc(sizeof(*reporting), GFP_KERNEL);
	int error;

	if (!reporting)
		return -ENOMEM;
	reporting->owner = owner;
	reporting->info.report = vtmem_balloon_on_report;
	reporting->info.order = PAGE_REPORTING_ORDER_UNSPECIFIED;
	error = page_reporting_register(&reporting->info);
	if (error)
		kfree(reporting);
	else
		*out = reporting;
	return error;
}

void vtmem_balloon_reporting_stop(void *pointer)
{
	struct vtmem_balloon_reporting *reporting = pointer;

	page_reporting_unregister(&reporting->info);
	kfree(reporting);
}

/* The first frame of an entry, and its pages. */
u64 vtmem_balloon_sg(struct scatterlist *sg, u32 *pages)
{
	*pages = sg->length >> PAGE_SHIFT;
	return page_to_pfn(sg_page(sg));
}

struct scatterlist *vtmem_balloon_sg_next(struct scatterlist *sg)
{
	return sg_next(sg);
}

/* ---- The agent's device ---- */

static ssize_t agent_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	u8 record[32];

	if (count != sizeof(record))
		return -EINVAL;
	if (copy_from_user(record, from, sizeof(record)))
		return -EFAULT;
	vtmem_balloon_agent_record(file, record);
	return count;
}

static int agent_release(struct inode *inode, struct file *file)
{
	vtmem_balloon_agent_gone(file);
	return 0;
}

static const struct file_operations agent_fops = {
	.owner = THIS_MODULE,
	.open = nonseekable_open,
	.write = agent_write,
	.release = agent_release,
};

static struct miscdevice agent_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "tmem-balloon",
	.fops = &agent_fops,
	.mode = 0600,
};

int vtmem_balloon_agent_register(void)
{
	return misc_register(&agent_device);
}

void vtmem_balloon_agent_unregister(void)
{
	misc_deregister(&agent_device);
}

/* ---- What ffi.rs takes for granted ---- */

#define ASSERT_FN(name, type) \
	static_assert(__same_type(&(name), (type)NULL))

ASSERT_FN(balloon_page_alloc, struct page *(*)(void));
ASSERT_FN(balloon_page_enqueue,
	  void (*)(struct balloon_dev_info *, struct page *));
ASSERT_FN(register_oom_notifier, int (*)(struct notifier_block *));
ASSERT_FN(unregister_oom_notifier, int (*)(struct notifier_block *));

static_assert(sizeof(struct balloon_dev_info) == 40);
static_assert(offsetof(struct balloon_dev_info, pages) == 8);
static_assert(offsetof(struct balloon_dev_info, migratepage) == 24);
static_assert(offsetof(struct balloon_dev_info, adjust_managed_page_count) == 32);
static_assert(sizeof(struct vtmem_balloon_memory) == 56);
static_assert(MIGRATE_ASYNC == 0);
