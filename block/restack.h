/* restack: gives an open disk another chain of layers that has the same content, such as a new overlay on top, while
 * the guest's requests are held back (block/mirror.h). Both chains are open until block_restack_end() chooses one, so
 * several disks can change together.
 * Threading: the disk's thread, as block.h. */
#ifndef CAIRN_BLOCK_RESTACK_H
#define CAIRN_BLOCK_RESTACK_H

#include "block/block.h"

struct qcow2_header;

struct block_restack {
	/* The layers of the new chain. kept: the layer of the old chain that continues here, whose files are shared;
	 * BLOCK_NEW_LAYER: the layer's own files. */
	struct block_layer layers[BLOCK_LAYERS_MAX];
	unsigned kept[BLOCK_LAYERS_MAX];
	unsigned nlayers;
	unsigned writable; /* number of a backing layer that is opened for writing, too; 0: none */
	/* Store another name of a backing file in the header of qcow2 layer `above` of the new chain; NULL: none. */
	const char *backing_name, *backing_format;
	unsigned above;
	int above_fd; /* open for writing; borrowed */
	bool released[BLOCK_LAYERS_MAX]; /* private: the old layers whose locks were released */
};

#define BLOCK_NEW_LAYER BLOCK_LAYERS_MAX

/* Flush the disk, and open the new chain. No request may be in flight or come before block_restack_end(). Runs the
 * loop.
 * o: the files of its new layers are taken on success only. Valid until block_restack_end().
 * ret: untouched on errors.
 * Returns 0; -EBUSY: another process uses a file; -EINVAL, -EIO … with a sentence, and the disk is as before. */
int block_restack_begin(struct block *b, struct block_restack *o, struct block **ret, struct err *e);
/* Switch to the new chain (go), or keep the old one. Cannot fail. Returns the chain that ends, which the caller closes
 * with block_close() or block_close_but_files(). */
struct block *block_restack_end(struct block *b, struct block_restack *o, struct block *next, bool go);
/* Flush a layer, and write no more to it; its lock becomes a reader's. No request that changes it may be in flight;
 * the disk may continue reading it. Runs the loop. Returns 0; -errno: it may lack changes. */
int block_stop_writing(struct block *b);
/* Return layer n of a disk; NULL: there is none. */
struct block *block_layer(struct block *b, unsigned n);
/* Detach the layers from n on from a disk that is about to be closed, so that they stay open: they become a separate
 * disk. Returns it. */
struct block *block_cut(struct block *b, unsigned n);

#endif
