/* Power cuts. What the engine asks of the file is recorded while random operations run;
 * then, at points of that record, an image is made of everything that a sync had made
 * durable and of any of the rest, in any choice. Each of these has to open, its faults must be
 * leaks only, and all data flushed before has to be there. */
#include "fixture_powercut.h"

#include "base/util.h"
#include "block/block_snapshot.h"
#include "block/qcow2.h"

#include <linux/falloc.h>
#include <sys/stat.h>

#define DISK_BYTES (1 * MIB)
#define IMAGE_BYTES_MAX (16 * MIB)
#define SECTORS (DISK_BYTES / 512)
#define VM_BYTES (192 * KIB)
#define SNAPS_MAX 16
#define CUTS 100 /* per image, and those beside syncs */

enum event_kind { EV_WRITE, EV_PUNCH, EV_COMPLETE, EV_SYNC, EV_TOUCH, EV_FLUSHED,
	/* of snapshot number `of`: one is being made, of the content `data`, with the VM state `vm`; it
	 * is there; it is being deleted; it is gone; the disk is becoming it */
	EV_SNAP_MAKE, EV_SNAP_THERE, EV_SNAP_DELETE, EV_SNAP_GONE, EV_SNAP_APPLY };

struct event {
	enum event_kind kind;
	struct loop_op *op;
	uint64_t offset, len;
	uint8_t *data; /* WRITE, TOUCH: the bytes (NULL: zeros); FLUSHED: the disk's content */
	uint8_t *vm;   /* SNAP_MAKE: VM_BYTES */
	size_t of;     /* COMPLETE: the event it completes; SNAP_*: the snapshot's id */
};

struct recorder {
	struct loop_trace trace;
	bool snapshots; /* come and go */
	struct event *ev;
	size_t n, cap;
};

static struct event *record(struct recorder *r, enum event_kind kind)
{
	if (r->n == r->cap) {
		r->cap = r->cap ? 2 * r->cap : 1024;
		r->ev = realloc(r->ev, r->cap * sizeof(*r->ev));
	}
	r->ev[r->n] = (struct event){ .kind = kind };
	return &r->ev[r->n++];
}

static void on_submit(struct loop_trace *t, struct loop_op *op, enum loop_op_kind kind, int fd,
	const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t len, int mode)
{
	struct recorder *r = container_of(t, struct recorder, trace);
	struct event *ev;

	(void)fd;
	if (kind == LOOP_OP_FALLOCATE && !(mode & FALLOC_FL_PUNCH_HOLE))
		return; /* the file grows: zeros, which are there anyway */
	if (kind != LOOP_OP_WRITE && kind != LOOP_OP_SYNC && kind != LOOP_OP_FALLOCATE)
		return;
	ev = record(r, kind == LOOP_OP_WRITE ? EV_WRITE : kind == LOOP_OP_SYNC ? EV_SYNC : EV_PUNCH);
	ev->op = op;
	ev->offset = offset;
	ev->len = len;
	if (kind != LOOP_OP_WRITE)
		return;
	for (unsigned i = 0; i < niov; i++)
		ev->len += iov[i].iov_len;
	ev->data = malloc(ev->len);
	for (unsigned i = 0, at = 0; i < niov; at += (unsigned)iov[i++].iov_len)
		memcpy(ev->data + at, iov[i].iov_base, iov[i].iov_len);
}

static void on_complete(struct loop_trace *t, struct loop_op *op, int res)
{
	struct recorder *r = container_of(t, struct recorder, trace);

	for (size_t i = r->n; i-- > 0;) {
		if (r->ev[i].op != op)
			continue;
		if (res < 0)
			fail_msg("I/O failed: %s", strerror(-res));
		r->ev[i].op = NULL;
		record(r, EV_COMPLETE)->of = i;
		return;
	}
}

/* ---- the workload ---- */

#define LOAD_DEPTH 6

struct load_op {
	struct block_req req;
	struct iovec iov;
	uint8_t *buf;
	bool busy;
};

