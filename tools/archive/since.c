/* The snapshots that an increment lies between, on each disk of the VM. */
#include "tools/archive/source.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/hex.h"
#include "snapshot/tree.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Print text that identifies a snapshot: the id of its set, which its parts on all disks share, or the values that
 * QEMU stores. */
static void identity_print(const struct tree_node *n, char ret[SOURCE_IDENTITY])
{
	if (!tree_has_set(n)) {
		snprintf(ret, SOURCE_IDENTITY, "qemu-%s-%u-%u", n->info.id, n->info.sec, n->info.nsec);
		return;
	}
	hex_print(n->data.set.id, TREE_SET_ID_BYTES, ret);
}

/* Take the two snapshots from the first disk that has both. Snapshots of QEMU are in no tree. */
static int pair_take(struct source_since *s, const struct tree *t, const struct tree_node *n, const struct tree_node *from,
	struct err *e)
{
	if (n == from || (n->ours && from->ours && !tree_descends(t, n, from)))
		return err_set(e, -EINVAL, ERR_INVALID, "snapshot '%s' does not descend from '%s', so there is no increment since that",
			n->info.name, from->info.name);
	identity_print(from, s->since_id);
	snprintf(s->since_name, sizeof(s->since_name), "%s", from->info.name);
	s->part = *from;
	return 0;
}

/* Find the snapshot on a disk. Its parts on several disks have one set, but not one id, and other snapshots may have
 * that id as their name. */
static const struct tree_node *part_find(struct source_since *s, const struct tree *t)
{
	const struct tree_node *n = s->found ? tree_find_part(t, &s->at) : tree_find(t, s->snapshot);

	if (!n || s->found)
		return n;
	s->at = *n;
	s->found = true;
	identity_print(n, s->snapshot_id);
	return n;
}

int source_since_find(struct source_since *s, struct block *b, char ret_id[BLOCK_SNAPSHOT_ID_MAX + 1],
	char ret_since[BLOCK_SNAPSHOT_ID_MAX + 1], struct err *e)
{
	CLEANUP_FREE struct block_snapshot_info *list = NULL;
	const struct tree_node *n, *from;
	struct tree t = { 0 };
	size_t count = 0;
	int r = block_snapshot_list(b, &list, &count, e);

	*ret_id = *ret_since = 0;
	if (!r && (r = tree_build(list, count, &t)) < 0)
		err_set_errno(e, r, "snapshots");
	if (r < 0)
		return r;
	n = part_find(s, &t);
	from = !s->since ? NULL : s->since_id[0] ? tree_find_part(&t, &s->part) : tree_find(&t, s->since);
	if (n && from && !s->since_id[0])
		r = pair_take(s, &t, n, from, e);
	if (!r && n)
		strcpy(ret_id, n->info.id);
	if (!r && n && from)
		strcpy(ret_since, from->info.id);
	tree_done(&t);
	return r;
}

int source_since_check(const struct source_since *s, struct err *e)
{
	return !s->since || s->since_id[0] ? 0 : err_set(e, -ENOENT, ERR_NOT_FOUND,
		"no disk that the archive gets has a snapshot '%.255s'; see cairn snapshot-list", s->since);
}
