/* Expands zero clusters, which version 2 does not have, in all tables of an image.
 *
 * Without a backing file, the entries are unmapped. Otherwise they get a cluster of zeros that many entries share.
 * Order, each group durable before the next, so that a power cut leaks at most:
 *    1 write the clusters of zeros, and refcounts that suffice for all entries
 *    2 change the entries
 *    3 repair the leaks: lower these refcounts, and free clusters that the entries named */
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/check_impl.h"

#include <errno.h>
#include <unistd.h>

#define REFS_MAX 65535u /* of a cluster in version 2 */
/* Fewer share a cluster of zeros, because each snapshot and each revert adds as many references again. */
#define SHARED_MAX 256u

struct expansion {
	struct checker *k;
	bool write;
	uint64_t entries;
	uint64_t place;	   /* offset of the first cluster of zeros; 0: unmap the entries */
	uint64_t clusters; /* number of clusters of zeros that are begun */
	uint32_t left;	   /* references that the last of them can still take */
};

/* Returns the offset of a cluster of zeros that can take `refs` more references. */
static uint64_t zeros_take(struct expansion *x, uint32_t refs)
{
	if (x->left < refs) {
		x->clusters++;
		x->left = MAX(refs, SHARED_MAX);
	}
	x->left -= refs;
	return x->place ? x->place + ((x->clusters - 1) << x->k->cluster_bits) : 0;
}

/* Count the entries of a table that have the zero flag, or replace them. */
static int table_expand(struct expansion *x, uint64_t off)
{
	struct checker *k = x->k;
	uint64_t n = k->cluster_bytes / 8, before = x->entries;
	int r = checker_load(k, k->table, off, n);

	for (uint64_t i = 0; i < n && !r; i++) {
		if ((k->table[i] & QCOW2_COMPRESSED) || !(k->table[i] & QCOW2_ZERO))
			continue;
		x->entries++;
		k->table[i] = zeros_take(x, k->l2_refs[off >> k->cluster_bits]);
	}
	return r || !x->write || x->entries == before ? r : checker_store(k, k->table, off, n);
}

static int tables_expand(struct expansion *x)
{
	int r = 0;

	x->entries = x->clusters = x->left = 0;
	for (size_t i = 0; i < x->k->nl2 && !r; i++)
		r = table_expand(x, x->k->l2[i].off);
	return r;
}

static int entries_expand(struct expansion *x, struct qcow2_header *h, struct err *e)
{
	struct rebuild_addition add = { .refs_each = REFS_MAX };
	int r;

	if (h->has_backing) {
		add.clusters = x->clusters;
		add.refs = x->clusters * REFS_MAX;
		r = checker_rebuild(x->k, h, h->refcount_order, &add, &x->place, e);
		if (r < 0)
			return r;
	}
	x->write = true;
	r = tables_expand(x);
	if (!r && fdatasync(x->k->fd) < 0)
		r = -errno;
	return r < 0 ? err_set_errno(e, r, "cannot write the tables") : 0;
}

int qcow2_expand_zeros(int fd, struct qcow2_header *h, struct err *e)
{
	struct qcow2_check c = { 0 };
	struct checker k;
	struct expansion x = { .k = &k };
	int r = checker_run(&k, fd, h, &c, e);

	if (!r && (c.errors || c.corruptions))
		r = err_set(e, -EUCLEAN, ERR_CORRUPT, "the image has errors; repair them with `cairn-img check -r all` first");
	if (!r) {
		r = tables_expand(&x);
		if (r < 0)
			err_set_errno(e, r, "cannot read the tables");
	}
	if (!r && x.entries) {
		r = entries_expand(&x, h, e);
		if (!r) {
			c = (struct qcow2_check){ 0 };
			r = qcow2_repair(fd, h, QCOW2_REPAIR_LEAKS, &c, e);
		}
	}
	checker_done(&k);
	return r;
}
