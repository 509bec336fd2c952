#include "vmm/machine/disk_call.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "block/block.h"
#include "block/qcow2/pin.h"
#include "block/qcow2/warm.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <string.h>

/* ---- running a function on a disk's thread ---- */

static void call_go(struct block_snapshot_wait *w)
{
	struct disk_call *c = container_of(w, struct disk_call, wait);

	c->run(c, c->disk->block);
}

static void call_run(struct loop_task *t)
{
	struct disk_call *c = container_of(t, struct disk_call, task);

	c->wait.run = call_go;
	if (c->beside)
		call_go(&c->wait);
	else
		block_snapshot_wait(c->disk->block, &c->wait);
}

static void call_start(struct machine_disk *d, struct disk_call *c)
{
	c->disk = d;
	c->task.run = call_run;
	c->returned = false;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->cond, NULL);
	loop_post(d->loop, &c->task);
}

static int call_wait(struct disk_call *c, struct err *e)
{
	pthread_mutex_lock(&c->lock);
	while (!c->returned)
		pthread_cond_wait(&c->cond, &c->lock);
	pthread_mutex_unlock(&c->lock);
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->cond);
	if (c->res < 0 && e)
		*e = c->e;
	return c->res;
}

int disk_call(struct machine_disk *d, struct disk_call *c, struct err *e)
{
	call_start(d, c);
	return call_wait(c, e);
}

void disk_call_return(struct disk_call *c, int res, const struct err *e)
{
	LOCK_GUARD(&c->lock);
	c->res = res;
	if (res < 0 && e && e->msg[0])
		c->e = *e;
	else if (res < 0 && !c->e.msg[0])
		err_set_errno(&c->e, res, "%s", c->disk->id);
	c->returned = true;
	pthread_cond_signal(&c->cond);
}

static void op_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	disk_call_return(container_of(op, struct disk_call, op), res, e);
}

/* ---- the functions of block_snapshot.h ---- */

struct flush_call {
	struct disk_call c;
	struct block_req req;
};

static void flush_done(struct block_req *r, int res)
{
	disk_call_return(&container_of(r, struct flush_call, req)->c, res, NULL);
}

static void flush_run(struct disk_call *c, struct block *b)
{
	block_submit(b, &container_of(c, struct flush_call, c)->req);
}

int disk_flush(struct machine_disk *d, struct err *e)
{
	struct flush_call x = { .c.run = flush_run,
		.req = { .op = BLOCK_FLUSH, .done = flush_done } };

	return disk_call(d, &x.c, e);
}

static void names_run(struct disk_call *c, struct block *b)
{
	int layer = block_removed_layer(b);

	if (!layer)
		err_set(&c->e, -ENOENT, ERR_IO,
			"disk %s: its image was removed while the VM runs, and its content is lost when the VM ends; copy it before: "
			"cairn blockcopy VM %s --dest FILE --pivot", c->disk->id, c->disk->id);
	else if (layer > 0)
		err_set(&c->e, -ENOENT, ERR_IO,
			"disk %s: a backing file was removed while the VM runs, and its content is lost when the VM ends; copy it "
			"into the image before: cairn blockpull VM %s", c->disk->id, c->disk->id);
	disk_call_return(c, layer < 0 ? 0 : -ENOENT, NULL);
}

int disks_check_names(struct machine *m, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < m->ndisks && !r; i++) {
		struct disk_call c = { .run = names_run };

		r = m->cfg.disks[i].read_only ? 0 : disk_call(&m->disks[i], &c, e);
	}
	return r;
}

struct begin_call {
	struct disk_call c;
	struct block_snapshot *s;
};

static void begin_run(struct disk_call *c, struct block *b)
{
	struct begin_call *x = container_of(c, struct begin_call, c);

	disk_call_return(c, block_snapshot_begin(b, &x->s, &c->e), NULL);
}

int disk_snapshot_begin(struct machine_disk *d, struct block_snapshot **ret_s, struct err *e)
{
	struct begin_call x = { .c.run = begin_run };
	int r = disk_call(d, &x.c, e);

	if (!r)
		*ret_s = x.s;
	return r;
}

static void open_run(struct disk_call *c, struct block *b)
{
	struct begin_call *x = container_of(c, struct begin_call, c);

	disk_call_return(c, block_snapshot_open(b, &x->s, &c->e), NULL);
}

