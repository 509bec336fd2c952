#include "snapshot/first_pages.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Saved states leave this range unused: the definition ends at 13 MiB, and vmm/kvm/fork_host.h follows at 14. */
#define OFFSET (13 * MIB + 65536)
#define SECTION "pages"
#define VERSION 1
#define HEAD_BYTES 64u
#define BYTES_MAX (HEAD_BYTES + 4u * FIRST_PAGES_MAX)

/* Returns -EINVAL if the list is not ascending, or has pages beyond the end of RAM. */
static int list_take(struct state_reader *r, uint64_t pages, uint32_t *ret)
{
	size_t n = r->len / 4;
	uint64_t next = 0;

	if (n > FIRST_PAGES_MAX)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		ret[i] = state_u32(r);
		if (first_page_number(ret[i]) < next || first_page_number(ret[i]) >= pages)
			return -EINVAL;
		next = first_page_number(ret[i]) + 1;
	}
	return state_reader_complete(r) ? (int)n : -EINVAL;
}

int first_pages_read(int fd, uint64_t pages, uint32_t *ret)
{
	CLEANUP_FREE uint8_t *buf = malloc(BYTES_MAX);
	struct state_section s;
	struct err e;
	size_t pos = 0;
	int r = buf ? pread_full(fd, buf, BYTES_MAX, OFFSET) : -ENOMEM;

	if (r < 0 || state_section_next(buf, BYTES_MAX, &pos, &s, &e) <= 0 || strcmp(s.name, SECTION) || s.version != VERSION)
		return -ENOENT;
	r = list_take(&s.content, pages, ret);
	return r < 0 ? -ENOENT : r;
}

int first_pages_write(int fd, const uint32_t *list, size_t n)
{
	struct state_writer w;
	int r;

	state_writer_init(&w);
	state_section_begin(&w, SECTION, "", VERSION);
	for (size_t i = 0; i < n; i++)
		state_put_u32(&w, list[i]);
	state_section_end(&w);
	r = w.failed || w.len > BYTES_MAX ? -ENOMEM : pwrite_full(fd, w.buf, w.len, OFFSET);
	state_writer_done(&w);
	return r;
}
