/* Power cuts. The fixture records the engine's file operations during random work. At points of
 * that record it builds images from everything that a sync had made durable and any subset of the
 * rest. Each such image has to open, have no faults except leaks, and contain all data flushed
 * before. */
#include "fixture_powercut.h"
#include "fixture_powerload.h"
#include "fixture_pull.h"

#include "block/qcow2/qcow2.h"

#define SECTORS (RECORD_DISK_MAX / 512)
#define CUTS 100 /* per image, not counting those next to syncs */
#define STEPS 10 /* of a random load */
#define LIVES 3	 /* the first image, then images that a cut has left */

enum snapshot_fate { FATE_NONE, FATE_MAYBE, FATE_THERE };
struct snapshot_replay {
	enum snapshot_fate fate;
	const struct event *make;
};

struct image {
	uint8_t *data;
	uint64_t bytes; /* length of the file */
};

struct replay {
	struct fixture *f;
	struct recorder *rec;
	struct image durable; /* content as of the last sync */
	struct image image;   /* content after a cut */
	uint64_t written;     /* zeros follow */
	bool *applied;	  /* indexed by event */
	size_t *complete; /* for each event the event that completed it; 0: in flight */
	size_t first;	  /* all changes before this event are durable */
	const struct event *flushed;
	size_t flushed_at;
	bool touched[SECTORS];
	struct snapshot_replay snapshots[RECORD_SNAPSHOTS_MAX];
	const struct event *applied_of; /* the disk may have become this snapshot */
	uint64_t resized; /* the disk may have this size; 0: no other size */
	uint64_t crowd;	  /* one in this many cuts next to a sync is checked */
	unsigned checks, leaky;
};

static bool changes(const struct event *ev)
{
	return ev->kind == EV_WRITE || ev->kind == EV_PUNCH || ev->kind == EV_GROW || ev->kind == EV_CUT;
}

static void apply(struct image *im, const struct event *ev)
{
	uint64_t end = ev->offset + ev->len;

	if (ev->kind == EV_CUT) {
		if (ev->offset < RECORD_IMAGE_MAX)
			memset(im->data + ev->offset, 0, RECORD_IMAGE_MAX - ev->offset);
		im->bytes = ev->offset;
		return;
	}
	if (ev->kind != EV_PUNCH)
		im->bytes = MAX(im->bytes, end);
	if (ev->kind == EV_GROW)
		return;
	assert_true(end <= RECORD_IMAGE_MAX);
	if (ev->kind == EV_WRITE)
		memcpy(im->data + ev->offset, ev->data, ev->len);
	else
		memset(im->data + ev->offset, 0, ev->len);
}

/* Return whether any sector of the event was touched. */
static void apply_torn(struct fixture *f, struct image *im, const struct event *ev)
{
	for (uint64_t off = 0; off < ev->len; off += 512) {
		struct event one = *ev;

		one.offset += off;
		one.len = MIN(ev->len - off, 512u);
		if (one.data)
			one.data += off;
		if (fixture_random(f) % 2)
			apply(im, &one);
	}
}

/* ---- checks after a cut ---- */

/* A sector changed since the flush holds its content at the flush or that of one of the changes,
 * never another sector's content. */
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
	return !memcmp(sector, p->flushed->data + s * 512, 512);
}

static void cut_disk(struct replay *p, struct block *b, size_t k)
{
	uint8_t *disk = aligned_alloc(4096, RECORD_DISK_MAX);
	const struct event *other = p->applied_of;
	struct block_info info;

	block_info(b, &info);
	assert_in_range(info.size_bytes, 512, RECORD_DISK_MAX);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, disk, info.size_bytes), 0);
	if (other && info.size_bytes == other->len && !memcmp(disk, other->data, other->len)) {
		free(disk); /* the disk has become the snapshot */
		return;
	}
	if (info.size_bytes != p->flushed->len && info.size_bytes != p->resized)
		fail_msg("cut after %zu: the disk has %llu bytes", k, (unsigned long long)info.size_bytes);
	for (size_t s = 0; s < info.size_bytes / 512; s++)
		if (p->touched[s] && !one_of(p, k, s, disk + s * 512))
			fail_msg("cut after %zu: sector %zu has what was never written there", k, s);
		else if (!p->touched[s] && memcmp(disk + s * 512, p->flushed->data + s * 512, 512) != 0)
			fail_msg("cut after %zu: flushed sector %zu is lost", k, s);
	free(disk);
}

