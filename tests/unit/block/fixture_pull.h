/* fixture_pull: a pull of a disk (block/pull.h) that runs beside other requests. */
#ifndef CAIRN_TESTS_FIXTURE_PULL_H
#define CAIRN_TESTS_FIXTURE_PULL_H

#include "fixture_block.h"

#include "block/pull.h"

struct pull {
	struct fixture *f;
	struct block *b;
	struct block_req req;
	struct iovec iov;
	uint8_t *buf;
	uint64_t off, len, bytes;
	bool copied;
};
/* Begin to copy the backing file's content; the loop continues it. */
void pull_begin(struct pull *p, struct fixture *f, struct block *b);
/* Run the loop until all is copied, and drop the backing file. */
void pull_end(struct pull *p);

#endif
