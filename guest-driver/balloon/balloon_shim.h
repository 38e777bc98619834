/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the Rust half of the balloon and its C half call of each other.
 *
 * As with the module's other shim: kernel macros and inline functions, tables,
 * and structures whose size depends on the kernel's configuration. It decides
 * nothing.
 */
#ifndef VIRTIO_TMEM_BALLOON_SHIM_H
#define VIRTIO_TMEM_BALLOON_SHIM_H

#include <linux/migrate_mode.h>
#include <linux/types.h>

struct balloon_dev_info;
struct notifier_block;
struct page;
struct scatterlist;
struct virtio_device;
struct virtqueue;

/* How the guest is; VTMEM_UNKNOWN where the kernel does not tell. */
struct vtmem_balloon_memory {
	u64 total;
	u64 available;
	u64 free;
	u64 swap_ins;
	u64 swap_outs;
	u64 refaults;
	u64 major_faults;
};

/* Implemented in Rust. */
int vtmem_balloon_migrate(struct balloon_dev_info *info, struct page *newpage,
			  struct page *page, enum migrate_mode mode);
int vtmem_balloon_report(void *owner, struct scatterlist *sg,
			 unsigned int nents);
void vtmem_balloon_agent_record(const void *opener, const u8 record[32]);
void vtmem_balloon_agent_gone(const void *opener);

/* Implemented in C. */
struct page *vtmem_balloon_alloc_block(void);
void vtmem_balloon_free_block(struct page *page);
void vtmem_balloon_block_in(struct page *page);
void vtmem_balloon_block_out(struct page *page);
void vtmem_balloon_split(struct page *page);
struct page *vtmem_balloon_next(const struct page *page);
void vtmem_balloon_set_next(struct page *page, struct page *next);
struct page *vtmem_balloon_nth(struct page *page, unsigned int n);
u64 vtmem_balloon_frame(struct page *page);
void vtmem_balloon_put_page(struct page *page);
bool vtmem_balloon_is_low(struct page *page);
void vtmem_balloon_init(struct balloon_dev_info *info);
unsigned int vtmem_balloon_take(struct balloon_dev_info *info,
				struct page **pages, unsigned int n);
void vtmem_balloon_look(struct vtmem_balloon_memory *memory);
u64 vtmem_balloon_ram(void);
int vtmem_balloon_vq_add(struct virtqueue *vq, struct scatterlist *out,
			 struct scatterlist *in, void *token);

bool vtmem_balloon_poisons(void);
bool vtmem_balloon_beside(struct virtio_device *vdev);
int vtmem_balloon_reporting_start(void *owner, void **reporting);
void vtmem_balloon_reporting_stop(void *reporting);
u64 vtmem_balloon_sg(struct scatterlist *sg, u32 *pages);
struct scatterlist *vtmem_balloon_sg_next(struct scatterlist *sg);

int vtmem_balloon_agent_register(void);
void vtmem_balloon_agent_unregister(void);

#endif
