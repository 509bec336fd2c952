/* Power cuts. The fixture records the engine's file operations during random work. At points of
 * that record it builds images from everything that a sync had made durable and any subset of the
 * rest. Each such image has to open, have no faults except leaks, and contain all data flushed
 * before. A cut of a chain hits all its images at the same point. */
#include "fixture_powercut.h"
#include "fixture_powerload.h"
#include "fixture_pull.h"

#include "base/bytes.h"
#include "block/qcow2/format.h"
#include "block/qcow2/qcow2.h"

#include <limits.h>
#include <malloc.h>

#define SECTORS (RECORD_DISK_MAX / 512)
#define CUTS 100 /* per image, not counting those next to syncs */
#define STEPS 10 /* of a random load */
#define STEPS_OF_CHAIN 6
#define CUTS_A_RUN 150 /* of a random load, in all lives */
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

/* Of one image. */
struct replay {
	struct fixture *f;
	struct recorder *rec;
	unsigned disk; /* the image's number in the chain */
	bool there;    /* the image is part of the chain */
	struct image durable; /* content as of the last sync */
	struct image image;   /* content after a cut */
	uint64_t written;     /* zeros follow */
	bool *applied;	  /* indexed by event */
	size_t *complete; /* for each event the event that completed it; 0: in flight */
	size_t first;	  /* all changes before this event are durable */
	uint64_t only;	  /* a cut leaves only this sector (from 1) of its event, and what is durable; 0: any sectors */
	const struct event *flushed;
	size_t flushed_at;
	bool touched[SECTORS];
	struct snapshot_replay snapshots[RECORD_SNAPSHOTS_MAX];
	const struct event *applied_of; /* the disk may have become this snapshot */
	const struct event *bitmaps; /* stored last; NULL: the record has none */
	bool touched_since; /* the disk, since they were stored */
	uint64_t resized; /* the disk may have this size; 0: no other size */
	unsigned chains; /* enum record_chains */
	unsigned checks, leaky;
};

/* Of all images of a chain. */
struct cuts {
	struct replay *of;
	unsigned n;
	unsigned kept; /* number of images in the files `next` */
};

static bool changes(const struct replay *p, const struct event *ev)
{
	return ev->disk == p->disk &&
	       (ev->kind == EV_WRITE || ev->kind == EV_PUNCH || ev->kind == EV_GROW || ev->kind == EV_CUT);
}

