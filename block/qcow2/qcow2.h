/* qcow2: what tools need beyond block.h: the header, new images, checks.
 * Format: block/qcow2/format.h, docs/qcow2.md. */
#ifndef CAIRN_BLOCK_QCOW2_QCOW2_H
#define CAIRN_BLOCK_QCOW2_QCOW2_H

#include "block/qcow2/format.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct block;
struct err;
struct loop;

/* A header whose every field has been checked against the format and the limits. */
struct qcow2_header {
	uint32_t version;
	uint32_t cluster_bits;
	uint64_t size_bytes; /* as it stands there */
	uint32_t crypt_method; /* 0 none, 1 AES, 2 LUKS */
	uint32_t l1_size;      /* entries */
	uint64_t l1_offset;
	uint64_t reftable_offset;
	uint32_t reftable_clusters;
	uint32_t nb_snapshots;
	uint64_t snapshots_offset;
	uint64_t incompatible, compatible, autoclear;
	uint32_t refcount_order;
	uint32_t header_length;
	uint8_t compression; /* QCOW2_COMPRESSION_* */
	bool has_backing;
	bool has_bitmaps;
	uint32_t nb_bitmaps;
	uint64_t bitmaps_offset, bitmaps_bytes; /* their directory */
	char backing_name[QCOW2_BACKING_NAME_MAX + 1];
	char backing_format[64]; /* empty: the image does not say */
	char data_file[QCOW2_BACKING_NAME_MAX + 1]; /* empty: not named */
};

/* buf: the beginning of the image, at least its first cluster or all of it when the file
 * is shorter. file_bytes: to judge offsets. The encrypted and the unknown are refused in qcow2_header_supported(), so that `info` can show them.
 * Returns 0; -EINVAL (ERR_CORRUPT, or ERR_INVALID when it is no qcow2 at all). */
int qcow2_header_parse(const void *buf, size_t len, uint64_t file_bytes,
	struct qcow2_header *ret, struct err *e);
/* Reads what qcow2_header_parse() needs. */
int qcow2_header_read(int fd, const char *name, struct qcow2_header *ret, struct err *e);
/* Can this engine open it? Returns 0; -ENOTSUP with what it lacks; -EINVAL, -EUCLEAN for
 * images that are marked corrupt or dirty and asked for writing. */
int qcow2_header_supported(const struct qcow2_header *h, bool writable, struct err *e);
/* L1 entries that a disk of this size needs. */
uint64_t qcow2_l1_entries(uint64_t size_bytes, uint32_t cluster_bits, bool extended);

struct qcow2_create {
	uint64_t size_bytes;
	uint32_t cluster_bits;	 /* 16 */
	uint32_t refcount_order; /* 4 */
	uint32_t version;	 /* 3 */
	uint8_t compression;
	bool lazy_refcounts;
	bool extended_l2;
	const char *backing_name;   /* NULL: none */
	const char *backing_format; /* NULL: not stated */
	const char *data_file;	    /* name of the external data file; NULL: none */
	bool data_file_raw;	    /* that file alone shall read as the disk does */
};
/* Write an empty image over fd, cut to nothing first. Returns 0; -EINVAL for options that do
 * not go together; -errno. */
int qcow2_create(int fd, const struct qcow2_create *c, struct err *e);
/* The options alone, before anything is touched. */
int qcow2_create_check(const struct qcow2_create *c, struct err *e);

/* Give every cluster from byte `from` on its place; what has one keeps it. It reads as zeros there: no
 * backing layer may show. progress: bytes, now and then; NULL: none. Runs the loop. */
int qcow2_preallocate(struct block *b, uint64_t from, void (*progress)(void *opaque, uint64_t done, uint64_t total),
	void *opaque, struct err *e);

/* Nothing is mapped any more: the backing layer shows everywhere. Snapshots keep theirs. Runs
 * the loop. */
int qcow2_make_empty(struct block *b, struct err *e);
/* Give back what no table uses: punch holes, cut the tail. fd: open for writing, locked by the
 * caller, nobody else has it. An image with faults is refused (-EUCLEAN). */
int qcow2_trim(int fd, const struct qcow2_header *h, struct err *e);

/* ---- changing the header of an image that nobody has open; fd for writing ---- */

