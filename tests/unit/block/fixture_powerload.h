/* fixture_powerload: a guest that writes, and an owner who makes, deletes and applies snapshots and changes
 * the size, all of it recorded. */
#ifndef CAIRN_TESTS_FIXTURE_POWERLOAD_H
#define CAIRN_TESTS_FIXTURE_POWERLOAD_H

#include "fixture_record.h"

/* Batches of requests, each ended by a flush. */
void load_run(struct recorder *r, unsigned batches);
/* The guest writes all the while. parent: index of the one whose VM state it shares; -1: none. */
void load_snap_make(struct recorder *r, int parent);
void load_snap_delete(struct recorder *r, unsigned index);
void load_snap_apply(struct recorder *r, unsigned index);
void load_resize(struct recorder *r, uint64_t bytes);
/* One of each in a set order. */
void load_snapshots(struct recorder *r);
/* Nothing else happens to the image: made, given up, renamed, deleted, applied. */
void load_quiet(struct recorder *r);
/* `steps` of anything, at random. fixed_size: no other sizes. */
void load_random(struct recorder *r, unsigned steps, bool fixed_size, bool no_snapshots);

#endif
