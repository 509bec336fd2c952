/* block: a virtual disk of any format behind one table of operations.
 *
 * Threading: one loop thread per disk. Call every function on that thread, or before it runs, unless its comment
 * allows any thread. done() runs on that thread, never inside block_submit(). The block layer receives open fds
 * and never opens a path. */
#ifndef CAIRN_BLOCK_BLOCK_H
#define CAIRN_BLOCK_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct block;
struct err;
struct loop;

enum block_format { BLOCK_FORMAT_RAW = 1, BLOCK_FORMAT_QCOW2 = 2 };
/* Returns "raw" or "qcow2"; NULL for an unknown format. */
const char *block_format_name(enum block_format f);
/* Returns the format; -1 for an unknown name. */
int block_format_from_name(const char *name);

#define BLOCK_SECTOR_BYTES 512u
#define BLOCK_LAYERS_MAX 16

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

enum block_req_flags {
	BLOCK_REQ_FUA = 1,	 /* durable before done() */
	BLOCK_REQ_MAY_UNMAP = 2, /* a zero write may free the space */
	BLOCK_REQ_UNALLOCATED = 4, /* write only where the image has no cluster yet; set by block_pull_write() */
	BLOCK_REQ_MAP_ZEROES = 8, /* a zero write of whole clusters maps them, because a backing file will be set */
	BLOCK_REQ_OWN = 16, /* a request of the engine itself, which a mirror does not hold back (block/mirror.h) */
};

/* Largest READ or WRITE in bytes. */
#define BLOCK_REQ_BYTES_MAX (1ULL << 30)

/* One request. The caller owns the request, its iov and its buffers. All must stay valid until
 * done(). */
struct block_req {
	enum block_op op;
	unsigned flags;
	uint64_t offset;	 /* in bytes; a multiple of the disk's logical block */
	uint64_t len;		 /* in bytes; for READ and WRITE the sum of iov */
	const struct iovec *iov; /* for READ and WRITE */
	unsigned niov;
	void (*done)(struct block_req *r, int res); /* 0 or -errno */

	/* Private to the block layer while the request is in flight: */
	struct block *block;
	void *engine;
	struct block_req *next;
	int res;
};

struct block_info {
	enum block_format format;
	uint64_t size_bytes;
	uint64_t backing_bytes; /* size of the layer below; 0: none */
	uint32_t logical_block_bytes; /* 512 to 4096, a power of two; offsets and lengths of requests are multiples */
	uint32_t buffer_align;	      /* memory alignment for O_DIRECT; other memory is bounced */
	uint32_t discard_granularity; /* in bytes: a qcow2 image's cluster; raw: st_blksize of the file */
	bool read_only;
	bool direct; /* O_DIRECT is in use */
	bool data_file; /* a qcow2 image with a data file; it has no internal snapshots */
	uint8_t refcount_order; /* of a qcow2 image, whose refcounts have 1 << refcount_order bits */
};

struct block_layer {
	int fd; /* the image's file; taken on success only */
	enum block_format format;
	int data_fd; /* a qcow2 image's external data file; taken like fd; 0: none */
	const char *name; /* the image's name in errors; borrowed; NULL: that of the disk */
	/* Instead of fd: a disk of another kind, open on the same loop; taken like fd. Only as the lowest layer. */
	struct block *open;
};

/* The wait for a pin ends after ns (0: fail at once), or when the peer of the socket peer_fd has gone. */
struct block_pin_wait {
	uint64_t ns;
	int peer_fd; /* borrowed; 0: none */
};

