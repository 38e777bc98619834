// SPDX-License-Identifier: GPL-2.0
/*
 * Kernel macros and inline functions for the Rust half of virtio_tmem, and the
 * assertions that hold its hand-written declarations (ffi.rs) to the headers.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/cpumask.h>
#include <linux/highmem.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/ratelimit.h>
#include <linux/scatterlist.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/suspend.h>
#include <linux/version.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/workqueue.h>

#include "shim.h"

/* The id stands in wire.rs too; ffi.rs asserts that it is this one. */
#define VTMEM_VIRTIO_ID 13

/* ---- The driver's table ---- */

static const struct virtio_device_id vtmem_ids[] = {
	{ VTMEM_VIRTIO_ID, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, vtmem_ids);

static struct virtio_driver vtmem_driver = {
	.driver.name = "virtio_tmem",
	.id_table = vtmem_ids,
	.probe = vtmem_probe,
	.remove = vtmem_remove,
	.shutdown = vtmem_shutdown,
	.config_changed = vtmem_config_changed,
	.freeze = vtmem_freeze,
	.restore = vtmem_restore,
	/* A reset by the PCI core, for instance by sysfs. */
	.reset_prepare = vtmem_reset_prepare,
	.reset_done = vtmem_restore,
};

int vtmem_register_driver(struct module *owner)
{
	return __register_virtio_driver(&vtmem_driver, owner);
}

void vtmem_unregister_driver(void)
{
	unregister_virtio_driver(&vtmem_driver);
}

/* ---- The virtio device ---- */

struct device *vtmem_device(struct virtio_device *vdev)
{
	return &vdev->dev;
}

void *vtmem_private(struct virtio_device *vdev)
{
	return READ_ONCE(vdev->priv);
}

void vtmem_set_private(struct virtio_device *vdev, void *data)
{
	WRITE_ONCE(vdev->priv, data);
}

void vtmem_read_config(struct virtio_device *vdev, void *buf, unsigned int len)
{
	virtio_cread_bytes(vdev, 0, buf, len);
}

void vtmem_device_ready(struct virtio_device *vdev)
{
	virtio_device_ready(vdev);
}

int vtmem_find_vqs(struct virtio_device *vdev, unsigned int count,
		   struct virtqueue *vqs[], struct virtqueue_info infos[])
{
	return virtio_find_vqs(vdev, count, vqs, infos, NULL);
}

void vtmem_del_vqs(struct virtio_device *vdev)
{
	vdev->config->del_vqs(vdev);
}

/* Resets the device and goes through its initialization up to FEATURES_OK. */
int vtmem_negotiate(struct virtio_device *vdev)
{
	int error;

	virtio_reset_device(vdev);
	virtio_add_status(vdev, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	virtio_add_status(vdev, VIRTIO_CONFIG_S_DRIVER);
	error = vdev->config->finalize_features(vdev);
	if (error)
		return error;
	virtio_add_status(vdev, VIRTIO_CONFIG_S_FEATURES_OK);
	if (!(vtmem_status(vdev) & VIRTIO_CONFIG_S_FEATURES_OK))
		return -ENODEV;
	return 0;
}

u8 vtmem_status(struct virtio_device *vdev)
{
	return vdev->config->get_status(vdev);
}

/* ---- Virtqueues ---- */

struct virtio_device *vtmem_vq_device(struct virtqueue *vq)
{
	return vq->vdev;
}

unsigned int vtmem_vq_index(struct virtqueue *vq)
{
	return vq->index;
}

/* GFP_ATOMIC: the indirect table; without it the chain takes the ring itself. */
int vtmem_vq_add(struct virtqueue *vq, struct scatterlist *out,
		 struct scatterlist *in, void *token)
{
	struct scatterlist *sgs[2];
	unsigned int outs = 0;

	if (out)
		sgs[outs++] = out;
	sgs[outs] = in;
	return virtqueue_add_sgs(vq, sgs, outs, 1, token,
				 GFP_ATOMIC | __GFP_NOWARN);
}

void vtmem_sg_page(struct scatterlist *sg, struct page *page,
		   unsigned int offset, unsigned int len)
{
	sg->page_link = 0;
	sg_set_page(sg, page, len, offset);
}

void vtmem_sg_buffer(struct scatterlist *sg, void *buf, unsigned int len)
{
	sg->page_link = 0;
	sg_set_buf(sg, buf, len);
}

void vtmem_sg_end(struct scatterlist *sg)
{
	sg_mark_end(sg);
}

/* @offset may lie beyond the first page: a bio's segment can span many. */
void vtmem_zero_page(struct page *page, unsigned int offset)
{
	unsigned int in_page = offset_in_page(offset);
	unsigned int first = PAGE_SIZE - in_page;

	page += offset >> PAGE_SHIFT;
	memzero_page(page, in_page, first);
	if (in_page)
		memzero_page(page + 1, 0, in_page);
}

/* How much of the segment that the iterator points to is done already. */
unsigned int vtmem_bio_skip(const struct bio *bio)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
	return bio->bi_iter.bi_offset;
#else
	return bio->bi_iter.bi_bvec_done;
#endif
}

bool vtmem_disk_is_open(struct gendisk *disk)
{
	return disk_openers(disk) > 0;
}

/* ---- Memory and sleep ---- */

/* Until restored, this task's allocations do not wait for I/O, such as swap. */
unsigned int vtmem_noio_save(void)
{
	return memalloc_noio_save();
}

void vtmem_noio_restore(unsigned int flags)
{
	memalloc_noio_restore(flags);
}

static int vtmem_pm_event(struct notifier_block *block, unsigned long event,
			  void *data)
{
	if (event == PM_HIBERNATION_PREPARE && !vtmem_may_hibernate())
		return notifier_from_errno(-EBUSY);
	return NOTIFY_DONE;
}

static struct notifier_block vtmem_pm = {
	.notifier_call = vtmem_pm_event,
};

int vtmem_pm_register(void)
{
	return register_pm_notifier(&vtmem_pm);
}

void vtmem_pm_unregister(void)
{
	unregister_pm_notifier(&vtmem_pm);
}

/* ---- Locks, work, processors ---- */

unsigned long vtmem_lock(struct spinlock *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	return flags;
}

void vtmem_unlock(struct spinlock *lock, unsigned long flags)
{
	spin_unlock_irqrestore(lock, flags);
}

/* INIT_DELAYED_WORK() here would give all work items one lock class. */
void vtmem_delayed_work_init(struct delayed_work *work,
			     void (*run)(struct work_struct *work),
			     struct lock_class_key *class)
{
	__INIT_WORK_KEY(&work->work, run, 0, class);
	__timer_init(&work->timer, delayed_work_timer_fn, TIMER_IRQSAFE);
}

bool vtmem_ratelimit(void)
{
	static DEFINE_RATELIMIT_STATE(limit, 5 * HZ, 10);

	return __ratelimit(&limit);
}

unsigned int vtmem_cpu(void)
{
	return raw_smp_processor_id();
}

unsigned int vtmem_cpus(void)
{
	return num_online_cpus();
}

void vtmem_cond_resched(void)
{
	cond_resched();
}

/* ---- What ffi.rs and disk.rs take for granted ---- */

#define ASSERT_FN(name, type) \
	static_assert(__same_type(&(name), (type)NULL))

ASSERT_FN(virtqueue_get_buf, void *(*)(struct virtqueue *, unsigned int *));
ASSERT_FN(virtqueue_detach_unused_buf, void *(*)(struct virtqueue *));
ASSERT_FN(virtqueue_kick_prepare, bool (*)(struct virtqueue *));
ASSERT_FN(virtqueue_notify, bool (*)(struct virtqueue *));
ASSERT_FN(virtqueue_enable_cb, bool (*)(struct virtqueue *));
ASSERT_FN(virtqueue_disable_cb, void (*)(struct virtqueue *));
ASSERT_FN(virtqueue_get_vring_size, unsigned int (*)(const struct virtqueue *));
ASSERT_FN(virtio_reset_device, void (*)(struct virtio_device *));

static_assert(sizeof(struct virtqueue_info) == 24);
static_assert(offsetof(struct virtqueue_info, name) == 0);
static_assert(offsetof(struct virtqueue_info, callback) == 8);
static_assert(offsetof(struct virtqueue_info, ctx) == 16);
static_assert(offsetof(struct delayed_work, work) == 0);

static_assert(REQ_OP_MASK == 0xff);
static_assert(REQ_OP_READ == 0 && REQ_OP_WRITE == 1 && REQ_OP_FLUSH == 2);
static_assert(REQ_OP_DISCARD == 3);
static_assert((__force u32)REQ_SYNC == 1 << 11);
static_assert((__force u8)BLK_STS_OK == 0);
static_assert((__force u8)BLK_STS_NOTSUPP == 1);
static_assert((__force u8)BLK_STS_NOSPC == 3);
static_assert((__force u8)BLK_STS_IOERR == 10);
static_assert((__force u32)BLK_FEAT_SYNCHRONOUS == 1 << 6);
static_assert(GENHD_FL_NO_PART == 1 << 2);
static_assert(VIRTIO_CONFIG_S_NEEDS_RESET == 0x40);
static_assert(PAGE_SIZE == 4096);
