/* fixture_oracle: an image, a model of it in memory, and random operations on both. */
#ifndef CAIRN_TESTS_FIXTURE_ORACLE_H
#define CAIRN_TESTS_FIXTURE_ORACLE_H

#include "fixture_block.h"

/* A kind of image. */
struct oracle_set {
	const char *name;
	const char *options; /* options for qemu-img create */
	uint32_t cluster_bytes;
	uint64_t bytes, max_bytes; /* size of the disk at first, and its maximum for resize */
	uint64_t cache_bytes;
	uint64_t base_bytes;            /* 0: no backing file */
	const char *base, *base_format; /* a command that makes base.img from the file `content` */
	bool direct, no_snapshots, v2;
	bool compressed; /* qemu-img compresses the image's initial content */
	bool small_parts; /* see fixture_block.h */
};

/* Run `ops` operations that the seed determines. Fails the test at the first difference. */
void oracle_run(const struct oracle_set *set, unsigned seed, unsigned ops);

#endif
