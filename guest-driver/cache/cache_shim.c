// SPDX-License-Identifier: GPL-2.0
/*
 * The device-mapper target "tmem-cache" as device mapper sees it, and bios for
 * copies. Decisions are made in Rust (target.rs, read.rs, decide/).
 */
#include <linux/bio-integrity.h>
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/gfp.h>
#include <linux/kdev_t.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "cache_shim.h"

#define SECTORS_PER_BLOCK (PAGE_SIZE >> SECTOR_SHIFT)
/* A longer discard is split, so that no lock is held for long. */
#define DISCARD_SECTORS_MAX (1u << (30 - SECTOR_SHIFT))

/* ---- A target ---- */

struct vtmem_cache {
	struct dm_dev *disk;
	/* Rust's half. */
	void *target;
	/* The words after the disk, for the table. */
	char words[64];
};

static int cache_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct mapped_device *md = dm_table_get_md(ti->table);
	struct vtmem_cache_new new = {};
	struct vtmem_cache *cache;
	unsigned int nth;
	int error;

	if (argc < 1) {
		ti->error = "The disk is missing";
		return -EINVAL;
	}
	cache = kzalloc(sizeof(*cache), GFP_KERNEL);
	if (!cache) {
		ti->error = "No memory for the target";
		return -ENOMEM;
	}
	for (nth = 1; nth < argc; nth++) {
		strlcat(cache->words, " ", sizeof(cache->words));
		if (strlcat(cache->words, argv[nth], sizeof(cache->words)) >=
		    sizeof(cache->words)) {
			ti->error = "Too many options";
			error = -EINVAL;
			goto free;
		}
	}
	error = dm_get_device(ti, argv[0], dm_table_get_mode(ti->table),
			      &cache->disk);
	if (error) {
		ti->error = "The disk cannot be opened";
		goto free;
	}
	if (sscanf(dm_device_name(md), "%u:%u", &new.mapped_major,
		   &new.mapped_minor) != 2)
		new.mapped_major = new.mapped_minor = 0;
	new.origin_major = MAJOR(cache->disk->bdev->bd_dev);
	new.origin_minor = MINOR(cache->disk->bdev->bd_dev);
	new.sectors = ti->len;
	new.words = argv + 1;
	new.count = argc - 1;
	cache->target = vtmem_cache_create(&new, &error);
	if (!cache->target) {
		ti->error = (char *)new.error;
		goto put;
	}
	ti->private = cache;
	ti->num_flush_bios = 1;
	ti->num_discard_bios = 1;
	ti->num_secure_erase_bios = 1;
	ti->num_write_zeroes_bios = 1;
	ti->max_discard_granularity = true;
	ti->flush_bypasses_map = true;
	ti->per_io_data_size = sizeof(struct vtmem_cache_io);
	return 0;
put:
	dm_put_device(ti, cache->disk);
free:
	kfree(cache);
	return error;
}

static void cache_dtr(struct dm_target *ti)
{
	struct vtmem_cache *cache = ti->private;

	vtmem_cache_destroy(cache->target);
	dm_put_device(ti, cache->disk);
	kfree(cache);
}

static int cache_map(struct dm_target *ti, struct bio *bio)
{
	struct vtmem_cache *cache = ti->private;
	struct vtmem_cache_io *io = dm_per_bio_data(bio, sizeof(*io));

	io->blocks = 0;
	bio_set_dev(bio, cache->disk->bdev);
	bio->bi_iter.bi_sector = dm_target_offset(ti, bio->bi_iter.bi_sector);
	if (bio_op(bio) == REQ_OP_READ) {
		if (!bio_integrity(bio) && vtmem_cache_read(cache->target, bio))
			return DM_MAPIO_SUBMITTED;
	} else if (bio_op(bio) != REQ_OP_FLUSH) {
		/* Whatever it is, it may change what lies in its range. */
		vtmem_cache_write(cache->target, io, bio->bi_iter.bi_sector,
				  bio_sectors(bio));
	}
	return DM_MAPIO_REMAPPED;
}

