#include "fixture_powerload.h"

#include "block/qcow2/bitmap.h"
#include "block/qcow2/qcow2.h"

#define VM_BYTES (192 * KIB)

/* ---- the workload ---- */

#define LOAD_DEPTH 6

struct load_op {
	struct block_req req;
	struct iovec iov;
	const struct record_disk *disk;
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
	uint64_t off = fixture_random(f) % (r->disk->bytes / 512) * 512;
	struct event *ev;

	if (kind >= 7) {
		len = 128 * KIB;
		off = ROUND_DOWN(off, 64 * KIB);
	}
	len = MIN(len, r->disk->bytes - off);
	/* The result of two concurrent writes to a sector is undefined, so avoid them. */
	for (unsigned i = 0; i < LOAD_DEPTH; i++)
		if (all[i].busy && all[i].disk == r->disk && off < all[i].req.offset + all[i].req.len &&
			all[i].req.offset < off + len)
			return;
	ev = record(r, EV_TOUCH);
	ev->offset = off;
	ev->len = len;
	op->busy = true;
	op->disk = r->disk;
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
	block_submit(r->disk->b, &op->req);
}

/* Let r->disk be any of the open disks. */
static void disk_choose(struct recorder *r)
{
	while (r->ndisks > 1) {
		r->disk = &r->disks[fixture_random(r->f) % r->ndisks];
		if (r->disk->b)
			return;
	}
}

/* Wait for the disk's requests and flush it. Then read the disk: a cut must not lose this content. */
static void disk_flush(struct recorder *r)
{
	while (block_in_flight(r->disk->b))
		loop_run_once(r->f->loop, UINT64_MAX);
	assert_int_equal(fixture_op(r->disk->b, BLOCK_FLUSH, 0, 0, 0), 0);
	record_flushed(r);
}

/* Run batches of a few operations on all open disks at once; each batch ends with the flush of a disk. */
void load_run(struct recorder *r, unsigned batches)
{
	struct load_op ops[LOAD_DEPTH] = { 0 };
	struct record_disk *was = r->disk;
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
					disk_choose(r);
					load_start(r, ops, &ops[i]);
					n--;
				}
		disk_choose(r);
		disk_flush(r);
	}
	for (unsigned i = 0; i < r->ndisks; i++)
		while (r->disks[i].b && block_in_flight(r->disks[i].b))
			loop_run_once(f->loop, UINT64_MAX);
	r->disk = was;
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
		free(ops[i].buf);
}

/* ---- snapshots meanwhile ---- */

