/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the Rust half of virtio_tmem and the C half call of each other.
 *
 * The C half holds kernel macros and inline functions, which Rust cannot call,
 * and the table that registers the driver. It decides nothing.
 */
#ifndef VIRTIO_TMEM_SHIM_H
#define VIRTIO_TMEM_SHIM_H

#include <linux/types.h>

struct bio;
struct delayed_work;
struct device;
struct lock_class_key;
struct gendisk;
struct module;
struct page;
struct scatterlist;
struct spinlock;
struct virtio_device;
struct virtqueue;
struct virtqueue_info;
struct work_struct;

/* Implemented in Rust (virtio.rs), called by the virtio core. */
int vtmem_probe(struct virtio_device *vdev);
void vtmem_remove(struct virtio_device *vdev);
void vtmem_config_changed(struct virtio_device *vdev);
void vtmem_shutdown(struct virtio_device *vdev);
int vtmem_freeze(struct virtio_device *vdev);
int vtmem_reset_prepare(struct virtio_device *vdev);
int vtmem_restore(struct virtio_device *vdev);
bool vtmem_may_hibernate(void);

/* Implemented in C, called by Rust (ffi.rs). */
int vtmem_register_driver(struct module *owner);
void vtmem_unregister_driver(void);

struct device *vtmem_device(struct virtio_device *vdev);
void *vtmem_private(struct virtio_device *vdev);
void vtmem_set_private(struct virtio_device *vdev, void *data);
void vtmem_read_config(struct virtio_device *vdev, void *buf, unsigned int len);
void vtmem_device_ready(struct virtio_device *vdev);
int vtmem_find_vqs(struct virtio_device *vdev, unsigned int count,
		   struct virtqueue *vqs[], struct virtqueue_info infos[]);
void vtmem_del_vqs(struct virtio_device *vdev);
int vtmem_negotiate(struct virtio_device *vdev);
u8 vtmem_status(struct virtio_device *vdev);

struct virtio_device *vtmem_vq_device(struct virtqueue *vq);
unsigned int vtmem_vq_index(struct virtqueue *vq);
int vtmem_vq_add(struct virtqueue *vq, struct scatterlist *out,
		 struct scatterlist *in, void *token);

void vtmem_sg_page(struct scatterlist *sg, struct page *page,
		   unsigned int offset, unsigned int len);
void vtmem_sg_buffer(struct scatterlist *sg, void *buf, unsigned int len);
void vtmem_sg_end(struct scatterlist *sg);
void vtmem_zero_page(struct page *page, unsigned int offset);
unsigned int vtmem_bio_skip(const struct bio *bio);
bool vtmem_disk_is_open(struct gendisk *disk);

unsigned long vtmem_lock(struct spinlock *lock);
void vtmem_unlock(struct spinlock *lock, unsigned long flags);

void vtmem_delayed_work_init(struct delayed_work *work,
			     void (*run)(struct work_struct *work),
			     struct lock_class_key *class);
unsigned int vtmem_noio_save(void);
void vtmem_noio_restore(unsigned int flags);
int vtmem_pm_register(void);
void vtmem_pm_unregister(void);
bool vtmem_ratelimit(void);
unsigned int vtmem_cpu(void);
unsigned int vtmem_cpus(void);
void vtmem_cond_resched(void);

#endif
