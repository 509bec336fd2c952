#include "vmm/snapshot/disk_copy_impl.h"
#include "base/bytes.h"
#include "base/log.h"
#include "base/util.h"
#include "block/block.h"
#include "block/mirror.h"
#include "vmm/machine/close_aside.h"
#include "vmm/machine/machine_copy.h"
#include "vmm/machine/machine_hold.h"
#include "vmm/machine/machine_layers.h"
#include "vmm/snapshot/disk_copy.h"
#include "vmm/snapshot/vm_pins.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NO_PART UINT64_MAX
#define WAIT_MS_MAX 100
/* When the rest is this small, or a round has not halved it, changes go to both images while the rest is copied. */
#define REST_BYTES (8 * MIB)

/* ---- calls that run on the disk's thread ---- */

struct copy_call {
	struct disk_call c;
	struct copy_job *job;
	struct block_req req;
	struct iovec iov;
	uint64_t off, len, due;
	bool on_copy, any, complete, sealed, copied;
};

static void request_done(struct block_req *r, int res)
{
	struct disk_call *c = &container_of(r, struct copy_call, req)->c;

	if (res < 0 && r->op == BLOCK_READ)
		block_read_error(r->block, r->offset, r->len, res, &c->e);
	disk_call_return(c, res, NULL);
}

static void request_run(struct disk_call *c, struct block *b)
{
	struct copy_call *x = container_of(c, struct copy_call, c);

	struct copy_job *p = x->job;

	block_submit(x->on_copy ? p->to ? p->to : c->disk->copy : p->from ? p->from : b, &x->req);
}

int copy_request(struct copy_job *p, enum block_op op, uint64_t off, uint64_t len, struct err *e)
{
	bool data = op == BLOCK_READ || op == BLOCK_WRITE;
	struct copy_call x = { .c.run = request_run, .job = p, .iov = { p->buf, len }, .on_copy = op != BLOCK_READ,
		.req = { .op = op, .flags = op == BLOCK_WRITE_ZEROES ? BLOCK_REQ_MAY_UNMAP : 0, .offset = off, .len = len,
			.niov = data, .done = request_done } };

	x.req.iov = data ? &x.iov : NULL;
	return disk_call(p->disk, &x.c, e);
}

static void part_ready(void *opaque)
{
	disk_call_return(opaque, 0, NULL);
}

static void next_run(struct disk_call *c, struct block *b)
{
	struct copy_call *x = container_of(c, struct copy_call, c);
	struct block_mirror *m = c->disk->mirror;
	const struct copy_job *c_job = x->job;

	(void)b;
	x->due = block_mirror_due(m);
	x->any = x->due;
	/* The call may end the job, and then x is freed. */
	if (!block_mirror_next(m, block_mirror_writes_through(m) ? COPY_CHUNK_BYTES : MAX(c_job->part_bytes, COPY_CHUNK_BYTES), &x->off, &x->len, part_ready, c)) {
		x->complete = block_mirror_is_complete(m);
		disk_call_return(c, 0, NULL);
	}
}

static void through_run(struct disk_call *c, struct block *b)
{
	(void)b;
	block_mirror_write_through(c->disk->mirror);
	disk_call_return(c, 0, NULL);
}

static void seal_run(struct disk_call *c, struct block *b)
{
	struct copy_call *x = container_of(c, struct copy_call, c);

	(void)b;
	x->complete = block_mirror_is_complete(c->disk->mirror);
	x->sealed = block_mirror_seal(c->disk->mirror);
	disk_call_return(c, 0, NULL);
}

static void part_end_run(struct disk_call *c, struct block *b)
{
	(void)b;
	block_mirror_part_end(c->disk->mirror, container_of(c, struct copy_call, c)->copied);
	disk_call_return(c, 0, NULL);
}

/* Let the guest's changes of the part in work wait no longer: a pause of the VM waits for them, too. */
static int part_end(struct copy_job *p, bool copied, struct err *e)
{
	struct copy_call x = { .c.run = part_end_run, .copied = copied };

	return disk_call(p->disk, &x.c, e);
}

/* ---- the job ---- */

/* Copy a part. Zeros need no write where the copy has nothing yet. */
static int part_copy(struct copy_job *p, uint64_t off, uint64_t len, struct err *e)
{
	bool is_new = off >= p->new_from;
	int r = copy_request(p, BLOCK_READ, off, len, e);

	if (is_new)
		p->new_from = off + len;
	if (r < 0)
		return r;
	if (!bytes_are_zero(p->buf, len))
		return copy_request(p, BLOCK_WRITE, off, len, e);
	return is_new ? 0 : copy_request(p, BLOCK_WRITE_ZEROES, off, len, e);
}

