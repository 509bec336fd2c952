#include "snapshot/image_state.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void read_done(struct block_vmstate_req *r, int res)
{
	struct image_state *s = container_of(r, struct image_state, req);

	s->over = true;
	s->res = res;
}

/* Read whole pages, because the disk accepts only those. */
static int image_state_read(struct vmstate_store *store, uint64_t off, void *buf, size_t len)
{
	struct image_state *s = container_of(store, struct image_state, store);
	uint64_t begin = ROUND_DOWN(off, 4096), end = ROUND_UP(off + len, 4096);
	CLEANUP_FREE uint8_t *pages = aligned_alloc(4096, end - begin);
	struct iovec iov = { pages, end - begin };

	if (!pages)
		return -ENOMEM;
	s->req = (struct block_vmstate_req){ .offset = begin, .len = end - begin, .iov = &iov, .niov = 1, .done = read_done };
	s->over = false;
	block_vmstate_read(s->b, s->id, &s->req);
	while (!s->over)
		loop_run_once(s->loop, UINT64_MAX);
	if (!s->res)
		memcpy(buf, pages + (off - begin), len);
	return s->res;
}

void image_state_init(struct image_state *s, struct loop *l, struct block *b, const char *id)
{
	*s = (struct image_state){ .store.read = image_state_read, .loop = l, .b = b };
	snprintf(s->id, sizeof(s->id), "%s", id);
}