int disk_snapshot_open(struct machine_disk *d, struct block_snapshot **ret_s, struct err *e)
{
	struct begin_call x = { .c.run = open_run };
	int r = disk_call(d, &x.c, e);

	if (!r)
		*ret_s = x.s;
	return r;
}

static void freeze_run(struct disk_call *c, struct block *b)
{
	struct begin_call *x = container_of(c, struct begin_call, c);

	(void)b;
	disk_call_return(c, block_snapshot_freeze(x->s, &c->e), NULL);
}

int disk_snapshot_freeze(struct machine_disk *d, struct block_snapshot *s, struct err *e)
{
	struct begin_call x = { .c.run = freeze_run, .s = s };

	return disk_call(d, &x.c, e);
}

struct end_call {
	struct disk_call c;
	struct block_snapshot *s;
	const struct block_snapshot_info *info;
	const char *id;
	struct block_vmstate_map *map;
};

/* Clear snapshot_unknown after a successful change of the snapshot table, which shows that engine and file agree
 * again. Returns r. */
static int change_done(struct machine_disk *d, int r)
{
	if (!r)
		d->snapshot_unknown = false;
	return r;
}

int disk_change_note(struct machine_disk *d, const struct block_snapshot_op *op, int r)
{
	d->changed |= !r || op->unknown;
	return change_done(d, r);
}

static void commit_run(struct disk_call *c, struct block *b)
{
	struct disk_commit *x = container_of(c, struct disk_commit, c);

	(void)b;
	block_snapshot_commit(x->s, x->info, &c->op);
}

static void op_placed(struct block_snapshot_op *op, const struct qcow2_pin *pin)
{
	struct disk_call *c = container_of(op, struct disk_call, op);
	struct disk_commit *x = container_of(c, struct disk_commit, c);
	LOCK_GUARD(&c->lock);

	x->pin = *pin;
	x->placed = true;
	pthread_cond_signal(&c->cond);
}

static void op_readable(struct block_snapshot_op *op)
{
	struct disk_call *c = container_of(op, struct disk_call, op);
	LOCK_GUARD(&c->lock);

	container_of(c, struct disk_commit, c)->readable = true;
	pthread_cond_signal(&c->cond);
}

static void op_stands(struct block_snapshot_op *op)
{
	struct disk_call *c = container_of(op, struct disk_call, op);
	LOCK_GUARD(&c->lock);

	container_of(c, struct disk_commit, c)->stands = true;
	pthread_cond_signal(&c->cond);
}

void disk_commit_start(struct machine_disk *d, struct block_snapshot *s, const struct block_snapshot_info *info,
	struct disk_commit *x)
{
	*x = (struct disk_commit){ .c = { .run = commit_run, .op = { .done = op_done, .placed = op_placed,
		.readable = op_readable, .stands = op_stands } }, .s = s, .info = info };
	call_start(d, &x->c);
}

bool disk_commit_place(struct disk_commit *x, struct qcow2_pin *ret)
{
	LOCK_GUARD(&x->c.lock);

	while (!x->placed && !x->c.returned)
		pthread_cond_wait(&x->c.cond, &x->c.lock);
	*ret = x->pin;
	return x->placed;
}

bool disk_commit_readable(struct disk_commit *x)
{
	LOCK_GUARD(&x->c.lock);

	while (!x->readable && !x->c.returned)
		pthread_cond_wait(&x->c.cond, &x->c.lock);
	return x->readable || !x->c.res;
}

bool disk_commit_stands(struct disk_commit *x)
{
	LOCK_GUARD(&x->c.lock);

	while (!x->stands && !x->c.returned)
		pthread_cond_wait(&x->c.cond, &x->c.lock);
	return x->stands || !x->c.res;
}

int disk_commit_wait(struct disk_commit *x, char *ret_id, struct err *e)
{
	struct machine_disk *d = x->c.disk;
	int r = call_wait(&x->c, e);

	if (!r && ret_id)
		memcpy(ret_id, x->c.op.id, BLOCK_SNAPSHOT_ID_MAX + 1);
	d->snapshot_unknown |= x->c.op.unknown;
	return change_done(d, r);
}

int disk_snapshot_commit(struct machine_disk *d, struct block_snapshot *s,
	const struct block_snapshot_info *info, char *ret_id, struct err *e)
{
	struct disk_commit x;

	disk_commit_start(d, s, info, &x);
	return disk_commit_wait(&x, ret_id, e);
}

