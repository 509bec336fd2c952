#include "block/upper_range.h"
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <stdlib.h>

struct look {
	struct wait wait;
	struct upper_range *x;
	uint64_t at;
};

/* Look at one offset in all upper layers. ret_len: how far the answer holds. Returns 1 if one of them has it; 0;
 * -EINPROGRESS; -errno. */
static int offset_find(struct look *l, uint64_t *ret_len)
{
	struct block *y = l->x->b;
	uint64_t end = l->x->off + l->x->len;

	*ret_len = end - l->at;
	for (unsigned i = 0; i < l->x->depth; i++, y = y->backing) {
		struct extent x;
		int r;

		if (l->at >= y->info.size_bytes)
			return 1;
		*ret_len = MIN(*ret_len, y->info.size_bytes - l->at);
		r = map_lookup(qcow2_of(y), &qcow2_of(y)->disk, l->at, *ret_len, &l->wait, &x);
		if (r < 0)
			return r;
		*ret_len = MIN(*ret_len, x.len);
		if (x.kind != EXTENT_UNALLOCATED)
			return 1;
	}
	return 0;
}

static void find_end(struct look *l, int res, uint64_t len)
{
	struct upper_range *x = l->x;
	uint64_t at = l->at;

	free(l);
	x->done(x, res, at, len);
}

static void find_run(struct wait *w, int res)
{
	struct look *l = container_of(w, struct look, wait);
	uint64_t end = l->x->off + l->x->len, len = 0;
	int r = res;

	while (!r && l->at < end) {
		r = offset_find(l, &len);
		if (!r)
			l->at += len;
	}
	if (r == 1)
		find_end(l, 0, len);
	else if (r != -EINPROGRESS)
		find_end(l, r, 0);
}

void upper_range_find(struct upper_range *x)
{
	struct look *l = calloc(1, sizeof(*l));

	if (!l) {
		x->done(x, -ENOMEM, x->off, 0);
		return;
	}
	*l = (struct look){ .wait.run = find_run, .x = x, .at = x->off };
	find_run(&l->wait, 0);
}
