#include "vmm/snapshot/disk_pull.h"
#include "base/bytes.h"
#include "base/util.h"
#include "block/block.h"
#include "block/pull.h"
#include "vmm/snapshot/vm_pins.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES (1 * MIB)
#define PIECE_BYTES (64 * KIB) /* zeros of this size are left out */
#define WAIT_MS_MAX 100

struct pull_job {
	struct vmsnap_job j;
	struct machine_disk *disk;
	uint64_t rate_bytes_per_s;
	bool had_backing; /* when the VM's process began */
	uint8_t *buf;
};

/* ---- calls that run on the disk's thread ---- */

struct pull_call {
	struct disk_call c;
	struct block_req req;
	struct iovec iov;
	uint64_t bytes;
	bool write, alone;
};

static void request_done(struct block_req *r, int res)
{
	struct disk_call *c = &container_of(r, struct pull_call, req)->c;

	if (res < 0 && r->op == BLOCK_READ)
		block_read_error(r->block, r->offset, r->len, res, &c->e);
	disk_call_return(c, res, NULL);
}

static void request_run(struct disk_call *c, struct block *b)
{
	struct pull_call *x = container_of(c, struct pull_call, c);

	if (x->write)
		block_pull_write(b, &x->req);
	else
		block_pull_read(b, &x->req);
}

static int request(struct pull_job *p, bool write, uint64_t off, uint8_t *buf, uint64_t len, struct err *e)
{
	struct pull_call x = { .c.run = request_run, .iov = { buf, len }, .write = write,
		.req = { .op = BLOCK_READ, .offset = off, .len = len, .niov = 1, .done = request_done } };

	x.req.iov = &x.iov;
	return disk_call(p->disk, &x.c, e);
}

static void check_run(struct disk_call *c, struct block *b)
{
	struct pull_call *x = container_of(c, struct pull_call, c);
	struct block_layer layers[BLOCK_LAYERS_MAX];

	x->alone = block_layers(b, layers) == 1;
	disk_call_return(c, block_pull_check(b, &x->bytes, &c->e), NULL);
}

static void finish_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	disk_call_return(container_of(op, struct disk_call, op), res, e);
}

static void finish_run(struct disk_call *c, struct block *b)
{
	block_pull_finish(b, &c->op);
}

/* ---- the job of the pull ---- */

/* Write the pieces of a chunk that are not zero, neighbours together. */
static int chunk_write(struct pull_job *p, uint64_t off, uint64_t len, struct err *e)
{
	uint64_t begin = 0, at = 0;
	int r = 0;

	while (at < len && !r) {
		uint64_t n = MIN(PIECE_BYTES, len - at);
		bool zero = bytes_are_zero(p->buf + at, n);

		if (zero && at > begin)
			r = request(p, true, off + begin, p->buf + begin, at - begin, e);
		at += n;
		if (zero)
			begin = at;
	}
	return r || at == begin ? r : request(p, true, off + begin, p->buf + begin, at - begin, e);
}

/* Wait until `done` bytes may have been copied, or the work was cancelled. */
static void rate_wait(struct pull_job *p, uint64_t begun_ns, uint64_t done)
{
	double due_s = p->rate_bytes_per_s ? (double)done / (double)p->rate_bytes_per_s : 0;

	for (;;) {
		double left_ms = (due_s - (double)(loop_now_ns() - begun_ns) / 1e9) * 1e3;

		if (left_ms <= 0 || vm_work_cancelled(p->j.vm))
			return;
		poll(NULL, 0, (int)MIN(left_ms + 1, WAIT_MS_MAX));
	}
}

static int pull_all(struct pull_job *p, struct err *e)
{
	struct pull_call check = { .c.run = check_run };
	struct disk_call finish = { .run = finish_run, .op.done = finish_done };
	uint64_t begun_ns = loop_now_ns();
	int r = disk_call(p->disk, &check.c, e);

	/* An earlier pull has finished, but the daemon ended before it learned of that. */
	if (check.alone && p->had_backing)
		return 0;
	for (uint64_t off = 0; off < check.bytes && !r; off += CHUNK_BYTES) {
		uint64_t len = MIN(CHUNK_BYTES, check.bytes - off);

		if (vm_work_step(p->j.vm, off, check.bytes))
			return err_set(e, -ECANCELED, ERR_CANCELLED, "the job was cancelled; disk %s keeps its backing file",
				p->disk->id);
		r = request(p, false, off, p->buf, len, e);
		if (!r)
			r = chunk_write(p, off, len, e);
		rate_wait(p, begun_ns, off + len);
	}
	return r < 0 ? r : disk_call(p->disk, &finish, e);
}

static void pull_run(struct work *w)
{
	struct pull_job *p = container_of(w, struct pull_job, j.work);

	vm_pins_delete_idle(p->j.m);
	p->buf = aligned_alloc(4096, CHUNK_BYTES);
	p->j.r = p->buf ? pull_all(p, &p->j.e) : err_set_errno(&p->j.e, -ENOMEM, "disk %s", p->disk->id);
	free(p->buf);
}

static void pull_done(struct work *w)
{
	struct pull_job *p = container_of(w, struct pull_job, j.work);

	vmsnap_job_finish(&p->j);
	free(p);
}

int vm_disk_pull(struct vm *vm, struct worker *w, const struct vm_disk_pull *what, vm_snapshot_done_fn *done,
	void *opaque, struct err *e)
{
	struct machine *m = vm_machine(vm);
	struct pull_job *p;
	unsigned i = 0;

	while (i < m->ndisks && strcmp(m->disks[i].id, what->disk))
		i++;
	if (i == m->ndisks)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "the VM has no disk '%s'", what->disk);
	p = vmsnap_job_new(sizeof(*p), vm, w, "blockpull", e);
	if (!p)
		return -EBUSY;
	vm_work_set_live(vm, true);
	p->disk = &m->disks[i];
	p->had_backing = m->cfg.disks[i].nlayers > 1;
	p->rate_bytes_per_s = what->rate_bytes_per_s;
	p->j.done = done;
	p->j.opaque = opaque;
	vmsnap_job_stage(&p->j, pull_run, pull_done);
	return 0;
}
