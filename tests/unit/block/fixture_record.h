/* fixture_record: records all operations of the engine on the files of images, in order, together with what the guests
 * and the user know about disks and snapshots at that point. One image, or a chain: each image after the first is an
 * overlay on a pin in the one before. */
#ifndef CAIRN_TESTS_FIXTURE_RECORD_H
#define CAIRN_TESTS_FIXTURE_RECORD_H

#include "fixture_block.h"

#include "base/util.h"
#include "block/qcow2/pin.h"

#include <pthread.h>

/* Content behind this is neither written nor looked at. With clusters of 512 bytes, the L1 table moves before that. */
#define RECORD_DISK_MAX (3 * MIB)
#define RECORD_IMAGE_MAX (32 * MIB)
#define RECORD_SNAPSHOTS_MAX 64 /* ids are below this */
#define RECORD_PINS_MAX 64
#define RECORD_DISKS_MAX 5 /* of a chain */

enum event_kind { EV_WRITE, EV_PUNCH, EV_GROW, EV_CUT, EV_COMPLETE, EV_SYNC, EV_TOUCH, EV_FLUSHED, EV_RESIZE,
	EV_BITMAPS, /* from here on the file holds the bitmaps that the text `vm` lists; `data` is the disk's content */
	/* events of snapshot number `of`: creation began, with content `data` and VM state `vm`; it
	 * exists; deletion began; it is gone; the disk is reverting to it */
	EV_SNAPSHOT_MAKE, EV_SNAPSHOT_THERE, EV_SNAPSHOT_DELETE, EV_SNAPSHOT_GONE, EV_SNAPSHOT_APPLY,
	EV_DISK_THERE, /* the overlay and its pin are on stable storage */
	EV_CHAINS /* from here on, the chains `of` (enum record_chains) read as the disk */ };

/* Of three images of which each is the backing file of the next one. CHAIN_OF_HEADER: the last and the first one, if
 * the last one's header says so. CHAIN_BASE: the first one alone. */
enum record_chains { CHAIN_FULL = 1, CHAIN_OF_HEADER = 2, CHAIN_BASE = 4 };

struct event {
	enum event_kind kind;
	unsigned disk; /* number of its image in the chain */
	struct loop_op *op;
	/* CUT: offset is the file's new length; RESIZE: len is the new size; FLUSHED, SNAPSHOT_MAKE:
	 * the disk's size. */
	uint64_t offset, len;
	uint8_t *data; /* WRITE, TOUCH: the bytes (NULL: zeros); FLUSHED, SNAPSHOT_MAKE: the disk's content */
	uint8_t *vm;
	uint64_t vm_bytes;
	bool pin; /* SNAPSHOT_MAKE: a pin; the overlay `forkN` has it as base, where N is the event's number */
	size_t of; /* COMPLETE: the completed event; snapshots: their number; CHAINS: which */
};

/* An existing snapshot. */
struct known_snapshot {
	unsigned id;
	uint8_t *disk, *vm; /* owned by an event */
	uint64_t disk_bytes, vm_bytes;
	size_t pin; /* number of the event that made it; 0: no pin */
};

/* A pin as it was when it had been made. */
struct record_pin {
	size_t number; /* as in struct known_snapshot */
	unsigned disk; /* number of the image that has it */
	struct qcow2_pin pin;
};

struct record_disk {
	char name[16]; /* of the image's file: see record_name() */
	ino_t inode;
	struct block *b; /* NULL: not open */
	uint64_t bytes;
	struct known_snapshot snapshots[RECORD_SNAPSHOTS_MAX];
	unsigned nsnapshots;
};

struct recorder {
	struct loop_trace trace;
	pthread_t thread; /* the loop's; other threads' calls are not recorded */
	struct fixture *f;
	struct record_disk disks[RECORD_DISKS_MAX];
	unsigned ndisks;
	struct record_disk *disk; /* the disk of record(), record_flushed(), record_open() and loads */
	struct event *ev;
	size_t n, cap, start; /* events before `start` describe the initial state */
	struct record_pin pins[RECORD_PINS_MAX];
	unsigned npins;
	bool quiet; /* no guest writes: an image without a mark has no leaks */
};

/* Start recording from the current state of the image `img`, or of the first `ndisks` images of a chain, with disks and
 * snapshots. Records operations outside the loop as well. One recorder at a time. */
void record_begin(struct recorder *r, struct fixture *f, unsigned ndisks);
void record_end(struct recorder *r);
void record_free(struct recorder *r);
struct event *record(struct recorder *r, enum event_kind kind);
/* Record that the disk's current content is durable. */
void record_flushed(struct recorder *r);
/* Record the bitmaps in the file, and the disk's content. Nothing is in flight, and all bitmaps are stored. */
void record_bitmaps(struct recorder *r);
/* Returns a line for each bitmap: its name, "in-use" or the flag and the granularity, and its bits. The caller frees
 * the text. Fails the test if the bitmaps cannot be read. */
char *record_bitmaps_text(struct fixture *f, const char *name);
/* Open the disk for writing and set its size. */
void record_open(struct recorder *r);
void record_close(struct recorder *r);
/* The name of a file about image `number` of a chain. */
void record_name(char ret[16], const char *kind, unsigned number);
/* Open the image `number` of a chain of files that are called so, with the images below. Returns as block_open(). */
int record_chain_open(struct fixture *f, const char *kind, unsigned number, bool read_only, struct block **ret_b);
/* Note a pin of the disk's image. Returns it; valid until record_free(). */
const struct record_pin *record_pin_note(struct recorder *r, size_t number, const uint8_t id[BLOCK_PIN_ID_BYTES]);
/* Add an image to the chain: an overlay on that pin. Returns an fd of it, owned by the caller. */
int record_overlay(struct recorder *r, const struct qcow2_pin *pin);

#endif
