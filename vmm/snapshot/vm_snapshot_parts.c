/* Parts of a snapshot on several disks, and recovery after a crash between two disks. The first
 * disk's entry is authoritative: docs/snapshots.md, "Life of a snapshot". */
#include "base/log.h"
#include "block/block.h"
#include "vmm/machine/machine_restore.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <string.h>

bool vmsnap_disk_has_parts(const struct machine *m, unsigned i)
{
	const struct vm_disk *d = &m->cfg.disks[i];

	return vmsnap_disk_takes_part(m, i) && d->format[0] == BLOCK_FORMAT_QCOW2 &&
		d->data_fd[0] == VM_NO_FD;
}

int vmsnap_parts(struct machine *m, const struct machine_disk *first, const struct tree_node *of,
	vmsnap_part_fn *fn, const struct tree_node *arg, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < m->ndisks && !r; i++) {
		struct tree_node *part;
		struct tree t;

		if (&m->disks[i] == first || !vmsnap_disk_has_parts(m, i))
			continue;
		r = vmsnap_tree(&m->disks[i], &t, e);
		if (r < 0)
			return r;
		part = tree_find_part(&t, of);
		if (part)
			r = fn(&m->disks[i], part, arg, e);
		tree_done(&t);
	}
	return r;
}

static bool is_wanted(const struct machine *m, unsigned i, const char *disk)
{
	return vmsnap_disk_takes_part(m, i) && (!disk[0] || !strcmp(m->cfg.disks[i].id, disk));
}

static int part_id(struct machine_disk *d, const struct machine_disk *first, const struct tree_node *of,
	char ret[BLOCK_SNAPSHOT_ID_MAX + 1], struct err *e)
{
	struct tree_node *n;
	struct tree t;
	int r = vmsnap_tree(d, &t, e);

	if (r < 0)
		return r;
	n = d == first ? tree_find_id(&t, tree_id(of)) : tree_find_part(&t, of);
	if (n)
		memcpy(ret, n->info.id, BLOCK_SNAPSHOT_ID_MAX + 1);
	else
		r = err_set(e, -ENOENT, ERR_NOT_FOUND,
			"disk %s has no snapshot '%s': the disk was not in the VM when the snapshot was taken, or "
			"the snapshot was deleted from the disk", d->id, of->info.name);
	tree_done(&t);
	return r;
}

int vmsnap_ids(struct machine *m, const struct machine_disk *first, const struct tree_node *of, const char *disk, const bool *absent,
	char ret[][BLOCK_SNAPSHOT_ID_MAX + 1], struct err *e)
{
	bool any = false;
	int r = 0;

	for (unsigned i = 0; i < m->ndisks && !r; i++) {
		if (!is_wanted(m, i, disk))
			continue;
		any = true;
		if (absent && absent[i])
			continue;
		r = part_id(&m->disks[i], first, of, ret[i], e);
	}
	if (!r && !any)
		r = err_set(e, -ENOENT, ERR_NOT_FOUND, "the VM has no writable disk '%s'", disk);
	return r;
}

static int part_delete(struct machine_disk *d, struct tree_node *part, const struct tree_node *arg,
	struct err *e)
{
	(void)arg;
	return disk_snapshot_delete(d, part->info.id, e);
}

static int part_apply(struct machine_disk *d, struct tree_node *part, const struct tree_node *arg,
	struct err *e)
{
	(void)arg;
	return disk_snapshot_apply(d, part->info.id, e);
}

int vmsnap_part_complete(struct machine_disk *d, struct tree_node *part, const struct tree_node *n,
	struct err *e)
{
	struct block_snapshot_info *info = &part->info;
	char old_name[BLOCK_SNAPSHOT_NAME_MAX + 1];
	int r;

	memcpy(old_name, info->name, sizeof(old_name));
	memcpy(info->name, n->info.name, sizeof(info->name));
	part->data.set.mark = TREE_WHOLE;
	if (part->ours)
		tree_encode(&part->data, info);
	r = disk_snapshot_update(d, info, e);
	if (r != -EEXIST)
		return r;
	/* Another snapshot has that name already. Keep the old name: parts are identified by the
	 * set's id. */
	memcpy(info->name, old_name, sizeof(info->name));
	return disk_snapshot_update(d, info, e);
}

/* ---- deleting from all disks ---- */

/* Return whether no snapshot has a higher serial. A snapshot with serial 0 is not current, even if all have 0. */
static bool is_newest(const struct tree *t, const struct tree_node *n)
{
	return n->data.serial && n->data.serial + 1 == tree_next_serial(t);
}

/* Move the children of a snapshot that is being deleted to its parent. If that snapshot is the current one, the parent
 * becomes current; without a parent, none is current: the VM's state comes from no snapshot that is left. */
