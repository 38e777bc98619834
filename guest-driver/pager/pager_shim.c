// SPDX-License-Identifier: GPL-2.0
/*
 * The pager's C half: inline functions that Rust cannot call, and the
 * assertions about what ffi.rs takes for granted.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>

#include "pager_shim.h"

/* How many of the pages, from the first on, lie side by side in memory. */
unsigned int vtmem_pager_adjacent(struct page *const *pages, unsigned int count)
{
	unsigned long first;
	unsigned int nth;

	if (!count)
		return 0;
	first = page_to_pfn(pages[0]);
	for (nth = 1; nth < count; nth++)
		if (page_to_pfn(pages[nth]) != first + nth)
			break;
	return nth;
}

/* Whether this task has been killed. */
bool vtmem_pager_killed(void)
{
	return fatal_signal_pending(current);
}

/* Whether a signal waits for this task. */
bool vtmem_pager_signalled(void)
{
	return signal_pending(current);
}

unsigned long vtmem_pager_ram(void)
{
	return totalram_pages();
}

static_assert(FOLL_WRITE == 1);
