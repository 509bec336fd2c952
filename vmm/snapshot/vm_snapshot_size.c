/* Computes the space that only one snapshot uses, over all disks that have a part of it. Each
 * disk's own thread counts its disk, one disk after the other, while the guest runs and the main thread serves
 * requests. */
#include "base/cleanup.h"
#include "base/pin_name.h"
#include "base/util.h"
#include "vmm/snapshot/vm_snapshot.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct size_job {
	struct machine *m;
	struct tree_node node;
	struct vm_snapshot_info info;
	vm_snapshot_size_fn *done;
	void *opaque;
	unsigned disk; /* index of the current disk */
	char pin[BLOCK_SNAPSHOT_NAME_MAX + 1]; /* name of a pin to measure instead of node; "": none */
	char part_id[BLOCK_SNAPSHOT_ID_MAX + 1];
	bool first;    /* the disk with the tree: find the part by id */
	uint64_t bytes, sum;
	struct loop_task task; /* posted to the disk's loop, and back */
	struct block_snapshot_wait wait;
	struct block_snapshot_op op;
	int r;
	struct err e;
};

static void disk_next(struct size_job *j);

/* A caller who asks for the size of a pin can do without it, and the pin may be the one that is being deleted. */
static bool may_wait(const struct size_job *j)
{
	return !j->pin[0];
}

static void size_end(struct size_job *j)
{
	j->info.own_bytes = j->sum;
	j->m->disk_readers--;
	j->done(j->opaque, j->r, &j->info, &j->e);
	free(j);
}

static void disk_done(struct loop_task *t)
{
	struct size_job *j = container_of(t, struct size_job, task);

	if (j->r < 0 && (j->r != -ECANCELED || !may_wait(j))) {
		size_end(j);
		return;
	}
	/* Canceled: another operation has begun, such as the deletion of a pin, so measure this disk again after it. */
	if (!j->r) {
		j->sum += j->bytes;
		j->disk++;
	}
	disk_next(j);
}

static void own_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	struct size_job *j = container_of(op, struct size_job, op);

	j->r = res;
	if (res < 0)
		j->e = *e;
	j->task.run = disk_done;
	loop_post(j->m->host.loop, &j->task);
}

static bool pin_find(struct size_job *j, const struct block_snapshot_info *list, size_t n)
{
	size_t i = 0;

	while (i < n && (!list[i].pinned || strcmp(list[i].name, j->pin)))
		i++;
	if (i < n)
		memcpy(j->part_id, list[i].id, sizeof(j->part_id));
	return i < n;
}

/* Find the disk's part of the snapshot and copy its id. Returns false when the disk has none. */
static bool part_find(struct size_job *j, const struct block_snapshot_info *list, size_t n)
{
	const struct tree_node *part;
	struct tree t;

	if (tree_build(list, n, &t) < 0)
		return false;
	part = j->first ? tree_find_id(&t, tree_id(&j->node)) : tree_find_part(&t, &j->node);
	if (part)
		memcpy(j->part_id, part->info.id, sizeof(j->part_id));
	tree_done(&t);
	return part;
}

static void measure_go(struct block_snapshot_wait *w)
{
	struct size_job *j = container_of(w, struct size_job, wait);
	CLEANUP_FREE struct block_snapshot_info *list = NULL;
	struct block *b = j->m->disks[j->disk].block;
	size_t n = 0;
	int r = block_snapshot_list(b, &list, &n, &j->e);

	j->bytes = 0;
	if (!r && (j->pin[0] ? pin_find(j, list, n) : part_find(j, list, n)))
		block_snapshot_own(b, j->part_id, &j->bytes, &j->op);
	else
		own_done(&j->op, r, &j->e);
}

static void disk_measure(struct loop_task *t)
{
	struct size_job *j = container_of(t, struct size_job, task);

	j->wait.run = measure_go;
	if (may_wait(j))
		block_snapshot_wait(j->m->disks[j->disk].block, &j->wait);
	else
		measure_go(&j->wait);
}

static void disk_next(struct size_job *j)
{
	struct err e;

	while (j->disk < j->m->ndisks && !vmsnap_disk_takes_part(j->m, j->disk))
		j->disk++;
	if (j->disk == j->m->ndisks) {
		size_end(j);
		return;
	}
	j->first = &j->m->disks[j->disk] == vmsnap_first_disk(j->m, &e);
	j->task.run = disk_measure;
	loop_post(j->m->disks[j->disk].loop, &j->task);
}

/* A pin is a snapshot of one disk, which is no part of the tree. */
static int pin_size(struct machine *m, const char *name, vm_snapshot_size_fn *done, void *opaque, struct err *e)
{
	struct size_job *j = calloc(1, sizeof(*j));

	if (!j)
		return err_set_errno(e, -ENOMEM, "pin");
	*j = (struct size_job){ .m = m, .done = done, .opaque = opaque, .op.done = own_done };
	snprintf(j->pin, sizeof(j->pin), "%s", name);
	m->disk_readers++;
	disk_next(j);
	return 0;
}

int vm_snapshot_size(
	struct vm *vm, const char *name, vm_snapshot_size_fn *done, void *opaque, struct err *e)
{
	struct machine *m = vm_machine(vm);
	struct machine_disk *d;
	struct tree_node *n;
	struct size_job *j;
	struct tree t;
	int r;

	if (!strncmp(name, PIN_NAME_IN_IMAGE, strlen(PIN_NAME_IN_IMAGE)))
		return pin_size(m, name, done, opaque, e);
	r = vmsnap_open(m, &d, &t, e);
	if (r < 0)
		return r;
	r = vmsnap_find(&t, name, &n, e);
	j = r < 0 ? NULL : calloc(1, sizeof(*j));
	if (j) {
		*j = (struct size_job){.m = m, .node = *n, .done = done, .opaque = opaque, .op.done = own_done};
		vmsnap_info(n, n == tree_current(&t), &j->info);
	} else if (!r) {
		r = err_set_errno(e, -ENOMEM, "snapshot");
	}
	tree_done(&t);
	if (!j)
		return r;
	m->disk_readers++;
	disk_next(j);
	return r;
}