static int children_move(struct machine_disk *first, struct tree *t, struct tree_node *gone,
	struct err *e)
{
	struct tree_node *heir = tree_find_id(t, gone->data.parent);
	bool was_current = is_newest(t, gone);
	bool has_heir = heir && heir != gone && heir->ours;
	int r = 0;

	for (size_t i = 0; i < t->n && !r; i++) {
		struct tree_node *n = &t->nodes[i];
		bool moves = n->data.parent == tree_id(gone);
		bool ages = was_current && !has_heir && n->data.serial;

		if (n == gone || !n->ours || !(moves || ages))
			continue;
		if (moves)
			n->data.parent = gone->data.parent;
		if (ages)
			n->data.serial = 0;
		tree_encode(&n->data, &n->info);
		r = disk_snapshot_update(first, &n->info, e);
	}
	if (!r && was_current && has_heir) {
		heir->data.serial = tree_next_serial(t);
		tree_encode(&heir->data, &heir->info);
		r = disk_snapshot_update(first, &heir->info, e);
	}
	return r;
}

static int delete_rest(struct machine *m, struct machine_disk *first, struct tree *t,
	struct tree_node *n, struct err *e)
{
	int r = children_move(first, t, n, e);

	if (!r)
		r = vmsnap_parts(m, first, n, part_delete, NULL, e);
	return r < 0 ? r : disk_snapshot_delete(first, n->info.id, e);
}

int vmsnap_delete(struct machine *m, struct machine_disk *first, struct tree *t, struct tree_node *n,
	struct err *e)
{
	int r;

	n->data.set.mark = TREE_DELETING;
	tree_encode(&n->data, &n->info);
	r = disk_snapshot_update(first, &n->info, e);
	return r < 0 ? r : delete_rest(m, first, t, n, e);
}

/* ---- reverting several disks ---- */

int vmsnap_revert_mark(struct machine_disk *first, const struct tree *t, struct tree_node *n,
	struct err *e)
{
	n->data.serial = tree_next_serial(t);
	n->data.set.mark = TREE_REVERTING;
	tree_encode(&n->data, &n->info);
	return disk_snapshot_update(first, &n->info, e);
}

int vmsnap_revert_unmark(struct machine_disk *first, struct tree_node *n, const struct tree_data *old)
{
	struct err e = { 0 };
	int r;

	n->data = *old;
	tree_encode(&n->data, &n->info);
	r = disk_snapshot_update(first, &n->info, &e);
	if (r < 0)
		log_error(first->id, "cannot take back the mark of a revert to snapshot '%s' (%s): the next start completes "
			"the revert", n->info.name, e.msg);
	return r;
}

const struct block_snapshot_info *vmsnap_revert_info(const struct tree *t, struct tree_node *n)
{
	if (!n->ours)
		return NULL;
	if (!is_newest(t, n))
		n->data.serial = tree_next_serial(t);
	n->data.set.mark = TREE_WHOLE;
	tree_encode(&n->data, &n->info);
	return &n->info;
}

static int revert_first(struct machine_disk *first, const struct tree *t, struct tree_node *n, struct err *e)
{
	const struct block_snapshot_info *info = vmsnap_revert_info(t, n);

	return info ? disk_snapshot_apply_with(first, info, e) : disk_snapshot_apply(first, n->info.id, e);
}

static int revert_rest(struct machine *m, struct machine_disk *first, struct tree *t,
	struct tree_node *n, struct err *e)
{
	int r = vmsnap_parts(m, first, n, part_apply, NULL, e);

	return r < 0 ? r : revert_first(first, t, n, e);
}

/* ---- recovery after a crash ---- */

struct recovery {
	struct machine *m;
	struct machine_disk *first;
	bool may_revert;
	vmsnap_recovered_fn *tell;
	void *opaque;
};

static void part_recovered(const struct recovery *x, enum vm_recovery what, const struct machine_disk *d,
	const struct tree_node *n)
{
	static const char *const words[] = { [VM_RECOVERY_MADE] = "was complete and is now marked as "
		"such",
		[VM_RECOVERY_UNMADE] = "was incomplete and is now rolled back",
		[VM_RECOVERY_DELETED] = "was being deleted and is now gone",
		[VM_RECOVERY_REVERTED] = "was being reverted to; now all disks are reverted" };

	log_warn(d->id, "after a crash: snapshot '%s' %s", n->info.name, words[what]);
	if (x->tell)
		x->tell(x->opaque, what, d->id, n->info.name);
}

