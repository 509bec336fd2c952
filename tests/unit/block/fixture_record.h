/* fixture_record: all that the engine asks of an image's file, in order, and what the guest and the
 * owner of snapshots know at that point. */
#ifndef CAIRN_TESTS_FIXTURE_RECORD_H
#define CAIRN_TESTS_FIXTURE_RECORD_H

#include "fixture_block.h"

#include "base/util.h"
#include "block/block_snapshot.h"

#define RECORD_DISK_MAX (3 * MIB) /* at clusters of 512 bytes the L1 has to move before */
#define RECORD_IMAGE_MAX (32 * MIB)
#define RECORD_SNAPS_MAX 64 /* ids are below */

enum event_kind { EV_WRITE, EV_PUNCH, EV_GROW, EV_CUT, EV_COMPLETE, EV_SYNC, EV_TOUCH, EV_FLUSHED, EV_RESIZE,
	/* of snapshot number `of`: one is being made, of the content `data`, with the VM state `vm`; it
	 * is there; it is being deleted; it is gone; the disk is becoming it */
	EV_SNAP_MAKE, EV_SNAP_THERE, EV_SNAP_DELETE, EV_SNAP_GONE, EV_SNAP_APPLY };

struct event {
	enum event_kind kind;
	struct loop_op *op;
	uint64_t offset, len; /* CUT: offset is the file's new end; RESIZE: len is the new size; FLUSHED, SNAP_MAKE: the disk's */
	uint8_t *data; /* WRITE, TOUCH: the bytes (NULL: zeros); FLUSHED, SNAP_MAKE: the disk's content */
	uint8_t *vm;
	uint64_t vm_bytes;
	size_t of; /* COMPLETE: which event; snapshots: their number */
};

/* A snapshot that is there now. */
struct known_snap {
	unsigned id;
	const uint8_t *disk, *vm; /* an event's */
	uint64_t disk_bytes, vm_bytes;
};

struct recorder {
	struct loop_trace trace;
	struct fixture *f;
	struct block *b; /* the disk, while it is open */
	uint64_t disk_bytes;
	struct event *ev;
	size_t n, cap, start; /* before `start` stands what was known at the beginning */
	struct known_snap snaps[RECORD_SNAPS_MAX];
	unsigned nsnaps;
	bool quiet; /* no guest writes: what is not marked has no leaks */
};

/* The image `img` as it is now is the beginning: disk and snapshots are read. From then on all is
 * recorded, what the engine does without the loop, too. One at a time. */
void record_begin(struct recorder *r, struct fixture *f);
void record_end(struct recorder *r);
void record_free(struct recorder *r);
struct event *record(struct recorder *r, enum event_kind kind);
/* The disk as it is now is durable. */
void record_flushed(struct recorder *r);
/* Open `img` for writing; its size becomes disk_bytes. */
void record_open(struct recorder *r);
void record_close(struct recorder *r);

#endif