void copy_rate_wait(struct copy_job *p, uint64_t done)
{
	double due_s = p->rate_bytes_per_s ? (double)done / (double)p->rate_bytes_per_s : 0;

	for (;;) {
		double left_ms = (due_s - (double)(loop_now_ns() - p->begun_ns) / 1e9) * 1e3;

		if (left_ms <= 0 || vm_work_cancelled(p->j.vm))
			return;
		poll(NULL, 0, (int)MIN(left_ms + 1, WAIT_MS_MAX));
	}
}

/* last_off: offset of the previous part; NO_PART: none. */
static bool rounds_help(struct copy_job *p, const struct copy_call *x, uint64_t last_off)
{
	bool over = last_off != NO_PART && x->off <= last_off; /* equal: one part was the whole round */
	uint64_t before = p->round_due;

	if (over)
		p->round_due = x->due;
	return x->due > REST_BYTES && (!over || x->due <= before / 2);
}

static int write_through(struct copy_job *p, struct err *e)
{
	struct disk_call c = { .run = through_run };

	return disk_call(p->disk, &c, e);
}

/* Copy the due parts in rounds, while the guest's changes make more parts due. When further rounds do not help, copy
 * the rest while changes go to both images. */
static int parts_copy(struct copy_job *p, struct err *e)
{
	uint64_t last = NO_PART, done = 0;
	int r = 0;

	p->round_due = p->size_bytes;
	while (!r) {
		struct copy_call x = { .c.run = next_run, .job = p };

		r = disk_call(p->disk, &x.c, e);
		if (r < 0)
			return r;
		/* Check before the end, too: the last part may have waited long for its bandwidth. */
		if (vm_work_step(p->j.vm, p->size_bytes - MIN(x.due, p->size_bytes), p->size_bytes))
			return err_set(e, -ECANCELED, ERR_CANCELLED, "the job was cancelled; disk %s has no copy", p->disk->id);
		if (!x.any && x.complete)
			return 0;
		if (x.any) {
			r = p->part ? p->part(p, x.off, x.len, e) : part_copy(p, x.off, x.len, e);
			done += x.len;
			/* Without a limit, the next part follows at once, and its beginning ends this one. */
			if (!r && p->through && p->rate_bytes_per_s)
				r = part_end(p, true, e);
		} else if (p->through) {
			poll(NULL, 0, 1); /* changes are in flight that began before */
		}
		if (!r && !p->through && p->new_from >= p->size_bytes && !(x.any && rounds_help(p, &x, last))) {
			if (x.due > REST_BYTES) {
				log_info(p->disk->id, "%s: the guest writes faster than that, so its writes go to both images from now on",
					p->rate_bytes_per_s ? "the copy's bandwidth is limited" : "the copy is slow");
				vm_work_outpaced(p->j.vm);
			}
			r = write_through(p, e);
			p->through = true;
		}
		last = x.any ? x.off : last;
		if (!r)
			copy_rate_wait(p, done);
	}
	return r;
}

/* The copy is durable before the mirror is sealed, so that the next flush makes both images equal. */
int copy_until_equal(struct copy_job *p, struct err *e)
{
	struct copy_call seal = { .c.run = seal_run };
	int r;

	do {
		r = parts_copy(p, e);
		if (!r)
			r = copy_request(p, BLOCK_FLUSH, 0, 0, e);
		if (!r)
			r = disk_call(p->disk, &seal.c, e);
		if (!r && !seal.sealed && seal.complete)
			r = err_set(e, -EIO, ERR_IO, "a flush of the copy of disk %s failed", p->disk->id);
	} while (!r && !seal.sealed);
	if (r < 0)
		part_end(p, false, NULL);
	return r;
}

/* Refuse the copy before it is made, because it may take hours, if the pivot after it would be refused. */
static int pivot_foresee(struct copy_job *p, struct err *e)
{
	int r;

	vm_pins_delete_idle(p->j.m);
	r = machine_layers_check(p->disk, "a copy has none of them", e);
	if (r < 0)
		close(p->fd);
	return r;
}

static int copy_all(struct copy_job *p, struct err *e)
{
	int r = p->then_pivot ? pivot_foresee(p, e) : 0;

	if (!r)
		r = machine_copy_open(p->disk, (uint8_t)p->format, p->fd, e);
	return r ? r : copy_until_equal(p, e);
}

static void copy_run(struct work *w)
{
	struct copy_job *p = container_of(w, struct copy_job, j.work);

	p->begun_ns = loop_now_ns();
	p->buf = aligned_alloc(4096, COPY_CHUNK_BYTES);
	p->j.r = p->buf ? copy_all(p, &p->j.e) : err_set_errno(&p->j.e, -ENOMEM, "disk %s", p->disk->id);
	free(p->buf);
}

/* ---- the end of a copy ---- */

void copy_job_end(struct work *w)
{
	struct copy_job *p = container_of(w, struct copy_job, j.work);

	if (!p->j.r || !p->disk->copy)
		p->disk->mirrored = p->disk->copy;
	vmsnap_job_finish(&p->j);
	free(p);
}

