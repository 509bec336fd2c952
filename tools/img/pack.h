/* pack: how `convert` copies. */
#ifndef CAIRN_TOOLS_IMG_PACK_H
#define CAIRN_TOOLS_IMG_PACK_H

#include "img.h"

/* At most so many bytes of the disk a second; 0: no limit. */
struct img_rate {
	uint64_t bytes_per_second, begin_ns;
};
bool img_rate_allows(struct img_rate *r, uint64_t done);
/* How long a loop may sleep. */
uint64_t img_rate_wait_ns(struct img_rate *r, uint64_t done);

/* Where what was compressed goes: each cluster once, in rising order. */
struct img_sink {
	/* len: of a stream, or a whole cluster as it is (of the last what the disk has of it). */
	int (*add)(struct img_sink *s, uint64_t off, const void *data, size_t len, bool plain);
	/* Zeros that may have to be written. NULL: what is not added is zeros. */
	int (*zero)(struct img_sink *s, uint64_t off, uint64_t len);
};
struct img_pack {
	struct block *from;
	struct loop *loop; /* of from */
	struct img_sink *to;
	uint32_t cluster_bytes;
	uint8_t compression;
	struct img_rate *rate;
	struct img_progress *progress;
};
/* Compressed on all processors. */
int img_pack(const struct img_pack *o, struct err *e);

struct img_copy {
	struct block *from, *to;
	struct loop *from_loop, *loop; /* two: a thread of its own reads */
	bool to_is_zero; /* the target reads as zeros where nothing is written */
	struct img_rate *rate;
	struct img_progress *progress;
};
/* Reads and writes overlap, a few chunks at a time. Both loops are the caller's again at the end. */
int img_copy(const struct img_copy *c, struct err *e);
/* The raw content, one byte after the other. */
int img_copy_stream(struct block *from, int fd, struct img_rate *rate, struct img_progress *progress,
	struct err *e);

#endif