static void load_done(struct block_req *r, int res)
{
	assert_int_equal(res, 0);
	container_of(r, struct load_op, req)->busy = false;
}

static void load_start(struct fixture *f, struct recorder *rec, struct block *b,
	struct load_op *all, struct load_op *op)
{
	uint64_t kind = fixture_random(f) % 10, len = (1 + fixture_random(f) % 40) * 512;
	uint64_t off = fixture_random(f) % SECTORS * 512;
	struct event *ev;

	if (kind >= 7) {
		len = 128 * KIB;
		off = ROUND_DOWN(off, 64 * KIB);
	}
	len = MIN(len, DISK_BYTES - off);
	/* The outcome of two writes to one sector at a time is nobody's promise. */
	for (unsigned i = 0; i < LOAD_DEPTH; i++)
		if (all[i].busy && off < all[i].req.offset + all[i].req.len &&
			all[i].req.offset < off + len)
			return;
	ev = record(rec, EV_TOUCH);
	ev->offset = off;
	ev->len = len;
	op->busy = true;
	op->iov = (struct iovec){ op->buf, len };
	op->req = (struct block_req){ .offset = off, .len = len, .iov = &op->iov, .niov = 1,
		.done = load_done, .flags = kind == 9 ? 0 : BLOCK_REQ_MAY_UNMAP,
		.op = kind < 7 ? BLOCK_WRITE : kind == 7 ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES };
	if (kind < 7) {
		op->req.flags = 0;
		for (uint64_t i = 0; i < len; i += 8) {
			uint64_t v = fixture_random(f);

			memcpy(op->buf + i, &v, 8);
		}
	}
	if (kind < 7) {
		ev->data = malloc(len);
		memcpy(ev->data, op->buf, len);
	}
	block_submit(b, &op->req);
}

/* A few ops at a time, each batch ended by a flush: then the disk is read back, and that is
 * what a cut must not lose. */