static void apply(struct image *im, const struct event *ev)
{
	uint64_t end = ev->offset + ev->len;

	if (ev->kind == EV_CUT) {
		if (ev->offset < MIN(im->bytes, RECORD_IMAGE_MAX))
			memset(im->data + ev->offset, 0, MIN(im->bytes, RECORD_IMAGE_MAX) - ev->offset);
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

static void apply_sector(struct image *im, const struct event *ev, uint64_t off)
{
	struct event one = *ev;

	one.offset += off;
	one.len = MIN(ev->len - off, 512u);
	if (one.data)
		one.data += off;
	apply(im, &one);
}

static void apply_torn(struct fixture *f, struct image *im, const struct event *ev)
{
	for (uint64_t off = 0; off < ev->len; off += 512)
		if (fixture_random(f) % 2)
			apply_sector(im, ev, off);
}

/* ---- checks after a cut ---- */

/* Open the image that the cut has left. */
static struct block *cut_open(struct replay *p, bool read_only)
{
	struct block *b = NULL;

	if (record_chain_open(p->f, "cut", p->disk, read_only, &b) < 0)
		fail_msg("disk %u: %s", p->disk, p->f->err.msg);
	return b;
}

/* A sector changed since the flush holds its content at the flush or that of one of the changes,
 * never another sector's content. */
static bool one_of(const struct replay *p, size_t k, size_t s, const uint8_t *sector)
{
	static const uint8_t zeros[512];

	for (size_t i = p->flushed_at; i <= k; i++) {
		const struct event *ev = &p->rec->ev[i];

		if (ev->kind != EV_TOUCH || ev->disk != p->disk || s * 512 < ev->offset || s * 512 >= ev->offset + ev->len)
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
	info.size_bytes = MIN(info.size_bytes, RECORD_DISK_MAX);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, disk, info.size_bytes), 0);
	if (other && info.size_bytes == other->len && !memcmp(disk, other->data, other->len)) {
		free(disk); /* the disk has become the snapshot */
		return;
	}
	if (info.size_bytes != p->flushed->len && info.size_bytes != p->resized)
		fail_msg("disk %u, cut after %zu: the disk has %llu bytes", p->disk, k, (unsigned long long)info.size_bytes);
	for (size_t s = 0; s < info.size_bytes / 512; s++)
		if (p->touched[s] && !one_of(p, k, s, disk + s * 512))
			fail_msg("disk %u, cut after %zu: sector %zu has what was never written there", p->disk, k, s);
		else if (!p->touched[s] && memcmp(disk + s * 512, p->flushed->data + s * 512, 512) != 0)
			fail_msg("disk %u, cut after %zu: flushed sector %zu is lost", p->disk, k, s);
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
		fail_msg("disk %u, cut after %zu: the VM state of snapshot %s is damaged", p->disk, k, id);
	f->snapshot = id;
	s = cut_open(p, true);
	f->snapshot = NULL;
	assert_int_equal(fixture_rw(s, BLOCK_READ, 0, buf, make->len), 0);
	if (memcmp(buf, make->data, make->len) != 0)
		fail_msg("disk %u, cut after %zu: snapshot %s is damaged", p->disk, k, id);
	block_close(s);
	free(buf);
}

/* The image `forkN` reads the pin's content, or its open says that the pin is gone. */
static void cut_pin(struct replay *p, const struct event *make, bool there, size_t k)
{
	uint8_t *buf = aligned_alloc(4096, RECORD_DISK_MAX);
	const char *names[RECORD_DISKS_MAX + 2] = { NULL };
	char name[32], all[RECORD_DISKS_MAX][16];
	struct fixture *f = p->f;
	struct block *b = NULL;
	int r;

	snprintf(name, sizeof(name), "fork%zu", (size_t)(make - p->rec->ev));
	names[0] = name;
	for (unsigned i = 0; i <= p->disk; i++) {
		record_name(all[i], "cut", p->disk - i);
		names[1 + i] = all[i];
	}
	r = fixture_open_chain(f, names, true, &b);
	if (r != (there ? 0 : -ENOENT))
		fail_msg("disk %u, cut after %zu: %s: %d: %s", p->disk, k, name, r, f->err.msg);
	if (there) {
		assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, make->len), 0);
		if (memcmp(buf, make->data, make->len) != 0)
			fail_msg("disk %u, cut after %zu: %s reads other content", p->disk, k, name);
		block_close(b);
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
			fail_msg("disk %u, cut after %zu: snapshot %d should not be there", p->disk, k, id);
		found[id] = true;
		cut_snapshot(p, b, list[i].id, k);
		assert_int_equal(list[i].pinned, p->snapshots[id].make->pin);
	}
	for (int i = 0; i < RECORD_SNAPSHOTS_MAX; i++)
		if (p->snapshots[i].make && p->snapshots[i].make->pin)
			cut_pin(p, p->snapshots[i].make, found[i], k);
	for (int i = 0; i < RECORD_SNAPSHOTS_MAX; i++)
		if (p->snapshots[i].fate == FATE_THERE && !found[i])
			fail_msg("disk %u, cut after %zu: snapshot %d is lost", p->disk, k, i);
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

	assert_int_equal(block_close(cut_open(p, false)), 0);
	fixture_path(f, "cut", path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(qcow2_header_read(fd, "cut", &h, &f->err), 0);
	assert_int_equal(qcow2_check(fd, &h, &c, &f->err), 0);
	if (c.leaks || c.corruptions || c.errors || (h.incompatible & QCOW2_INCOMPAT_DIRTY))
		fail_msg("disk %u, cut after %zu: opening leaves %llu leaks", p->disk, k, (unsigned long long)c.leaks);
	close(fd);
}

