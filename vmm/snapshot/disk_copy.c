#include "vmm/snapshot/disk_copy.h"
#include "base/bytes.h"
#include "base/log.h"
#include "base/util.h"
#include "block/block.h"
#include "block/mirror.h"
#include "vmm/machine/machine_copy.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BYTES (1 * MIB)
#define WAIT_MS_MAX 100
/* Changes are held back while the rest is copied, once it is this small, or after so many rounds of a guest that writes
 * faster than that. */
#define REST_BYTES (8 * MIB)
#define ROUNDS_MAX 20

struct copy_job {
	struct vmsnap_job j;
	struct machine_disk *disk;
	uint64_t rate_bytes_per_s, size_bytes;
	uint64_t begun_ns;
	uint64_t new_from; /* from here on, the copy has nothing yet and reads as zeros */
	unsigned rounds;
	bool held;
	uint8_t *buf;
};

/* ---- calls that run on the disk's thread ---- */

struct copy_call {
	struct disk_call c;
	struct copy_job *job;
	struct block_req req;
	struct iovec iov;
	uint64_t off, len, due;
	bool on_copy, any, both;
};

static void request_done(struct block_req *r, int res)
{
	disk_call_return(&container_of(r, struct copy_call, req)->c, res, NULL);
}

static void request_run(struct disk_call *c, struct block *b)
{
	struct copy_call *x = container_of(c, struct copy_call, c);

	block_submit(x->on_copy ? x->job->disk->copy : b, &x->req);
}

static int request(struct copy_job *p, enum block_op op, uint64_t off, uint64_t len, struct err *e)
{
	bool data = op == BLOCK_READ || op == BLOCK_WRITE;
	struct copy_call x = { .c.run = request_run, .job = p, .iov = { p->buf, len }, .on_copy = op != BLOCK_READ,
		.req = { .op = op, .flags = op == BLOCK_WRITE_ZEROES ? BLOCK_REQ_MAY_UNMAP : 0, .offset = off, .len = len,
			.niov = data, .done = request_done } };

	x.req.iov = data ? &x.iov : NULL;
	return disk_call(p->disk, &x.c, e);
}

static void next_run(struct disk_call *c, struct block *b)
{
	struct copy_call *x = container_of(c, struct copy_call, c);
	struct block_mirror *m = x->job->disk->mirror;

	(void)b;
	x->any = block_mirror_next(m, CHUNK_BYTES, &x->off, &x->len);
	x->due = block_mirror_due(m);
	disk_call_return(c, 0, NULL);
}

static void held(void *opaque)
{
	disk_call_return(opaque, 0, NULL);
}

static void hold_run(struct disk_call *c, struct block *b)
{
	(void)b;
	block_mirror_hold(container_of(c, struct copy_call, c)->job->disk->mirror, false, held, c);
}

static void release_run(struct disk_call *c, struct block *b)
{
	struct copy_call *x = container_of(c, struct copy_call, c);

	(void)b;
	block_mirror_release(x->job->disk->mirror, x->both);
	disk_call_return(c, 0, NULL);
}

/* ---- the job ---- */

/* Copy a part. Zeros need no write where the copy has nothing yet. */
static int part_copy(struct copy_job *p, uint64_t off, uint64_t len, struct err *e)
{
	bool is_new = off >= p->new_from;
	int r = request(p, BLOCK_READ, off, len, e);

	if (is_new)
		p->new_from = off + len;
	if (r < 0)
		return r;
	if (!bytes_are_zero(p->buf, len))
		return request(p, BLOCK_WRITE, off, len, e);
	return is_new ? 0 : request(p, BLOCK_WRITE_ZEROES, off, len, e);
}

/* Wait until `done` bytes may have been copied, or the work was cancelled. */
static void rate_wait(struct copy_job *p, uint64_t done)
{
	double due_s = p->rate_bytes_per_s ? (double)done / (double)p->rate_bytes_per_s : 0;

	for (;;) {
		double left_ms = (due_s - (double)(loop_now_ns() - p->begun_ns) / 1e9) * 1e3;

		if (left_ms <= 0 || vm_work_cancelled(p->j.vm))
			return;
		poll(NULL, 0, (int)MIN(left_ms + 1, WAIT_MS_MAX));
	}
}