/* Each snapshot is complete or absent. */
static void cut_snapshot(struct replay *p, struct block *b, const char *id, size_t k)
{
	const struct event *make = p->snapshots[atoi(id)].make;
	uint8_t *buf = aligned_alloc(4096, RECORD_DISK_MAX);
	struct fixture *f = p->f;
	struct block *s;

	if (make->vm_bytes && (fixture_vm_read(f, b, id, buf, make->vm_bytes) < 0 ||
		memcmp(buf, make->vm, make->vm_bytes) != 0))
		fail_msg("cut after %zu: the VM state of snapshot %s is damaged", k, id);
	f->snapshot = id;
	s = fixture_open(f, "cut", BLOCK_FORMAT_QCOW2, true);
	f->snapshot = NULL;
	assert_int_equal(fixture_rw(s, BLOCK_READ, 0, buf, make->len), 0);
	if (memcmp(buf, make->data, make->len) != 0)
		fail_msg("cut after %zu: snapshot %s is damaged", k, id);
	block_close(s);
	free(buf);
}

/* The image `forkN` reads the pin's content, or its open says that the pin is gone. */
static void cut_pin(struct replay *p, const struct event *make, bool there, size_t k)
{
	uint8_t *buf = aligned_alloc(4096, RECORD_DISK_MAX);
	struct fixture *f = p->f;
	char path[128], name[32];
	struct block_layer y[2] = { { .format = BLOCK_FORMAT_QCOW2 }, { .format = BLOCK_FORMAT_QCOW2 } };
	struct block_open o = { .layers = y, .nlayers = 2, .read_only = true, .buffered = true, .no_lock = true,
		.name = "fork" };
	struct block *b = NULL;
	int r;

	snprintf(name, sizeof(name), "fork%zu", (size_t)(make - p->rec->ev));
	fixture_path(f, name, path, sizeof(path));
	y[0].fd = open(path, O_RDONLY | O_CLOEXEC);
	fixture_path(f, "cut", path, sizeof(path));
	y[1].fd = open(path, O_RDONLY | O_CLOEXEC);
	r = block_open(f->loop, &o, &b, &f->err);
	if (r != (there ? 0 : -ENOENT))
		fail_msg("cut after %zu: %s: %d: %s", k, name, r, f->err.msg);
	if (there) {
		assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, make->len), 0);
		if (memcmp(buf, make->data, make->len) != 0)
			fail_msg("cut after %zu: %s reads other content", k, name);
		block_close(b);
	} else {
		close(y[0].fd);
		close(y[1].fd);
	}
	free(buf);
}

static void cut_snapshots(struct replay *p, struct block *b, size_t k)
{
	bool found[RECORD_SNAPSHOTS_MAX] = { false };
	struct block_snapshot_info *list;
	size_t n;

	assert_int_equal(block_snapshot_list(b, &list, &n, &p->f->err), 0);
	for (size_t i = 0; i < n; i++) {
		int id = atoi(list[i].id);

		assert_in_range(id, 1, RECORD_SNAPSHOTS_MAX - 1);
		if (p->snapshots[id].fate == FATE_NONE)
			fail_msg("cut after %zu: snapshot %d should not be there", k, id);
		found[id] = true;
		cut_snapshot(p, b, list[i].id, k);
		assert_int_equal(list[i].pinned, p->snapshots[id].make->pin);
	}
	for (int i = 0; i < RECORD_SNAPSHOTS_MAX; i++)
		if (p->snapshots[i].make && p->snapshots[i].make->pin)
			cut_pin(p, p->snapshots[i].make, found[i], k);
	for (int i = 0; i < RECORD_SNAPSHOTS_MAX; i++)
		if (p->snapshots[i].fate == FATE_THERE && !found[i])
			fail_msg("cut after %zu: snapshot %d is lost", k, i);
	free(list);
}

