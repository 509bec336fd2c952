/* fixture_powercut: record what the engine asks of the file, cut the power at points of that record. */
#ifndef CAIRN_TESTS_FIXTURE_POWERCUT_H
#define CAIRN_TESTS_FIXTURE_POWERCUT_H

#include "fixture_block.h"

/* create: a command that makes "img", of 1 MiB. moves: the refcount table has to end up
 * elsewhere. snapshots: they are made, deleted and applied meanwhile. */
void powercut(const char *create, unsigned seed, bool moves, bool snapshots);

/* Above a backing file, table after table is made at the file's end, each for so much of the disk. */
void powercut_tables(const char *create, unsigned seed, uint64_t reach);

/* With nobody writing, what a cut leaves is marked or has no leaks; opening ends the work. */
void powercut_quiet(const char *create, unsigned seed);

struct powercut_kind {
	const char *name, *create;
	bool fixed_size, no_snapshots;
};
/* The disk becomes smaller, larger (with 512-byte clusters the L1 moves), and smaller. */
void powercut_resize(const struct powercut_kind *kind, unsigned seed);
/* Anything at random; then again from one of the images that a cut has left, twice. At least
 * `cuts` in all; returns how many. */
unsigned powercut_random(const struct powercut_kind *kind, unsigned seed, unsigned cuts);

#endif
