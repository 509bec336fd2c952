/* pack: copy a disk for `convert`: to another disk, to a stream, or as compressed clusters. A copy returns when its
 * threads have ended. */
#ifndef CAIRN_TOOLS_IMG_PACK_H
#define CAIRN_TOOLS_IMG_PACK_H

#include "img.h"

/* A rate limit in bytes of the disk a second; 0: no limit. */
struct img_rate {
	uint64_t bytes_per_second, begin_ns;
};
/* Return whether the next bytes may be copied now, after `done` bytes. */
bool img_rate_allows(struct img_rate *r, uint64_t done);
/* Returns how long the loop may sleep, in ns; UINT64_MAX: without limit. */
uint64_t img_rate_wait_ns(struct img_rate *r, uint64_t done);
/* Sleep until the next bytes may be copied, or until a signal. */
void img_rate_sleep(struct img_rate *r, uint64_t done);

/* How a copy stores data and treats unreadable blocks. */
struct img_copy_how {
	/* See struct block_copy; sparse_bytes has no effect on compressed clusters. */
	bool over_backing, dense;
	uint32_t sparse_bytes;
	bool salvage; /* store zeros for each block that cannot be read, and warn on stderr */
	bool quiet;   /* do not warn */
};

/* Destination of img_pack(), which passes on each cluster once, in ascending order. */
struct img_sink {
	bool exists; /* the target is an existing image, and its disk may be longer */
	/* Add a cluster: a compressed stream, or plain: a whole cluster, filled up with zeros behind the disk's end,
	 * but not with `exists`. */
	int (*add)(struct img_sink *s, uint64_t off, const void *data, size_t len, bool plain);
	/* Write zeros. NULL: clusters that are not added already read as zeros. */
	int (*zero)(struct img_sink *s, uint64_t off, uint64_t len);
};
struct img_pack {
	struct block *from;
	struct loop *loop; /* loop of `from` */
	struct img_sink *to;
	uint32_t cluster_bytes;
	uint8_t compression;
	const struct img_copy_how *how;
	struct img_rate *rate;
	struct img_progress *progress;
};
/* Compress a disk on up to 64 processors; the caller's thread reads and writes. Returns 0; -errno with a sentence. */
int img_pack(const struct img_pack *o, struct err *e);

struct img_copy {
	struct block *from, *to;
	struct loop *from_loop, *loop; /* two loops, because a separate thread reads */
	bool to_is_zero; /* unwritten parts of the target read as zeros */
	const struct img_copy_how *how;
	struct img_rate *rate;
	struct img_progress *progress;
};
/* Copy a disk; reads and writes overlap by a few chunks. The caller may use both loops again afterwards. Returns 0;
 * -errno. */
int img_copy(const struct img_copy *c, struct err *e);
/* Write the disk's content to a stream. Returns 0; -errno with a sentence. */
int img_copy_stream(struct block *from, int fd, const struct img_copy_how *how, struct img_rate *rate,
	struct img_progress *progress, struct err *e);
/* Warn that zeros replace the block at off. */
void img_copy_warn(const struct img_copy_how *how, uint64_t off, int error);

#endif
