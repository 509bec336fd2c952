#include "vmm/machine/disk_apply.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block_snapshot.h"
#include "vmm/machine/disk_call.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <stdlib.h>

/* ENDED: there is none, or it has ended. STANDS: the disk has the new content. */
enum apply_stage { APPLY_ENDED, APPLY_BEGUN, APPLY_READY, APPLY_STANDS };

struct disk_apply {
	struct loop_task task;
	struct block_snapshot_wait wait;
	struct block_snapshot_op op;
	struct block *block;
	const char *id;
	const struct block_snapshot_info *info;
	bool go;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* protected by lock: */
	enum apply_stage stage;
	bool stands; /* it has come so far, also if it has ended since */
	int res; /* of an apply that has ended, with its error */
	struct err e;
};

struct disk_apply *disk_apply_new(void)
{
	struct disk_apply *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->changed, NULL);
	return a;
}

void disk_apply_free(struct disk_apply *a)
{
	if (!a)
		return;
	pthread_mutex_destroy(&a->lock);
	pthread_cond_destroy(&a->changed);
	free(a);
}

static void stage_set(struct disk_apply *a, enum apply_stage stage)
{
	LOCK_GUARD(&a->lock);
	a->stage = stage;
	a->stands = stage == APPLY_STANDS;
	pthread_cond_broadcast(&a->changed);
}

/* ---- on the disk's thread ---- */

static void op_ready(struct block_snapshot_op *op)
{
	stage_set(container_of(op, struct disk_apply, op), APPLY_READY);
}

static void op_stands(struct block_snapshot_op *op)
{
	stage_set(container_of(op, struct disk_apply, op), APPLY_STANDS);
}

static void op_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	struct disk_apply *a = container_of(op, struct disk_apply, op);

	LOCK_GUARD(&a->lock);
	a->res = res;
	if (res < 0 && e && e->msg[0])
		a->e = *e;
	else if (res < 0)
		err_set_errno(&a->e, res, "applying a snapshot");
	if (res < 0 && a->stands)
		log_warn("disk", "%s; the VM's next start frees the space of the content before the revert", a->e.msg);
	a->stage = APPLY_ENDED;
	pthread_cond_broadcast(&a->changed);
}

static void begin_go(struct block_snapshot_wait *w)
{
	struct disk_apply *a = container_of(w, struct disk_apply, wait);

	if (a->info)
		block_snapshot_apply_with(a->block, a->info, &a->op);
	else
		block_snapshot_apply(a->block, a->id, &a->op);
}

static void begin_run(struct loop_task *t)
{
	struct disk_apply *a = container_of(t, struct disk_apply, task);

	a->wait.run = begin_go;
	block_snapshot_wait(a->block, &a->wait);
}

static void end_run(struct loop_task *t)
{
	struct disk_apply *a = container_of(t, struct disk_apply, task);

	block_snapshot_apply_decide(&a->op, a->go);
}

/* ---- on the caller's thread ---- */

/* Run the task on the disk's thread, and wait until the apply has left `stage`. Returns the stage after it. */
static enum apply_stage stage_leave(struct machine_disk *d, enum apply_stage stage)
{
	struct disk_apply *a = d->apply;

	loop_post(d->loop, &a->task);
	LOCK_GUARD(&a->lock);
	while (a->stage == stage)
		pthread_cond_wait(&a->changed, &a->lock);
	return a->stage;
}

static int result(struct machine_disk *d, struct err *e)
{
	struct disk_apply *a = d->apply;

	if (a->res < 0)
		*e = a->e;
	return disk_change_note(d, &a->op, a->res);
}

void disk_apply_wait(struct machine_disk *d)
{
	struct disk_apply *a = d->apply;

	LOCK_GUARD(&a->lock);
	while (a->stage == APPLY_STANDS)
		pthread_cond_wait(&a->changed, &a->lock);
}

int disk_apply_begin(struct machine_disk *d, const char *id, const struct block_snapshot_info *info, struct err *e)
{
	struct disk_apply *a = d->apply;

	disk_apply_wait(d);
	a->task.run = begin_run;
	a->op = (struct block_snapshot_op){ .done = op_done, .ready = op_ready, .stands = op_stands };
	a->block = d->block;
	a->id = id;
	a->info = info;
	stage_set(a, APPLY_BEGUN);
	return stage_leave(d, APPLY_BEGUN) == APPLY_READY ? 0 : result(d, e);
}

int disk_apply_end(struct machine_disk *d, bool go, struct err *e)
{
	struct disk_apply *a = d->apply;
	struct err unused;

	a->task.run = end_run;
	a->go = go;
	stage_leave(d, APPLY_READY);
	if (a->stands)
		return disk_change_note(d, &a->op, 0);
	if (!go && a->res == -ECANCELED)
		return 0;
	return result(d, go ? e : &unused);
}