struct block_open {
	const struct block_layer *layers; /* [0] is the disk, [1] its backing file, and so on */
	unsigned nlayers;
	bool read_only;	 /* applies to the disk; backing layers are read-only, except for `writable` */
	unsigned writable; /* number of a backing layer that is opened for writing, too; 0: none */
	bool no_lock;	 /* take no locks, as qemu-img -U; for readers that accept changes by another process */
	/* Wait so long for a lock that another process holds: the kernel releases the locks of a killed process only
	 * when its I/O has ended. 0: fail at once. */
	uint64_t lock_wait_ns;
	/* The fds are duplicates of another process's fds, which had the disk open and has called block_flush_all().
	 * Take no lock, as that process's locks belong to the fds, and write nothing at open; an image that needs a
	 * repair is refused. The files of the layers had names when that process opened them. */
	bool as_handed_over;
	bool lazy_bitmaps; /* load the bits of persistent bitmaps when they are needed, so that too large ones can be removed */
	/* For writing: allow processes that read a pin of the image (block/qcow2/pin.h), now and
	 * later. The caller deletes no pin that is in use. */
	bool beside_pins;
	/* The wait for a pin that a layer's header names and its backing file lacks: the process that writes the
	 * file may be about to make the pin. */
	struct block_pin_wait pin_wait;
	/* The file has the pin at which layer 1 is read, but its header may not name the pin yet: the engine that makes
	 * the pin has called block_snapshot_op.readable(). So do not look for the pin there, and do not wait. */
	bool pin_readable;
	/* Tables of the pin that layer 1 is read at (block/qcow2/warm.h); used if it is the same pin. Borrowed until
	 * block_close(); NULL: none. */
	struct qcow2_warm *warm;
	/* Ignore backing layers if the disk's header names none: a pull (block/pull.h) has ended, and
	 * the caller does not know yet. */
	bool may_stand_alone;
	bool buffered;	 /* use the page cache */
	bool no_flush;	 /* sync no file: changes survive the process, but not the host */
	bool keep_flags; /* use direct I/O only for fds that have O_DIRECT; false: for all files that allow it */
	uint64_t cache_bytes; /* limit for cached tables of each qcow2 layer; 0: 4 MiB that grow with use */
	const char *snapshot; /* read-only qcow2 disk: a snapshot's id or name; NULL: the disk itself */
	const char *name; /* the disk's name in errors: "vda"; borrowed */
};

/* Open a disk and take its locks (OFD locks at QEMU's offsets; a second writer fails with
 * ERR_BUSY). Synchronous. If a qcow2 layer's header names a pin of its backing file, the next layer
 * is read at that pin; -ENOENT if the pin is gone.
 * ret_b: untouched on error; the caller closes it with block_close().
 * Returns 0; -EINVAL, -EIO, -ENOTSUP, -EBUSY, … with a sentence. */
int block_open(struct loop *l, const struct block_open *o, struct block **ret_b, struct err *e);
/* Open a qcow2 disk a second time on its loop, to read a snapshot of it. The backing files share the disk's open files
 * and need no locks of their own. Close the result before the disk.
 * fd: the disk's image, opened separately for reading; taken on success only.
 * snapshot: its id. Nobody may delete it meanwhile. Returns 0 or -errno with a sentence. */
int block_open_snapshot(const struct block *b, int fd, const char *snapshot, struct block **ret_b, struct err *e);
/* Flush the disk, release its locks and close its fds. No request may be in flight. NULL allowed.
 * Returns the flush's result. */
int block_close(struct block *b);
/* The same without closing its fds, which the caller has asked block_layers() for: close() may wait for a file
 * system. */
int block_close_but_files(struct block *b);

/* Write everything that the engine holds, to stable storage, and leave the image as block_close() would, but keep the
 * disk open. Nothing is written afterwards before the next request. No request may be in flight, and no other thread
 * may run the disk's loop. Returns 0 or -errno. */
int block_flush_all(struct block *b);
/* Fill in the layers that are open, the disk first; the fds are borrowed. layers: BLOCK_LAYERS_MAX of them. Returns
 * their number. */
unsigned block_layers(const struct block *b, struct block_layer *layers);
/* Find a file that has lost its last name since it was opened: the host frees it when the disk is closed. May wait for
 * the file system. Returns the number of its layer (0: the disk's own image); -1: none. */
int block_removed_layer(const struct block *b);

void block_info(const struct block *b, struct block_info *ret_info);

/* Check a request's range, alignment and buffers and whether the disk is writable, and pass the request to the format.
 * Unaligned memory is copied through a bounce buffer. If a check fails, done() gets -EINVAL or -EROFS. */
void block_submit(struct block *b, struct block_req *r);
unsigned block_in_flight(const struct block *b);