struct snapshot_wait {
	struct block_snapshot_op op;
	bool over;
	bool stands; /* a commit or an apply */
	/* of a commit */
	struct recorder *r;
	unsigned disk, id;
	int overlay; /* fd of an image of the chain whose base is the pin; 0: none yet */
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

/* Overlays are written as soon as their pin has a place. */
static void pin_placed(struct block_snapshot_op *op, const struct qcow2_pin *pin)
{
	struct snapshot_wait *w = container_of(op, struct snapshot_wait, op);

	w->overlay = record_overlay(w->r, pin);
}

static void snapshot_stands(struct block_snapshot_op *op)
{
	struct snapshot_wait *w = container_of(op, struct snapshot_wait, op);
	struct event *ev = record(w->r, EV_SNAPSHOT_THERE);

	ev->of = w->id;
	ev->disk = w->disk;
	w->stands = true;
}

/* Open the last image of the chain, whose pin stands, and let its guest write; then it is on stable storage.
 * overlay: an fd of it, which is closed. */
static void overlay_begin(struct recorder *r, int overlay)
{
	struct record_disk *was = r->disk;

	r->disk = &r->disks[r->ndisks - 1];
	record_open(r);
	disk_flush(r);
	load_run(r, 1);
	assert_int_equal(fdatasync(overlay), 0);
	close(overlay);
	record(r, EV_DISK_THERE);
	r->disk = was;
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

	for (unsigned i = 0; i < r->disk->nsnapshots; i++)
		max = MAX(max, r->disk->snapshots[i].id);
	return max + 1;
}

void load_pin_id(size_t number, uint8_t ret[BLOCK_PIN_ID_BYTES])
{
	memset(ret, 0x5a, BLOCK_PIN_ID_BYTES);
	memcpy(ret, &number, sizeof(number));
}

void load_overlays(struct recorder *r)
{
	for (unsigned i = 0; i < r->npins; i++) {
		char name[32];
		int fd;

		snprintf(name, sizeof(name), "fork%zu", r->pins[i].number);
		fd = fixture_file(r->f, name, O_RDWR | O_CREAT);
		assert_int_equal(qcow2_pin_overlays(&fd, 1, &r->pins[i].pin, "cut", &r->f->err), 0);
		close(fd);
	}
}

/* Record that a snapshot or a pin is being made. Returns the event's number. */
static size_t make_begins(struct recorder *r, const struct known_snapshot *s, bool pin)
{
	struct event *ev = record(r, EV_SNAPSHOT_MAKE);

	ev->of = s->id;
	ev->data = s->disk;
	ev->len = s->disk_bytes;
	ev->vm = s->vm;
	ev->vm_bytes = s->vm_bytes;
	ev->pin = pin;
	return r->n - 1;
}

/* Wait until the snapshot is made. pin: the number of its event, if it is a pin. */
static void make_ends(struct recorder *r, struct snapshot_wait *w, struct known_snapshot *s, size_t pin)
{
	snapshot_wait(r->f, w);
	assert_int_equal(atoi(w->op.id), s->id);
	record(r, EV_SNAPSHOT_THERE)->of = s->id;
	s->pin = pin;
	r->disk->snapshots[r->disk->nsnapshots++] = *s;
}

/* parent: as for load_snapshot_make(). fork: add an overlay on the pin to the chain. */
static void snapshot_make(struct recorder *r, int parent, bool pin, bool fork)
{
	struct block_snapshot_info info = { .vm_state_bytes = VM_BYTES };
	struct known_snapshot k = { .id = next_id(r), .disk = calloc(1, RECORD_DISK_MAX),
		.vm = aligned_alloc(4096, VM_BYTES), .disk_bytes = r->disk->bytes, .vm_bytes = pin ? 0 : VM_BYTES };
	struct snapshot_wait w = { .op = { .done = snapshot_done, .stands = snapshot_stands,
		.placed = fork ? pin_placed : NULL }, .r = r, .disk = (unsigned)(r->disk - r->disks), .id = k.id };
	uint8_t pin_id[BLOCK_PIN_ID_BYTES];
	struct block_snapshot *s;
	size_t number;

	assert_int_equal(fixture_rw(r->disk->b, BLOCK_READ, 0, k.disk, k.disk_bytes), 0);
	assert_int_equal(block_snapshot_begin(r->disk->b, &s, &r->f->err), 0);
	number = make_begins(r, &k, pin);
	memset(k.vm, 0, VM_BYTES);
	load_run(r, 1);
	snprintf(info.name, sizeof(info.name), "snap%u", k.id);
	load_pin_id(number, pin_id);
	if (pin)
		qcow2_pin_mark(&info, pin_id);
	else
		vm_make(r, s, parent < 0 ? NULL : &r->disk->snapshots[parent], k.vm);
	block_snapshot_commit(s, &info, &w.op);
	while (fork && !w.stands)
		loop_run_once(r->f->loop, UINT64_MAX);
	if (fork)
		overlay_begin(r, w.overlay);
	load_run(r, 2);
	make_ends(r, &w, &k, pin ? number : 0);
	if (pin)
		record_pin_note(r, number, pin_id);
}

/* Pin the content of a snapshot while the guests write. fork: as for snapshot_make(). */
static void snapshot_pin(struct recorder *r, unsigned index, bool fork)
{
	struct snapshot_wait w = { .op.done = snapshot_done };
	struct known_snapshot of = r->disk->snapshots[index], k = { .id = next_id(r), .vm = calloc(1, VM_BYTES),
		.disk = malloc(RECORD_DISK_MAX), .disk_bytes = of.disk_bytes };
	uint8_t pin_id[BLOCK_PIN_ID_BYTES];
	const struct record_pin *pin;
	size_t number;
	char name[16];

	memcpy(k.disk, of.disk, RECORD_DISK_MAX);
	number = make_begins(r, &k, true);
	load_pin_id(number, pin_id);
	snprintf(name, sizeof(name), "%u", of.id);
	block_pin_snapshot(r->disk->b, name, pin_id, &w.op);
	load_run(r, 2);
	make_ends(r, &w, &k, number);
	pin = record_pin_note(r, number, pin_id);
	if (fork)
		overlay_begin(r, record_overlay(r, &pin->pin));
}

void load_snapshot_make(struct recorder *r, int parent)
{
	snapshot_make(r, parent, false, false);
}

static const struct record_pin *pin_of(const struct recorder *r, size_t number)
{
	unsigned i = 0;

	while (i < r->npins && r->pins[i].number != number)
		i++;
	assert_true(i < r->npins);
	return &r->pins[i];
}

void load_snapshot_delete(struct recorder *r, unsigned index)
{
	struct snapshot_wait w = { .op.done = snapshot_done };
	struct known_snapshot s = r->disk->snapshots[index];
	unsigned id = s.id;
	char name[16];

	snprintf(name, sizeof(name), "%u", id);
	record(r, EV_SNAPSHOT_DELETE)->of = id;
	r->disk->snapshots[index] = r->disk->snapshots[--r->disk->nsnapshots];
	if (s.pin)
		block_pin_delete(r->disk->b, pin_of(r, s.pin)->pin.id, &w.op);
	else
		block_snapshot_delete(r->disk->b, name, &w.op);
	load_run(r, 2);
	snapshot_wait(r->f, &w);
	record(r, EV_SNAPSHOT_GONE)->of = id;
}

static void apply_stands(struct block_snapshot_op *op)
{
	container_of(op, struct snapshot_wait, op)->stands = true;
}

/* The guests write again while the old content's clusters are freed. */
void load_snapshot_apply(struct recorder *r, unsigned index)
{
	struct snapshot_wait w = { .op = { .done = snapshot_done, .stands = apply_stands } };
	char name[16];

	snprintf(name, sizeof(name), "%u", r->disk->snapshots[index].id);
	record(r, EV_SNAPSHOT_APPLY)->of = r->disk->snapshots[index].id;
	block_snapshot_apply(r->disk->b, name, &w.op);
	while (!w.stands)
		loop_run_once(r->f->loop, UINT64_MAX);
	assert_false(w.over);
	r->disk->bytes = r->disk->snapshots[index].disk_bytes;
	record_flushed(r);
	load_run(r, 2);
	snapshot_wait(r->f, &w);
}

static int added_map(struct block *b, uint64_t from, void *opaque, struct err *e)
{
	(void)opaque;
	return qcow2_preallocate(b, from, e);
}

static void disk_resize(struct recorder *r, uint64_t bytes, bool map)
{
	static const struct block_fill fill = { added_map, NULL };
	struct block *b = r->disk->b;
	struct event *ev;

	if (bytes < r->disk->bytes) { /* content may be zero during the operation */
		ev = record(r, EV_TOUCH);
		ev->offset = bytes;
		ev->len = r->disk->bytes - bytes;
	}
	record(r, EV_RESIZE)->len = MIN(bytes, RECORD_DISK_MAX);
	if ((map ? block_grow_filled(b, bytes, &fill, &r->f->err) : block_resize(b, bytes, &r->f->err)) < 0)
		fail_msg("%s", r->f->err.msg);
	r->disk->bytes = MIN(bytes, RECORD_DISK_MAX);
	record_flushed(r);
}

void load_resize(struct recorder *r, uint64_t bytes)
{
	disk_resize(r, bytes, false);
}

void load_grow_mapped(struct recorder *r, uint64_t bytes)
{
	disk_resize(r, bytes, true);
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
	snapshot_make(r, -1, true, false);
	load_run(r, 2);
	load_snapshot_make(r, -1);
	load_run(r, 1);
	snapshot_make(r, -1, true, false);
	load_run(r, 2);
	load_snapshot_apply(r, 1);
	load_run(r, 2);
	load_snapshot_delete(r, 1); /* the snapshot; the second pin takes its place in the list */
	load_run(r, 1);
	load_snapshot_delete(r, 0);
	load_run(r, 1);
	snapshot_make(r, -1, true, false);
	load_snapshot_delete(r, 0);
	load_run(r, 1);
}

void load_pins_of_snapshots(struct recorder *r, bool quiet)
{
	r->quiet = quiet;
	load_run(r, 2);
	load_snapshot_make(r, -1);
	load_run(r, 2);
	snapshot_pin(r, 0, false);
	load_run(r, 1);
	load_snapshot_delete(r, 0); /* the snapshot; the pin takes its place in the list */
	load_run(r, 1);
	load_snapshot_make(r, -1);
	snapshot_pin(r, 1, false);
	load_snapshot_apply(r, 1);
	load_run(r, 1);
	load_snapshot_delete(r, 0); /* the first pin */
	load_run(r, 1);
}

/* ---- at random ---- */

/* Nobody has the image `img` open: trim it, or rebuild its refcounts with another width. */
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
	if (r->ndisks == 1 && fixture_random(r->f) % 2) /* otherwise an overlay's disk may have it open */
		offline(r);
	record_open(r);
}