/* Does each bitmap in `is` have the content that it has in `was`, or is in use? Counts the latter. */
static bool bitmaps_match(const char *is, const char *was, unsigned *ret_in_use)
{
	*ret_in_use = 0;
	while (*is && *was) {
		size_t n = strcspn(is, "\n"), of = strcspn(was, "\n"), name = strcspn(is, " ");

		if (n == name + 7 && !strncmp(is + name, " in-use", 7) && !strncmp(is, was, name + 1))
			++*ret_in_use;
		else if (n != of || strncmp(is, was, n) != 0)
			return false;
		is += n + 1;
		was += of + 1;
	}
	return *is == *was;
}

/* The file has the bitmaps that were stored last, or those of the next store. Only the former can be in use, and if
 * none is, but one records, the disk has not changed since. */
static void cut_bitmaps(struct replay *p, struct block *b, size_t k)
{
	const char *was = (char *)p->bitmaps->vm, *next = was;
	char *is = record_bitmaps_text(p->f, "cut");
	struct block_info info;
	unsigned in_use;
	uint8_t *disk;

	for (size_t i = k + 1; i < p->rec->n && next == was; i++)
		if (p->rec->ev[i].kind == EV_BITMAPS)
			next = (char *)p->rec->ev[i].vm;
	if (!bitmaps_match(is, next, &in_use) || in_use) {
		if (!bitmaps_match(is, was, &in_use))
			fail_msg("cut after %zu: the bitmaps are neither those of before nor of after:\n%s", k, is);
		if (in_use && !p->touched_since)
			fail_msg("cut after %zu: bitmaps are in use without a write", k);
		block_info(b, &info);
		disk = aligned_alloc(4096, RECORD_DISK_MAX);
		assert_int_equal(fixture_rw(b, BLOCK_READ, 0, disk, info.size_bytes), 0);
		if (!in_use && strstr(is, " auto ") &&
			(info.size_bytes != p->bitmaps->len || memcmp(disk, p->bitmaps->data, info.size_bytes) != 0))
			fail_msg("cut after %zu: the disk has changes that no bitmap has recorded", k);
		free(disk);
	}
	free(is);
}

/* Copy an image to `mend`, without the name of a pin, which QEMU refuses. */
static void copy_for_qemu(struct fixture *f, const char *name, bool is_overlay)
{
	fixture_run(f, is_overlay ? "cp %s mend && qemu-img rebase -q -u -f qcow2 -b '' mend" : "cp %s mend", name);
}

static void cut_tables(struct replay *p, int fd, size_t k)
{
	struct qcow2_check c = { 0 };
	struct qcow2_header h;
	struct fixture *f = p->f;
	char name[16];

	record_name(name, "cut", p->disk);
	if (qcow2_header_read(fd, name, &h, &f->err) < 0 || qcow2_check(fd, &h, &c, &f->err) < 0)
		fail_msg("disk %u, cut after %zu: %s", p->disk, k, f->err.msg);
	if (c.corruptions || c.errors) {
		copy_for_qemu(f, name, h.has_pin);
		fixture_run(f, "qemu-img check mend");
		fail_msg("disk %u, cut after %zu: corrupt", p->disk, k);
	}
	p->leaky += c.leaks > 0;
	if (p->rec->quiet && c.leaks && !(h.incompatible & QCOW2_INCOMPAT_DIRTY))
		fail_msg("disk %u, cut after %zu: %llu leaks, and no mark", p->disk, k, (unsigned long long)c.leaks);
	/* While a snapshot is created or deleted, COPIED and a refcount cannot change in one write;
	 * QEMU repairs this together with the leaks. */
	if (p->checks++ % 40)
		return;
	copy_for_qemu(f, name, h.has_pin);
	fixture_run(f, "qemu-img check -q -f qcow2 -r leaks mend && qemu-img check -q -f qcow2 mend");
}

/* ---- the cuts ---- */

