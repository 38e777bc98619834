/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the Rust half of the clean cache and the C half call of each other.
 *
 * The C half is the device-mapper target's table, and bios, whose layout differs
 * between kernels. It decides nothing.
 */
#ifndef VIRTIO_TMEM_CACHE_SHIM_H
#define VIRTIO_TMEM_CACHE_SHIM_H

#include <linux/types.h>

struct bio;
struct page;
struct vtmem_copy;

/* The most blocks of a copy; decide/range.rs has the same number. */
#define VTMEM_COPY_BLOCKS 32

/* What the target keeps with each write until its end: its blocks. */
struct vtmem_cache_io {
	u32 first;
	u32 blocks;
	u32 removed;
	u32 reserved;
};

/* How a write has ended. */
enum vtmem_cache_outcome {
	VTMEM_CACHE_DONE = 0,
	/* The disk has not touched anything. */
	VTMEM_CACHE_REFUSED = 1,
	VTMEM_CACHE_FAILED = 2,
};

/* A target that is being made. */
struct vtmem_cache_new {
	/* Of the mapped device, and of the disk below. */
	u32 mapped_major, mapped_minor;
	u32 origin_major, origin_minor;
	u64 sectors;
	/* The words after the disk's name. */
	char **words;
	unsigned int count;
	/* What is wrong, if it cannot be made. */
	const char *error;
};

/* Implemented in Rust (target.rs), called by the C half. */
void *vtmem_cache_create(struct vtmem_cache_new *new, int *error);
void vtmem_cache_destroy(void *target);
/* True: the bio will be ended by the target; otherwise it goes to the disk. */
bool vtmem_cache_read(void *target, struct bio *bio);
void vtmem_cache_write(void *target, struct vtmem_cache_io *io, u64 sector,
		       u64 sectors);
void vtmem_cache_written(void *target, struct vtmem_cache_io *io,
			 unsigned int outcome);
int vtmem_cache_message(void *target, const char *word);
/* Name and value of counter @nth; NULL behind the last. */
const char *vtmem_cache_count(void *target, unsigned int nth, u64 *value);
bool vtmem_cache_attached(void *target);
void vtmem_copy_done(void *owner, bool ok);

/* Implemented in C, called by Rust (ffi.rs). */
int vtmem_cache_register(void);
void vtmem_cache_unregister(void);

void vtmem_cut_bio(struct bio *bio, unsigned int sectors);
unsigned int vtmem_bio_flags(const struct bio *bio);
u64 vtmem_bio_sector(const struct bio *bio);
unsigned int vtmem_bio_bytes(const struct bio *bio);
void vtmem_resubmit(struct bio *bio);
bool vtmem_no_plug(void);

struct vtmem_copy *vtmem_copy_alloc(void);
void vtmem_copy_free(struct vtmem_copy *copy);
struct page *vtmem_copy_page(struct vtmem_copy *copy, unsigned int nth);
void vtmem_copy_start(struct vtmem_copy *copy, struct bio *reader,
		      unsigned int blocks, void *owner);
void vtmem_copy_deliver(struct vtmem_copy *copy, struct bio *reader, bool ok);

#endif
