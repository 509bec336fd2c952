/* fixture_powercut: record the engine's file operations and cut the power at points of that
 * record. */
#ifndef CAIRN_TESTS_FIXTURE_POWERCUT_H
#define CAIRN_TESTS_FIXTURE_POWERCUT_H

#include "fixture_block.h"
#include "fixture_record.h"

/* The parts of what follows: make "img", and open and record it; after record_end(), check images that a cut leaves,
 * and free all. choices: more random images for each cut. */
void scene_begin(struct recorder *rec, struct fixture *f, const char *create, unsigned seed);
void scene_cut(struct recorder *rec, unsigned choices);

/* create: a command that makes "img" of 1 MiB. moves: the refcount table has to move. snapshots:
 * create, delete and apply snapshots meanwhile. */
void powercut(const char *create, unsigned seed, bool moves, bool snapshots);

/* Above a backing file, allocate table after table at the file's end. reach: bytes of the disk that
 * a table describes. */
void powercut_tables(const char *create, unsigned seed, uint64_t reach);

/* Pull the backing file's content while the guest writes. create: a command that makes "img" above
 * base.img. */
void powercut_pull(const char *create, unsigned seed);

/* Without guest writes, grow a disk to 9 GiB, so that its L1 table moves, then copy that table twice into snapshots and
 * delete one. create: a command that makes "img" of 1 MiB. The refcount table has to grow for the runs of clusters. */
void powercut_long_runs(const char *create, unsigned seed);

/* Without guest writes, a cut leaves no leaks, or a mark, and opening completes the operation.
 * full: NULL: operations of all kinds; else deletions while *full is set, so that the caller fails writes. */
void powercut_quiet(const char *create, unsigned seed, bool *full);

/* Make and delete pins. quiet: without guest writes, as powercut_quiet(). of_snapshots: pin snapshots. */
void powercut_pins(const char *create, unsigned seed, bool quiet, bool of_snapshots);

/* Change bitmaps, write to the disk and resize it. */
void powercut_bitmaps(const char *create, unsigned seed);

struct powercut_kind {
	const char *name, *create;
	bool fixed_size, no_snapshots;
	bool chain; /* fork the disk to a chain of overlays on pins */
};
/* Shrink the disk, grow it (with 512-byte clusters the L1 table moves), and shrink it again. */
void powercut_resize(const struct powercut_kind *kind, unsigned seed);
/* Random operations; then again from one of the images that a cut has left, twice. Repeats this with each of the n
 * kinds in turn, until at least POWERCUT_CUTS cuts were made (`otherwise`: without this variable). POWERCUT_SEED (1)
 * chooses the operations. */
void powercut_random(const struct powercut_kind *kinds, unsigned n, unsigned otherwise);

#endif