/* Each event that no sync has covered is applied fully, partly or not at all. */
static void image_make(struct replay *p, size_t k)
{
	struct fixture *f = p->f;
	uint64_t mood = fixture_random(f) % 4;

	memcpy(p->image.data, p->durable.data, p->written);
	p->image.bytes = p->durable.bytes;
	if (p->only) {
		apply_sector(&p->image, &p->rec->ev[k], (p->only - 1) * 512);
		return;
	}
	for (size_t i = p->first; i <= k && mood; i++) {
		const struct event *ev = &p->rec->ev[i];

		if (!changes(p, ev) || p->applied[i] || (mood > 1 && fixture_random(f) % 2))
			continue;
		if (mood == 3 && ev->len && ev->kind != EV_GROW && !(fixture_random(f) % 4))
			apply_torn(f, &p->image, ev);
		else
			apply(&p->image, ev);
	}
}

/* Write the image that a power cut after event k leaves. */
static void cut_write(struct replay *p, size_t k)
{
	char name[16];
	int fd;

	image_make(p, k);
	record_name(name, "cut", p->disk);
	fd = fixture_file(p->f, name, O_RDWR | O_CREAT | O_TRUNC); /* remove the bytes behind `written` that an earlier cut left */
	assert_int_equal(pwrite(fd, p->image.data, p->written, 0), p->written);
	assert_int_equal(ftruncate(fd, (off_t)p->image.bytes), 0);
	cut_tables(p, fd, k);
	close(fd);
}

/* Keep the images for the next life. */
static void cut_keep(struct cuts *c)
{
	char from[16], to[16];

	for (c->kept = 0; c->kept < c->n && c->of[c->kept].there; c->kept++) {
		record_name(from, "cut", c->kept);
		record_name(to, "next", c->kept);
		fixture_run(c->of->f, "cp %s %s", from, to);
	}
}

/* Open these layers, which read as the disk. */
static void cut_chain(struct replay *p, const char *const *names, size_t k)
{
	struct block *b;

	if (fixture_open_chain(p->f, names, true, &b) < 0)
		fail_msg("cut after %zu: %s: %s", k, names[0], p->f->err.msg);
	cut_disk(p, b, k);
	block_close(b);
}

/* One disk with three layers, of which a commit drops some. */
static void cut_layers(struct replay *p, size_t k)
{
	static const char *const full[] = { "cut2", "cut1", "cut", NULL }, *const less[] = { "cut2", "cut", NULL };
	struct qcow2_header h;
	int fd = fixture_file(p->f, "cut2", O_RDONLY);

	assert_int_equal(qcow2_header_read(fd, "cut2", &h, &p->f->err), 0);
	close(fd);
	if (p->chains & CHAIN_FULL)
		cut_chain(p, full, k);
	if ((p->chains & CHAIN_OF_HEADER) && !strcmp(h.backing_name, "img"))
		cut_chain(p, less, k);
	if (p->chains & CHAIN_BASE)
		cut_chain(p, full + 2, k);
}

/* Check a power cut after event k. */
static void cut(struct cuts *c, size_t k)
{
	struct fixture *f = c->of->f;
	struct block *b;

	for (unsigned i = 0; i < c->n && c->of[i].there; i++)
		cut_write(&c->of[i], k);
	if (c->of[c->n - 1].chains) {
		cut_layers(&c->of[c->n - 1], k);
		return;
	}
	for (unsigned i = 0; i < c->n && c->of[i].there; i++) {
		b = cut_open(&c->of[i], true);
		cut_disk(&c->of[i], b, k);
		cut_snapshots(&c->of[i], b, k);
		if (c->of[i].bitmaps)
			cut_bitmaps(&c->of[i], b, k);
		block_close(b);
	}
	if (c->of->rec->quiet)
		cut_mended(c->of, k);
	if (!(fixture_random(f) % c->of->checks)) /* each cut with the same probability */
		cut_keep(c);
}

