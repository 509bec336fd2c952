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

/* A compressed image of `from` over fd. */
int img_pack(struct block *from, struct loop *l, int fd, const struct qcow2_create *c,
	struct img_rate *rate, struct img_progress *progress, struct err *e);

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