/* Begin a snapshot and abort it. */
static void snapshot_abort(struct recorder *r)
{
	struct snapshot_wait w = { .op.done = snapshot_done };
	uint8_t *vm = aligned_alloc(4096, VM_BYTES);
	struct block_snapshot *s;

	assert_int_equal(block_snapshot_begin(r->disk->b, &s, &r->f->err), 0);
	load_run(r, 1);
	vm_make(r, s, r->disk->nsnapshots ? &r->disk->snapshots[0] : NULL, vm);
	block_snapshot_abort(s, &w.op);
	load_run(r, 1);
	snapshot_wait(r->f, &w);
	free(vm);
}

static void snapshot_rename(struct recorder *r, unsigned index)
{
	struct snapshot_wait w = { .op.done = snapshot_done };
	struct block_snapshot_info info = { .extra_bytes = fixture_random(r->f) % 900 };

	snprintf(info.id, sizeof(info.id), "%u", r->disk->snapshots[index].id);
	snprintf(info.name, sizeof(info.name), "other%u", r->disk->snapshots[index].id);
	block_snapshot_update(r->disk->b, &info, &w.op);
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

void load_full(struct recorder *r, bool *full)
{
	r->quiet = true;
	for (int i = 0; i < 4; i++)
		load_snapshot_make(r, i - 1);
	*full = true;
	load_snapshot_delete(r, 1);
	load_snapshot_delete(r, 2);
	load_snapshot_delete(r, 0);
	*full = false;
}

static void random_size(struct recorder *r)
{
	uint64_t bytes = (1 + fixture_random(r->f) % (RECORD_DISK_MAX / 512)) * 512;

	disk_flush(r); /* load_resize() notes the disk as flushed, but a resize to the same size does nothing */
	load_resize(r, fixture_random(r->f) % 2 ? MAX(ROUND_DOWN(bytes, 64 * KIB), 64 * KIB) : bytes);
}

/* Return whether there are snapshots, and this one is no pin. */
static bool is_own(const struct recorder *r, uint64_t which)
{
	return r->disk->nsnapshots && !r->disk->snapshots[which % r->disk->nsnapshots].pin;
}

static void random_step(struct recorder *r, bool fixed_size, bool no_snapshots)
{
	uint64_t kind = fixture_random(r->f) % 10, which = fixture_random(r->f);

	if (kind == 0 && !fixed_size)
		random_size(r);
	else if (kind == 1)
		reopen(r);
	else if (kind < 4 && r->disk->nsnapshots < 4 && !no_snapshots && next_id(r) < RECORD_SNAPSHOTS_MAX)
		load_snapshot_make(r, r->disk->nsnapshots && which % 2 ? (int)(which / 2 % r->disk->nsnapshots) : -1);
	else if (kind == 4 && is_own(r, which))
		load_snapshot_delete(r, (unsigned)(which % r->disk->nsnapshots));
	else if (kind == 5 && is_own(r, which))
		load_snapshot_apply(r, (unsigned)(which % r->disk->nsnapshots));
	else if (kind == 6 && !no_snapshots)
		snapshot_abort(r);
	else if (kind == 7 && is_own(r, which))
		snapshot_rename(r, (unsigned)(which % r->disk->nsnapshots));
	else
		load_run(r, 1 + (unsigned)(which % 3));
}

void load_random(struct recorder *r, unsigned steps, bool fixed_size, bool no_snapshots)
{
	load_run(r, 1);
	while (steps--)
		random_step(r, fixed_size, no_snapshots);
}

/* Add an image to the chain: an overlay on the content of the last disk, or of one of its snapshots. */
static void fork_last(struct recorder *r)
{
	unsigned i = 0;

	r->disk = &r->disks[r->ndisks - 1];
	while (i < r->disk->nsnapshots && r->disk->snapshots[i].pin)
		i++;
	if (i < r->disk->nsnapshots && fixture_random(r->f) % 2)
		snapshot_pin(r, i, true);
	else
		snapshot_make(r, -1, true, true);
}

/* Return whether the next image of the chain is an overlay on the pin. */
static bool pin_is_read(struct recorder *r, const struct record_pin *pin)
{
	struct qcow2_header h;
	bool is;
	int fd;

	if (pin->disk + 1 >= r->ndisks)
		return false;
	fd = fixture_file(r->f, r->disks[pin->disk + 1].name, O_RDONLY);
	assert_int_equal(qcow2_header_read(fd, "img", &h, &r->f->err), 0);
	is = !memcmp(h.pin.id, pin->pin.id, sizeof(h.pin.id));
	close(fd);
	return is;
}

/* Make a pin that no image of the chain reads, or delete such a pin. */
static void spare_pin(struct recorder *r)
{
	for (unsigned i = 0; i < r->disk->nsnapshots; i++)
		if (r->disk->snapshots[i].pin && !pin_is_read(r, pin_of(r, r->disk->snapshots[i].pin))) {
			load_snapshot_delete(r, i);
			return;
		}
	if (next_id(r) < RECORD_SNAPSHOTS_MAX)
		snapshot_make(r, -1, true, false);
}

void load_chain(struct recorder *r, unsigned steps)
{
	load_run(r, 3);
	while (r->ndisks < RECORD_DISKS_MAX) {
		fork_last(r);
		load_run(r, 2);
	}
	while (steps--) {
		r->disk = &r->disks[fixture_random(r->f) % r->ndisks];
		if (fixture_random(r->f) % 4)
			random_step(r, false, false);
		else
			spare_pin(r);
	}
}

/* ---- bitmaps ---- */

static void bitmaps_commit(struct recorder *r)
{
	if (qcow2_bitmaps_commit(r->disk->b, &r->f->err) < 0)
		fail_msg("%s", r->f->err.msg);
	record_bitmaps(r);
}

/* Store the bitmaps by closing the image. */
static void bitmaps_reopen(struct recorder *r)
{
	record_close(r);
	record_bitmaps(r);
	record_open(r);
}

void load_bitmaps(struct recorder *r)
{
	struct err *e = &r->f->err;

	record_bitmaps(r);
	assert_int_equal(qcow2_bitmap_add(r->disk->b, "one", 4096, true, e), 0);
	bitmaps_commit(r);
	assert_int_equal(qcow2_bitmap_add(r->disk->b, "two", 512, false, e), 0);
	assert_int_equal(qcow2_bitmap_add(r->disk->b, "three", 65536, true, e), 0);
	bitmaps_commit(r);
	load_run(r, 1);
	bitmaps_reopen(r);
	assert_int_equal(qcow2_bitmap_merge(r->disk->b, "two", "one", e), 0);
	assert_int_equal(qcow2_bitmap_clear(r->disk->b, "one", e), 0);
	assert_int_equal(qcow2_bitmap_enable(r->disk->b, "three", false, e), 0);
	bitmaps_commit(r);
	load_run(r, 1);
	bitmaps_reopen(r);
	load_resize(r, 2 * MIB);
	bitmaps_reopen(r);
	load_run(r, 1);
	bitmaps_reopen(r); /* a resize stores the bitmaps first */
	load_resize(r, 700 * KIB);
	bitmaps_reopen(r);
	assert_int_equal(qcow2_bitmap_remove(r->disk->b, "two", e), 0);
	bitmaps_commit(r);
	assert_int_equal(qcow2_bitmap_remove(r->disk->b, "one", e), 0);
	assert_int_equal(qcow2_bitmap_remove(r->disk->b, "three", e), 0);
	bitmaps_commit(r);
	assert_int_equal(qcow2_bitmap_add(r->disk->b, "four", 4096, true, e), 0);
	bitmaps_commit(r);
}
