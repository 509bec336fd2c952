/* ram_save: copies memory while the guest runs, for VM processes without userfaultfd. The copy goes in rounds: each
 * round copies the blocks that were written since they were copied last (vmm/kvm/dirty_log.h). When few are left, or
 * after RAM_SAVE_ROUNDS_MAX rounds, the caller pauses the VM: the copy has the memory as of that pause. The
 * remaining blocks are copied last. If the guest writes more than half as many blocks as a round copies, it is slowed
 * down (vmm/kvm/throttle.h).
 *
 *     ram_save_begin()
 *     do copy what ram_save_next() returns
 *     while (ram_save_round_end() == 1)
 *     pause the VM
 *     ram_save_freeze()
 *     resume the VM unless `stays_paused`
 *     copy what ram_save_next() returns
 *
 * Threading: begin, next and round_end on the worker; freeze on the main thread. */
#ifndef CAIRN_VMM_MACHINE_RAM_SAVE_H
#define CAIRN_VMM_MACHINE_RAM_SAVE_H

#include "base/bitmap.h"
#include "snapshot/holes.h"

#include <stdbool.h>
#include <stdint.h>

struct err;
struct machine;

#define RAM_SAVE_ROUNDS_MAX 12

struct ram_save {
	struct machine *m;
	struct bitmap todo;    /* blocks of the current round; after ram_save_freeze() the blocks that are left */
	uint64_t next;	       /* index of the next block to look at in todo */
	uint64_t round_blocks; /* number of the round's blocks */
	struct holes holes;
	uint8_t *aside;	   /* content, as of ram_save_freeze(), of the blocks that the rounds have left */
	uint64_t taken;	   /* number of blocks in `aside` that ram_save_next() has returned */
	unsigned rounds;   /* number of complete rounds */
	/* largest part of the time in percent for which the vCPUs were stopped in a round; 0: none */
	unsigned throttle;
	bool frozen;
	bool stays_paused; /* too many blocks are left to be copied aside: the VM stays paused until they are written */
};

/* Turn the dirty log on and begin the first round.
 * all: the first round has all blocks; false: the blocks in the log.
 * s: zeroed; ended by ram_save_done(), also after an error. Returns 0 or -errno. */
int ram_save_begin(struct ram_save *s, struct machine *m, bool all, struct err *e);
/* Get the next block of the round or, after ram_save_freeze(), of the blocks that are left. Blocks that were never
 * touched, which are zeros, are skipped in a first round of all blocks.
 * buf: VMSTATE_BLOCK_BYTES for its content. The block may change while it is read; the next round then has it again.
 * Returns 1; 0 at the end; -errno. */
int ram_save_next(struct ram_save *s, uint64_t *ret_block, uint8_t *buf);
/* End the round. s->todo has the next round's blocks, or, after the last round, the blocks that are left so far.
 * Returns 1: copy another round; 0: pause the VM; -errno. */
int ram_save_round_end(struct ram_save *s, struct err *e);
/* Copy the blocks that are left into s->aside, or set s->stays_paused if they are too many. The VM is paused, with
 * drained devices. Returns 0 or -errno. */
int ram_save_freeze(struct ram_save *s, struct err *e);
/* Let the vCPUs run freely, turn the dirty log off unless it stays on, and free what s owns. Main thread. */
void ram_save_done(struct ram_save *s);

#endif
