/* ram_view: reads the RAM of a clone, which is a private (copy-on-write) mapping of a base file. A page is either the
 * base file's or, since the clone's first write to it, the clone's own copy. Reading a page of the base file through
 * the mapping would map it, and would allocate it if it is a hole, for all clones of that file. So ram_view reads own
 * pages through the mapping and all others from the file; /proc/self/pagemap tells which pages are own.
 *
 * Threading: any thread, while nobody writes to the range. */
#ifndef CAIRN_SNAPSHOT_RAM_VIEW_H
#define CAIRN_SNAPSHOT_RAM_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct holes;

struct ram_view {
	const uint8_t *ram;
	uint64_t bytes;       /* whole pages */
	int base_fd;	      /* borrowed; nobody writes to the file */
	uint64_t base_offset; /* offset of `ram` in the file */
	int pagemap_fd;	      /* /proc/self/pagemap; borrowed */
};

/* Read [off, off + len) of RAM. Offsets and lengths are whole pages. Returns 0 or -errno. */
int ram_view_read(const struct ram_view *v, uint64_t off, uint8_t *buf, size_t len);
/* Read the page at off. *ret_own: the clone has its own copy; or the page is not mapped, and not known to be its own.
 * Returns 0 or -errno. */
int ram_view_read_page(const struct ram_view *v, uint64_t off, uint8_t *buf, bool *ret_own);
/* Read a block of VMSTATE_BLOCK_BYTES without faults and without allocating pages. Bytes behind the end of RAM read as
 * zeros.
 * v: the view; NULL: RAM is a mapping of fd. Returns 0 or -errno. */
int ram_block_read(const struct ram_view *v, int fd, uint64_t ram_bytes, uint64_t block, uint8_t *buf);
/* Read the entries of the pagemap for n pages from off on. Returns 0 or -errno. */
int ram_view_entries(const struct ram_view *v, uint64_t off, uint64_t *entries, size_t n);
/* Return whether an entry's page is the clone's own copy; whether the page is mapped. */
bool ram_view_entry_is_own(uint64_t entry);
bool ram_view_entry_is_present(uint64_t entry);
/* Begin a walk over the holes of the base file. */
void ram_view_walk(const struct ram_view *v, struct holes *ret_h);
/* Return true if [off, off + len) was never touched and is therefore zero. False does not mean the opposite.
 * h: an ascending walk. */
bool ram_view_is_hole(const struct ram_view *v, struct holes *h, uint64_t off, size_t len);

#endif