static void load_run(struct fixture *f, struct recorder *rec, struct block *b, unsigned batches)
{
	struct load_op ops[LOAD_DEPTH] = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
		ops[i].buf = aligned_alloc(4096, 128 * KIB);
	while (batches--) {
		struct event *ev;
		uint8_t *now;

		/* Now and then more than the bound on dirty tables lets wait. */
		for (unsigned n = 2 + fixture_random(f) % (batches % 8 ? 12 : 90); n; loop_run_once(f->loop, 0))
			for (unsigned i = 0; i < ARRAY_SIZE(ops) && n; i++)
				if (!ops[i].busy) {
					load_start(f, rec, b, ops, &ops[i]);
					n--;
				}
		while (block_in_flight(b))
			loop_run_once(f->loop, UINT64_MAX);
		assert_int_equal(fixture_op(b, BLOCK_FLUSH, 0, 0, 0), 0);
		now = malloc(DISK_BYTES);
		ev = record(rec, EV_FLUSHED);
		ev->data = now;
		assert_int_equal(fixture_rw(b, BLOCK_READ, 0, now, DISK_BYTES), 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
		free(ops[i].buf);
}

/* ---- snapshots come and go meanwhile ---- */

struct snap_wait {
	struct block_snapshot_op op;
	bool over;
};

static void snap_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	if (res < 0)
		fail_msg("snapshot: %s", e->msg);
	container_of(op, struct snap_wait, op)->over = true;
}

static void snap_wait(struct fixture *f, struct snap_wait *w)
{
	while (!w->over)
		loop_run_once(f->loop, UINT64_MAX);
}

struct vm_wait {
	struct block_vmstate_req req;
	struct iovec iov;
	bool over;
};

static void vm_done(struct block_vmstate_req *r, int res)
{
	assert_int_equal(res, 0);
	container_of(r, struct vm_wait, req)->over = true;
}

static void vm_put(struct fixture *f, struct block_snapshot *s, uint64_t off, uint8_t *buf,
	uint64_t len)
{
	struct vm_wait w = { .iov = { buf + off, len }, .req = { .offset = off, .len = len, .niov = 1,
		.iov = &w.iov, .done = vm_done } };

	for (uint64_t i = 0; i < len; i++)
		buf[off + i] = (uint8_t)fixture_random(f);
	block_snapshot_vmstate_write(s, &w.req);
	while (!w.over)
		loop_run_once(f->loop, UINT64_MAX);
}

/* Of the parent's VM state with a piece of its own; the guest writes all the while. */
static void snap_make(struct fixture *f, struct recorder *rec, struct block *b, unsigned id,
	unsigned parent, const uint8_t *parent_vm)
{
	struct block_snapshot_info info = { .vm_state_bytes = VM_BYTES };
	struct snap_wait w = { .op.done = snap_done };
	uint8_t *vm = aligned_alloc(4096, VM_BYTES), *disk = malloc(DISK_BYTES);
	struct block_snapshot *s;
	struct event *ev;

	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, disk, DISK_BYTES), 0);
	assert_int_equal(block_snapshot_begin(b, &s, &f->err), 0);
	ev = record(rec, EV_SNAP_MAKE);
	ev->of = id;
	ev->data = disk;
	ev->vm = vm;
	memset(vm, 0, VM_BYTES);
	load_run(f, rec, b, 1);
	if (parent) {
		struct vm_wait v = { .req = { .len = VM_BYTES, .done = vm_done } };
		char name[16];

		snprintf(name, sizeof(name), "%u", parent);
		block_snapshot_vmstate_share(s, name, &v.req);
		while (!v.over)
			loop_run_once(f->loop, UINT64_MAX);
		memcpy(vm, parent_vm, VM_BYTES);
	}
	vm_put(f, s, fixture_random(f) % 16 * 4096, vm, 32 * KIB);
	load_run(f, rec, b, 1);
	vm_put(f, s, (16 + fixture_random(f) % 16) * 4096, vm, 64 * KIB);
	snprintf(info.name, sizeof(info.name), "snap%u", id);
	block_snapshot_commit(s, &info, &w.op);
	load_run(f, rec, b, 2);
	snap_wait(f, &w);
	assert_int_equal(atoi(w.op.id), id);
	record(rec, EV_SNAP_THERE)->of = id;
}

static void snap_delete(struct fixture *f, struct recorder *rec, struct block *b, unsigned id)
{
	struct snap_wait w = { .op.done = snap_done };
	char name[16];

	snprintf(name, sizeof(name), "%u", id);
	record(rec, EV_SNAP_DELETE)->of = id;
	block_snapshot_delete(b, name, &w.op);
	load_run(f, rec, b, 2);
	snap_wait(f, &w);
	record(rec, EV_SNAP_GONE)->of = id;
}

static void snap_apply(struct fixture *f, struct recorder *rec, struct block *b, unsigned id)
{
	struct snap_wait w = { .op.done = snap_done };
	uint8_t *now = malloc(DISK_BYTES);
	char name[16];

	snprintf(name, sizeof(name), "%u", id);
	record(rec, EV_SNAP_APPLY)->of = id;
	block_snapshot_apply(b, name, &w.op);
	snap_wait(f, &w);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, now, DISK_BYTES), 0);
	record(rec, EV_FLUSHED)->data = now;
}

static void snapshots_run(struct fixture *f, struct recorder *rec, struct block *b)
{
	uint8_t *vm;

	load_run(f, rec, b, 3);
	snap_make(f, rec, b, 1, 0, NULL);
	for (size_t i = rec->n; rec->ev[--i].kind != EV_SNAP_MAKE || !(vm = rec->ev[i].vm);)
		;
	load_run(f, rec, b, 3);
	snap_make(f, rec, b, 2, 1, vm);
	load_run(f, rec, b, 2);
	snap_delete(f, rec, b, 1);
	load_run(f, rec, b, 2);
	snap_apply(f, rec, b, 2);
	load_run(f, rec, b, 2);
	snap_make(f, rec, b, 3, 0, NULL);
	snap_apply(f, rec, b, 2);
	snap_delete(f, rec, b, 2);
	load_run(f, rec, b, 2);
	snap_delete(f, rec, b, 3);
	load_run(f, rec, b, 1);
}

