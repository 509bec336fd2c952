/* pin: an internal snapshot that keeps the content of an image for the disks of forks.
 *
 * A pin is a snapshot of the disk only, with a mark and a random id in its entry's extra data. A
 * fork's disk is an overlay whose header names the source image and the pin. block_open() finds the
 * pin in the header of the layer above, and reads the source through the pin's own L1, whose tables
 * and clusters do not change while the pin exists. docs/qcow2.md has the format ("Pins").
 *
 * To fork a running disk: block_snapshot_begin() while the guest is paused; qcow2_pin_mark();
 * block_snapshot_commit(); qcow2_pin_overlays() for the forks, from placed() on. To fork a snapshot of the disk:
 * block_pin_snapshot(); qcow2_pin_read(); qcow2_pin_overlays(). */
#ifndef CAIRN_BLOCK_QCOW2_PIN_H
#define CAIRN_BLOCK_QCOW2_PIN_H

#include "block/block_snapshot.h"

#include <stdbool.h>
#include <stdint.h>

struct block;
struct err;

/* A pin as an overlay's header describes it. */
struct qcow2_pin {
	uint8_t id[BLOCK_PIN_ID_BYTES];
	uint64_t l1_offset;    /* offset of the pin's L1 in the source image */
	uint64_t disk_bytes;
	uint32_t l1_size;      /* in entries */
	uint32_t l1_crc;       /* CRC32C of the L1 with COPIED cleared */
	uint32_t cluster_bits; /* cluster_bits of the source image */
};

/* ---- the source image ---- */

/* Make `info` the entry of a pin: set its name, extra data and size of VM state; leave its times.
 * id: random; the caller chooses it, and keeps it to delete the pin. */
void qcow2_pin_mark(struct block_snapshot_info *info, const uint8_t id[BLOCK_PIN_ID_BYTES]);
/* Read a committed pin from the file, while another process has the image open for writing.
 * fd: the source image, open for reading. name: for errors.
 * Returns 0; -ENOENT: the image has no such pin; -EINVAL: its tables are damaged; -errno. Any thread. */
int qcow2_pin_read(int fd, const char *name, const uint8_t id[BLOCK_PIN_ID_BYTES],
	struct qcow2_pin *ret, struct err *e);
/* As qcow2_pin_read(), if the pin has the content of the disk in the snapshot with the id `snapshot`. Compares their
 * L1 tables: the clusters that a snapshot's L1 names do not change while the snapshot exists. -ENOENT also if the
 * image has no such snapshot, or if the pin has another content. */
int qcow2_pin_of_snapshot(int fd, const char *name, const uint8_t id[BLOCK_PIN_ID_BYTES], const char *snapshot,
	struct qcow2_pin *ret, struct err *e);
/* Make a pin with the disk's content of the existing snapshot `snapshot`, which may be deleted afterwards. See
 * block_snapshot_copy(). id: as for qcow2_pin_mark(). */
void block_pin_snapshot(struct block *b, const char *snapshot, const uint8_t id[BLOCK_PIN_ID_BYTES],
	struct block_snapshot_op *op);
/* Delete a pin, as block_snapshot_delete() does. -ENOENT: there is no such pin. */
void block_pin_delete(struct block *b, const uint8_t id[BLOCK_PIN_ID_BYTES], struct block_snapshot_op *op);

/* Return whether the disk b has the content of the pin `id`: this engine has made the pin of the disk, the pin is on
 * stable storage, and the disk has not changed since. An overlay on the pin then equals one on a new pin. False if a
 * request that may change the disk is in flight.
 * ret: the pin; set if true. */
bool qcow2_pin_is_current(struct block *b, const uint8_t id[BLOCK_PIN_ID_BYTES], struct qcow2_pin *ret);

/* ---- the overlay ---- */

/* Write an empty overlay on the pin into each of the n fds, which are truncated. Does not sync. Any thread.
 * source: the path of the source image, absolute or relative to the overlay's folder.
 * Returns 0; -EINVAL if the path is too long; -errno. */
int qcow2_pin_overlays(const int *fds, unsigned n, const struct qcow2_pin *pin, const char *source, struct err *e);

#endif
