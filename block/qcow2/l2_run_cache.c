/* Keeps evicted slices of L2 tables as runs of consecutive entries. Most tables are filled in
 * order, so a few bytes hold the content of 4 KiB. */
#include "block/qcow2/impl.h"

#include <stdlib.h>
#include <string.h>

/* Maximum number of runs of a slice that is kept: they take some 300 bytes. */
#define RUNS_MAX 16u

/* A run of entries: from `first` up to the next run's `first`. Each entry names the cluster behind the
 * one before it. If the entries name no cluster, all of them equal `entry`. */
struct l2_run {
	uint64_t entry;
	uint32_t first;
};

struct l2_kept {
	struct l2_kept *hash_next;
	struct l2_kept *older, *newer;
	uint64_t offset; /* the slice's offset in the file */
	uint32_t n;
	struct l2_run runs[];
};

struct l2_runs {
	struct qcow2 *q;
	size_t bytes, bytes_max;
	unsigned hash_bits;
	struct l2_kept **hash; /* NULL until the first slice is kept: most disks never evict one */
	struct l2_kept *oldest, *newest;
};

static size_t kept_bytes(uint32_t n)
{
	return sizeof(struct l2_kept) + n * sizeof(struct l2_run);
}

static struct l2_kept **kept_slot(const struct l2_runs *t, uint64_t offset)
{
	uint64_t h = (offset / t->q->slice_bytes) * 0x9e3779b97f4a7c15ULL;
	struct l2_kept **p = &t->hash[h >> (64 - t->hash_bits)];

	while (*p && (*p)->offset != offset)
		p = &(*p)->hash_next;
	return p;
}

static void kept_free(struct l2_runs *t, struct l2_kept **slot)
{
	struct l2_kept *k = *slot;

	*slot = k->hash_next;
	*(k->older ? &k->older->newer : &t->oldest) = k->newer;
	*(k->newer ? &k->newer->older : &t->newest) = k->older;
	t->bytes -= kept_bytes(k->n);
	free(k);
}

static void kept_add(struct l2_runs *t, uint64_t offset, const struct l2_run *runs, uint32_t n)
{
	struct l2_kept *k, **slot;

	if (!t->hash)
		t->hash = calloc((size_t)1 << t->hash_bits, sizeof(*t->hash));
	if (!t->hash)
		return;
	while (t->oldest && t->bytes + kept_bytes(n) > t->bytes_max)
		kept_free(t, kept_slot(t, t->oldest->offset));
	k = t->bytes + kept_bytes(n) > t->bytes_max ? NULL : malloc(kept_bytes(n));
	if (!k)
		return; /* the slice must be read again */
	*k = (struct l2_kept){ .offset = offset, .n = n, .older = t->newest };
	memcpy(k->runs, runs, n * sizeof(*runs));
	*(t->newest ? &t->newest->newer : &t->oldest) = k;
	t->newest = k;
	t->bytes += kept_bytes(n);
	slot = kept_slot(t, offset);
	k->hash_next = *slot;
	*slot = k;
}

static uint64_t entry_step(const struct qcow2 *q, uint64_t entry)
{
	return l2_has_host(q, (struct l2_entry){ .e = entry }) ? q->cluster_bytes : 0;
}

/* Convert a slice to runs. Returns their number; 0 if there are more than RUNS_MAX, or if an entry is compressed or
 * invalid. */
static uint32_t slice_to_runs(const struct qcow2 *q, const struct slice *s, struct l2_run *runs)
{
	uint64_t expected = 0;
	uint32_t n = 0;

	for (uint32_t i = 0; i < q->slice_entries; i++) {
		struct l2_entry v = l2_get(q, s, (uint64_t)i << q->cluster_bits);

		if ((v.e & QCOW2_COMPRESSED) || l2_check(q, v) < 0)
			return 0;
		if (!n || v.e != expected) {
			if (n == RUNS_MAX)
				return 0;
			runs[n++] = (struct l2_run){ v.e, i };
		}
		expected = v.e + entry_step(q, v.e);
	}
	return n;
}

void l2_runs_keep(struct l2_runs *t, const struct slice *s)
{
	struct l2_run runs[RUNS_MAX];
	uint32_t n;

	if (!t || (t->oldest && *kept_slot(t, s->offset)))
		return;
	n = slice_to_runs(t->q, s, runs);
	if (n)
		kept_add(t, s->offset, runs, n);
}

void l2_runs_drop(struct l2_runs *t, uint64_t offset)
{
	struct l2_kept **slot = t && t->oldest ? kept_slot(t, offset) : NULL;

	if (slot && *slot)
		kept_free(t, slot);
}

bool l2_runs_find(const struct l2_runs *t, uint64_t offset, uint32_t i, uint64_t *ret_entry,
	uint32_t *ret_n)
{
	const struct l2_kept *k = t && t->oldest ? *kept_slot(t, offset) : NULL;
	uint32_t low = 0, high;

	if (!k)
		return false;
	for (high = k->n; high - low > 1;) {
		uint32_t middle = (low + high) / 2;

		*(k->runs[middle].first <= i ? &low : &high) = middle;
	}
	*ret_entry = k->runs[low].entry + (i - k->runs[low].first) * entry_step(t->q, k->runs[low].entry);
	*ret_n = (high < k->n ? k->runs[high].first : t->q->slice_entries) - i;
	return true;
}

struct l2_runs *l2_runs_new(struct qcow2 *q, size_t bytes_max)
{
	struct l2_runs *t;

	if (q->ext || bytes_max < kept_bytes(RUNS_MAX))
		return NULL;
	t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	*t = (struct l2_runs){ .q = q, .bytes_max = bytes_max, .hash_bits = 6 };
	while ((kept_bytes(1) << t->hash_bits) < bytes_max && t->hash_bits < 22)
		t->hash_bits++;
	return t;
}

void l2_runs_free(struct l2_runs *t)
{
	if (!t)
		return;
	while (t->oldest)
		kept_free(t, kept_slot(t, t->oldest->offset));
	free(t->hash);
	free(t);
}