/* NULL name: no backing file. h follows. Returns 0; -EINVAL when it does not fit; -errno. */
int qcow2_set_backing(int fd, struct qcow2_header *h, const char *name, const char *format,
	struct err *e);
/* name: of the external data file; for an image that has one. raw: only false can be asked for
 * where it was true. h follows. */
int qcow2_set_data_file(int fd, struct qcow2_header *h, const char *name, bool raw, struct err *e);
int qcow2_set_lazy_refcounts(int fd, struct qcow2_header *h, bool on, struct err *e);
/* 2 or 3. Down only where nothing of v3 is in use; zero clusters without a place are emptied when no
 * backing file would show there. */
int qcow2_set_version(int fd, struct qcow2_header *h, uint32_t version, struct err *e);

struct qcow2_snapshot_info {
	char *id, *name;
	uint64_t l1_offset;
	uint32_t l1_size;
	uint64_t table_bytes; /* of the table up to this entry's end */
	uint32_t sec, nsec;
	uint64_t vm_clock_ns, vm_state_bytes, disk_bytes, icount;
	bool has_icount;
	uint16_t id_len, name_len;
	uint8_t *extra; /* as it stands there, QEMU's fields included */
	uint32_t extra_len;
};
/* The snapshot table. Caller frees with qcow2_snapshots_free(). Returns 0; -EINVAL; -EIO. */
int qcow2_snapshots_read(int fd, const struct qcow2_header *h,
	struct qcow2_snapshot_info **ret_list, size_t *ret_n, struct err *e);
void qcow2_snapshots_free(struct qcow2_snapshot_info *list, size_t n);

struct qcow2_check {
	uint64_t corruptions; /* dangerous: used more often than counted, or a bad entry */
	uint64_t leaks;	      /* counted more often than used */
	uint64_t errors;      /* could not be checked */
	uint64_t corruptions_fixed, leaks_fixed; /* by qcow2_repair() */
	uint64_t total_clusters, allocated_clusters, compressed_clusters, fragmented_clusters;
	uint64_t image_end_offset;
	/* A line for each of the first faults; NULL: none wanted. */
	void (*report)(void *opaque, const char *line);
	/* Tables looked at, of how many; starts again when a repair looks again. NULL: not wanted. */
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
};
/* Count every reference and compare with the refcounts. Reads only. Synchronous.
 * Returns 0 when the check ran (faults are in *c); -errno when it could not. */
int qcow2_check(int fd, const struct qcow2_header *h, struct qcow2_check *c, struct err *e);

enum qcow2_repair {
	QCOW2_REPAIR_LEAKS = 1, /* lower refcounts that are too high */
	QCOW2_REPAIR_ALL = 2,	/* count anew; entries against the format read as zeros from now on */
};
/* Repair, check again into *c, and take the dirty and corrupt marks away when nothing is left.
 * A power cut at any point leaves the image no worse than before. fd: open for writing, locked by
 * the caller. Synchronous. h follows what changes. Returns 0 when it ran (what is left is in *c);
 * -errno. */
int qcow2_repair(int fd, struct qcow2_header *h, enum qcow2_repair how, struct qcow2_check *c,
	struct err *e);
/* New refcounts of 2^order bits, counted from the maps. As above. */
int qcow2_refcounts_rebuild(int fd, struct qcow2_header *h, uint32_t order, struct err *e);

/* What one snapshot holds, or the disk as it is, as an image of its own: the same size of clusters and backing
 * file, no snapshots. Synchronous, and asks nothing of who has the image open. */
struct qcow2_copy {
	int from; /* for reading. Whoever writes to the image leaves that snapshot alone meanwhile; of the disk as
		   * it is nobody writes */
	int to;	  /* a file, whose content goes */
	bool cloned; /* `to` has all of the file already, of one moment since the snapshot was made (FICLONE) */
	const char *snapshot; /* its id; NULL: the disk as it is */
	/* Of what is copied; non-zero: no further. NULL: not wanted. */
	int (*step)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
};
/* Returns 0; -EINVAL when tables are damaged, -ENOENT, -ENOTSUP, -ECANCELED, -errno. */
int qcow2_copy(const struct qcow2_copy *c, struct err *e);

#endif