/* A completed sync makes durable whatever was complete when it was submitted. */
static void synced(struct replay *p, size_t sync)
{
	for (size_t i = p->first; i < sync; i++)
		if (changes(p, &p->rec->ev[i]) && !p->applied[i] && p->complete[i] && p->complete[i] < sync) {
			apply(&p->durable, &p->rec->ev[i]);
			p->applied[i] = true;
		}
	while (p->first < sync && (!changes(p, &p->rec->ev[p->first]) || p->applied[p->first]))
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

	if (ev->disk != p->disk)
		return;
	p->touched_since |= ev->kind == EV_TOUCH || ev->kind == EV_RESIZE;
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
	} else if (ev->kind == EV_DISK_THERE) {
		p->there = true;
	} else if (ev->kind == EV_CHAINS) {
		p->chains = (unsigned)ev->of;
	} else if (ev->kind == EV_BITMAPS) {
		p->bitmaps = ev;
		p->touched_since = false;
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
		if (p->rec->ev[i].kind == EV_WRITE && p->rec->ev[i].disk == p->disk && !p->rec->ev[i].offset &&
			!p->applied[i])
			return true;
	return false;
}

static bool any_header_pending(const struct cuts *c, size_t k)
{
	unsigned i = 0;

	while (i < c->n && !(c->of[i].there && header_pending(&c->of[i], k)))
		i++;
	return i < c->n;
}

/* If event k writes several sectors of the refcount table that the durable header names, check cuts that leave one. */
static void cut_reftable(struct cuts *c, size_t k)
{
	const struct event *ev = &c->of->rec->ev[k];
	const uint8_t *was = c->of->durable.data;
	uint64_t at = ev->offset - load_be64(was + QCOW2_AT_REFTABLE_OFFSET), clusters = load_be32(was + QCOW2_AT_REFTABLE_CLUSTERS);

	if (c->n > 1 || ev->kind != EV_WRITE || ev->len <= 512 || at >= clusters << load_be32(was + QCOW2_AT_CLUSTER_BITS))
		return;
	for (uint64_t off = 0; off < ev->len; off += 512)
		if (memcmp(ev->data + off, was + ev->offset + off, 512) != 0) {
			c->of->only = off / 512 + 1;
			cut(c, k);
		}
	c->of->only = 0;
}

static void replay_begin(struct replay *p, struct recorder *rec, unsigned disk)
{
	char name[16], path[128];
	int fd;

	*p = (struct replay){ .f = rec->f, .rec = rec, .disk = disk };
	p->durable.data = calloc(1, RECORD_IMAGE_MAX);
	p->image.data = calloc(1, RECORD_IMAGE_MAX);
	p->applied = calloc(rec->n, sizeof(bool));
	p->complete = calloc(rec->n, sizeof(*p->complete));
	record_name(name, "before", disk);
	fixture_path(rec->f, name, path, sizeof(path));
	fd = open(path, O_RDONLY);
	if (fd < 0) /* an image that the load made */
		return;
	p->written = (uint64_t)pread(fd, p->durable.data, RECORD_IMAGE_MAX, 0);
	p->durable.bytes = (uint64_t)lseek(fd, 0, SEEK_END);
	while (p->written && !p->durable.data[p->written - 1])
		p->written--; /* the file may be much longer than its content */
	close(fd);
}

static void replay_end(struct replay *p)
{
	free(p->durable.data);
	free(p->image.data);
	free(p->applied);
	free(p->complete);
}

/* Check cuts anywhere, but mainly while tables and the header are written: `choices` subsets of the
 * pending writes each. *ret_kept: the number of images that were kept for the next life; NULL: not wanted. */
