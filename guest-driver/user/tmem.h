/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The interface of /dev/tmem: explicit paging to the host's memory, version 1.
 *
 * Open the file: that is an interface. Make a pool of it, persistent or
 * ephemeral. Then put pages, get them back and flush them, up to 512 runs of
 * pages in one call. What the calls mean stands in docs/paging.md.
 *
 * The same in Rust is src/abi.rs beside this file; a test compares the two.
 */
#ifndef TMEM_H
#define TMEM_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define TMEM_VERSION		1
#define TMEM_PAGE_SIZE		4096
/* The most entries of one transfer, and the most pages of memory in it. */
#define TMEM_ENTRIES_MAX	512
#define TMEM_CALL_PAGES_MAX	4096
/* The most pools of one interface. */
#define TMEM_POOLS_MAX		8
/* The most indices of a pool. */
#define TMEM_OBJECT_PAGES_MAX	(1U << 26)
/* As a device number: the one with the lowest number. */
#define TMEM_ANY_DEVICE		0xffffffffU

/* tmem_create.kind */
#define TMEM_PERSISTENT		1	/* stays until it is flushed */
#define TMEM_EPHEMERAL		2	/* may vanish at any time */

/* tmem_transfer.op */
#define TMEM_PUT		1
#define TMEM_GET		2
#define TMEM_FLUSH		3

/* tmem_transfer.flags */
#define TMEM_EXCLUSIVE		1	/* GET: forget a page once it is delivered */

/* tmem_info.features */
#define TMEM_HAS_PERSISTENT	1
#define TMEM_HAS_EPHEMERAL	2
#define TMEM_HAS_EXCLUSIVE	4

/* Results: a byte for each page of a PUT or GET, for each entry of a FLUSH. */
#define TMEM_OK			0	/* stored, delivered, or gone */
#define TMEM_MISS		1	/* GET: no such page */
#define TMEM_REFUSED_FULL	2	/* PUT: no room; an older page is gone too */
#define TMEM_REFUSED_FROZEN	3	/* PUT: the guest is frozen; likewise */
#define TMEM_CORRUPT		5	/* GET: failed its checksum */
#define TMEM_IO_ERROR		7	/* the host failed */
#define TMEM_LOST		255	/* the device went away before it answered */

struct tmem_info {
	__u32 device;			/* in and out: number, or TMEM_ANY_DEVICE */
	__u32 version;
	__u64 devices;			/* a bit for each device */
	__u32 features;
	__u32 entries_max;
	__u32 call_pages_max;
	__u32 request_pages;		/* pages of one request of the device */
	__u32 queue_pairs;
	__u32 pools_max;
	__u64 persistent_pages;		/* all programs may reserve */
	__u64 persistent_reserved;	/* and have reserved */
	__u64 ephemeral_pages;
	__u64 ephemeral_reserved;
};

struct tmem_create {
	__u32 device;
	__u16 kind;
	__u16 reserved;
	__u32 object_pages;		/* indices are below this */
	__u32 limit;			/* pages that it may hold; 0: object_pages */
	__u32 pool;			/* out: handle */
	__u32 reserved_end;
};

struct tmem_destroy {
	__u32 pool;
	__u32 reserved;
};

struct tmem_entry {
	__u32 index;			/* first page in the pool */
	__u32 pages;			/* at least 1 */
	__u64 address;			/* page-aligned; 0 for FLUSH */
};

struct tmem_transfer {
	__u32 pool;
	__u8 op;
	__u8 flags;
	__u16 reserved;
	__u32 entries;			/* 1 to TMEM_ENTRIES_MAX */
	__u32 reserved_end;
	__u64 entry_array;		/* struct tmem_entry * */
	__u64 result_array;		/* __u8 *, or 0 */
};

struct tmem_stat {
	__u32 pool;			/* in */
	__u16 kind;
	__u16 reserved;
	__u32 object_pages;
	__u32 limit;
	__u64 held;
	__u64 puts;
	__u64 gets;
	__u64 misses;
	__u64 flushes;
	__u64 refused;
	__u64 errors;
};

#define TMEM_MAGIC	0xb9
#define TMEM_INFO	_IOWR(TMEM_MAGIC, 0, struct tmem_info)
#define TMEM_CREATE	_IOWR(TMEM_MAGIC, 1, struct tmem_create)
#define TMEM_DESTROY	_IOW(TMEM_MAGIC, 2, struct tmem_destroy)
/* Returns the number of pages that went well. */
#define TMEM_TRANSFER	_IOW(TMEM_MAGIC, 3, struct tmem_transfer)
#define TMEM_STAT	_IOWR(TMEM_MAGIC, 4, struct tmem_stat)

#endif