/* ---- the cuts ---- */

enum snap_fate { FATE_NONE, FATE_MAYBE, FATE_THERE };
struct snap_replay {
	enum snap_fate fate;
	const struct event *make;
};

struct replay {
	struct recorder *rec;
	uint8_t *durable; /* the image as the last sync left it */
	uint64_t bytes;	  /* its length at most */
	bool *applied;	  /* by event */
	bool *complete;
	const uint8_t *flushed;
	size_t flushed_at;
	bool touched[SECTORS];
	struct snap_replay snaps[SNAPS_MAX];
	const uint8_t *applied_of; /* the disk may be this as well */
	unsigned checks, leaky;
};

static void apply(uint8_t *image, const struct event *ev)
{
	assert_true(ev->offset + ev->len <= IMAGE_BYTES_MAX);
	if (ev->kind == EV_WRITE)
		memcpy(image + ev->offset, ev->data, ev->len);
	else
		memset(image + ev->offset, 0, ev->len);
}

static bool changes(const struct event *ev)
{
	return ev->kind == EV_WRITE || ev->kind == EV_PUNCH;
}

/* A sector that was changed since the flush holds what it had then, or what one of the
 * changes put there: never another sector's content. */
static bool one_of(const struct replay *p, size_t k, size_t s, const uint8_t *sector)
{
	static const uint8_t zeros[512];

	for (size_t i = p->flushed_at; i <= k; i++) {
		const struct event *ev = &p->rec->ev[i];

		if (ev->kind != EV_TOUCH || s * 512 < ev->offset || s * 512 >= ev->offset + ev->len)
			continue;
		if (!memcmp(sector, ev->data ? ev->data + s * 512 - ev->offset : zeros, 512))
			return true;
	}
	return !memcmp(sector, p->flushed + s * 512, 512);
}

/* Each is whole or absent. */
static void cut_snapshot(struct fixture *f, struct replay *p, struct block *b, const char *id, size_t k)
{
	const struct event *make = p->snaps[atoi(id)].make;
	uint8_t *disk = aligned_alloc(4096, DISK_BYTES);
	struct block *s;

	if (fixture_vm_read(f, b, id, disk, VM_BYTES) < 0 || memcmp(disk, make->vm, VM_BYTES) != 0)
		fail_msg("cut after %zu: the VM state of snapshot %s is damaged", k, id);
	f->snapshot = id;
	s = fixture_open(f, "cut", BLOCK_FORMAT_QCOW2, true);
	f->snapshot = NULL;
	assert_int_equal(fixture_rw(s, BLOCK_READ, 0, disk, DISK_BYTES), 0);
	if (memcmp(disk, make->data, DISK_BYTES) != 0)
		fail_msg("cut after %zu: snapshot %s is damaged", k, id);
	block_close(s);
	free(disk);
}

static void cut_snapshots(struct fixture *f, struct replay *p, struct block *b, size_t k)
{
	struct block_snapshot_info *list;
	bool found[SNAPS_MAX] = { false };
	size_t n;

	assert_int_equal(block_snapshot_list(b, &list, &n, &f->err), 0);
	for (size_t i = 0; i < n; i++) {
		int id = atoi(list[i].id);

		if (!p->rec->snapshots)
			continue; /* it was there before */
		assert_true(id > 0 && id < SNAPS_MAX);
		if (p->snaps[id].fate == FATE_NONE)
			fail_msg("cut after %zu: snapshot %d should not be there", k, id);
		found[id] = true;
		cut_snapshot(f, p, b, list[i].id, k);
	}
	for (int i = 0; i < SNAPS_MAX; i++)
		if (p->snaps[i].fate == FATE_THERE && !found[i])
			fail_msg("cut after %zu: snapshot %d is lost", k, i);
	free(list);
}

