/* qcow2_check_impl: the walk over every reference that check and repair share. */
#ifndef CAIRN_BLOCK_QCOW2_CHECK_IMPL_H
#define CAIRN_BLOCK_QCOW2_CHECK_IMPL_H

#include "block/qcow2/impl.h"

struct checker_l2 {
	uint64_t off;
	uint64_t guest; /* where its reach begins, in the first L1 that names it */
	bool active;	/* the disk's, maybe a snapshot's too */
};

struct checker {
	int fd;
	const struct qcow2_header *h;
	struct qcow2_check *c;
	uint32_t cluster_bits, cluster_bytes;
	uint32_t *used; /* references counted, by cluster */
	uint32_t *refs; /* what the image says */
	uint64_t n;	/* clusters of the file */
	uint32_t *l2_refs; /* L1 entries that name it as an L2 table, by cluster */
	struct checker_l2 *l2;
	size_t nl2, l2_room;
	struct bitmap suspects; /* COPIED, though counted more than once */
	struct bitmap counts;	/* refcount table and blocks */
	uint64_t next_data; /* where the next data cluster would lie unfragmented */
	unsigned lines;
	bool external; /* data is in a file of its own and has no refcounts */
	bool raw;      /* and that file alone reads as the disk does */
	bool raw_lost; /* not any more: a table is gone */
	bool fix;     /* entries against the format are replaced by zeros in the file */
	bool changed; /* the table in hand has to be written back */
	uint64_t *table; /* memory for the L2 table in hand */
};

/* c: counts are added to it. Returns 0 or -errno; checker_done() in either case. */
int checker_init(struct checker *k, int fd, const struct qcow2_header *h, struct qcow2_check *c,
	struct err *e);
void checker_done(struct checker *k);
/* Count header, maps, snapshots and bitmaps: all but the refcounts themselves. */
int checker_walk(struct checker *k, struct err *e);
/* Read the image's refcounts and count the clusters that they take. */
void checker_refcounts(struct checker *k);

/* Who changes an image has to clear what it does not keep up to date: the unknown autoclear bits, and
 * `drop`. Durable when it returns 0; h follows. */
int qcow2_autoclear_drop(int fd, struct qcow2_header *h, uint64_t drop);

/* n big-endian u64 at off into host order and back. t: 4 KiB aligned, with room for
 * ROUND_UP(n * 8, 4096) bytes. Return 0 or -errno. */
int checker_load(struct checker *k, uint64_t *t, uint64_t off, uint64_t n);
int checker_store(struct checker *k, const uint64_t *t, uint64_t off, uint64_t n);
/* Refcount i of the block at p, of 2^order bits. */
uint64_t checker_ref(uint32_t order, const uint8_t *p, uint64_t i);
void checker_ref_set(uint32_t order, uint8_t *p, uint64_t i, uint64_t v);

#endif
