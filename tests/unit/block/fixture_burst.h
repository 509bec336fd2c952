/* fixture_burst: many concurrent requests, overlapping or not, on a disk with known content. Each
 * read and each sector's final content must be explained by an order that the requests' start and
 * end times allow. */
#ifndef CAIRN_TESTS_FIXTURE_BURST_H
#define CAIRN_TESTS_FIXTURE_BURST_H

#include "fixture_block.h"

#define BURST_OPS_MAX 64

struct burst {
	struct fixture *f;
	struct block *b;
	uint8_t *shadow; /* the disk's content; updated */
	uint64_t bytes;  /* size of the disk */
	uint32_t unit;   /* requests are multiples of it; at least 512 */
	uint32_t cluster_bytes;
	FILE *log; /* gets a line for each request */
};

/* Run `ops` requests, at most `depth` at a time, in [from, from + len), then read the whole disk.
 * f's random numbers alone determine the requests, independent of the completions' order. */
void burst_run(struct burst *u, unsigned ops, unsigned depth, uint64_t from, uint64_t len);
/* Compare the whole disk. */
void burst_verify(struct burst *u);
/* Fill with one of a few kinds of content: random bytes, one value, zeros. */
void burst_fill(struct fixture *f, uint8_t *buf, uint64_t len);

#endif
