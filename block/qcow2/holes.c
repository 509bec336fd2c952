/* Shows the holes in the data of a preallocated image, so that tools neither read nor copy them. */
#include "base/cleanup.h"
#include "base/util.h"
#include "block/qcow2/check_impl.h"

#include <endian.h>
#include <errno.h>
#include <sys/stat.h>

/* Counts clusters with a refcount, up to `enough`. */
struct count {
	struct qcow2 *q;
	uint8_t *block;	     /* buffer of a cluster */
	uint64_t clusters;   /* of the file */
	uint64_t blocks_max; /* a whole image has no more refcount blocks, because each takes space */
	uint64_t counted, enough;
};

/* Count the clusters that refcount block i, at `off`, describes. Returns 0 or -errno. */
static int block_count(struct count *c, uint64_t i, uint64_t off)
{
	struct qcow2 *q = c->q;
	uint64_t first = i << q->refblock_bits, n;
	int r;

	if (!c->blocks_max || off & (q->cluster_bytes - 1))
		return -EIO;
	c->blocks_max--;
	n = MIN(c->clusters - first, 1ULL << q->refblock_bits);
	r = qcow2_pread(q->base.fd, c->block, q->cluster_bytes, off);
	for (uint64_t k = 0; k < n && !r; k++)
		c->counted += checker_ref(q->h.refcount_order, c->block, k) != 0;
	return r;
}

static int blocks_count(struct count *c)
{
	struct qcow2 *q = c->q;
	uint64_t n = MIN((uint64_t)q->h.reftable_clusters * q->cluster_bytes / 8,
		DIV_ROUND_UP(c->clusters, 1ULL << q->refblock_bits)), piece = 4096 / 8;
	CLEANUP_FREE uint64_t *table = io_buffer_new(4096);
	int r = table ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < n && c->counted < c->enough && !r; i++) {
		if (i % piece == 0)
			r = qcow2_pread(q->base.fd, table, 4096, q->h.reftable_offset + i * 8);
		if (!r && table[i % piece])
			r = block_count(c, i, be64toh(table[i % piece]));
	}
	return r;
}

/* Returns true if clearly more clusters have a refcount than the file has space for: then many of them are holes. The
 * rule is qemu-img's. */
static bool file_is_preallocated(struct qcow2 *q)
{
	uint64_t real = qcow2_allocated_bytes(q->base.fd) >> q->cluster_bits;
	struct count c = { .q = q, .enough = MAX(real + real / 9, real + 2) };
	CLEANUP_FREE uint8_t *block = io_buffer_new(q->cluster_bytes);
	struct stat st;

	if (!block || fstat(q->base.fd, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	c.block = block;
	c.clusters = DIV_ROUND_UP((uint64_t)st.st_size, q->cluster_bytes);
	c.blocks_max = (uint64_t)st.st_blocks * 512 / MIN(q->cluster_bytes, 4096u);
	return c.clusters >= c.enough && blocks_count(&c) == 0 && c.counted >= c.enough;
}

bool extent_is_hole(struct qcow2 *q, uint64_t host, uint64_t *len)
{
	if (!q->base.info.read_only || q->external)
		return false;
	if (!q->holes.known) {
		q->holes.known = true;
		q->holes.preallocated = file_is_preallocated(q);
	}
	return q->holes.preallocated && io_hole_find(&q->holes.found, q->base.fd, host, len);
}
