#include "fixture_powerload.h"

#include "block/qcow2/qcow2.h"

#define VM_BYTES (192 * KIB)

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

static void load_start(struct recorder *r, struct load_op *all, struct load_op *op)
{
	struct fixture *f = r->f;
	uint64_t kind = fixture_random(f) % 10, len = (1 + fixture_random(f) % 40) * 512;
	uint64_t off = fixture_random(f) % (r->disk_bytes / 512) * 512;
	struct event *ev;

	if (kind >= 7) {
		len = 128 * KIB;
		off = ROUND_DOWN(off, 64 * KIB);
	}
	len = MIN(len, r->disk_bytes - off);
	/* The result of two concurrent writes to a sector is undefined, so avoid them. */
	for (unsigned i = 0; i < LOAD_DEPTH; i++)
		if (all[i].busy && off < all[i].req.offset + all[i].req.len &&
			all[i].req.offset < off + len)
			return;
	ev = record(r, EV_TOUCH);
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
	block_submit(r->b, &op->req);
}

/* Run batches of a few operations, each ended by a flush. Then read the disk: a cut must not lose
 * this content. */
void load_run(struct recorder *r, unsigned batches)
{
	struct load_op ops[LOAD_DEPTH] = { 0 };
	struct fixture *f = r->f;

	if (r->quiet)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
		ops[i].buf = aligned_alloc(4096, 128 * KIB);
	while (batches--) {
		/* Sometimes write more than the bound on dirty tables allows to be pending. */
		for (unsigned n = 2 + fixture_random(f) % (batches % 8 ? 12 : 90); n; loop_run_once(f->loop, 0))
			for (unsigned i = 0; i < ARRAY_SIZE(ops) && n; i++)
				if (!ops[i].busy) {
					load_start(r, ops, &ops[i]);
					n--;
				}
		while (block_in_flight(r->b))
			loop_run_once(f->loop, UINT64_MAX);
		assert_int_equal(fixture_op(r->b, BLOCK_FLUSH, 0, 0, 0), 0);
		record_flushed(r);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
		free(ops[i].buf);
}

/* ---- snapshots meanwhile ---- */

struct snapshot_wait {
	struct block_snapshot_op op;
	bool over;
};

static void snapshot_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	if (res < 0)
		fail_msg("snapshot: %s", e->msg);
	container_of(op, struct snapshot_wait, op)->over = true;
}

static void snapshot_wait(struct fixture *f, struct snapshot_wait *w)
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

/* Build a VM state from the parent's with some pieces of its own; vm is the expected content. */
static void vm_make(struct recorder *r, struct block_snapshot *s, const struct known_snapshot *parent,
	uint8_t *vm)
{
	struct fixture *f = r->f;

	if (parent && parent->vm_bytes) {
		struct vm_wait v = { .req = { .len = VM_BYTES, .done = vm_done } };
		char name[16];

		snprintf(name, sizeof(name), "%u", parent->id);
		block_snapshot_vmstate_share(s, name, &v.req);
		while (!v.over)
			loop_run_once(f->loop, UINT64_MAX);
		memcpy(vm, parent->vm, VM_BYTES);
	}
	vm_put(f, s, fixture_random(f) % 16 * 4096, vm, 32 * KIB);
	load_run(r, 1);
	vm_put(f, s, (16 + fixture_random(f) % 16) * 4096, vm, 64 * KIB);
}

/* Return the highest id plus one, as the engine chooses it. */
static unsigned next_id(const struct recorder *r)
{
	unsigned max = 0;

	for (unsigned i = 0; i < r->nsnapshots; i++)
		max = MAX(max, r->snapshots[i].id);
	return max + 1;
}

void load_pin_id(size_t number, uint8_t ret[BLOCK_PIN_ID_BYTES])
{
	memset(ret, 0x5a, BLOCK_PIN_ID_BYTES);
	memcpy(ret, &number, sizeof(number));
}