/* The power went out after event k: what a sync had not covered is there or not, whole
 * or in part. */
static void cut(struct fixture *f, struct replay *p, size_t k)
{
	uint8_t *image = malloc(IMAGE_BYTES_MAX), *disk = aligned_alloc(4096, DISK_BYTES);
	struct qcow2_check c = { 0 };
	struct qcow2_header h;
	struct block *b;
	char path[128];
	int fd, mood = (int)(fixture_random(f) % 4);

	memcpy(image, p->durable, IMAGE_BYTES_MAX);
	for (size_t i = 0; i <= k; i++) {
		struct event ev = p->rec->ev[i];

		if (!changes(&ev) || p->applied[i] || mood == 0)
			continue;
		if (mood == 1 || fixture_random(f) % 2) {
			if (mood == 3 && !(fixture_random(f) % 4)) /* torn */
				ev.len = ROUND_DOWN(fixture_random(f) % (ev.len + 1), 512);
			apply(image, &ev);
		}
	}
	fixture_path(f, "cut", path, sizeof(path));
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_int_equal(pwrite(fd, image, p->bytes, 0), p->bytes);
	if (qcow2_header_read(fd, "cut", &h, &f->err) < 0 || qcow2_check(fd, &h, &c, &f->err) < 0)
		fail_msg("cut after %zu: %s", k, f->err.msg);
	if (c.corruptions || c.errors) {
		fixture_run(f, "qemu-img check cut");
		fail_msg("cut after %zu: corrupt", k);
	}
	p->leaky += c.leaks > 0;
	close(fd);
	/* While a snapshot comes or goes, COPIED and a refcount cannot change in one write: QEMU,
	 * too, mends that with the leaks. */
	if (!(p->checks++ % 40))
		fixture_run(f, "cp cut mend && qemu-img check -q -f qcow2 -r leaks mend && "
			"qemu-img check -q -f qcow2 mend");
	b = fixture_open(f, "cut", BLOCK_FORMAT_QCOW2, true);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, disk, DISK_BYTES), 0);
	if (p->applied_of && !memcmp(disk, p->applied_of, DISK_BYTES))
		memcpy(disk, p->flushed, DISK_BYTES); /* it has become the snapshot */
	for (size_t s = 0; s < SECTORS && p->flushed; s++)
		if (p->touched[s] && !one_of(p, k, s, disk + s * 512))
			fail_msg("cut after %zu: sector %zu has what was never written there", k, s);
		else if (!p->touched[s] && memcmp(disk + s * 512, p->flushed + s * 512, 512))
			fail_msg("cut after %zu: flushed sector %zu is lost", k, s);
	cut_snapshots(f, p, b, k);
	block_close(b);
	free(image);
	free(disk);
}

/* A sync that has ended makes durable what was complete when it was asked for. */
static void synced(struct replay *p, size_t sync)
{
	for (size_t i = 0; i < sync; i++)
		if (changes(&p->rec->ev[i]) && !p->applied[i] && p->complete[i]) {
			size_t done = i;

			while (p->rec->ev[done].kind != EV_COMPLETE || p->rec->ev[done].of != i)
				done++;
			if (done > sync)
				continue;
			apply(p->durable, &p->rec->ev[i]);
			p->applied[i] = true;
		}
}

