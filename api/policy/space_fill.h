/* space_fill: computes how fast a file system fills up, whether its space is low, and when to measure again (pure).
 *
 * Space is low below a twentieth of the file system, at most 4 GiB, or if it will be full in five minutes. It is enough
 * again at a quarter more than that, unless it will be full in ten minutes.
 * Threading: none. */
#ifndef CAIRN_API_POLICY_SPACE_FILL_H
#define CAIRN_API_POLICY_SPACE_FILL_H

#include <stdbool.h>
#include <stdint.h>

/* Begins as all zeros. */
struct space_fill {
	uint64_t at_ns; /* time of the last measurement; 0: none yet */
	uint64_t free_bytes, total_bytes;
	double rate; /* at which the free space shrinks, in bytes/s; 0: it does not */
	bool low;
};

/* Add a measurement. total_bytes: 0: unknown; then nothing is known. now_ns: CLOCK_MONOTONIC. */
void space_fill_add(struct space_fill *f, uint64_t free_bytes, uint64_t total_bytes, uint64_t now_ns);
/* Return the seconds until the file system is full; -1: it does not fill, or that is not known. */
double space_fill_seconds_left(const struct space_fill *f);
/* Return the time from the last measurement to the next one, if something writes. It is shorter if space can get low
 * sooner. */
uint64_t space_fill_next_ns(const struct space_fill *f);
/* Return how many bytes may be written before the next measurement. */
uint64_t space_fill_next_bytes(const struct space_fill *f);

#endif
