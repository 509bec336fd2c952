/* qcow2: the header, new images, copies, checks and repairs. Reads and writes: block.h. Format:
 * block/qcow2/format.h, docs/qcow2.md. */
#ifndef CAIRN_BLOCK_QCOW2_QCOW2_H
#define CAIRN_BLOCK_QCOW2_QCOW2_H

#include "block/qcow2/format.h"
#include "block/qcow2/pin.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct block;
struct err;

/* A header that qcow2_header_read() has checked, except for the place of bitmaps. */
struct qcow2_header {
	uint32_t version;
	uint32_t cluster_bits;
	uint64_t size_bytes; /* the size field's value */
	uint32_t crypt_method; /* 0 none, 1 AES, 2 LUKS */
	uint32_t l1_size;      /* in entries */
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
	bool has_bitmaps; /* the extension is there; see qcow2_bitmaps_valid() */
	uint32_t bitmaps_at; /* offset of the extension's data in the file */
	uint32_t bitmaps_ext_bytes, bitmaps_reserved;
	uint32_t nb_bitmaps;
	uint64_t bitmaps_offset, bitmaps_bytes; /* offset and length of the bitmap directory */
	char backing_name[QCOW2_BACKING_NAME_MAX + 1];
	char backing_format[64]; /* empty: not stated */
	char data_file[QCOW2_BACKING_NAME_MAX + 1]; /* empty: not named */
	bool has_pin; /* the backing file is read at a pin */
	struct qcow2_pin pin;
};

/* Read and check the header of fd. Encryption, which `info` can show, and unknown features
 * pass here; qcow2_header_supported() rejects them.
 * Returns 0; -EINVAL (ERR_CORRUPT; ERR_INVALID if the file is not qcow2); -ENOTSUP for an unknown version; the read's
 * -errno. */
int qcow2_header_read(int fd, const char *name, struct qcow2_header *ret, struct err *e);
/* Like qcow2_header_read(), for qcow2_check() and qcow2_repair(): accept a refcount table whose place is invalid
 * (reftable_clusters is 0 then) and too many snapshots. */
int qcow2_header_read_damaged(int fd, const char *name, struct qcow2_header *ret, struct err *e);
/* Returns 0 if no incompatible feature is unknown; -ENOTSUP. Until then, the rest of the file may mean anything. */
int qcow2_header_features_known(const struct qcow2_header *h, struct err *e);
/* Check that this engine can open the image.
 * writable: for writing.
 * Returns 0; -ENOTSUP with the missing feature; -EUCLEAN for writing to an image that is marked corrupt
 * or dirty. */
int qcow2_header_supported(const struct qcow2_header *h, bool writable, struct err *e);
/* Returns the number of L1 entries for a disk of this size. */
uint64_t qcow2_l1_entries(uint64_t size_bytes, uint32_t cluster_bits, bool extended);

struct qcow2_create {
	uint64_t size_bytes;
	uint32_t cluster_bits;	 /* 9 to 21; QEMU's default is 16 */
	uint32_t refcount_order; /* log2 of a refcount's bits, 0 to 6; QEMU's default is 4 */
	uint32_t version;	 /* 2 or 3 */
	uint8_t compression;
	bool lazy_refcounts;
	bool extended_l2;
	const char *backing_name;   /* NULL: none */
	const char *backing_format; /* NULL: not stated */
	const char *data_file;	    /* NULL: no external data file */
	bool data_file_raw;	    /* the data file alone has the content of the disk */
	const struct qcow2_pin *pin; /* the backing file's pin, which backing_name names; NULL: none */
};
/* Truncate fd and write an empty image. Returns 0; -EINVAL for conflicting options; -errno. */
int qcow2_create(int fd, const struct qcow2_create *c, struct err *e);
/* The same for n files, with the same content. */
int qcow2_create_all(const int *fds, unsigned n, const struct qcow2_create *c, struct err *e);
/* Check the options without changing a file. Returns 0 or -EINVAL. */
int qcow2_create_check(const struct qcow2_create *c, struct err *e);
/* Returns how many clusters the refcount table and the refcount blocks need that count `clusters` and themselves.
 * ret_table: those of the table. */
