/* Declarations shared by fault_tracker.c, tracker_protect.c and tracker_free.c. */
#ifndef CAIRN_SNAPSHOT_FAULT_TRACKER_IMPL_H
#define CAIRN_SNAPSHOT_FAULT_TRACKER_IMPL_H

#include "base/bitmap.h"
#include "base/util.h"
#include "snapshot/fault_tracker.h"
#include "snapshot/holes.h"

#include <pthread.h>
#include <stdatomic.h>

/* The old content of a block that is about to be overwritten; kept until save_next() returns it. */
struct aside {
	struct aside *next;
	uint64_t block;
	uint8_t data[VMSTATE_BLOCK_BYTES];
};

/* A fault that waits until the kept old contents are below aside_max_bytes again. */
struct deferred {
	struct deferred *next;
	uint64_t block;
};

/* A device that waits for room. */
struct room_waiter {
	struct room_waiter *next;
	int fd;
};

struct fault_tracker {
	struct fault_tracker_config c;
	uint64_t blocks;
	/* uffd: the userfaultfd; eventfds: stop_fd ends the thread, wake_fd wakes it for room or work */
	int uffd, stop_fd, wake_fd;
	pthread_t thread;
	bool thread_made;
	/* guards ram_reader; held from reading a block from it until the block is in RAM; locked before `lock` */
	pthread_mutex_t feed;
	struct ram_reader *ram_reader;
	atomic_bool arming;   /* fault_tracker_arm_begin() was called, and some memory is not protected yet */
	uint64_t armed_to;    /* in bytes; for fault_tracker_arm_step() */
	atomic_bool loading;  /* the RAM reader has more blocks */
	atomic_bool reclaims; /* changed with the lock */
	atomic_bool lazy;     /* the RAM reader's blocks are brought on access only */
	pthread_mutex_t lock; /* guards the fields below; copying a block aside; protecting and releasing blocks */
	struct bitmap dirty;  /* written since the last reset */
	struct bitmap bare;   /* dirty blocks that are not protected now */
	struct bitmap used;   /* while `reclaims`: blocks that devices have used since it began */
	struct bitmap unsaved;
	atomic_bool saving; /* changed in a pause, or by the worker; read also without the lock */
	int save_error; /* -errno: the save has failed, for example because a block's old content is lost */
	uint64_t next; /* position in unsaved */
	struct holes holes;
	struct aside *aside, **aside_tail;
	uint64_t aside_bytes;
	struct deferred *deferred;
	struct room_waiter *room_waiters;
	struct fault_tracker_stats stats;
};

static inline size_t block_len(const struct fault_tracker *t, uint64_t block)
{
	return (size_t)MIN(VMSTATE_BLOCK_BYTES, t->c.ram_bytes - block * VMSTATE_BLOCK_BYTES);
}

/* Protect n blocks, or lift their protection, which wakes the threads that wait. Returns 0 or -errno. */
int tracker_range_protect(struct fault_tracker *t, uint64_t first, uint64_t n, bool on);
/* Note that a block is written and not protected. The lock is held. */
void tracker_bare_set(struct fault_tracker *t, uint64_t block);
/* Protect all blocks that are written and not protected. The lock is held. Returns 0 or -errno. */
int tracker_bare_protect(struct fault_tracker *t);
/* Map the kernel's page of zeros wherever [from, to) of a view has no page. Returns 0 or -errno. */
int tracker_zeros_map(struct fault_tracker *t, uint64_t from, uint64_t to);
/* Make a block writable. Returns false if there is no room for its old content. Takes the lock. */
bool tracker_block_make_room(struct fault_tracker *t, uint64_t block, int wake_fd);
/* Signal an eventfd. */
void tracker_wake(int fd);

#endif
