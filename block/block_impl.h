/* block_impl: what the formats share with the choke point. Not for users of block.h. */
#ifndef CAIRN_BLOCK_BLOCK_IMPL_H
#define CAIRN_BLOCK_BLOCK_IMPL_H

#include "base/loop.h"
#include "block/block.h"

#include <stdatomic.h>

struct block_vmstate_map;
struct err;

/* Requests have passed the checks of block_submit(): the range lies inside, offset and
 * length are multiples of the logical block, len > 0 (except FLUSH), not read-only for
 * what writes, memory aligned. Each ends in one block_complete(), never from inside. */
struct block_ops {
	void (*submit)(struct block *b, struct block_req *r);
	/* See block_extent(); the backing layer is asked by the format. */
	int (*extent)(struct block *b, uint64_t off, uint64_t len, struct block_extent *ret);
	/* Write back what is held; the loop may be run. Frees nothing. NULL allowed. */
	int (*flush_all)(struct block *b);
	/* See block_resize(); nothing is in flight. The new size is a multiple of 512. */
	int (*resize)(struct block *b, uint64_t size_bytes, struct err *e);
	/* Frees the engine's memory; the fd is block.c's. Also half-built objects. */
	void (*free)(struct block *b);
};

/* The formats embed this as their first member. */
struct block {
	const struct block_ops *ops;
	struct loop *loop;
	struct block *backing; /* owned; NULL at the bottom */
	struct block_info info;
	char name[64];
	int fd;
	int data_fd; /* 0: none */
	bool locked, data_locked;
	bool submitting; /* block_complete() has to wait for the loop's next round */
	unsigned in_flight;
	struct block_req *deferred, **deferred_tail;
	struct loop_op defer_op;
	bool defer_armed;
	atomic_bool corrupt;
	struct block_listener *listener; /* NULL: nobody */
	/* Trouble that the watch is told of in the loop's next round. */
	struct loop_op error_op;
	bool error_armed;
	int error_code;
	char error_why[256];
};

/* What a file can do, found out once. */
struct block_file {
	uint64_t size_bytes;	   /* not rounded */
	uint32_t offset_align;	   /* of direct I/O; 512 when buffered */
	uint32_t memory_align;	   /* 1 when buffered */
	uint32_t punch_granularity; /* st_blksize, or the device's */
	bool is_device;
	bool direct;
};
int block_file_probe(int fd, bool buffered, const char *name, struct block_file *ret, struct err *e);

struct block_format_open {
	struct loop *loop;
	int fd; /* borrowed until the open succeeded */
	bool read_only;
	const char *name;
	const struct block_file *file;
	int data_fd; /* 0: none; as fd */
	const struct block_file *data_file; /* data_fd's */
	struct block *backing; /* NULL: none given; taken on success */
	const char *snapshot;  /* NULL: the disk as it is */
	uint64_t cache_bytes;  /* 0: the format's default */
};
int raw_open(const struct block_format_open *o, struct block **ret_b, struct err *e);
int qcow2_resize(struct block *b, uint64_t size_bytes, struct err *e);
int qcow2_open(const struct block_format_open *o, struct block **ret_b, struct err *e);

void block_init(struct block *b, const struct block_ops *ops, const struct block_format_open *o);
/* Give the request back. */
void block_complete(struct block_req *r, int res);
/* The same in the loop's next round: for answers found while submitting. */
void block_complete_later(struct block_req *r, int res);
/* Tell the watch; see block.h. A corrupt image says so, and that lasts. */
void block_report_error(struct block *b, int error, bool corrupt, const char *why);

/* While a map is made: what begins at cluster, which is behind all that was added. Returns 0 or -ENOMEM. */
int block_vmstate_map_add(struct block_vmstate_map *m, uint64_t cluster, uint64_t host);

#endif