static void step(struct replay *p, size_t k)
{
	const struct event *ev = &p->rec->ev[k];

	if (ev->kind == EV_COMPLETE) {
		p->complete[ev->of] = true;
		if (p->rec->ev[ev->of].kind == EV_SYNC)
			synced(p, ev->of);
	} else if (ev->kind == EV_TOUCH) {
		for (uint64_t o = ev->offset; o < ev->offset + ev->len; o += 512)
			p->touched[o / 512] = true;
	} else if (ev->kind == EV_FLUSHED) {
		p->flushed = ev->data;
		p->applied_of = NULL;
		p->flushed_at = k;
		memset(p->touched, 0, sizeof(p->touched));
	} else if (ev->kind == EV_SNAP_MAKE) {
		p->snaps[ev->of] = (struct snap_replay){ FATE_MAYBE, ev };
	} else if (ev->kind == EV_SNAP_THERE) {
		p->snaps[ev->of].fate = FATE_THERE;
	} else if (ev->kind == EV_SNAP_DELETE) {
		p->snaps[ev->of].fate = FATE_MAYBE;
	} else if (ev->kind == EV_SNAP_GONE) {
		p->snaps[ev->of].fate = FATE_NONE;
	} else if (ev->kind == EV_SNAP_APPLY) {
		p->applied_of = p->snaps[ev->of].make->data;
	} else if (ev->kind == EV_WRITE) {
		p->bytes = MAX(p->bytes, ev->offset + ev->len);
	}
}

/* A sync is near: what was written just before and just after it tells most. */
static bool in_commit(const struct recorder *rec, size_t k)
{
	for (size_t i = k; i < rec->n && i < k + 2; i++)
		if (rec->ev[i].kind == EV_SYNC)
			return true;
	for (size_t i = k; i > 0 && i + 4 > k; i--)
		if (rec->ev[i].kind == EV_COMPLETE && rec->ev[rec->ev[i].of].kind == EV_SYNC)
			return true;
	return false;
}

static bool header_pending(const struct replay *p, size_t k)
{
	for (size_t i = 0; i <= k; i++)
		if (p->rec->ev[i].kind == EV_WRITE && !p->rec->ev[i].offset && !p->applied[i])
			return true;
	return false;
}

static void replay(struct fixture *f, struct recorder *rec, const char *before, unsigned cuts)
{
	struct replay *p = calloc(1, sizeof(*p));
	char path[128];
	size_t every = rec->n / cuts + 1;
	int fd;

	p->rec = rec;
	p->durable = calloc(1, IMAGE_BYTES_MAX);
	p->applied = calloc(rec->n, sizeof(bool));
	p->complete = calloc(rec->n, sizeof(bool));
	fixture_path(f, before, path, sizeof(path));
	fd = open(path, O_RDONLY);
	p->bytes = (uint64_t)pread(fd, p->durable, IMAGE_BYTES_MAX, 0);
	close(fd);
	for (size_t k = 0; k < rec->n; k++) {
		step(p, k);
		/* Anywhere, and above all while the tables are being written, and the header: look
		 * at several choices then. */
		for (unsigned i = 0; i < (rec->snapshots ? 1 : 6) && header_pending(p, k); i++)
			cut(f, p, k);
		if (k % every == fixture_random(f) % every || (in_commit(rec, k) && !(fixture_random(f) % 3)))
			cut(f, p, k);
	}
	print_message("%zu events, %u cuts, %u with leaks\n", rec->n, p->checks, p->leaky);
	assert_true(p->checks > cuts / 4);
	free(p->durable);
	free(p->applied);
	free(p->complete);
	free(p);
}

void powercut(const char *create, unsigned seed, bool moves, bool snapshots)
{
	struct recorder rec = { .trace = { on_submit, on_complete }, .snapshots = snapshots };
	struct fixture f;
	struct block *b;

	fixture_begin(&f, seed);
	f.cache_bytes = 1; /* the smallest: tables come and go */
	fixture_run(&f, "%s && cp img before", create);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	loop_trace(f.loop, &rec.trace);
	if (snapshots)
		snapshots_run(&f, &rec, b);
	else
		load_run(&f, &rec, b, 40);
	loop_trace(f.loop, NULL);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img");
	assert_int_equal(moves,
		fixture_peek_be(&f, "img", 48, 8) != fixture_peek_be(&f, "before", 48, 8));
	replay(&f, &rec, "before", CUTS);
	for (size_t i = 0; i < rec.n; i++) {
		free(rec.ev[i].data);
		free(rec.ev[i].vm);
	}
	free(rec.ev);
	fixture_end(&f);
}

