/* fixture_burst: many requests at once, overlapping or not, on a disk whose content is known.
 * What a read brings and what each sector ends as has to be explained by an order that the
 * requests' beginnings and ends allow. */
#ifndef CAIRN_TESTS_FIXTURE_BURST_H
#define CAIRN_TESTS_FIXTURE_BURST_H

#include "fixture_block.h"

#define BURST_OPS_MAX 64

struct burst {
	struct fixture *f;
	struct block *b;
	uint8_t *shadow; /* the disk's content; follows */
	uint64_t bytes;  /* of the disk */
	uint32_t unit;   /* requests are multiples of it, at least 512 */
	uint32_t cluster_bytes;
	FILE *log; /* a line for each request */
};

/* `ops` requests, at most `depth` at a time, in [from, from + len); then the whole disk is read.
 * The requests follow from f's random numbers alone, whatever the order of completions. */
void burst_run(struct burst *u, unsigned ops, unsigned depth, uint64_t from, uint64_t len);
/* The disk, byte for byte. */
void burst_verify(struct burst *u);
/* Bytes of one of a few kinds: noise, one value, zeros. */
void burst_fill(struct fixture *f, uint8_t *buf, uint64_t len);

#endif