/* Opening for writing completes the operation in progress. */
static void cut_mended(struct replay *p, size_t k)
{
	struct fixture *f = p->f;
	struct qcow2_check c = { 0 };
	struct qcow2_header h;
	char path[128];
	int fd;

	assert_int_equal(block_close(fixture_open(f, "cut", BLOCK_FORMAT_QCOW2, false)), 0);
	fixture_path(f, "cut", path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(qcow2_header_read(fd, "cut", &h, &f->err), 0);
	assert_int_equal(qcow2_check(fd, &h, &c, &f->err), 0);
	if (c.leaks || c.corruptions || c.errors || (h.incompatible & QCOW2_INCOMPAT_DIRTY))
		fail_msg("cut after %zu: opening leaves %llu leaks", k, (unsigned long long)c.leaks);
	close(fd);
}

static void cut_tables(struct replay *p, int fd, size_t k)
{
	struct qcow2_check c = { 0 };
	struct qcow2_header h;
	struct fixture *f = p->f;

	if (qcow2_header_read(fd, "cut", &h, &f->err) < 0 || qcow2_check(fd, &h, &c, &f->err) < 0)
		fail_msg("cut after %zu: %s", k, f->err.msg);
	if (c.corruptions || c.errors) {
		fixture_run(f, "qemu-img check cut");
		fail_msg("cut after %zu: corrupt", k);
	}
	p->leaky += c.leaks > 0;
	if (p->rec->quiet && c.leaks && !(h.incompatible & QCOW2_INCOMPAT_DIRTY))
		fail_msg("cut after %zu: %llu leaks, and no mark", k, (unsigned long long)c.leaks);
	/* While a snapshot is created or deleted, COPIED and a refcount cannot change in one write;
	 * QEMU repairs this together with the leaks. */
	if (!(p->checks++ % 40))
		fixture_run(f, "cp cut mend && qemu-img check -q -f qcow2 -r leaks mend && "
			"qemu-img check -q -f qcow2 mend");
}

/* ---- the cuts ---- */

/* Each event that no sync has covered is applied fully, partly or not at all. */
static void image_make(struct replay *p, size_t k)
{
	struct fixture *f = p->f;
	uint64_t mood = fixture_random(f) % 4;

	memcpy(p->image.data, p->durable.data, p->written);
	p->image.bytes = p->durable.bytes;
	for (size_t i = p->first; i <= k && mood; i++) {
		const struct event *ev = &p->rec->ev[i];

		if (!changes(ev) || p->applied[i] || (mood > 1 && fixture_random(f) % 2))
			continue;
		if (mood == 3 && ev->len && ev->kind != EV_GROW && !(fixture_random(f) % 4))
			apply_torn(f, &p->image, ev);
		else
			apply(&p->image, ev);
	}
}

/* Check a power cut after event k. */
static void cut(struct replay *p, size_t k)
{
	struct fixture *f = p->f;
	struct block *b;
	char path[128];
	int fd;

	image_make(p, k);
	fixture_path(f, "cut", path, sizeof(path));
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600); /* what an earlier cut left behind `written` must go */
	assert_int_equal(pwrite(fd, p->image.data, p->written, 0), p->written);
	assert_int_equal(ftruncate(fd, (off_t)p->image.bytes), 0);
	cut_tables(p, fd, k);
	close(fd);
	b = fixture_open(f, "cut", BLOCK_FORMAT_QCOW2, true);
	cut_disk(p, b, k);
	cut_snapshots(p, b, k);
	block_close(b);
	if (p->rec->quiet)
		cut_mended(p, k);
	if (!(fixture_random(f) % p->checks)) /* each cut with the same probability */
		fixture_run(f, "cp cut next");
}

/* A completed sync makes durable whatever was complete when it was submitted. */
static void synced(struct replay *p, size_t sync)
{
	for (size_t i = p->first; i < sync; i++)
		if (changes(&p->rec->ev[i]) && !p->applied[i] && p->complete[i] && p->complete[i] < sync) {
			apply(&p->durable, &p->rec->ev[i]);
			p->applied[i] = true;
		}
	while (p->first < sync && (!changes(&p->rec->ev[p->first]) || p->applied[p->first]))
		p->first++;
}

static void step_snapshot(struct replay *p, const struct event *ev)
{
	struct snapshot_replay *s = &p->snapshots[ev->of];

	if (ev->kind == EV_SNAPSHOT_MAKE)
		*s = (struct snapshot_replay){ FATE_MAYBE, ev };
	else if (ev->kind == EV_SNAPSHOT_THERE)
		s->fate = FATE_THERE;
	else if (ev->kind == EV_SNAPSHOT_DELETE)
		s->fate = FATE_MAYBE;
	else if (ev->kind == EV_SNAPSHOT_GONE)
		s->fate = FATE_NONE;
	else if (ev->kind == EV_SNAPSHOT_APPLY)
		p->applied_of = s->make;
}

