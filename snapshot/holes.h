/* holes: what of a memfd was never touched. To read that through a mapping would allocate it. */
#ifndef CAIRN_SNAPSHOT_HOLES_H
#define CAIRN_SNAPSHOT_HOLES_H

#include <stdbool.h>
#include <stdint.h>

/* A walk upwards; from the start again: a new one. */
struct holes {
	int fd; /* borrowed; -1: everything is data */
	uint64_t bytes;
	uint64_t data_from, data_to; /* the stretch of data after what was asked for; 0 at first */
};

/* Is [off, off + len) a hole? */
bool hole_at(struct holes *h, uint64_t off, uint64_t len);

#endif