/* Gets errors in addition to the results of requests, in two cases. First, the image is corrupt: from then on every
 * change fails with -EIO, and this is reported once. Second, the engine could not write its tables while no request
 * waited for them: it retries each second, and reports the next failure only after a success. The loop calls
 * on_error(), so it runs inside a function of this module only if that one runs the loop, as block_flush_all() does.
 * error: -errno. */
struct block_listener {
	void (*on_error)(struct block_listener *l, int error, const char *why);
};
/* Set the disk's listener: borrowed until another one, or NULL, replaces it. */
void block_set_listener(struct block *b, struct block_listener *l);
/* Returns whether the image is corrupt. Any thread. */
bool block_is_corrupt(const struct block *b);
/* The space of an image, and of the file system that holds it. */
struct block_space {
	uint64_t allocation_bytes; /* space that the image's file takes; size of a device */
	uint64_t physical_bytes;   /* size of the file or device; 0: unknown, and the allocation, too */
	uint64_t free_bytes, total_bytes; /* of the file system; 0: the image is no file, or the host does not know */
	uint64_t dev; /* st_dev of the file; 0: the image is no file */
};
/* Get the space by a duplicate of the fd in block_layer, so that the disk may be closed meanwhile. Any thread; as slow
 * as the file system. */
void block_space(int fd, struct block_space *ret);
/* Returns the reason of the corruption; NULL: the image is not corrupt. */
const char *block_corruption(const struct block *b);

/* The state of the disk from an offset on: for len bytes (1 ≤ len ≤ the requested length) it reads
 * as zeros (`zero`), or may hold data. */
struct block_extent {
	bool zero;
	uint64_t len;
	bool present;	 /* a layer has it allocated; false: it reads as zeros, because no layer has it */
	bool compressed;
	bool preallocated; /* reads as zeros, but the layer's file has space for it, as far as known */
	bool has_host;
	unsigned layer;	 /* the layer's number; 0 is the disk */
	uint64_t host;	 /* if has_host: the offset in the layer's file, or in its data file */
};
/* Look up the extent at off. Runs the loop to read tables, so do not call it from a callback of the loop.
 * Returns 0 or -errno. */
int block_extent(struct block *b, uint64_t off, uint64_t len, struct block_extent *ret);
/* Returns the fd of the file that x->host is an offset of; borrowed from b. */
int block_extent_fd(const struct block *b, const struct block_extent *x);

/* Allocate space for [host, host + len) in the disk's file (or its data file); do nothing on a device. Synchronous.
 * host: offset in the file, as in block_extent.
 * len: UINT64_MAX: up to the end of the file.
 * Returns 0 or -errno. */
int block_reserve(struct block *b, uint64_t host, uint64_t len);
/* Grow the disk (the new part reads as zeros) or shrink it (the cut part is lost). Snapshots keep
 * their sizes. A raw disk on a block device only follows the device, which has that size already, and then has the
 * device's content. No request may be in flight. Runs the loop; the change is durable on return.
 * Returns 0 or -errno with a sentence. */
int block_resize(struct block *b, uint64_t size_bytes, struct err *e);
/* Fills the new part of a disk that grows: run() may map, reserve and write everything from byte `from` on. Returns 0
 * or -errno with a sentence. */
struct block_fill {
	int (*run)(struct block *b, uint64_t from, void *opaque, struct err *e);
	void *opaque;
};
/* Like block_resize() to a larger size. Store the new size after the fill, so that a crash leaves the old size or a
 * filled disk. Of a raw file, whose length is its size, only the space is allocated before. After an error, the disk
 * has its old size. */
int block_grow_filled(struct block *b, uint64_t size_bytes, const struct block_fill *fill, struct err *e);

/* Get the present size of the block device that holds a raw disk. Returns 0; -ENOTSUP: the disk
 * is not raw on a block device; -errno. */
int block_device_bytes(const struct block *b, uint64_t *ret_bytes);

/* Submit a request and run the loop until it completes. Do not call it from a callback of the loop. The caller sets op,
 * flags, offset, len, iov and niov; the function sets done.
 * Returns the request's result. */
int block_run(struct block *b, struct block_req *r);
/* Explain why a read of [off, off + len), or block_extent() there, has failed: *e names the image, and the place if the
 * image is damaged there. res: -errno. Returns res. */
int block_read_error(const struct block *b, uint64_t off, uint64_t len, int res, struct err *e);

#endif
