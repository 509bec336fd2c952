/* check_impl: the walk over all references, shared by check and repair. */
#ifndef CAIRN_BLOCK_QCOW2_CHECK_IMPL_H
#define CAIRN_BLOCK_QCOW2_CHECK_IMPL_H

#include "block/qcow2/impl.h"

struct checker_l2 {
	uint64_t off;
	uint64_t guest; /* first guest offset that the table covers, in the first L1 that names it */
	bool active;	/* belongs to the disk, and possibly to a snapshot as well */
};

struct checker {
	int fd;
	const struct qcow2_header *h;
	struct qcow2_check *c;
	uint32_t cluster_bits, cluster_bytes;
	uint32_t *used; /* counted references per cluster */
	uint32_t *refs; /* the image's refcounts */
	uint64_t n;	/* number of clusters of the file */
	uint32_t *l2_refs; /* per cluster: number of L1 entries that name it as an L2 table */
	struct budget memory;
	struct bitmap touched; /* pages of used, refs and l2_refs that are charged */
	bool exceeded; /* something was not counted, because it would exceed the budget */
	struct checker_l2 *l2;
	size_t nl2, l2_room;
	struct bitmap suspects; /* clusters with COPIED whose refcount is not 1: wrong if they have several references */
	struct bitmap counts;	/* clusters of the refcount table and of refcount blocks */
	struct bitmap bitmaps;	/* clusters of persistent bitmaps, their tables and their directory */
	uint64_t next_data; /* the next data cluster's offset if the file is unfragmented */
	bool external; /* data lies in an external data file, which has no refcounts */
	bool raw;      /* data_file_raw: the data file alone has the content of the disk */
	bool raw_lost; /* data_file_raw must be cleared, because the repair has dropped an L2 table */
	bool fix;     /* correct or clear invalid entries in the file */
	bool changed; /* the current table must be written back */
	uint64_t *table; /* buffer for the current L2 table */
	struct qcow2_snapshot_info *snapshots; /* see qcow2_snapshots_read_damaged() */
	size_t nsnapshots;
	uint64_t snapshots_bytes; /* length of their table in the file */
	bool snapshots_rewrite; /* the snapshot table has faults, or entries of version 2 without sizes */
};

/* Prepare a check. c: the counts are added to it. Call checker_done() in either case.
 * Returns 0 or -errno. */
int checker_init(struct checker *k, int fd, const struct qcow2_header *h, struct qcow2_check *c,
	struct err *e);
void checker_done(struct checker *k);
/* Prepare a check, read the refcounts, and count the references. Parameters and result: checker_init(). */
int checker_run(struct checker *k, int fd, const struct qcow2_header *h, struct qcow2_check *c, struct err *e);
/* Count the references of header, maps, snapshots and bitmaps, but not those of the refcount table and its
 * blocks. With k->fix, also repair the maps' entries. Returns 0 or -errno. */
int checker_walk(struct checker *k, struct err *e);

/* Clear the unknown autoclear bits and those in `drop`: a program that changes an image must clear
 * the bits of features that it does not update. Durable on success; h is updated. Returns 0 or
 * -errno. */
int qcow2_autoclear_drop(int fd, struct qcow2_header *h, uint64_t drop);

/* Replace the header by h, with the same further extensions. A power cut leaves the old header or the new one. h gets
 * the places of the extensions.
 * old: the header in the file. check_only: write nothing.
 * Returns 0; -EINVAL if the names do not fit into the first cluster, and nothing was written; -errno. */
int qcow2_header_rewrite(int fd, const struct qcow2_header *old, struct qcow2_header *h, bool check_only, struct err *e);

/* Remove the bitmaps from an image with the extension: clear the autoclear bit, then retire the extension, one sector
 * each. Their clusters leak. h is updated. Returns 0; -errno with a sentence. */
int qcow2_drop_bitmaps(int fd, struct qcow2_header *h, struct err *e);

/* Replace zero clusters by unallocated ones, or over a backing file by clusters of zeros, in all tables of an image of
 * version 3 without further features and with refcounts of 16 bits. h is updated. Returns 0; -EUCLEAN for an image
 * with errors; -errno. */
int qcow2_expand_zeros(int fd, struct qcow2_header *h, struct err *e);

/* Clusters that a rebuild adds to the image. */
struct rebuild_addition {
	const uint8_t *data; /* NULL: zeros */
	uint64_t clusters;
	uint64_t refs, refs_each; /* references to all of them, and to each but the last */
};
/* After checker_walk(): write new refcounts of 2^order bits, and the addition. With k->snapshots_rewrite, add->data is
 * the new snapshot table. One write to the header switches to all of them; the old tables are free from then on. h is
 * updated. ret_place: offset of the addition.
 * Returns 0; -ERANGE if a count needs more bits; -errno with a sentence. */
int checker_rebuild(struct checker *k, struct qcow2_header *h, uint32_t order, const struct rebuild_addition *add,
	uint64_t *ret_place, struct err *e);

/* Read or write n big-endian u64 at off, from or to host byte order.
 * t: aligned to 4 KiB, with ROUND_UP(n * 8, 4096) bytes.
 * Return 0 or -errno. */
int checker_load(struct checker *k, uint64_t *t, uint64_t off, uint64_t n);
int checker_store(struct checker *k, const uint64_t *t, uint64_t off, uint64_t n);
/* Get or set refcount i of the block at p, with 2^order bits per refcount. */
uint64_t checker_ref(uint32_t order, const uint8_t *p, uint64_t i);
void checker_ref_set(uint32_t order, uint8_t *p, uint64_t i, uint64_t v);

#endif