static unsigned replay(struct recorder *rec, unsigned cuts, unsigned choices, unsigned *ret_kept)
{
	struct cuts c = { .of = calloc(rec->ndisks, sizeof(struct replay)), .n = rec->ndisks };
	/* One in this many cuts next to a sync is checked, of a chain fewer: its images sync in turn. */
	uint64_t crowd = rec->ndisks > 1 ? 150 : 3;
	size_t every = rec->n / cuts + 1;
	unsigned checks, leaky = 0;

	/* Each cut uses buffers of megabytes. malloc keeps freed ones: faults in new ones took 40 % of the time. */
	mallopt(M_MMAP_THRESHOLD, INT_MAX);
	mallopt(M_TRIM_THRESHOLD, INT_MAX);
	for (unsigned i = 0; i < c.n; i++)
		replay_begin(&c.of[i], rec, i);
	rec->f->buffered = true; /* images under test need not reach the disk */
	for (size_t k = 0; k < rec->n; k++) {
		for (unsigned i = 0; i < c.n; i++)
			step(&c.of[i], k);
		if (k < rec->start)
			continue;
		cut_reftable(&c, k);
		for (unsigned i = 0; i < choices && any_header_pending(&c, k); i++)
			if (rec->ndisks == 1 || !(fixture_random(rec->f) % 20))
				cut(&c, k);
		if (k % every == fixture_random(rec->f) % every || (in_commit(rec, k) && !(fixture_random(rec->f) % crowd)))
			cut(&c, k);
	}
	rec->f->buffered = false;
	checks = c.of->checks;
	for (unsigned i = 0; i < c.n; i++) {
		leaky += c.of[i].leaky;
		replay_end(&c.of[i]);
	}
	print_message("%zu events, %u cuts, %u images with leaks\n", rec->n, checks, leaky);
	assert_true(checks > cuts / 4);
	if (ret_kept)
		*ret_kept = c.kept;
	free(c.of);
	return checks;
}

/* ---- scenes ---- */

void scene_begin(struct recorder *rec, struct fixture *f, const char *create, unsigned seed)
{
	fixture_begin(f, seed);
	f->cache_bytes = 1; /* the smallest cache, so that tables are evicted and loaded */
	fixture_run(f, "%s", create);
	record_begin(rec, f, 1);
	record_open(rec);
}

static void scene_close(struct recorder *rec)
{
	record_close(rec);
	record_end(rec);
	fixture_run(rec->f, "qemu-img check -q img"); /* no leaks either */
}