uint64_t qcow2_refcount_clusters(const struct qcow2_create *c, uint64_t clusters, uint64_t *ret_table);

/* Allocate a host cluster for every cluster from byte `from` on that has none. Zeros stay zeros. Unless the image has
 * subclusters, the backing file must have no content where the image has no entry. Runs the loop.
 * Returns 0 or -errno with a sentence. */
int qcow2_preallocate(struct block *b, uint64_t from, struct err *e);

/* Unmap all clusters of the disk, so that all of it reads from the backing file. Snapshots keep their
 * clusters. Runs the loop. Returns 0 or -errno with a sentence. */
int qcow2_make_empty(struct block *b, struct err *e);
/* Free the file's space that no table uses: punch holes and cut the file's end.
 * fd: open for writing, locked by the caller, used by nobody else.
 * Returns 0; -EUCLEAN for an image with errors; -errno. */
int qcow2_trim(int fd, const struct qcow2_header *h, struct err *e);

/* ---- header changes of an image that nobody has open; fd is open for writing. A power cut leaves the old header or
 * the new one. ---- */

/* Check the conditions of qcow2_set_backing() without a change. Returns as qcow2_set_backing(). */
int qcow2_backing_check(int fd, const struct qcow2_header *h, const char *name, const char *format, struct err *e);
/* Set the backing file. name NULL: none. h is updated.
 * Returns 0; -EINVAL if the name does not fit, in a small cluster beside the present one; -errno. */
int qcow2_set_backing(int fd, struct qcow2_header *h, const char *name, const char *format,
	struct err *e);
/* Set the path of the source image of a disk that is an overlay on a pin; the pin stays the same. h is updated. Returns
 * 0 or -errno. */
int qcow2_set_pin_source(int fd, struct qcow2_header *h, const char *path, struct err *e);
/* Set the name of the external data file of an image that has one. raw: may change from true to
 * false only. h is updated. Returns 0 or -errno. */
int qcow2_set_data_file(int fd, struct qcow2_header *h, const char *name, bool raw, struct err *e);
int qcow2_set_lazy_refcounts(int fd, struct qcow2_header *h, bool on, struct err *e);
/* Set the version, 2 or 3; clears the compatible features. A downgrade replaces zero clusters: by unallocated ones, or
 * over a backing file by clusters of zeros. It fails if an incompatible feature is in use, or if refcounts have other
 * than 16 bits. Before an upgrade, qcow2_refcounts_rebuild() completes snapshot entries: version 3 wants sizes in
 * them. Returns 0 or -errno. */
int qcow2_set_version(int fd, struct qcow2_header *h, uint32_t version, struct err *e);

struct qcow2_snapshot_info {
	char *id, *name;
	uint64_t l1_offset;
	uint32_t l1_size;
	uint64_t table_bytes; /* length of the table up to this entry's end */
	uint32_t sec, nsec;
	uint64_t vm_clock_ns, vm_state_bytes, disk_bytes, icount;
	bool has_icount;
	uint16_t id_len, name_len;
	uint8_t *extra; /* the entry's bytes, including QEMU's fields */
	uint32_t extra_len, extra_in_file; /* of a damaged table, the file may have more */
};
/* Read the snapshot table. The caller frees the list with qcow2_snapshots_free(). Returns 0;
 * -EINVAL: the table is damaged; -ENOMEM; the read's -errno. */
int qcow2_snapshots_read(int fd, const struct qcow2_header *h,
	struct qcow2_snapshot_info **ret_list, size_t *ret_n, struct err *e);
/* Like qcow2_snapshots_read(), for checks and repairs: cut extra data to the limit, and end before the first
 * entry that is over the limit of entries, the limit of the size, or the end of the file. */
int qcow2_snapshots_read_damaged(int fd, const struct qcow2_header *h, struct qcow2_snapshot_info **ret_list, size_t *ret_n,
	struct err *e);
