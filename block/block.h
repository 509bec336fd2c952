/* block: a virtual disk behind one table of operations, whatever its format.
 *
 * Threading: one loop thread per disk. Everything here is called on that thread
 * (or before it runs); `done` is called on it, never from inside block_submit().
 * The layer is handed open fds and opens no path. */
#ifndef CAIRN_BLOCK_BLOCK_H
#define CAIRN_BLOCK_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct block;
struct err;
struct loop;

enum block_format { BLOCK_FORMAT_RAW = 1, BLOCK_FORMAT_QCOW2 = 2 };
/* "raw", "qcow2"; NULL for others. */
const char *block_format_name(enum block_format f);
/* -1 for a name that is none. */
int block_format_from_name(const char *name);

#define BLOCK_SECTOR_BYTES 512u
#define BLOCK_LAYERS_MAX 16

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

enum block_req_flags {
	BLOCK_REQ_FUA = 1,	 /* on stable storage before done() */
	BLOCK_REQ_MAY_UNMAP = 2, /* write zeroes may free the space */
};

/* The longest READ or WRITE. */
#define BLOCK_REQ_BYTES_MAX (1ULL << 30)

/* One request. The caller owns it, its iov and its buffers until done(). */
struct block_req {
	enum block_op op;
	unsigned flags;
	uint64_t offset;	 /* bytes; multiple of the disk's logical block */
	uint64_t len;		 /* bytes; for READ and WRITE the sum of iov */
	const struct iovec *iov; /* READ, WRITE */
	unsigned niov;
	void (*done)(struct block_req *r, int res); /* 0 or -errno */

	/* The layer's own, while in flight: */
	struct block *block;
	void *engine;
	struct block_req *next;
	int res;
};

struct block_info {
	enum block_format format;
	uint64_t size_bytes;
	uint32_t logical_block_bytes; /* requests are multiples of it: 512 or 4096 */
	uint32_t buffer_align;	      /* memory alignment O_DIRECT wants; the layer bounces others */
	uint32_t discard_granularity; /* bytes; 0: discard has no effect */
	bool read_only;
	bool direct; /* O_DIRECT is in use */
	bool data_file; /* of a qcow2 image: no internal snapshots then */
};

struct block_layer {
	int fd; /* taken on success only */
	enum block_format format;
	int data_fd; /* of a qcow2 image's external data file, taken like fd; 0: none */
};

struct block_open {
	const struct block_layer *layers; /* [0] the disk, [1] its backing, … */
	unsigned nlayers;
	bool read_only;	 /* the disk; backing layers always are */
	bool no_lock;	 /* for tools that only look (as qemu-img -U) */
	bool buffered;	 /* leave the page cache in use: for tools */
	uint64_t cache_bytes; /* bound on cached tables of each qcow2 layer; 0: 4 MiB */
	const char *snapshot; /* of a qcow2 disk, read only: its id or name; NULL: the disk itself */
	const char *name; /* for sentences: "vda"; borrowed */
};

/* Open a disk and lock it (OFD locks at QEMU's offsets: another writer is refused
 * with ERR_BUSY). Synchronous.
 * Returns 0; -EINVAL, -EIO, -ENOTSUP, -EBUSY, … with a sentence; untouched on error. */
int block_open(struct loop *l, const struct block_open *o, struct block **ret_b, struct err *e);
/* Flushes, releases the lock, closes the fds. No request may be in flight. NULL allowed.
 * Returns the flush's result. */
int block_close(struct block *b);

void block_info(const struct block *b, struct block_info *ret_info);

/* The one choke point: checks range, alignment and state, then hands the request to
 * the format. A request that fails a check is done() with -EINVAL, -EROFS or -EIO. */
void block_submit(struct block *b, struct block_req *r);
unsigned block_in_flight(const struct block *b);

/* What a disk has to say beside the answers to requests: that its image is corrupt, so that from
 * here on what would change it fails with -EIO (once); or that its tables could not be written
 * when no request waited for them (then it is tried again each second, and said again only after
 * it has worked). Called from the loop, never from inside another call. error: -errno. */
struct block_listener {
	void (*on_error)(struct block_listener *l, int error, const char *why);
};
/* One per disk; borrowed until another, or NULL, takes its place. */
void block_set_listener(struct block *b, struct block_listener *l);
/* Any thread. */
bool block_is_corrupt(const struct block *b);
/* Bytes of the file system that the image's file is on; 0 and 0: it is no file there, or nobody knows. Any
 * thread; as slow as the file system. */
void block_space(const struct block *b, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes);
/* What is wrong with it; NULL: it is not corrupt. */
const char *block_corruption(const struct block *b);

/* What stands at off? zero: len bytes from there on are known to read as zeros; else they
 * may be data. 1 ≤ len ≤ what was asked for. */
struct block_extent {
	bool zero;
	uint64_t len;
	bool present;	 /* some layer has it allocated; else it reads as zeros by default */
	bool compressed;
	bool has_host;
	unsigned layer;	 /* which one, 0 the disk */
	uint64_t host;	 /* has_host: where it stands in the layer's file, or in its data file */
};
/* Runs the loop while tables are read: for tools, not from callbacks. Returns 0 or -errno. */
int block_extent(struct block *b, uint64_t off, uint64_t len, struct block_extent *ret);
/* The file that x->host is a place of; borrowed from b. */
int block_extent_fd(const struct block *b, const struct block_extent *x);

/* Space in the file of the disk (the data file, if it has one) for [host, host + len), where an
 * extent says that it stands.
 * len UINT64_MAX: all of the file. Synchronous. Returns 0 or -errno. */
int block_reserve(struct block *b, uint64_t host, uint64_t len);
/* Make the disk longer (it reads as zeros there) or shorter (what is cut off is lost); snapshots
 * keep their sizes. Nothing is in flight; runs the loop. Durable when it returns. Returns 0 or
 * -errno with a sentence. */
int block_resize(struct block *b, uint64_t size_bytes, struct err *e);

/* Submit and run the loop until it is done: for tools and tests, not from callbacks.
 * op, flags, offset, len and iov of r are the caller's, done is set here. */
int block_run(struct block *b, struct block_req *r);

#endif