static int cache_end_io(struct dm_target *ti, struct bio *bio,
			blk_status_t *status)
{
	struct vtmem_cache *cache = ti->private;
	struct vtmem_cache_io *io = dm_per_bio_data(bio, sizeof(*io));
	unsigned int outcome = VTMEM_CACHE_FAILED;

	if (io->blocks) {
		if (*status == BLK_STS_OK)
			outcome = VTMEM_CACHE_DONE;
		else if (*status == BLK_STS_NOTSUPP)
			outcome = VTMEM_CACHE_REFUSED;
		vtmem_cache_written(cache->target, io, outcome);
	}
	return DM_ENDIO_DONE;
}

static void cache_status(struct dm_target *ti, status_type_t type,
			 unsigned int flags, char *result, unsigned int maxlen)
{
	struct vtmem_cache *cache = ti->private;
	unsigned int sz = 0, nth;
	const char *name;
	u64 value;

	switch (type) {
	case STATUSTYPE_INFO:
		DMEMIT("%s", vtmem_cache_attached(cache->target) ? "attached" :
								    "alone");
		for (nth = 0;
		     (name = vtmem_cache_count(cache->target, nth, &value));
		     nth++)
			DMEMIT(" %s %llu", name, value);
		break;
	case STATUSTYPE_TABLE:
		DMEMIT("%s%s", cache->disk->name, cache->words);
		break;
	case STATUSTYPE_IMA:
		*result = '\0';
		break;
	}
}

static int cache_message(struct dm_target *ti, unsigned int argc, char **argv,
			 char *result, unsigned int maxlen)
{
	struct vtmem_cache *cache = ti->private;

	return argc == 1 ? vtmem_cache_message(cache->target, argv[0]) : -EINVAL;
}

static int cache_iterate(struct dm_target *ti, iterate_devices_callout_fn fn,
			 void *data)
{
	struct vtmem_cache *cache = ti->private;

	return fn(ti, cache->disk, 0, ti->len, data);
}

static void cache_hints(struct dm_target *ti, struct queue_limits *limits)
{
	/* Nobody would poll for a read that the host answers. */
	limits->features &= ~(BLK_FEAT_POLL | BLK_FEAT_PCI_P2PDMA);
	limits->max_hw_discard_sectors =
		min(limits->max_hw_discard_sectors, DISCARD_SECTORS_MAX);
}

/*
 * No .prepare_ioctl: an ioctl that is passed on to the disk could change it
 * behind the cache's back.
 */
static struct target_type vtmem_cache_type = {
	.name = "tmem-cache",
	.version = { 1, 0, 0 },
	.module = THIS_MODULE,
	.ctr = cache_ctr,
	.dtr = cache_dtr,
	.map = cache_map,
	.end_io = cache_end_io,
	.status = cache_status,
	.message = cache_message,
	.iterate_devices = cache_iterate,
	.io_hints = cache_hints,
};

int vtmem_cache_register(void)
{
	return dm_register_target(&vtmem_cache_type);
}

void vtmem_cache_unregister(void)
{
	dm_unregister_target(&vtmem_cache_type);
}

/* Device mapper asks for this name when a table has an unknown target. */
MODULE_ALIAS("dm-tmem-cache");

/* ---- Bios ---- */

/* Only in .map, and only for reads. */
void vtmem_cut_bio(struct bio *bio, unsigned int sectors)
{
	if (sectors < bio_sectors(bio))
		dm_accept_partial_bio(bio, sectors);
}

unsigned int vtmem_bio_flags(const struct bio *bio)
{
	return (__force unsigned int)bio->bi_opf;
}

u64 vtmem_bio_sector(const struct bio *bio)
{
	return bio->bi_iter.bi_sector;
}

