/* page_samples: pages of guest memory that are chosen at random, and which of them change within a time.
 *
 * A page changes if its content does; so, as in QEMU's page sampling, a write of the same content is not noticed. Each
 * page is read twice. No read allocates a page that memory lacks, or loads one from a saved state: both read files, and
 * through the mapping only a clone's own pages. A page that memory lacks is zeros. A page that was returned meanwhile,
 * such as to the balloon, has not changed. A page that was still to be loaded from a saved state at the first read
 * counts as unchanged, because it is unknown whether the guest has written to it.
 *
 * Threading: main thread; vCPUs may run. Memory must not be replaced between the reads. */
#ifndef CAIRN_VMM_KVM_PAGE_SAMPLES_H
#define CAIRN_VMM_KVM_PAGE_SAMPLES_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE_SAMPLES_MIN 512
/* A sample takes 12 bytes, and each of its looks 0.5 to 5 us. */
#define PAGE_SAMPLES_MAX (128 * 1024)

struct memory;
struct page_samples;

/* Return how many pages to choose: per_gib for each GiB of memory, but at least PAGE_SAMPLES_MIN and at most
 * PAGE_SAMPLES_MAX, and no more than memory has. ram_bytes: not 0, whole pages. */
uint32_t page_samples_count(uint64_t ram_bytes, uint32_t per_gib);
/* Divide memory into n parts of equal size and choose a page of each at random, so that no page is chosen twice.
 * m: borrowed. n: as page_samples_count() returns it. seed: not 0. Returns NULL: no memory. */
struct page_samples *page_samples_new(const struct memory *m, uint32_t n, uint64_t seed);
/* NULL allowed. */
void page_samples_free(struct page_samples *s);
/* Return the number of sample i's page. i: below n. */
uint64_t page_samples_page(const struct page_samples *s, uint32_t i);
/* The first look at sample i. loads: memory is still loaded from a saved state. Returns 0 or -errno. */
int page_samples_note(struct page_samples *s, uint32_t i, bool loads);
/* The second look. Returns 1: the page has changed; 0; -errno. */
int page_samples_changed(struct page_samples *s, uint32_t i);

/* Return the bytes a second that are written, if `changed` of n samples have changed within a time.
 * ns: the time between the looks at one sample. */
uint64_t page_samples_rate(uint64_t ram_bytes, uint32_t n, uint32_t changed, uint64_t ns);

#endif