static void step(struct replay *p, size_t k)
{
	const struct event *ev = &p->rec->ev[k];

	if (ev->kind == EV_COMPLETE) {
		p->complete[ev->of] = k;
		if (p->rec->ev[ev->of].kind == EV_SYNC)
			synced(p, ev->of);
	} else if (ev->kind == EV_TOUCH) {
		for (uint64_t o = ev->offset; o < ev->offset + ev->len; o += 512)
			p->touched[o / 512] = true;
	} else if (ev->kind == EV_FLUSHED) {
		p->flushed = ev;
		p->applied_of = NULL;
		p->resized = 0;
		p->flushed_at = k;
		memset(p->touched, 0, sizeof(p->touched));
	} else if (ev->kind == EV_RESIZE) {
		p->resized = ev->len;
	} else if (ev->kind == EV_WRITE) {
		p->written = MAX(p->written, ev->offset + ev->len);
	} else {
		step_snapshot(p, ev);
	}
}

/* Check around a sync, since writes just before and after it reveal the most errors. */
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
	for (size_t i = p->first; i <= k; i++)
		if (p->rec->ev[i].kind == EV_WRITE && !p->rec->ev[i].offset && !p->applied[i])
			return true;
	return false;
}

static void replay_begin(struct replay *p, struct recorder *rec)
{
	char path[128];
	int fd;

	*p = (struct replay){ .f = rec->f, .rec = rec, .crowd = 3 };
	p->durable.data = calloc(1, RECORD_IMAGE_MAX);
	p->image.data = calloc(1, RECORD_IMAGE_MAX);
	p->applied = calloc(rec->n, sizeof(bool));
	p->complete = calloc(rec->n, sizeof(*p->complete));
	fixture_path(rec->f, "before", path, sizeof(path));
	fd = open(path, O_RDONLY);
	p->written = (uint64_t)pread(fd, p->durable.data, RECORD_IMAGE_MAX, 0);
	p->durable.bytes = (uint64_t)lseek(fd, 0, SEEK_END);
	while (p->written && !p->durable.data[p->written - 1])
		p->written--; /* the file may be much longer than its content */
	close(fd);
}

/* Check cuts anywhere, but mainly while tables and the header are written: `choices` subsets of the
 * pending writes each. */
static unsigned replay(struct recorder *rec, unsigned cuts, unsigned choices)
{
	struct replay *p = malloc(sizeof(*p));
	size_t every = rec->n / cuts + 1;
	unsigned checks;

	replay_begin(p, rec);
	rec->f->buffered = true; /* images under test need not reach the disk */
	for (size_t k = 0; k < rec->n; k++) {
		step(p, k);
		if (k < rec->start)
			continue;
		for (unsigned i = 0; i < choices && header_pending(p, k); i++)
			cut(p, k);
		if (k % every == fixture_random(rec->f) % every ||
			(in_commit(rec, k) && !(fixture_random(rec->f) % p->crowd)))
			cut(p, k);
	}
	rec->f->buffered = false;
	checks = p->checks;
	print_message("%zu events, %u cuts, %u with leaks\n", rec->n, checks, p->leaky);
	assert_true(checks > cuts / 4);
	free(p->durable.data);
	free(p->image.data);
	free(p->applied);
	free(p->complete);
	free(p);
	return checks;
}

/* ---- scenes ---- */

/* Make "img", and open and record it. */
static void scene_begin(struct recorder *rec, struct fixture *f, const char *create, unsigned seed)
{
	fixture_begin(f, seed);
	f->cache_bytes = 1; /* the smallest cache, so that tables are evicted and loaded */
	fixture_run(f, "%s", create);
	record_begin(rec, f);
	record_open(rec);
}

static void scene_close(struct recorder *rec)
{
	record_close(rec);
	record_end(rec);
	fixture_run(rec->f, "qemu-img check -q img"); /* no leaks either */
}

/* choices: see replay(). */
static void scene_cut(struct recorder *rec, unsigned choices)
{
	struct fixture *f = rec->f;

	replay(rec, CUTS, choices);
	record_free(rec);
	fixture_end(f);
}

void powercut(const char *create, unsigned seed, bool moves, bool snapshots)
{
	struct recorder rec;
	struct fixture f;

	scene_begin(&rec, &f, create, seed);
	if (snapshots)
		load_snapshots(&rec);
	else
		load_run(&rec, 40);
	scene_close(&rec);
	assert_int_equal(moves,
		fixture_peek_be(&f, "img", 48, 8) != fixture_peek_be(&f, "before", 48, 8));
	scene_cut(&rec, snapshots ? 1 : 6);
}

/* Write zeros in each table's range: above a backing file this allocates a table and nothing
 * else. */
