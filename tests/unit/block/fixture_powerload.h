/* fixture_powerload: a load of guest writes, snapshot operations and size changes, recorded. */
#ifndef CAIRN_TESTS_FIXTURE_POWERLOAD_H
#define CAIRN_TESTS_FIXTURE_POWERLOAD_H

#include "fixture_record.h"

/* Run batches of requests on all open disks at once, each ended by a flush of a disk. */
void load_run(struct recorder *r, unsigned batches);
/* Create a snapshot while the guest writes. parent: index of the snapshot whose VM state it shares;
 * -1: none. */
void load_snapshot_make(struct recorder *r, int parent);
void load_snapshot_delete(struct recorder *r, unsigned index);
void load_snapshot_apply(struct recorder *r, unsigned index);
void load_resize(struct recorder *r, uint64_t bytes);
void load_grow_mapped(struct recorder *r, uint64_t bytes);
/* Run each snapshot operation once, in a fixed order. */
void load_snapshots(struct recorder *r);
/* Make and delete pins, with and without snapshots beside them. quiet: without any other activity. */
void load_pins(struct recorder *r, bool quiet);
/* Pin snapshots, and delete them before their pins and after. */
void load_pins_of_snapshots(struct recorder *r, bool quiet);
/* After the recording: make the image `forkN` on each pin, in the image `cut`. */
void load_overlays(struct recorder *r);
/* Returns the id of the pin that event `number` made. */
void load_pin_id(size_t number, uint8_t ret[BLOCK_PIN_ID_BYTES]);
/* Change bitmaps, write to the disk and resize it. */
void load_bitmaps(struct recorder *r);
/* Create, abort, rename, delete and apply snapshots without any other activity. */
void load_quiet(struct recorder *r);
/* Make snapshots, and delete them while *full is set. */
void load_full(struct recorder *r, bool *full);
/* Run `steps` random operations. fixed_size: no resize. */
void load_random(struct recorder *r, unsigned steps, bool fixed_size, bool no_snapshots);
/* Fork the last disk until the chain has RECORD_DISKS_MAX images, then run `steps` random operations on any of them.
 * The guests of all disks write meanwhile. */
void load_chain(struct recorder *r, unsigned steps);

#endif