static void close_run(struct work *w)
{
	struct copy_job *p = container_of(w, struct copy_job, j.work);
	int r = machine_copy_close(p->disk, p->gone);

	if (r < 0) /* after a pivot, the old image; else the copy */
		log_error(p->disk->id, "closing the %s: %s", p->pivot ? "old image" : "copy", strerror(-r));
	if (r < 0 && !p->pivot && !p->j.r)
		p->j.r = err_set_errno(&p->j.e, r, "the copy of disk %s may be incomplete", p->disk->id);
	if (p->fd >= 0)
		close(p->fd);
}

static void image_swap(struct machine *m, void *what, unsigned n)
{
	struct copy_job *p = what;

	(void)n;
	p->gone = machine_copy_swap(m, p->disk, p->pivot, p->fd);
}

static void hold_run(struct work *w)
{
	struct copy_job *p = container_of(w, struct copy_job, j.work);
	struct err e;
	int r;

	if (p->pivot)
		vm_pins_delete_idle(p->j.m);
	machine_held_begin(p->j.m);
	r = machine_copy_hold(p->disk, p->pivot, p->fd, &e);
	if (!r && p->check_only)
		machine_disk_release(p->disk);
	p->held = !r && !p->check_only;
	machine_held_end(p->j.m, p->held ? image_swap : NULL, p, 1);
	if (r < 0 && p->j.r < 0) /* a copy that failed */
		log_warn(p->disk->id, "%s", e.msg);
	else if (r < 0) {
		p->j.r = r;
		p->j.e = e;
	}
}

/* All requests of the disk are held back. */
static void hold_done(struct work *w)
{
	struct copy_job *p = container_of(w, struct copy_job, j.work);

	if (!p->held) {
		if (p->fd >= 0) /* Linux 6.1 lets this wait for the requests that did not end in time */
			(void)close_aside(p->fd);
		copy_job_end(w);
		return;
	}
	machine_held_release(p->j.m);
	log_info(NULL, "disk %s continues with%s its copy", p->disk->id, p->pivot ? "" : "out");
	vmsnap_job_stage(&p->j, close_run, copy_job_end);
}

void copy_abort(struct copy_job *p)
{
	vmsnap_job_stage(&p->j, hold_run, hold_done);
}

static void copy_done(struct work *w)
{
	struct copy_job *p = container_of(w, struct copy_job, j.work);

	p->fd = -1; /* the copy has it, or it is closed */
	if (p->j.r < 0 && p->disk->copy)
		copy_abort(p);
	else
		copy_job_end(w);
}

static void job_begin(struct copy_job *p, vm_snapshot_done_fn *done, void *opaque)
{
	vm_work_set_live(p->j.vm, true);
	p->j.done = done;
	p->j.opaque = opaque;
}

/* Abort a job that has not begun. fd: taken. */
static int job_refuse(struct vm *vm, struct copy_job *p, int fd, int r)
{
	if (fd >= 0)
		(void)close_aside(fd);
	if (p)
		vm_work_end(vm);
	free(p);
	return r;
}

int vm_disk_copy(struct vm *vm, struct worker *w, const struct vm_disk_copy *what, int fd, vm_snapshot_done_fn *done, void *opaque,
	struct err *e)
{
	struct copy_job *p = vmsnap_job_new(sizeof(*p), vm, w, "blockcopy", e);
	struct machine *m = vm_machine(vm);
	struct block_info info;
	int r = p ? 0 : -EBUSY;

	if (!r && m->cfg.images_only)
		r = err_set(e, -ENOTSUP, ERR_WRONG_STATE, "the VM is off; copy its image with cairn-img convert");
	if (!r)
		r = machine_copy_find(m, what, &p->disk, e);
	if (r < 0)
		return job_refuse(vm, p, fd, r);
	block_info(p->disk->block, &info);
	p->size_bytes = info.size_bytes;
	p->rate_bytes_per_s = what->rate_bytes_per_s;
	p->format = what->format;
	p->then_pivot = what->then_pivot;
	p->fd = fd;
	job_begin(p, done, opaque);
	vmsnap_job_stage(&p->j, copy_run, copy_done);
	return 0;
}

int vm_disk_copy_end(struct vm *vm, struct worker *w, const char *disk, const struct vm_disk *pivot, int fd, bool check_only,
	vm_snapshot_done_fn *done, void *opaque, struct err *e)
{
	struct copy_job *p = vmsnap_job_new_on_copy(sizeof(*p), vm, w, "blockjob", e);
	struct machine *m = vm_machine(vm);
	int r = p ? machine_copy_find_begun(m, disk, &p->disk, e) : -EBUSY;

	if (r < 0)
		return job_refuse(vm, p, fd, r);
	if (pivot) {
		p->pivot_to = *pivot;
		p->pivot = &p->pivot_to;
	}
	p->fd = fd;
	p->check_only = check_only;
	job_begin(p, done, opaque);
	vmsnap_job_stage(&p->j, hold_run, hold_done);
	return 0;
}