unsigned int vtmem_bio_bytes(const struct bio *bio)
{
	return bio->bi_iter.bi_size;
}

/* Sends a bio that .map has kept to the disk. */
void vtmem_resubmit(struct bio *bio)
{
	bio->bi_opf &= ~REQ_NOWAIT;
	submit_bio_noacct(bio);
}

/* The task will not go on submitting: it is about to wait. */
bool vtmem_no_plug(void)
{
	return !current->plug;
}

/* ---- Copies ---- */

/*
 * A read into pages of the driver's own. The reader's pages would not do: a
 * program that reads past the page cache may change them meanwhile, and the
 * change would be cached as the disk's contents.
 */
struct vtmem_copy {
	struct bio bio;
	struct bvec_iter iter;
	struct bio_vec vecs[VTMEM_COPY_BLOCKS];
	struct page *pages[VTMEM_COPY_BLOCKS];
};

#define VTMEM_COPY_FLAGS                                                   \
	(REQ_SYNC | REQ_META | REQ_PRIO | REQ_IDLE | REQ_RAHEAD | \
	 REQ_BACKGROUND | REQ_FAILFAST_MASK)

struct vtmem_copy *vtmem_copy_alloc(void)
{
	struct vtmem_copy *copy = kzalloc(sizeof(*copy), GFP_KERNEL);
	unsigned int nth;

	if (!copy)
		return NULL;
	for (nth = 0; nth < VTMEM_COPY_BLOCKS; nth++) {
		copy->pages[nth] = alloc_page(GFP_KERNEL);
		if (!copy->pages[nth]) {
			vtmem_copy_free(copy);
			return NULL;
		}
	}
	return copy;
}

void vtmem_copy_free(struct vtmem_copy *copy)
{
	unsigned int nth;

	for (nth = 0; nth < VTMEM_COPY_BLOCKS; nth++)
		if (copy->pages[nth])
			__free_page(copy->pages[nth]);
	kfree(copy);
}

struct page *vtmem_copy_page(struct vtmem_copy *copy, unsigned int nth)
{
	return nth < VTMEM_COPY_BLOCKS ? copy->pages[nth] : NULL;
}

static void copy_end_io(struct bio *bio)
{
	vtmem_copy_done(bio->bi_private, bio->bi_status == BLK_STS_OK);
}

/* Reads what @reader, a bio of @blocks blocks, wants. */
void vtmem_copy_start(struct vtmem_copy *copy, struct bio *reader,
		      unsigned int blocks, void *owner)
{
	struct bio *bio = &copy->bio;
	unsigned int nth;

	bio_init(bio, reader->bi_bdev, copy->vecs, VTMEM_COPY_BLOCKS,
		 REQ_OP_READ | (reader->bi_opf & VTMEM_COPY_FLAGS));
	bio_clone_blkg_association(bio, reader);
	bio->bi_ioprio = reader->bi_ioprio;
	bio->bi_iter.bi_sector = reader->bi_iter.bi_sector;
	for (nth = 0; nth < blocks && nth < VTMEM_COPY_BLOCKS; nth++)
		__bio_add_page(bio, copy->pages[nth], PAGE_SIZE, 0);
	bio->bi_end_io = copy_end_io;
	bio->bi_private = owner;
	copy->iter = bio->bi_iter;
	submit_bio_noacct(bio);
}

/* Ends @reader with what was read; the copy's pages keep it. */
void vtmem_copy_deliver(struct vtmem_copy *copy, struct bio *reader, bool ok)
{
	struct bio *bio = &copy->bio;

	reader->bi_status = bio->bi_status;
	if (ok) {
		bio->bi_iter = copy->iter;
		bio_copy_data(reader, bio);
	}
	bio_uninit(bio);
	bio_endio(reader);
}

static_assert(sizeof(struct vtmem_cache_io) == 16);
static_assert(SECTORS_PER_BLOCK == 8);
static_assert((__force u32)REQ_RAHEAD == 1 << 19);
