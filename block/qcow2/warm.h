/* warm: L2 slices that the process of a fork's source has in memory, for the processes of its clones. Before a clone's
 * first read of an area, its process would otherwise read these slices from the disk. The source writes them to the
 * fork's state file, and the clones read them from there. No table of a pin changes while the pin exists, so the slices
 * stay valid. They are as little trusted as those in an image.
 *
 *    0      magic, u32 | number of slices, u32 | id of the pin, 16 bytes | offset of each slice in the image, u64 …
 *    4092   CRC32C of the bytes before it, u32
 *    4096   the slices; all numbers are little-endian */
#ifndef CAIRN_BLOCK_QCOW2_WARM_H
#define CAIRN_BLOCK_QCOW2_WARM_H

#include "block/block_snapshot.h"

#include <stdbool.h>
#include <stdint.h>

struct block;

#define QCOW2_WARM_SLICE_BYTES 4096u
/* With clusters of 64 KiB, these slices map 2 GiB. Writing them takes some 0.05 ms. */
#define QCOW2_WARM_SLICES_MAX 64u
#define QCOW2_WARM_BYTES ((1u + QCOW2_WARM_SLICES_MAX) * QCOW2_WARM_SLICE_BYTES)

struct qcow2_warm;

/* Write the most recently used slices of the qcow2 image b, which has the pin `id` or is about to get it, into fd from
 * byte `at` on: at most QCOW2_WARM_BYTES. After an error, or if the clusters have fewer than 4 KiB, clones find nothing
 * there. The disk's thread; from the freeze on. */
void qcow2_warm_write(struct block *b, const uint8_t id[BLOCK_PIN_ID_BYTES], int fd, uint64_t at);
/* Open the file that qcow2_warm_write() has written. The slices stay in the file until they are used: most clones
 * never use most of them. fd: duplicated. Returns NULL if the file is invalid. */
struct qcow2_warm *qcow2_warm_open(int fd, uint64_t at);
/* The number of slices. */
unsigned qcow2_warm_slices(const struct qcow2_warm *w);
/* Return whether the slices belong to the pin `id`. */
bool qcow2_warm_is_of(const struct qcow2_warm *w, const uint8_t id[BLOCK_PIN_ID_BYTES]);
/* Read the slice at that offset of the image into buf, of QCOW2_WARM_SLICE_BYTES. Returns false if w, which may be
 * NULL, lacks it. */
bool qcow2_warm_read(struct qcow2_warm *w, uint64_t offset, void *buf);
bool qcow2_warm_has(const struct qcow2_warm *w, uint64_t offset);
/* Close the file, which holds the source's RAM. Then w has no slices. w may be NULL. Any thread. */
void qcow2_warm_close(struct qcow2_warm *w);
/* Close it and free w, which may be NULL. No thread uses it any more. */
void qcow2_warm_free(struct qcow2_warm *w);

#endif