static void warm_run(struct disk_call *c, struct block *b)
{
	struct disk_warm *x = container_of(c, struct disk_warm, c);

	qcow2_warm_write(b, x->id, x->fd, x->at);
	disk_call_return(c, 0, NULL);
}

void disk_warm_start(struct machine_disk *d, struct disk_warm *x)
{
	x->c.run = warm_run;
	x->c.beside = true;
	call_start(d, &x->c);
}

void disk_warm_wait(struct disk_warm *x)
{
	(void)call_wait(&x->c, NULL);
}

static void abort_run(struct disk_call *c, struct block *b)
{
	(void)b;
	block_snapshot_abort(container_of(c, struct end_call, c)->s, &c->op);
}

int disk_snapshot_abort(struct machine_disk *d, struct block_snapshot *s, struct err *e)
{
	struct end_call x = { .c = { .run = abort_run, .op.done = op_done }, .s = s };

	return disk_call(d, &x.c, e);
}

struct list_call {
	struct disk_call c;
	struct block_snapshot_info *list;
	size_t n;
};

static void list_run(struct disk_call *c, struct block *b)
{
	struct list_call *x = container_of(c, struct list_call, c);

	disk_call_return(c, block_snapshot_list(b, &x->list, &x->n, &c->e), NULL);
}

int disk_snapshot_list(struct machine_disk *d, struct block_snapshot_info **ret_list, size_t *ret_n,
	struct err *e)
{
	struct list_call x = { .c = { .run = list_run, .beside = true } };
	int r = disk_call(d, &x.c, e);

	if (!r) {
		*ret_list = x.list;
		*ret_n = x.n;
	}
	return r;
}

static void apply_run(struct disk_call *c, struct block *b)
{
	block_snapshot_apply(b, container_of(c, struct end_call, c)->id, &c->op);
}

int disk_snapshot_apply(struct machine_disk *d, const char *id, struct err *e)
{
	struct end_call x = { .c = { .run = apply_run, .op.done = op_done }, .id = id };

	return disk_change_note(d, &x.c.op, disk_call(d, &x.c, e));
}

static void apply_with_run(struct disk_call *c, struct block *b)
{
	block_snapshot_apply_with(b, container_of(c, struct end_call, c)->info, &c->op);
}

int disk_snapshot_apply_with(struct machine_disk *d, const struct block_snapshot_info *info,
	struct err *e)
{
	struct end_call x = { .c = { .run = apply_with_run, .op.done = op_done }, .info = info };

	return disk_change_note(d, &x.c.op, disk_call(d, &x.c, e));
}

static void delete_run(struct disk_call *c, struct block *b)
{
	block_snapshot_delete(b, container_of(c, struct end_call, c)->id, &c->op);
}

int disk_snapshot_delete(struct machine_disk *d, const char *id, struct err *e)
{
	struct end_call x = { .c = { .run = delete_run, .op.done = op_done }, .id = id };

	return change_done(d, disk_call(d, &x.c, e));
}

struct pin_call {
	struct disk_call c;
	const char *snapshot;
	const uint8_t *id;
	struct qcow2_pin *pin;
};

static void pin_snapshot_run(struct disk_call *c, struct block *b)
{
	struct pin_call *x = container_of(c, struct pin_call, c);

	block_pin_snapshot(b, x->snapshot, x->id, &c->op);
}

int disk_pin_snapshot(struct machine_disk *d, const char *snapshot, const uint8_t id[BLOCK_PIN_ID_BYTES], struct err *e)
{
	struct pin_call x = { .c = { .run = pin_snapshot_run, .op.done = op_done }, .snapshot = snapshot, .id = id };
	int r = disk_call(d, &x.c, e);

	d->snapshot_unknown |= x.c.op.unknown;
	return change_done(d, r);
}

static void pin_delete_run(struct disk_call *c, struct block *b)
{
	block_pin_delete(b, container_of(c, struct pin_call, c)->id, &c->op);
}

int disk_pin_delete(struct machine_disk *d, const uint8_t id[BLOCK_PIN_ID_BYTES], struct err *e)
{
	struct pin_call x = { .c = { .run = pin_delete_run, .op.done = op_done }, .id = id };

	return change_done(d, disk_call(d, &x.c, e));
}

static void pin_find_run(struct disk_call *c, struct block *b)
{
	struct pin_call *x = container_of(c, struct pin_call, c);

	disk_call_return(c, qcow2_pin_is_current(b, x->id, x->pin), NULL);
}

