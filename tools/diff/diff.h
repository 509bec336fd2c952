/* diff: shared parts of cairn-diff, which compares two contents of a VM's disks: two snapshots, or a snapshot and the
 * disks themselves. cairnd starts it as it starts cairn-archive (tools/archive/helper.h).
 *
 *   cairn-diff diff, with a specification on fd 3:
 *   from, to:   name or id of a snapshot; without `to`: the disks themselves, which nobody may write to
 *   extents:    list what differs, too
 *   files:      list the files that differ, too (files.h)
 *   page, limit: the `next` of the page before; greatest number of entries of this page
 *   disks:      list of {id, layers}, as in the specification of an export
 *   held, relays: see helper_held_take()
 *
 * Images and file systems come from a hostile guest. The program opens no file, and its sandbox forbids that.
 * Threading: the main thread. */
#ifndef CAIRN_TOOLS_DIFF_DIFF_H
#define CAIRN_TOOLS_DIFF_DIFF_H

#include "snapshot/tree.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct block;
struct err;
struct json_object;
struct loop;

/* ---- the two contents of a disk (disk.c) ---- */

/* One of the two snapshots. Opening the disks finds it on the first one that has it. */
struct diff_wanted {
	const char *name; /* name or id; borrowed. NULL: the disk itself */
	bool found;
	struct tree_node part; /* if found */
};

struct diff_range {
	uint64_t off, len;
	bool zero; /* the later content reads as zeros */
};

struct diff_disk {
	char id[16];
	char reason[320]; /* why the disk was not compared; "": it was compared */
	struct block *disk, *from, *to; /* `to` is `disk` if that is compared */
	uint64_t size_bytes; /* of the later content */
	struct diff_range *ranges; /* where they differ, in order, without overlaps; owned */
	size_t nranges, cap;
	uint64_t bytes; /* sum of the ranges */
};

/* Open a disk and find where its contents differ. spec: the disk's object.
 * ret: the caller frees it with diff_disk_done(), also after an error.
 * Returns 0, also with a reason; -errno with a sentence. */
int diff_disk_open(struct loop *l, struct json_object *spec, struct diff_wanted *from, struct diff_wanted *to,
	struct diff_disk *ret, struct err *e);
void diff_disk_done(struct diff_disk *d);

/* ---- pages of the result (page.c) ---- */

/* A place behind which the next page begins: the disk, and the position in its list. Places are sorted. */
struct diff_place {
	char disk[16]; /* "": the beginning */
	const char *rest; /* borrowed */
};
/* text: NULL: the beginning; borrowed. Returns 0; -EINVAL with a sentence. */
int diff_place_parse(const char *text, struct diff_place *ret, struct err *e);

/* A list of the result, until it has as many bytes as an answer should. */
struct diff_page {
	struct json_object *list; /* borrowed */
	size_t bytes, n, max; /* max: of n */
	char *next; /* where the next page begins; NULL: this is the last. Owned */
};
/* Add an object to the page. o: taken. next: where the next page begins if this object has no room; copied.
 * Returns false if it has none; the page ends then. */
bool diff_page_add(struct diff_page *p, struct json_object *o, const char *next);

/* ---- */

/* Restrict the process, which has created its loop. Returns 0; -errno with a sentence. */
int diff_sandbox(struct err *e);

#endif