/* Complete the operation that is marked in the first disk's entry. */
static int marked_end(struct recovery *x, struct tree *t, struct tree_node *n, struct err *e)
{
	bool reverting = n->data.set.mark == TREE_REVERTING;
	int r;

	/* If two snapshots had this id, the first one would be deleted or applied, and this one's mark
	 * would never be cleared. */
	if (tree_find_id(t, tree_id(n)) != n)
		return err_set(e, -EINVAL, ERR_CORRUPT, "disk %s: two snapshots have the id %s, and "
			"work on one of them was interrupted; delete them with `qemu-img snapshot -d`",
			x->first->id, n->info.id);
	if (reverting && !x->may_revert)
		return err_set(e, -EBUSY, ERR_WRONG_STATE, "a revert of the disks to snapshot '%s' "
			"was interrupted; start the VM without a saved state to complete it", n->info.name);
	r = reverting ? revert_rest(x->m, x->first, t, n, e) : delete_rest(x->m, x->first, t, n, e);
	if (!r)
		part_recovered(x, reverting ? VM_RECOVERY_REVERTED : VM_RECOVERY_DELETED, x->first, n);
	return r;
}

/* Complete the next marked operation. Returns 0 when the tree has no mark, with the tree owned by
 * the caller; 1 after completing one, which changes the tree; -errno. */
static int marked_end_next(struct recovery *x, struct tree *ret, struct err *e)
{
	int r = vmsnap_tree(x->first, ret, e);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ret->n && !r; i++) {
		enum tree_mark mark = ret->nodes[i].data.set.mark;

		if (mark != TREE_DELETING && mark != TREE_REVERTING)
			continue;
		r = marked_end(x, ret, &ret->nodes[i], e);
		r = r < 0 ? r : 1;
	}
	if (r)
		tree_done(ret);
	return r;
}

static int part_recover(struct recovery *x, struct machine_disk *d, const struct tree *first,
	struct tree_node *part, struct err *e)
{
	const struct tree_node *whole = tree_has_set(part) ? tree_find_part(first, part) : NULL;
	bool making = part->data.set.mark == TREE_MAKING;
	int r = 0;

	if (whole && whole->data.set.mark != TREE_MAKING) {
		if (!making && !strcmp(part->info.name, whole->info.name))
			return 0;
		r = vmsnap_part_complete(d, part, whole, e);
		if (!r && making)
			part_recovered(x, VM_RECOVERY_MADE, d, whole);
	} else if (making && !machine_has_uuid(x->m, part->data.set.vm)) {
		log_warn(d->id, "another VM did not complete snapshot '%s'; leaving it alone",
			part->info.name);
	} else if (making && !x->first->snapshot_unknown) {
		/* With snapshot_unknown, the first disk may have its part; the next open, or a change of its snapshot
		 * table, shows whether it has. */
		r = disk_snapshot_delete(d, part->info.id, e);
		if (!r)
			part_recovered(x, VM_RECOVERY_UNMADE, d, part);
	}
	return r;
}

static int disk_recover(struct recovery *x, struct machine_disk *d, const struct tree *first,
	struct err *e)
{
	struct tree t;
	int r = vmsnap_tree(d, &t, e);

	if (r < 0)
		return r;
	for (size_t i = 0; i < t.n && !r; i++)
		r = part_recover(x, d, first, &t.nodes[i], e);
	tree_done(&t);
	return r;
}

int vmsnap_recover(struct machine *m, bool may_revert, vmsnap_recovered_fn *tell, void *opaque,
	struct err *e)
{
	struct recovery x = { .m = m, .first = vmsnap_first_disk(m, NULL), .may_revert = may_revert,
		.tell = tell, .opaque = opaque };
	struct tree t;
	int r;

	if (!x.first || !vmsnap_disk_has_parts(m, (unsigned)(x.first - m->disks)))
		return 0;
	while ((r = marked_end_next(&x, &t, e)) > 0)
		;
	if (r < 0)
		return r;
	for (unsigned i = 0; i < m->ndisks && !r; i++)
		if (&m->disks[i] != x.first && vmsnap_disk_has_parts(m, i))
			r = disk_recover(&x, &m->disks[i], &t, e);
	tree_done(&t);
	return r;
}

struct start {
	struct vm *vm;
	bool reverted;
};

static void start_recovered(void *opaque, enum vm_recovery what, const char *disk, const char *name)
{
	struct start *s = opaque;

	s->reverted |= what == VM_RECOVERY_REVERTED;
	vm_recovered(s->vm, what, disk, name);
}

int vm_snapshot_recover(struct vm *vm, struct err *e)
{
	struct start s = { .vm = vm };
	struct machine *m = vm_machine(vm);
	int r = vmsnap_recover(m, m->cfg.restore_fd == VM_NO_FD, start_recovered, &s, e);

	/* The revert may have changed a disk's size, so start from a reset. */
	if (!r && s.reverted && !m->cfg.images_only)
		r = machine_reset(m, e);
	return r;
}
