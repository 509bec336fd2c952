/* block_impl: the interface between block.c, open.c and the formats. Not for users of block.h. */
#ifndef CAIRN_BLOCK_BLOCK_IMPL_H
#define CAIRN_BLOCK_BLOCK_IMPL_H

#include "base/budget.h"
#include "base/loop.h"
#include "block/block.h"

#include <stdatomic.h>

struct block_vmstate_map;
struct err;
struct qcow2_pin;

/* A format's operations. block_submit() has checked each request: the range is inside the disk,
 * offset and length are multiples of the logical block, len > 0 (except for FLUSH), a read-only
 * disk gets no write, the memory is aligned. The format completes each request once, with
 * block_complete() or block_complete_later(). */
struct block_ops {
	void (*submit)(struct block *b, struct block_req *r);
	/* See block_extent(). The format also asks its backing layer. */
	int (*extent)(struct block *b, uint64_t off, uint64_t len, struct block_extent *ret);
	/* Write all changes to stable storage; may run the loop. Frees no memory of the engine. NULL allowed. */
	int (*flush_all)(struct block *b);
	/* See block_resize(); fill: block_grow_filled(), or NULL. No request is in flight. The new size is a multiple
	 * of 512. */
	int (*resize)(struct block *b, uint64_t size_bytes, const struct block_fill *fill, struct err *e);
	/* Free the engine's memory, also if open failed half-way. block.c closes the fd. */
	void (*free)(struct block *b);
};

/* The last damage of an image that a read of a disk has met. */
struct block_damage {
	const char *what; /* the damaged part; a constant; NULL: none yet */
	const struct block *image;
	uint64_t off, len; /* range of the disk */
	uint64_t image_off; /* guest offset in the image */
};

/* Each format embeds this as its first member. */
struct block {
	const struct block_ops *ops;
	struct loop *loop;
	struct block *backing; /* owned; NULL at the lowest layer */
	struct block_info info;
	char name[256];
	unsigned layer; /* 0: the disk; else the n-th below it */
	int fd;
	int data_fd; /* 0: none */
	bool named;  /* the file had a name when it was opened first: before a handover or a restack */
	bool locked, data_locked;
	bool handed_over; /* its fds came with the locks of another process */
	/* Bounce buffers: each has at most bounce_piece bytes. Requests that find no room wait in order. */
	struct budget bounce;
	uint32_t bounce_piece;
	struct block_req *bounce_first, **bounce_tail;
	bool submitting; /* inside block_submit(): block_complete() calls done() in the loop's next round */
	unsigned in_flight;
	unsigned changing; /* requests of in_flight other than reads, without the pieces in bounce buffers */
	struct block_mirror *mirror; /* NULL: none */
	struct block_req *deferred, **deferred_tail;
	struct loop_op defer_op;
	bool defer_armed;
	atomic_bool corrupt;
	struct block_listener *listener; /* NULL: none */
	/* The error that the listener gets in the loop's next round. */
	struct loop_op error_op;
	bool error_armed;
	int error_code;
	char error_why[256];
	struct block_damage damage;
	int sync_error; /* 0: none; see block_synced() */
	bool buffered, no_flush; /* see struct block_open */
};

/* A file's capabilities, probed once. */
struct block_file {
	uint64_t size_bytes;	   /* size of the file or device; not rounded */
	uint32_t offset_align;	   /* alignment for direct I/O: a device's sector size; a file: 512 */
	uint32_t memory_align;	   /* 1 if buffered */
	uint32_t punch_granularity; /* st_blksize of the file or device */
	bool is_device;
	bool direct;
};

struct block_format_open {
	struct loop *loop;
	int fd; /* borrowed until the open succeeds */
	bool read_only;
	const char *name;
	const struct block_file *file;
	int data_fd; /* borrowed until the open succeeds; 0: no external data file */
	const struct block_file *data_file; /* data_fd's capabilities */
	struct block *backing; /* NULL: none; taken on success */
	const char *snapshot;  /* NULL: the disk itself */
	const struct qcow2_pin *pin; /* read-only qcow2: the pin to read; NULL: none */
	struct block_pin_wait pin_wait;
	bool pin_readable; /* see struct block_open */
	struct qcow2_warm *warm; /* see struct block_open */
	uint64_t cache_bytes;  /* 0: the format's default */
	bool lazy_bitmaps; /* see struct block_open */
	bool buffered, no_flush; /* see struct block_open */
	bool no_repair; /* do not repair a qcow2 image that was not closed, but refuse it */
};
int raw_open(const struct block_format_open *o, struct block **ret_b, struct err *e);
int qcow2_resize(struct block *b, uint64_t size_bytes, const struct block_fill *fill, struct err *e);
int qcow2_open(const struct block_format_open *o, struct block **ret_b, struct err *e);

/* Get the pin at which the backing file of the qcow2 image fd is to be read. ret: NULL: none; else
 * the caller frees it. Returns 0 or -errno. */
int qcow2_pin_below(int fd, const char *name, struct qcow2_pin **ret, struct err *e);

/* Returns whether the header of the qcow2 image fd names a backing file; true if the header cannot be read. */
bool qcow2_stands_on_backing(int fd);

/* Free a disk and the layers below it, down to `keep`, which stays; NULL: all of them. close_fds: also close their
 * files; otherwise only their locks are released. */
void block_chain_free(struct block *b, bool close_fds, const struct block *keep);
void block_init(struct block *b, const struct block_ops *ops, const struct block_format_open *o);
/* Complete a request: call done(), or inside block_submit() leave the call to the loop's next round. */
void block_complete(struct block_req *r, int res);
/* Call done() of a request that block_mirror_forwards() has kept. */
void block_req_end(struct block_req *r, int res);
/* Complete a request in the loop's next round. */
void block_complete_later(struct block_req *r, int res);
/* Every sync of an open disk's files is a block_fdatasync() that passes its result through block_synced(), or a
 * block_sync(); with no_flush, both do nothing. If a sync fails, the kernel drops the unwritten data from its page
 * cache, and the next sync of the file succeeds. So without direct I/O all later syncs of the disk fail with the same
 * error. Return 0 or -errno. */
int block_synced(struct block *b, int fd, int res);
int block_sync(struct block *b, int fd);
/* As loop_fdatasync(); with no_flush, complete op without a sync. */
void block_fdatasync(struct block *b, struct loop_op *op, int fd);

/* As block_flush_all(), beside reads in flight. */
int block_flush_all_beside_reads(struct block *b);
/* Note for block_read_error() that [off, off + len) of the image cannot be read. what: the damaged part; a constant. */
void block_note_damage(struct block *image, uint64_t off, uint64_t len, const char *what);
/* Returns the damage that a read of [off, off + len) has met in any layer; NULL: none. */
const struct block_damage *block_damage_find(const struct block *b, uint64_t off, uint64_t len);
/* Report an error to the listener; see block.h. `corrupt` also marks the disk permanently corrupt. */
void block_report_error(struct block *b, int error, bool corrupt, const char *why);

#endif
