#include "vmm/kvm/page_samples.h"
#include "base/crc32c.h"
#include "base/file.h"
#include "base/util.h"
#include "vmm/kvm/memory.h"
#include "vmm/vm_msg.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE_BYTES 4096u

struct page_samples {
	const struct memory *mem;
	uint32_t zeros_crc;
	uint32_t n;
	struct page_sample {
		uint32_t page, crc;
		bool present; /* memory had the page at the first look; of a clone: for itself */
		bool unloaded;
	} list[];
};

_Static_assert(VM_RAM_MAX_BYTES / PAGE_BYTES <= UINT32_MAX, "a page's number fits");

uint32_t page_samples_count(uint64_t ram_bytes, uint32_t per_gib)
{
	uint64_t n = MIN(DIV_ROUND_UP(ram_bytes * MIN(per_gib, PAGE_SAMPLES_MAX), GIB), PAGE_SAMPLES_MAX);

	return (uint32_t)MIN(MAX(n, PAGE_SAMPLES_MIN), ram_bytes / PAGE_BYTES);
}

/* Marsaglia's xorshift64 (Xorshift RNGs, 2003). */
static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

struct page_samples *page_samples_new(const struct memory *m, uint32_t n, uint64_t seed)
{
	struct page_samples *s = calloc(1, sizeof(*s) + n * sizeof(s->list[0]));
	static const uint8_t zeros[PAGE_BYTES];
	uint64_t pages = m->bytes / PAGE_BYTES;

	if (!s)
		return NULL;
	s->mem = m;
	s->n = n;
	s->zeros_crc = crc32c(0, zeros, sizeof(zeros));
	for (uint64_t i = 0; i < n; i++) {
		uint64_t from = pages * i / n, end = pages * (i + 1) / n;

		s->list[i].page = (uint32_t)(from + random_next(&seed) % (end - from));
	}
	return s;
}

void page_samples_free(struct page_samples *s)
{
	free(s);
}

uint64_t page_samples_page(const struct page_samples *s, uint32_t i)
{
	return s->list[i].page;
}

/* Read the page without allocating or loading it. Huge pages always count as present. */
static int page_read(const struct page_samples *s, uint32_t i, uint32_t *ret_crc, bool *ret_present)
{
	const struct ram_view *view = memory_view(s->mem);
	uint64_t off = (uint64_t)s->list[i].page * PAGE_BYTES;
	uint8_t buf[PAGE_BYTES];
	int r = 0;

	*ret_crc = s->zeros_crc;
	*ret_present = view || lseek(s->mem->fd, (off_t)off, SEEK_DATA) == (off_t)off;
	if (!*ret_present)
		return 0;
	r = view ? ram_view_read_page(view, off, buf, ret_present) : pread_full(s->mem->fd, buf, sizeof(buf), (off_t)off);
	if (!r)
		*ret_crc = crc32c(0, buf, sizeof(buf));
	return r;
}

int page_samples_note(struct page_samples *s, uint32_t i, bool loads)
{
	struct page_sample *p = &s->list[i];
	int r = page_read(s, i, &p->crc, &p->present);

	p->unloaded = loads && !p->present && !memory_view(s->mem);
	return r;
}

int page_samples_changed(struct page_samples *s, uint32_t i)
{
	const struct page_sample *p = &s->list[i];
	uint32_t crc;
	bool present;
	int r = p->unloaded ? 0 : page_read(s, i, &crc, &present);

	if (r < 0 || p->unloaded || crc == p->crc)
		return r;
	return !p->present || present;
}

uint64_t page_samples_rate(uint64_t ram_bytes, uint32_t n, uint32_t changed, uint64_t ns)
{
	/* Memory has at most VM_RAM_MAX_BYTES, 2^40, so the product with 10^6 fits. */
	return ram_bytes / n * changed * 1000000 / MAX(ns / 1000, 1);
}