static int changes_hold(struct copy_job *p, struct err *e)
{
	struct copy_call x = { .c.run = hold_run, .job = p };

	p->held = true;
	return disk_call(p->disk, &x.c, e);
}

/* Copy what is due, until the rest is small, and then the rest with all changes held back. */
static int parts_copy(struct copy_job *p, struct err *e)
{
	uint64_t last = 0, done = 0;
	int r = 0;

	while (!r) {
		struct copy_call x = { .c.run = next_run, .job = p };

		r = disk_call(p->disk, &x.c, e);
		if (r < 0 || (!x.any && p->held))
			return r;
		if (!p->held && vm_work_step(p->j.vm, p->size_bytes - MIN(x.due, p->size_bytes), p->size_bytes))
			return err_set(e, -ECANCELED, ERR_CANCELLED, "the job was cancelled; disk %s has no copy", p->disk->id);
		p->rounds += x.any && x.off < last;
		last = x.off;
		if (x.any)
			r = part_copy(p, x.off, x.len, e);
		done += x.any ? x.len : 0;
		if (!r && !p->held && p->new_from >= p->size_bytes && (x.due <= REST_BYTES || p->rounds >= ROUNDS_MAX))
			r = changes_hold(p, e);
		else if (!p->held)
			rate_wait(p, done);
	}
	return r;
}

/* The copy is durable before it gets the first change of its own, so that the next flush makes both images equal. */
static int copy_all(struct copy_job *p, struct err *e)
{
	struct copy_call release = { .c.run = release_run, .job = p };
	int r = parts_copy(p, e);

	if (!r)
		r = request(p, BLOCK_FLUSH, 0, 0, e);
	release.both = !r;
	if (p->held)
		disk_call(p->disk, &release.c, NULL);
	return r;
}

static void copy_run(struct work *w)
{
	struct copy_job *p = container_of(w, struct copy_job, j.work);

	p->begun_ns = loop_now_ns();
	p->buf = aligned_alloc(4096, CHUNK_BYTES);
	p->j.r = p->buf ? copy_all(p, &p->j.e) : err_set_errno(&p->j.e, -ENOMEM, "disk %s", p->disk->id);
	free(p->buf);
}

static void copy_done(struct work *w)
{
	struct copy_job *p = container_of(w, struct copy_job, j.work);
	struct err e;

	if (p->j.r < 0 && machine_copy_end(p->j.m, p->disk->id, NULL, -1, &e) < 0)
		log_warn(p->disk->id, "%s", e.msg);
	vmsnap_job_finish(&p->j);
	free(p);
}

int vm_disk_copy(struct vm *vm, struct worker *w, const struct vm_disk_copy *what, int fd, vm_snapshot_done_fn *done, void *opaque,
	struct err *e)
{
	struct machine *m = vm_machine(vm);
	struct copy_job *p = vmsnap_job_new(sizeof(*p), vm, w, "blockcopy", e);
	struct block_info info;
	unsigned i = 0;
	int r;

	if (!p) {
		close(fd);
		return -EBUSY;
	}
	r = m->cfg.images_only ? err_set(e, -ENOTSUP, ERR_WRONG_STATE, "the VM is off; copy its image with cairn-img convert")
			       : machine_copy_begin(m, what, fd, e);
	if (r < 0) {
		if (m->cfg.images_only)
			close(fd);
		vm_work_end(vm);
		free(p);
		return r;
	}
	while (strcmp(m->disks[i].id, what->disk))
		i++;
	vm_work_set_live(vm, true);
	p->disk = &m->disks[i];
	block_info(p->disk->block, &info);
	p->size_bytes = info.size_bytes;
	p->rate_bytes_per_s = what->rate_bytes_per_s;
	p->j.done = done;
	p->j.opaque = opaque;
	p->j.work.run = copy_run;
	p->j.work.done = copy_done;
	worker_submit(w, m->host.loop, &p->j.work);
	return 0;
}
