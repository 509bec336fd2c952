/* holes: finds the holes of a memfd or another file. Reading a memfd's holes through a mapping would allocate pages for
 * them. */
#ifndef CAIRN_SNAPSHOT_HOLES_H
#define CAIRN_SNAPSHOT_HOLES_H

#include <stdbool.h>
#include <stdint.h>

/* State of a walk with ascending offsets. To go back to a lower offset, begin a new walk: set data_from and data_to
 * to 0. */
struct holes {
	int fd; /* borrowed; -1: everything is data */
	uint64_t bytes;
	uint64_t data_from, data_to; /* the next range of data; 0 at first */
};

/* Returns true if [off, off + len) is a hole. */
bool hole_at(struct holes *h, uint64_t off, uint64_t len);

#endif
