/* SPDX-License-Identifier: GPL-2.0 */
/* What the pager's Rust half (ffi.rs) calls of its C half. */
#ifndef VIRTIO_TMEM_PAGER_SHIM_H
#define VIRTIO_TMEM_PAGER_SHIM_H

#include <linux/types.h>

struct page;

unsigned int vtmem_pager_adjacent(struct page *const *pages, unsigned int count);
bool vtmem_pager_killed(void);
bool vtmem_pager_signalled(void);
unsigned long vtmem_pager_ram(void);

#endif