static void load_zeros(struct recorder *r, uint64_t reach)
{
	for (uint64_t off = 0; off < r->disk_bytes; off += reach) {
		struct event *ev = record(r, EV_TOUCH);

		ev->offset = off;
		ev->len = 4096;
		assert_int_equal(fixture_op(r->b, BLOCK_WRITE_ZEROES, BLOCK_REQ_MAY_UNMAP, off, 4096), 0);
		assert_int_equal(fixture_op(r->b, BLOCK_FLUSH, 0, 0, 0), 0);
		record_flushed(r);
	}
}

void powercut_tables(const char *create, unsigned seed, uint64_t reach)
{
	struct recorder rec;
	struct fixture f;

	fixture_begin(&f, seed);
	f.buffered = true; /* keeps the engine from preallocating the file */
	fixture_run(&f, "%s", create);
	record_begin(&rec, &f);
	record_open(&rec);
	load_zeros(&rec, reach);
	scene_close(&rec);
	scene_cut(&rec, 0);
}

void powercut_pull(const char *create, unsigned seed)
{
	struct recorder rec;
	struct fixture f;
	struct pull p;

	scene_begin(&rec, &f, create, seed);
	load_run(&rec, 1);
	pull_begin(&p, &f, rec.b);
	load_run(&rec, 1);
	pull_end(&p);
	load_run(&rec, 4);
	scene_close(&rec);
	assert_int_equal(fixture_peek_be(&f, "img", 8, 8), 0);
	scene_cut(&rec, 2);
}

void powercut_quiet(const char *create, unsigned seed)
{
	struct recorder rec;
	struct fixture f;

	scene_begin(&rec, &f, create, seed);
	load_quiet(&rec);
	scene_close(&rec);
	scene_cut(&rec, 2);
}

void powercut_pins(const char *create, unsigned seed, bool quiet, bool of_snapshots)
{
	struct recorder rec;
	struct fixture f;

	scene_begin(&rec, &f, create, seed);
	(of_snapshots ? load_pins_of_snapshots : load_pins)(&rec, quiet);
	scene_close(&rec);
	load_overlays(&rec);
	scene_cut(&rec, quiet ? 2 : 1);
}

void powercut_resize(const struct powercut_kind *kind, unsigned seed)
{
	struct recorder rec;
	struct fixture f;

	scene_begin(&rec, &f, kind->create, seed);
	load_resize(&rec, 700 * KIB);
	load_resize(&rec, 3 * MIB);
	load_run(&rec, 1);
	load_resize(&rec, 512);
	scene_close(&rec);
	scene_cut(&rec, 6);
}

/* ---- life after life ---- */

/* Repair the image or not, at random: leaks of the power cut may stay. */
static void mend(struct recorder *r)
{
	enum qcow2_repair how = fixture_random(r->f) % 2 ? QCOW2_REPAIR_LEAKS : QCOW2_REPAIR_ALL;
	struct qcow2_check c = { 0 };
	struct qcow2_header h;
	char path[128];
	int fd;

	if (fixture_random(r->f) % 2)
		return;
	fixture_path(r->f, "img", path, sizeof(path));
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(qcow2_header_read(fd, "img", &h, &r->f->err), 0);
	if (qcow2_repair(fd, &h, how, &c, &r->f->err) < 0)
		fail_msg("repair: %s", r->f->err.msg);
	assert_int_equal(c.corruptions + c.leaks + c.errors, 0);
	close(fd);
}

static unsigned life(struct fixture *f, const struct powercut_kind *kind, bool again, unsigned cuts)
{
	struct recorder rec;
	unsigned n;

	record_begin(&rec, f);
	if (again)
		mend(&rec);
	record_open(&rec);
	load_random(&rec, STEPS, kind->fixed_size, kind->no_snapshots);
	record_close(&rec);
	record_end(&rec);
	if (!again) /* later, leaks of the power cut may be there */
		fixture_run(f, "qemu-img check -q img");
	n = replay(&rec, cuts, 1);
	record_free(&rec);
	fixture_run(f, "mv next img");
	return n;
}

unsigned powercut_random(const struct powercut_kind *kind, unsigned seed, unsigned cuts)
{
	struct fixture f;
	unsigned n = 0;

	fixture_begin(&f, seed);
	f.cache_bytes = 1;
	fixture_run(&f, "%s", kind->create);
	for (unsigned i = 0; i < LIVES; i++)
		n += life(&f, kind, i, cuts / LIVES);
	fixture_end(&f);
	return n;
}
