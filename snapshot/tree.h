/* tree: what Cairn keeps with each snapshot, so that an image carries its own tree: encoded
 * into the snapshot entry's extra data, behind QEMU's fields, which other programs keep.
 *
 * Little-endian:
 *   0  u32   0x314e5243 ("CRN1")
 *   4  u16   bytes in all, CRC included
 *   6  u8    state when taken (enum tree_state)
 *   7  u8    1: of disks alone, of a VM that was not off; the state is TREE_SHUTOFF then. Else 0
 *   8  u64   parent's id, 0: a root
 *  16  u64   serial: the snapshot with the highest is the current one
 *  24  u16   length of the tags, u16 length of the description, then both
 *  …   u32   CRC32C of all before it
 * and right behind it the set, where there is one:
 *   0  u32   0x31535243 ("CRS1")
 *   4  u16   bytes in all: 44
 *   6  u8    enum tree_mark, u8 disks
 *   8  u8[16] the set's id, u8[16] the VM's UUID
 *  40  u32   CRC32C of the 40 bytes before it
 *
 * A snapshot without it (QEMU's own) is a root with no description. */
#ifndef CAIRN_SNAPSHOT_TREE_H
#define CAIRN_SNAPSHOT_TREE_H

#include "block/block_snapshot.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define TREE_TAGS_MAX 127
#define TREE_DESCRIPTION_MAX 511

enum tree_state { TREE_SHUTOFF = 0, TREE_RUNNING = 1, TREE_PAUSED = 2 };

#define TREE_SET_ID_BYTES 16

/* What is being done with a set: a crash leaves the mark, and who opens the disks next ends it (or
 * undoes it). On the first disk's entry it speaks for all; MAKING stands on the others' only. */
enum tree_mark { TREE_WHOLE = 0, TREE_MAKING = 1, TREE_DELETING = 2, TREE_REVERTING = 3 };

/* A snapshot of several disks at one instant. */
struct tree_set {
	uint8_t mark; /* enum tree_mark */
	uint8_t disks;
	uint8_t id[TREE_SET_ID_BYTES]; /* all 0: not known (QEMU's, or an early one of ours) */
	uint8_t vm[16];
};

struct tree_data {
	uint64_t parent, serial;
	struct tree_set set;
	uint8_t state;
	bool disks_only; /* with TREE_SHUTOFF: the VM was not off */
	char tags[TREE_TAGS_MAX + 1]; /* comma-separated */
	char description[TREE_DESCRIPTION_MAX + 1];
};

/* Into info->extra, with its length. */
void tree_encode(const struct tree_data *d, struct block_snapshot_info *info);
/* Always gives something usable: what is not ours or damaged is left at its defaults; false
 * then. */
bool tree_decode(const struct block_snapshot_info *info, struct tree_data *ret);

struct tree_node {
	struct block_snapshot_info info;
	struct tree_data data;
	bool ours; /* it had data of Cairn's */
};
struct tree {
	struct tree_node *nodes; /* in the table's order; owned */
	size_t n;
};
/* list: as block_snapshot_list() gives it; borrowed. Returns 0 or -ENOMEM. */
int tree_build(const struct block_snapshot_info *list, size_t n, struct tree *ret);
void tree_done(struct tree *t);
/* By name, else by id; NULL: none. One that is not all there, or not any more, is not found. */
struct tree_node *tree_find(const struct tree *t, const char *name_or_id);
struct tree_node *tree_find_id(const struct tree *t, uint64_t id);
/* The part that a disk with the tree t has of the set that n, of another disk, belongs to: by the set's
 * id, or where n has none by name. NULL: none. */
struct tree_node *tree_find_part(const struct tree *t, const struct tree_node *n);
/* Being made or deleted: for nobody to see. */
bool tree_is_hidden(const struct tree_node *n);
bool tree_has_set(const struct tree_node *n);
/* NULL: no snapshot is current (there are none, or none of ours). */
struct tree_node *tree_current(const struct tree *t);
uint64_t tree_next_serial(const struct tree *t);
uint64_t tree_id(const struct tree_node *n);
/* One of the comma-separated tags? */
bool tree_has_tag(const struct tree_data *d, const char *tag);

/* A name that users, QEMU and file systems can live with: 1 to 255 bytes, no control characters,
 * no '/'. Returns 0 or -EINVAL with a sentence. */
int tree_name_check(const char *name, struct err *e);

#endif
