/* image_state: reads the VM state of a snapshot in a disk image, for programs without a VM.
 * Threading: the thread that runs the loop. */
#ifndef CAIRN_SNAPSHOT_IMAGE_STATE_H
#define CAIRN_SNAPSHOT_IMAGE_STATE_H

#include "block/block_snapshot.h"
#include "snapshot/vmstate.h"

struct loop;

struct image_state {
	struct vmstate_store store; /* only read() is there */
	struct loop *loop;
	struct block *b;
	char id[BLOCK_SNAPSHOT_ID_MAX + 1];
	struct block_vmstate_req req;
	bool over;
	int res;
};

/* l, b: borrowed; read() runs the loop until its request is complete. id: the snapshot's. */
void image_state_init(struct image_state *s, struct loop *l, struct block *b, const char *id);

#endif
