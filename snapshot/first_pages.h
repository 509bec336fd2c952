/* first_pages: the pages of memory that a guest touches first when it continues from the state of `cairn run`. The list
 * is in the state's file, between the definition and the checksums of snapshot/vmstate.h:
 *
 *   a section "pages" (snapshot/state.h), version 1: for each page, in ascending order, u32: twice the page's number in
 *   RAM, plus 1 if the guest writes to it */
#ifndef CAIRN_SNAPSHOT_FIRST_PAGES_H
#define CAIRN_SNAPSHOT_FIRST_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 16 MiB. A guest that continues and runs true touches some 600. */
#define FIRST_PAGES_MAX 4096u

/* Make an entry of the list. */
static inline uint32_t first_page(uint64_t page, bool written)
{
	return (uint32_t)(page << 1 | written);
}

static inline uint64_t first_page_number(uint32_t entry)
{
	return entry >> 1;
}

static inline bool first_page_is_written(uint32_t entry)
{
	return entry & 1;
}

/* Read the list of a state's file. *ret: room for FIRST_PAGES_MAX entries.
 * pages: pages of RAM. Returns the number of entries; -ENOENT: the file has no list, or a damaged one. */
int first_pages_read(int fd, uint64_t pages, uint32_t *ret);
/* Write a list to a state's file. n: at most FIRST_PAGES_MAX. Returns 0 or -errno. */
int first_pages_write(int fd, const uint32_t *list, size_t n);

#endif