void qcow2_snapshots_free(struct qcow2_snapshot_info *list, size_t n);
/* Returns whether the snapshot is a pin, and its id. */
bool qcow2_pin_marked(const struct qcow2_snapshot_info *s, uint8_t ret_id[BLOCK_PIN_ID_BYTES]);
/* Returns true if the snapshot's L1 is not too large, and lies aligned inside the file fd. */
bool qcow2_l1_in_file(int fd, const struct qcow2_header *h, const struct qcow2_snapshot_info *s);
/* Returns true if the L1 is also large enough for the snapshot's disk. */
bool qcow2_l1_is_valid(int fd, const struct qcow2_header *h, const struct qcow2_snapshot_info *s);

struct qcow2_check {
	/* dangerous: a cluster has more users than its refcount, or an entry is invalid */
	uint64_t corruptions;
	uint64_t leaks;	      /* clusters with fewer users than their refcount, and missing COPIED bits */
	uint64_t errors;      /* failures of the check itself */
	uint64_t corruptions_fixed, leaks_fixed; /* numbers of repaired faults; set by qcow2_repair() */
	uint64_t total_clusters, allocated_clusters, compressed_clusters, fragmented_clusters;
	uint64_t image_end_offset;
	bool bitmaps_damaged; /* the repair of everything removes all bitmaps */
	/* Gets one line for each of the first faults; NULL: not wanted. */
	void (*report)(void *opaque, const char *line);
	/* Gets the number of checked tables and of all tables; restarts when a repair checks again.
	 * NULL: not wanted. */
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
};
/* Count every reference and compare the counts with the refcounts. Reads only. Synchronous.
 * Returns 0 if the check ran (*c has the faults); -EDQUOT if it needs more memory than an image with as much
 * data in its file may have; -errno if it could not run. */
int qcow2_check(int fd, const struct qcow2_header *h, struct qcow2_check *c, struct err *e);

enum qcow2_repair {
	QCOW2_REPAIR_LEAKS = 1, /* lower refcounts that are too high */
	/* count references anew, with wider refcounts if a cluster has too many users; invalid entries become zeros */
	QCOW2_REPAIR_ALL = 2,
};
/* Repair the image and check it again into *c. Clear the dirty and corrupt bits if this check finds no corruption and
 * has no error, even if leaks are left. A power cut at any point leaves the image no worse than before. Synchronous.
 * h is updated.
 * fd: open for writing, locked by the caller.
 * Returns 0 if the repair ran (*c has the remaining faults); -errno. */
int qcow2_repair(int fd, struct qcow2_header *h, enum qcow2_repair how, struct qcow2_check *c,
	struct err *e);
/* Write new refcounts of 2^order bits, counted from the maps, replace invalid entries by zeros, correct COPIED
 * bits, and complete entries of the snapshot table that lack sizes. Synchronous. h is updated. fd: as for
 * qcow2_repair(). Returns 0; -ERANGE if a count needs more bits; -errno. */
int qcow2_refcounts_rebuild(int fd, struct qcow2_header *h, uint32_t order, struct err *e);

/* A copy of one snapshot's content, or of the disk's, as a new image with the same cluster size and
 * backing file, without snapshots. Synchronous; independent of the process that has the image open. */
struct qcow2_copy {
	/* open for reading. Nobody may change the snapshot meanwhile, or, for the disk itself,
	 * write to the image */
	int from;
	int to;	  /* a file; its content is replaced */
	bool cloned; /* `to` is already a clone (FICLONE) of the whole file, made after the snapshot */
	const char *snapshot; /* its id; NULL: the disk itself */
	/* Called with the copied and total bytes. Non-zero: stop with -ECANCELED. NULL: not wanted. */
	int (*step)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
};
/* Make the copy. Returns 0; -EINVAL for damaged tables; -ENOENT: no such snapshot; -ENOTSUP: the
 * image is marked corrupt or has an external data file; -ECANCELED; -errno. */
int qcow2_copy(const struct qcow2_copy *c, struct err *e);

#endif
