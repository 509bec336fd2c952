#include "snapshot/ram_view.h"
#include "base/file.h"
#include "base/util.h"
#include "snapshot/holes.h"
#include "snapshot/vmstate.h"

#include <string.h>

#define PAGE_BYTES 4096u
#define PAGES_AT_ONCE 512u
/* Bits of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#define ENTRY_PRESENT (1ULL << 63)
#define ENTRY_SWAP (1ULL << 62)
#define ENTRY_FILE (1ULL << 61)

/* A page of the base file that is write-protected but not mapped looks like a swapped page (a marker in the page
 * table). Reading it through the mapping is correct as well, and allocates nothing: the fault tracker leaves no such
 * marker in a hole of the base file. */
bool ram_view_entry_is_own(uint64_t entry)
{
	return (entry & (ENTRY_PRESENT | ENTRY_SWAP)) && !(entry & ENTRY_FILE);
}

bool ram_view_entry_is_present(uint64_t entry)
{
	return entry & ENTRY_PRESENT;
}

int ram_view_entries(const struct ram_view *v, uint64_t off, uint64_t *entries, size_t n)
{
	return pread_full(v->pagemap_fd, entries, n * sizeof(*entries),
		(off_t)(((uintptr_t)v->ram + off) / PAGE_BYTES * sizeof(*entries)));
}

/* Read n pages, at most PAGES_AT_ONCE, in runs of own pages and of others. */
static int pages_read(const struct ram_view *v, uint64_t off, uint8_t *buf, size_t n)
{
	uint64_t entries[PAGES_AT_ONCE];
	int r = ram_view_entries(v, off, entries, n);

	for (size_t i = 0, end; i < n && !r; i = end) {
		bool own = ram_view_entry_is_own(entries[i]);
		size_t at = i * PAGE_BYTES, len;

		for (end = i + 1; end < n && ram_view_entry_is_own(entries[end]) == own;)
			end++;
		len = (end - i) * PAGE_BYTES;
		if (own)
			memcpy(buf + at, v->ram + off + at, len);
		else
			r = pread_full(v->base_fd, buf + at, len, (off_t)(v->base_offset + off + at));
	}
	return r;
}

int ram_view_read(const struct ram_view *v, uint64_t off, uint8_t *buf, size_t len)
{
	int r = 0;

	for (size_t at = 0, n; at < len && !r; at += n * PAGE_BYTES) {
		n = MIN(PAGES_AT_ONCE, (len - at) / PAGE_BYTES);
		r = pages_read(v, off + at, buf + at, n);
	}
	return r;
}

int ram_view_read_page(const struct ram_view *v, uint64_t off, uint8_t *buf, bool *ret_own)
{
	uint64_t entry;
	int r = ram_view_entries(v, off, &entry, 1);

	if (r < 0)
		return r;
	*ret_own = ram_view_entry_is_own(entry);
	if (!*ret_own)
		return pread_full(v->base_fd, buf, PAGE_BYTES, (off_t)(v->base_offset + off));
	memcpy(buf, v->ram + off, PAGE_BYTES);
	return 0;
}

int ram_block_read(const struct ram_view *v, int fd, uint64_t ram_bytes, uint64_t block, uint8_t *buf)
{
	uint64_t off = block * VMSTATE_BLOCK_BYTES;
	size_t len = (size_t)MIN(VMSTATE_BLOCK_BYTES, ram_bytes - off);

	memset(buf + len, 0, VMSTATE_BLOCK_BYTES - len);
	return v ? ram_view_read(v, off, buf, len) : pread_full(fd, buf, len, (off_t)off);
}

void ram_view_walk(const struct ram_view *v, struct holes *ret_h)
{
	*ret_h = (struct holes){ .fd = v->base_fd, .bytes = v->base_offset + v->bytes };
}

bool ram_view_is_hole(const struct ram_view *v, struct holes *h, uint64_t off, size_t len)
{
	uint64_t entries[PAGES_AT_ONCE];
	size_t n = len / PAGE_BYTES;
	bool untouched;

	if (!hole_at(h, v->base_offset + off, len))
		return false;
	untouched = n <= PAGES_AT_ONCE && ram_view_entries(v, off, entries, n) == 0;
	for (size_t i = 0; i < n && untouched; i++)
		untouched = !ram_view_entry_is_own(entries[i]);
	return untouched;
}