bool disk_pin_is_current(struct machine_disk *d, const uint8_t id[BLOCK_PIN_ID_BYTES], struct qcow2_pin *ret)
{
	struct pin_call x = { .c.run = pin_find_run, .id = id, .pin = ret };

	return disk_call(d, &x.c, NULL) > 0;
}

static void update_run(struct disk_call *c, struct block *b)
{
	block_snapshot_update(b, container_of(c, struct end_call, c)->info, &c->op);
}

int disk_snapshot_update(struct machine_disk *d, const struct block_snapshot_info *info,
	struct err *e)
{
	struct end_call x = { .c = { .run = update_run, .op.done = op_done }, .info = info };

	return disk_change_note(d, &x.c.op, disk_call(d, &x.c, e));
}

static void map_run(struct disk_call *c, struct block *b)
{
	struct end_call *x = container_of(c, struct end_call, c);

	block_vmstate_map(b, x->id, x->map, &c->op);
}

int disk_vmstate_map(struct machine_disk *d, const char *id, struct block_vmstate_map *ret,
	struct err *e)
{
	struct end_call x = { .c = { .run = map_run, .op.done = op_done }, .id = id, .map = ret };

	return disk_call(d, &x.c, e);
}

/* ---- reading and writing VM state ---- */

static void vmstate_done(struct block_vmstate_req *r, int res)
{
	disk_call_return(&container_of(r, struct vmstate_call, req)->c, res, NULL);
}

static void vmstate_run(struct disk_call *c, struct block *b)
{
	struct vmstate_call *x = container_of(c, struct vmstate_call, c);

	if (x->what == VMSTATE_WRITE)
		block_snapshot_vmstate_write(x->s, &x->req);
	else if (x->what == VMSTATE_SHARE)
		block_snapshot_vmstate_share(x->s, x->id, &x->req);
	else if (x->s)
		block_snapshot_vmstate_read(x->s, &x->req);
	else
		block_vmstate_read(b, x->id, &x->req);
}

int disk_vmstate_share(struct machine_disk *d, struct block_snapshot *s, const char *id,
	uint64_t offset, uint64_t len, struct err *e)
{
	struct vmstate_call x = { .c = { .run = vmstate_run, .beside = true }, .what = VMSTATE_SHARE, .s = s, .id = id,
		.req = { .offset = offset, .len = len, .done = vmstate_done } };

	return disk_call(d, &x.c, e);
}

static void store_move_start(struct disk_store *st, struct vmstate_call *x, uint64_t off, void *buf, size_t len,
	bool write)
{
	*x = (struct vmstate_call){ .c = { .run = vmstate_run, .beside = true }, .what = write ? VMSTATE_WRITE : VMSTATE_READ,
		.s = st->s, .id = st->id, .iov = { buf, len } };
	x->req = (struct block_vmstate_req){ .offset = off, .len = len, .iov = &x->iov, .niov = 1,
		.done = vmstate_done };
	call_start(st->disk, &x->c);
}

static int store_transfer(struct disk_store *st, uint64_t off, void *buf, size_t len, bool write)
{
	struct vmstate_call x;

	store_move_start(st, &x, off, buf, len, write);
	return call_wait(&x.c, NULL);
}

void disk_store_write_start(struct disk_store *st, struct vmstate_call *x, uint64_t off, void *buf, size_t len)
{
	store_move_start(st, x, off, buf, len, true);
}

int disk_store_write_wait(struct vmstate_call *x)
{
	return call_wait(&x->c, NULL);
}

static int store_read(struct vmstate_store *s, uint64_t off, void *buf, size_t len)
{
	return store_transfer(container_of(s, struct disk_store, store), off, buf, len, false);
}

static int store_write(struct vmstate_store *s, uint64_t off, const void *buf, size_t len)
{
	return store_transfer(container_of(s, struct disk_store, store), off, (void *)(uintptr_t)buf, len,
		true);
}

/* Do nothing: the commit that follows makes the VM state durable before the snapshot becomes
 * visible. */
static int store_sync(struct vmstate_store *s)
{
	(void)s;
	return 0;
}

void disk_store_init(struct disk_store *st, struct machine_disk *d, struct block_snapshot *s,
	const char *id)
{
	*st = (struct disk_store){ .store = { .read = store_read, .write = store_write,
					   .sync = store_sync, .concurrent = true },
		.disk = d, .s = s, .id = id };
}
