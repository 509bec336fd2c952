/* tree: Cairn's data about each snapshot, stored in the snapshot entry's extra data behind QEMU's
 * fields. Other programs preserve it, so an image carries its own tree.
 *
 * Little-endian:
 *   0  u32   0x314e5243 ("CRN1")
 *   4  u16   total bytes, including the CRC
 *   6  u8    the VM's state at the snapshot (enum tree_state)
 *   7  u8    1: disks only, of a VM that was not off; the state is then TREE_SHUTOFF. Else 0
 *   8  u64   the parent's id; 0: a root
 *  16  u64   serial: the snapshot with the highest is the current one
 *  24  u16   length of the tags, u16 length of the description, then both
 *  …   u32   CRC32C of all bytes before
 * The set follows, if there is one:
 *   0  u32   0x31535243 ("CRS1")
 *   4  u16   total bytes: 44
 *   6  u8    enum tree_mark, u8 disks
 *   8  u8[16] the set's id, u8[16] the VM's UUID
 *  40  u32   CRC32C of the 40 bytes before it
 *
 * A snapshot without tree data (made by QEMU) is a root with no description. */
#ifndef CAIRN_SNAPSHOT_TREE_H
#define CAIRN_SNAPSHOT_TREE_H

#include "block/block_snapshot.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define TREE_TAGS_MAX 127
#define TREE_SERIAL_MAX INT64_MAX /* so that the next one never overflows */
#define TREE_DESCRIPTION_MAX 511

enum tree_state { TREE_SHUTOFF = 0, TREE_RUNNING = 1, TREE_PAUSED = 2 };

#define TREE_SET_ID_BYTES 16

/* The operation under way on a set. After a crash, the mark stays, and the next user of the disks
 * completes or undoes the operation. The mark of the first disk's entry applies to the set. MAKING
 * occurs only in the other disks' entries. */
enum tree_mark { TREE_WHOLE = 0, TREE_MAKING = 1, TREE_DELETING = 2, TREE_REVERTING = 3 };

/* The set of entries, one per disk, that form one snapshot. */
struct tree_set {
	uint8_t mark; /* enum tree_mark */
	uint8_t disks;
	uint8_t id[TREE_SET_ID_BYTES]; /* all 0: unknown (a snapshot by QEMU, or by an early Cairn) */
	uint8_t vm[16];
};

struct tree_data {
	uint64_t parent, serial;
	struct tree_set set;
	uint8_t state;
	bool disks_only; /* with TREE_SHUTOFF: a snapshot of the disks only, of a VM that was not off */
	char tags[TREE_TAGS_MAX + 1]; /* comma-separated */
	char description[TREE_DESCRIPTION_MAX + 1];
};

/* Encode d into info->extra and set its length. */
void tree_encode(const struct tree_data *d, struct block_snapshot_info *info);
/* Decode tree data. *ret is always usable: missing or damaged data leaves defaults.
 * Returns false if the data is missing or damaged. */
bool tree_decode(const struct block_snapshot_info *info, struct tree_data *ret);

struct tree_node {
	struct block_snapshot_info info;
	struct tree_data data;
	bool ours; /* the entry has tree data of Cairn */
};
struct tree {
	struct tree_node *nodes; /* in the table's order; owned */
	size_t n;
};
/* Build a tree. list: from block_snapshot_list(); borrowed. Pins are left out: they are no snapshots
 * of the VM, and one may have the number of a snapshot that was deleted. Returns 0 or -ENOMEM. The caller
 * releases it with tree_done(). */
int tree_build(const struct block_snapshot_info *list, size_t n, struct tree *ret);
void tree_done(struct tree *t);
/* Find a visible snapshot by name, else by id. NULL: not found. Hidden ones (being made or deleted)
 * are not found. */
struct tree_node *tree_find(const struct tree *t, const char *name_or_id);
struct tree_node *tree_find_id(const struct tree *t, uint64_t id);
/* Returns whether `ancestor` is n's parent, or its parent's, and so on. */
bool tree_descends(const struct tree *t, const struct tree_node *n, const struct tree_node *ancestor);
/* Find the part of n's set on the disk with the tree t. n: an entry of another disk. The lookup is
 * by the set's id, or by name if n has no set. NULL: none. */
struct tree_node *tree_find_part(const struct tree *t, const struct tree_node *n);
/* Returns true while the snapshot is being made or deleted. */
bool tree_is_hidden(const struct tree_node *n);
bool tree_has_set(const struct tree_node *n);
/* Returns the current snapshot: the visible one with the highest serial. NULL: no visible one has tree data. */
struct tree_node *tree_current(const struct tree *t);
uint64_t tree_next_serial(const struct tree *t);
uint64_t tree_id(const struct tree_node *n);
/* Returns true if `tag` is one of the comma-separated tags. */
bool tree_has_tag(const struct tree_data *d, const char *tag);

/* Check the name of a new snapshot: 1 to 255 bytes, plain (base/utf8.h), no '/'. Snapshots of an image may have other
 * names. Returns 0 or -EINVAL with a sentence. */
int tree_name_check(const char *name, struct err *e);

#endif