static int file_open(struct recorder *r, const char *name, int flags)
{
	char path[128];
	int fd;

	fixture_path(r->f, name, path, sizeof(path));
	fd = open(path, flags | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	return fd;
}

static void pin_note(struct recorder *r, size_t number)
{
	struct record_pin *p = &r->pins[r->npins++];
	uint8_t id[BLOCK_PIN_ID_BYTES];
	int fd = file_open(r, "img", O_RDONLY);

	assert_true(r->npins <= RECORD_PINS_MAX);
	p->number = number;
	load_pin_id(number, id);
	if (qcow2_pin_read(fd, "img", id, &p->pin, &r->f->err) < 0)
		fail_msg("%s", r->f->err.msg);
	close(fd);
}

void load_overlays(struct recorder *r)
{
	for (unsigned i = 0; i < r->npins; i++) {
		char name[32];
		int fd;

		snprintf(name, sizeof(name), "fork%zu", r->pins[i].number);
		fd = file_open(r, name, O_RDWR | O_CREAT);
		assert_int_equal(qcow2_pin_overlay(fd, &r->pins[i].pin, "cut", &r->f->err), 0);
		close(fd);
	}
}

/* parent: as for load_snapshot_make(). */
static void snapshot_make(struct recorder *r, int parent, bool pin)
{
	struct block_snapshot_info info = { .vm_state_bytes = VM_BYTES };
	uint8_t pin_id[BLOCK_PIN_ID_BYTES];
	struct snapshot_wait w = { .op.done = snapshot_done };
	uint8_t *vm = aligned_alloc(4096, VM_BYTES), *disk = calloc(1, RECORD_DISK_MAX);
	uint64_t bytes = r->disk_bytes, vm_bytes = pin ? 0 : VM_BYTES;
	unsigned id = next_id(r);
	struct block_snapshot *s;
	struct event *ev;
	size_t number;

	assert_int_equal(fixture_rw(r->b, BLOCK_READ, 0, disk, bytes), 0);
	assert_int_equal(block_snapshot_begin(r->b, &s, &r->f->err), 0);
	ev = record(r, EV_SNAPSHOT_MAKE);
	*ev = (struct event){ .kind = EV_SNAPSHOT_MAKE, .of = id, .data = disk, .len = bytes, .vm = vm,
		.vm_bytes = vm_bytes, .pin = pin };
	number = r->n - 1;
	memset(vm, 0, VM_BYTES);
	load_run(r, 1);
	snprintf(info.name, sizeof(info.name), "snap%u", id);
	load_pin_id(number, pin_id);
	if (pin)
		qcow2_pin_mark(&info, pin_id);
	else
		vm_make(r, s, parent < 0 ? NULL : &r->snapshots[parent], vm);
	block_snapshot_commit(s, &info, &w.op);
	load_run(r, 2);
	snapshot_wait(r->f, &w);
	assert_int_equal(atoi(w.op.id), id);
	record(r, EV_SNAPSHOT_THERE)->of = id;
	r->snapshots[r->nsnapshots++] = (struct known_snapshot){ id, disk, vm, bytes, vm_bytes, pin ? number : 0 };
	if (pin)
		pin_note(r, number);
}

/* Pin the content of a snapshot while the guest writes. */
static void snapshot_pin(struct recorder *r, unsigned index)
{
	struct snapshot_wait w = { .op.done = snapshot_done };
	struct known_snapshot s = r->snapshots[index];
	uint8_t *vm = calloc(1, VM_BYTES), *disk = malloc(RECORD_DISK_MAX), pin_id[BLOCK_PIN_ID_BYTES];
	unsigned id = next_id(r);
	size_t number;
	char name[16];

	memcpy(disk, s.disk, RECORD_DISK_MAX);
	*record(r, EV_SNAPSHOT_MAKE) = (struct event){ .kind = EV_SNAPSHOT_MAKE, .of = id, .data = disk,
		.len = s.disk_bytes, .vm = vm, .pin = true };
	number = r->n - 1;
	load_pin_id(number, pin_id);
	snprintf(name, sizeof(name), "%u", s.id);
	block_pin_snapshot(r->b, name, pin_id, &w.op);
	load_run(r, 2);
	snapshot_wait(r->f, &w);
	assert_int_equal(atoi(w.op.id), id);
	record(r, EV_SNAPSHOT_THERE)->of = id;
	r->snapshots[r->nsnapshots++] = (struct known_snapshot){ id, disk, vm, s.disk_bytes, 0, number };
	pin_note(r, number);
}

void load_snapshot_make(struct recorder *r, int parent)
{
	snapshot_make(r, parent, false);
}

void load_snapshot_delete(struct recorder *r, unsigned index)
{
	struct snapshot_wait w = { .op.done = snapshot_done };
	struct known_snapshot s = r->snapshots[index];
	uint8_t pin_id[BLOCK_PIN_ID_BYTES];
	unsigned id = s.id;
	char name[16];

	snprintf(name, sizeof(name), "%u", id);
	record(r, EV_SNAPSHOT_DELETE)->of = id;
	r->snapshots[index] = r->snapshots[--r->nsnapshots];
	load_pin_id(s.pin, pin_id);
	if (s.pin)
		block_pin_delete(r->b, pin_id, &w.op);
	else
		block_snapshot_delete(r->b, name, &w.op);
	load_run(r, 2);
	snapshot_wait(r->f, &w);
	record(r, EV_SNAPSHOT_GONE)->of = id;
}

void load_snapshot_apply(struct recorder *r, unsigned index)
{
	struct snapshot_wait w = { .op.done = snapshot_done };
	char name[16];

	snprintf(name, sizeof(name), "%u", r->snapshots[index].id);
	record(r, EV_SNAPSHOT_APPLY)->of = r->snapshots[index].id;
	block_snapshot_apply(r->b, name, &w.op);
	snapshot_wait(r->f, &w);
	r->disk_bytes = r->snapshots[index].disk_bytes;
	record_flushed(r);
}

void load_resize(struct recorder *r, uint64_t bytes)
{
	struct event *ev;

	if (bytes < r->disk_bytes) { /* content may be zero during the operation */
		ev = record(r, EV_TOUCH);
		ev->offset = bytes;
		ev->len = r->disk_bytes - bytes;
	}
	record(r, EV_RESIZE)->len = bytes;
	if (block_resize(r->b, bytes, &r->f->err) < 0)
		fail_msg("%s", r->f->err.msg);
	r->disk_bytes = bytes;
	record_flushed(r);
}

void load_snapshots(struct recorder *r)
{
	load_run(r, 3);
	load_snapshot_make(r, -1);
	load_run(r, 3);
	load_snapshot_make(r, 0);
	load_run(r, 2);
	load_snapshot_delete(r, 0);
	load_run(r, 2);
	load_snapshot_apply(r, 0);
	load_run(r, 2);
	load_snapshot_make(r, -1);
	load_snapshot_apply(r, 0);
	load_snapshot_delete(r, 0);
	load_run(r, 2);
	load_snapshot_delete(r, 0);
	load_run(r, 1);
}

void load_pins(struct recorder *r, bool quiet)
{
	r->quiet = quiet;
	load_run(r, 2);
	snapshot_make(r, -1, true);
	load_run(r, 2);
	load_snapshot_make(r, -1);
	load_run(r, 1);
	snapshot_make(r, -1, true);
	load_run(r, 2);
	load_snapshot_apply(r, 1);
	load_run(r, 2);
	load_snapshot_delete(r, 1); /* the snapshot; the second pin takes its place in the list */
	load_run(r, 1);
	load_snapshot_delete(r, 0);
	load_run(r, 1);
	snapshot_make(r, -1, true);
	load_snapshot_delete(r, 0);
	load_run(r, 1);
}

void load_pins_of_snapshots(struct recorder *r, bool quiet)
{
	r->quiet = quiet;
	load_run(r, 2);
	load_snapshot_make(r, -1);
	load_run(r, 2);
	snapshot_pin(r, 0);
	load_run(r, 1);
	load_snapshot_delete(r, 0); /* the snapshot; the pin takes its place in the list */
	load_run(r, 1);
	load_snapshot_make(r, -1);
	snapshot_pin(r, 1);
	load_snapshot_apply(r, 1);
	load_run(r, 1);
	load_snapshot_delete(r, 0); /* the first pin */
	load_run(r, 1);
}

/* ---- at random ---- */

/* Nobody has the image open: trim it, or rebuild its refcounts with another width. */
static void offline(struct recorder *r)
{
	struct qcow2_header h;
	char path[128];
	int fd, res;

	fixture_path(r->f, "img", path, sizeof(path));
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(qcow2_header_read(fd, "img", &h, &r->f->err), 0);
	if (fixture_random(r->f) % 2)
		res = qcow2_trim(fd, &h, &r->f->err);
	else
		res = qcow2_refcounts_rebuild(fd, &h,
			h.version < 3 ? 4 : 3 + (uint32_t)(fixture_random(r->f) % 4), &r->f->err);
	if (res < 0 && res != -EUCLEAN) /* after a cut it may have leaks */
		fail_msg("%s", r->f->err.msg);
	close(fd);
}

static void reopen(struct recorder *r)
{
	record_close(r);
	if (fixture_random(r->f) % 2)
		offline(r);
	record_open(r);
}

/* Begin a snapshot and abort it. */
static void snapshot_abort(struct recorder *r)
{
	struct snapshot_wait w = { .op.done = snapshot_done };
	uint8_t *vm = aligned_alloc(4096, VM_BYTES);
	struct block_snapshot *s;

	assert_int_equal(block_snapshot_begin(r->b, &s, &r->f->err), 0);
	load_run(r, 1);
	vm_make(r, s, r->nsnapshots ? &r->snapshots[0] : NULL, vm);
	block_snapshot_abort(s, &w.op);
	load_run(r, 1);
	snapshot_wait(r->f, &w);
	free(vm);
}

static void snapshot_rename(struct recorder *r, unsigned index)
{
	struct snapshot_wait w = { .op.done = snapshot_done };
	struct block_snapshot_info info = { .extra_bytes = fixture_random(r->f) % 900 };

	snprintf(info.id, sizeof(info.id), "%u", r->snapshots[index].id);
	snprintf(info.name, sizeof(info.name), "other%u", r->snapshots[index].id);
	block_snapshot_update(r->b, &info, &w.op);
	load_run(r, 1);
	snapshot_wait(r->f, &w);
}

void load_quiet(struct recorder *r)
{
	r->quiet = true;
	load_snapshot_make(r, -1);
	load_snapshot_make(r, 1);
	snapshot_abort(r);
	snapshot_rename(r, 1);
	load_snapshot_delete(r, 1);
	load_snapshot_apply(r, 0);
	load_snapshot_apply(r, 1);
	load_snapshot_delete(r, 0);
	load_snapshot_delete(r, 0);
}

static void random_size(struct recorder *r)
{
	uint64_t bytes = (1 + fixture_random(r->f) % (RECORD_DISK_MAX / 512)) * 512;

	load_resize(r, fixture_random(r->f) % 2 ? MAX(ROUND_DOWN(bytes, 64 * KIB), 64 * KIB) : bytes);
}

static void random_step(struct recorder *r, bool fixed_size, bool no_snapshots)
{
	uint64_t kind = fixture_random(r->f) % 10, which = fixture_random(r->f);

	if (kind == 0 && !fixed_size)
		random_size(r);
	else if (kind == 1)
		reopen(r);
	else if (kind < 4 && r->nsnapshots < 4 && !no_snapshots && next_id(r) < RECORD_SNAPSHOTS_MAX)
		load_snapshot_make(r, r->nsnapshots && which % 2 ? (int)(which / 2 % r->nsnapshots) : -1);
	else if (kind == 4 && r->nsnapshots)
		load_snapshot_delete(r, (unsigned)(which % r->nsnapshots));
	else if (kind == 5 && r->nsnapshots)
		load_snapshot_apply(r, (unsigned)(which % r->nsnapshots));
	else if (kind == 6 && !no_snapshots)
		snapshot_abort(r);
	else if (kind == 7 && r->nsnapshots)
		snapshot_rename(r, (unsigned)(which % r->nsnapshots));
	else
		load_run(r, 1 + (unsigned)(which % 3));
}

void load_random(struct recorder *r, unsigned steps, bool fixed_size, bool no_snapshots)
{
	load_run(r, 1);
	while (steps--)
		random_step(r, fixed_size, no_snapshots);
}