void scene_cut(struct recorder *rec, unsigned choices)
{
	struct fixture *f = rec->f;

	replay(rec, CUTS, choices, NULL);
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
	for (uint64_t off = 0; off < r->disk->bytes; off += reach) {
		struct event *ev = record(r, EV_TOUCH);

		ev->offset = off;
		ev->len = 4096;
		assert_int_equal(fixture_op(r->disk->b, BLOCK_WRITE_ZEROES, BLOCK_REQ_MAY_UNMAP, off, 4096), 0);
		assert_int_equal(fixture_op(r->disk->b, BLOCK_FLUSH, 0, 0, 0), 0);
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
	record_begin(&rec, &f, 1);
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
	pull_begin(&p, &f, rec.disk->b);
	load_run(&rec, 1);
	pull_end(&p);
	load_run(&rec, 4);
	scene_close(&rec);
	assert_int_equal(fixture_peek_be(&f, "img", 8, 8), 0);
	scene_cut(&rec, 2);
}

void powercut_quiet(const char *create, unsigned seed, bool *full)
{
	struct recorder rec;
	struct fixture f;

	scene_begin(&rec, &f, create, seed);
	if (full)
		load_full(&rec, full);
	else
		load_quiet(&rec);
	scene_close(&rec);
	scene_cut(&rec, 2);
}

void powercut_long_runs(const char *create, unsigned seed)
{
	uint64_t before, grown;
	struct recorder rec;
	struct fixture f;

	scene_begin(&rec, &f, create, seed);
	before = fixture_peek_be(&f, "img", 48, 8);
	rec.quiet = true;
	load_resize(&rec, 9 * GIB);
	grown = fixture_peek_be(&f, "img", 48, 8);
	assert_int_not_equal(grown, before);
	load_snapshot_make(&rec, -1);
	load_snapshot_make(&rec, -1);
	load_snapshot_delete(&rec, 0);
	scene_close(&rec);
	rec.quiet = false; /* a cut during the resize leaves leaks */
	replay(&rec, (unsigned)rec.n, 2, NULL); /* at each event */
	record_free(&rec);
	fixture_end(&f);
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

void powercut_bitmaps(const char *create, unsigned seed)
{
	struct recorder rec;
	struct fixture f;

	scene_begin(&rec, &f, create, seed);
	load_bitmaps(&rec);
	scene_close(&rec);
	fixture_run(&f, "qemu-img bitmap --remove img four && qemu-img check -q img");
	scene_cut(&rec, 6);
}

/* ---- life after life ---- */

/* Repair an image or not, at random: leaks of the power cut may stay. */
static void mend(struct fixture *f, const char *name)
{
	enum qcow2_repair how = fixture_random(f) % 2 ? QCOW2_REPAIR_LEAKS : QCOW2_REPAIR_ALL;
	struct qcow2_check c = { 0 };
	struct qcow2_header h;
	int fd;

	if (fixture_random(f) % 2)
		return;
	fd = fixture_file(f, name, O_RDWR);
	assert_int_equal(qcow2_header_read(fd, name, &h, &f->err), 0);
	if (qcow2_repair(fd, &h, how, &c, &f->err) < 0)
		fail_msg("repair: %s", f->err.msg);
	assert_int_equal(c.corruptions + c.leaks + c.errors, 0);
	close(fd);
}

static void disks_open(struct recorder *r)
{
	for (unsigned i = 0; i < r->ndisks; i++) {
		r->disk = &r->disks[i];
		record_open(r);
	}
}

static void disks_close(struct recorder *r)
{
	for (unsigned i = 0; i < r->ndisks; i++) {
		r->disk = &r->disks[i];
		record_close(r);
	}
	r->disk = r->disks;
}

/* *n: the number of images in the chain; gets the number for the next life. */
static unsigned life(struct fixture *f, const struct powercut_kind *kind, bool again, unsigned cuts, unsigned *n)
{
	struct recorder rec;
	unsigned checks;

	record_begin(&rec, f, *n);
	for (unsigned i = 0; again && i < *n; i++)
		mend(f, rec.disks[i].name);
	disks_open(&rec);
	if (kind->chain)
		load_chain(&rec, STEPS_OF_CHAIN);
	else
		load_random(&rec, STEPS, kind->fixed_size, kind->no_snapshots);
	disks_close(&rec);
	record_end(&rec);
	for (unsigned i = 0; !again && i < rec.ndisks; i++) { /* later, leaks of the power cut may be there */
		copy_for_qemu(f, rec.disks[i].name, i > 0);
		fixture_run(f, "qemu-img check -q mend");
	}
	load_overlays(&rec);
	checks = replay(&rec, cuts, 1, n);
	record_free(&rec);
	fixture_run(f, "rm -f img* before* fork*");
	for (unsigned i = 0; i < *n; i++) {
		char from[16], to[16];

		record_name(from, "next", i);
		record_name(to, "img", i);
		fixture_run(f, "mv %s %s", from, to);
	}
	return checks;
}

static unsigned powercut_lives(const struct powercut_kind *kind, unsigned seed, unsigned cuts)
{
	unsigned checks = 0, n = 1;
	struct fixture f;

	fixture_begin(&f, seed);
	f.cache_bytes = 1;
	f.beside_pins = kind->chain;
	fixture_run(&f, "%s", kind->create);
	for (unsigned i = 0; i < LIVES; i++)
		checks += life(&f, kind, i, cuts / LIVES, &n);
	fixture_end(&f);
	return checks;
}

void powercut_random(const struct powercut_kind *kinds, unsigned n, unsigned otherwise)
{
	unsigned cuts = fixture_number("POWERCUT_CUTS", otherwise), seed = fixture_number("POWERCUT_SEED", 1);
	unsigned checks = 0;

	while (checks < cuts) {
		const struct powercut_kind *kind = &kinds[seed % n];

		print_message("POWERCUT_SEED=%u (%s)\n", seed, kind->name);
		checks += powercut_lives(kind, seed++, CUTS_A_RUN);
	}
	print_message("%u cuts in all\n", checks);
}
