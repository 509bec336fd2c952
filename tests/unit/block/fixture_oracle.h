/* fixture_oracle: an image, the model of it in memory, and random operations on both. */
#ifndef CAIRN_TESTS_FIXTURE_ORACLE_H
#define CAIRN_TESTS_FIXTURE_ORACLE_H

#include "fixture_block.h"

/* A kind of image. */
struct oracle_set {
	const char *name;
	const char *options; /* of qemu-img create */
	uint32_t cluster_bytes;
	uint64_t bytes, max_bytes; /* of the disk: at first, and resize's most */
	uint64_t cache_bytes;
	uint64_t base_bytes;            /* 0: no backing file */
	const char *base, *base_format; /* a command that makes base.img of the file `content` */
	bool direct, no_snapshots, v2;
	bool compressed; /* the image has content at first, compressed by qemu-img */
};

/* `ops` operations that follow from the seed. Fails the test at the first difference. */
void oracle_run(const struct oracle_set *set, unsigned seed, unsigned ops);

#endif
