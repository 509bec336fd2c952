#include "fixture_record.h"

#include "base/bitmap.h"
#include "block/qcow2/bitmap.h"

#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* The active recorder, for calls that bypass the loop. */
static struct recorder *recording;

struct event *record(struct recorder *r, enum event_kind kind)
{
	if (r->n == r->cap) {
		r->cap = r->cap ? 2 * r->cap : 1024;
		r->ev = realloc(r->ev, r->cap * sizeof(*r->ev));
	}
	r->ev[r->n] = (struct event){ .kind = kind, .disk = (unsigned)(r->disk - r->disks) };
	return &r->ev[r->n++];
}

/* Return the number of the image that fd is open on; ndisks: none of the chain. */
static unsigned disk_of(const struct recorder *r, int fd)
{
	struct stat st;
	unsigned i = 0;

	assert_int_equal(fstat(fd, &st), 0);
	while (i < r->ndisks && r->disks[i].inode != st.st_ino)
		i++;
	return i;
}

/* ---- through the loop ---- */

static void on_submit(struct loop_trace *t, struct loop_op *op, enum loop_op_kind kind, int fd,
	const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t len, int mode)
{
	struct recorder *r = container_of(t, struct recorder, trace);
	struct event *ev;

	if (kind != LOOP_OP_WRITE && kind != LOOP_OP_SYNC && kind != LOOP_OP_FALLOCATE)
		return;
	ev = record(r, kind == LOOP_OP_WRITE ? EV_WRITE : kind == LOOP_OP_SYNC ? EV_SYNC
		: mode & FALLOC_FL_PUNCH_HOLE ? EV_PUNCH : EV_GROW);
	ev->op = op;
	ev->disk = disk_of(r, fd);
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

static void complete(struct recorder *r, size_t of)
{
	struct event *ev = record(r, EV_COMPLETE);

	ev->of = of;
	ev->disk = r->ev[of].disk;
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
		complete(r, i);
		return;
	}
}

/* ---- calls that bypass the loop: replacements of libc's functions ---- */

static void record_done(int fd, enum event_kind kind, uint64_t offset, uint64_t len, const void *data)
{
	struct event *ev;
	size_t at;

	/* A thread of the loop performs what on_submit() has recorded. */
	if (!recording || !pthread_equal(recording->thread, pthread_self()))
		return;
	at = recording->n;
	ev = record(recording, kind);
	ev->disk = disk_of(recording, fd);
	ev->offset = offset;
	ev->len = len;
	if (data) {
		ev->data = malloc(len);
		memcpy(ev->data, data, len);
	}
	complete(recording, at);
}

/* Weak, because test_repair.c replaces it. */
__attribute__((weak)) ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	ssize_t n = syscall(SYS_pwrite64, fd, buf, len, off);

	if (n > 0)
		record_done(fd, EV_WRITE, (uint64_t)off, (uint64_t)n, buf);
	return n;
}

__attribute__((weak)) int fdatasync(int fd)
{
	int r = (int)syscall(SYS_fdatasync, fd);

	if (!r)
		record_done(fd, EV_SYNC, 0, 0, NULL);
	return r;
}

int ftruncate(int fd, off_t len)
{
	int r = (int)syscall(SYS_ftruncate, fd, len);

	if (!r)
		record_done(fd, EV_CUT, (uint64_t)len, 0, NULL);
	return r;
}

int fallocate(int fd, int mode, off_t off, off_t len)
{
	int r = (int)syscall(SYS_fallocate, fd, mode, off, len);

	if (!r)
		record_done(fd, mode & FALLOC_FL_PUNCH_HOLE ? EV_PUNCH : EV_GROW, (uint64_t)off, (uint64_t)len, NULL);
	return r;
}

/* ---- known content ---- */

void record_flushed(struct recorder *r)
{
	uint8_t *now = calloc(1, RECORD_DISK_MAX);
	struct event *ev;

	assert_int_equal(fixture_rw(r->disk->b, BLOCK_READ, 0, now, r->disk->bytes), 0);
	ev = record(r, EV_FLUSHED);
	ev->data = now;
	ev->len = r->disk->bytes;
}

/* ---- images of a chain ---- */

void record_name(char ret[16], const char *kind, unsigned number)
{
	if (number)
		snprintf(ret, 16, "%s%u", kind, number);
	else
		snprintf(ret, 16, "%s", kind);
}

int record_chain_open(struct fixture *f, const char *kind, unsigned number, bool read_only, struct block **ret_b)
{
	const char *names[RECORD_DISKS_MAX + 1] = { NULL };
	char all[RECORD_DISKS_MAX][16];

	for (unsigned i = 0; i <= number; i++) {
		record_name(all[i], kind, number - i);
		names[i] = all[i];
	}
	if (number)
		return fixture_open_chain(f, names, read_only, ret_b);
	return fixture_try_open(f, *names, BLOCK_FORMAT_QCOW2, read_only, ret_b);
}

static struct block *disk_open(struct recorder *r, bool read_only)
{
	struct block *b = NULL;

	if (record_chain_open(r->f, "img", (unsigned)(r->disk - r->disks), read_only, &b) < 0)
		fail_msg("%s", r->f->err.msg);
	return b;
}

char *record_bitmaps_text(struct fixture *f, const char *name)
{
	struct qcow2_bitmap_info *list;
	struct qcow2_header h;
	char path[128], *text;
	size_t n, len;
	FILE *out = open_memstream(&text, &len);
	int fd;

	fixture_path(f, name, path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (qcow2_header_read(fd, name, &h, &f->err) < 0 || qcow2_bitmaps_read(fd, &h, &list, &n, &f->err) < 0)
		fail_msg("%s: %s", name, f->err.msg);
	for (size_t i = 0; i < n; i++) {
		struct bitmap bits = { 0 };

		fprintf(out, "%s", list[i].name);
		if (list[i].flags & QCOW2_BITMAP_IN_USE) {
			fprintf(out, " in-use\n");
			continue;
		}
		if (qcow2_bitmap_read(fd, &h, &list[i], &bits, &f->err) < 0)
			fail_msg("%s: %s", name, f->err.msg);
		fprintf(out, " %s %u ", list[i].flags ? "auto" : "off", list[i].granularity_bits);
		for (size_t k = 0; k < bits.nbits; k++)
			fputc('0' + bitmap_test(&bits, k), out);
		fputc('\n', out);
		bitmap_done(&bits);
	}
	qcow2_bitmaps_free(list, n);
	close(fd);
	fclose(out);
	return text;
}

void record_bitmaps(struct recorder *r)
{
	struct block *b = r->disk->b ? r->disk->b : fixture_open(r->f, "img", BLOCK_FORMAT_QCOW2, true);
	struct block_info info;
	struct event *ev;
	uint8_t *disk = calloc(1, RECORD_DISK_MAX);
	char *text = record_bitmaps_text(r->f, "img");

	block_info(b, &info);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, disk, info.size_bytes), 0);
	if (!r->disk->b)
		block_close(b);
	ev = record(r, EV_BITMAPS);
	ev->data = disk;
	ev->len = info.size_bytes;
	ev->vm = (uint8_t *)text;
}

void record_open(struct recorder *r)
{
	struct block_info info;

	r->disk->b = disk_open(r, false);
	block_info(r->disk->b, &info);
	r->disk->bytes = MIN(info.size_bytes, RECORD_DISK_MAX);
}

void record_close(struct recorder *r)
{
	assert_int_equal(block_close(r->disk->b), 0);
	r->disk->b = NULL;
}

/* Add the next image. flags: for its file. Returns an fd of it. */
static int disk_add(struct recorder *r, int flags)
{
	struct record_disk *d = &r->disks[r->ndisks];
	struct stat st;
	int fd;

	assert_in_range(r->ndisks, 0, RECORD_DISKS_MAX - 1);
	*d = (struct record_disk){ .b = NULL };
	record_name(d->name, "img", r->ndisks++);
	fd = fixture_file(r->f, d->name, flags);
	assert_int_equal(fstat(fd, &st), 0);
	d->inode = st.st_ino;
	return fd;
}

int record_overlay(struct recorder *r, const struct qcow2_pin *pin)
{
	int fd = disk_add(r, O_RDWR | O_CREAT | O_EXCL);

	assert_int_equal(qcow2_pin_overlays(&fd, 1, pin, "img", &r->f->err), 0);
	return fd;
}

const struct record_pin *record_pin_note(struct recorder *r, size_t number, const uint8_t id[BLOCK_PIN_ID_BYTES])
{
	struct record_pin *p = &r->pins[r->npins++];
	int fd = fixture_file(r->f, r->disk->name, O_RDONLY);

	assert_true(r->npins <= RECORD_PINS_MAX);
	p->number = number;
	p->disk = (unsigned)(r->disk - r->disks);
	if (qcow2_pin_read(fd, r->disk->name, id, &p->pin, &r->f->err) < 0)
		fail_msg("%s", r->f->err.msg);
	close(fd);
	return p;
}

/* ---- start and end ---- */

static void snapshot_known(struct recorder *r, const struct block_snapshot_info *info)
{
	struct record_disk *d = r->disk;
	size_t number = r->n;
	struct event *ev;
	struct block *s;

	assert_in_range(atoi(info->id), 1, RECORD_SNAPSHOTS_MAX - 1);
	ev = record(r, EV_SNAPSHOT_MAKE);
	ev->of = (size_t)atoi(info->id);
	ev->len = info->disk_bytes;
	ev->vm_bytes = info->vm_state_bytes;
	ev->pin = info->pinned;
	ev->data = calloc(1, RECORD_DISK_MAX);
	ev->vm = aligned_alloc(4096, MAX(ev->vm_bytes, 4096u));
	if (ev->vm_bytes)
		assert_int_equal(fixture_vm_read(r->f, d->b, info->id, ev->vm, ev->vm_bytes), 0);
	r->f->snapshot = info->id;
	s = disk_open(r, true);
	r->f->snapshot = NULL;
	assert_int_equal(fixture_rw(s, BLOCK_READ, 0, ev->data, ev->len), 0);
	block_close(s);
	if (info->pinned)
		record_pin_note(r, number, info->pin_id);
	d->snapshots[d->nsnapshots++] = (struct known_snapshot){ (unsigned)ev->of, ev->data, ev->vm, ev->len, ev->vm_bytes,
		info->pinned ? number : 0 };
	record(r, EV_SNAPSHOT_THERE)->of = (size_t)atoi(info->id);
}

static void disk_known(struct recorder *r, unsigned number)
{
	struct block_snapshot_info *list;
	struct block_info info;
	char before[16];
	size_t n;

	close(disk_add(r, O_RDONLY));
	r->disk = &r->disks[number];
	r->disk->b = disk_open(r, true);
	block_info(r->disk->b, &info);
	r->disk->bytes = MIN(info.size_bytes, RECORD_DISK_MAX);
	record_flushed(r);
	assert_int_equal(block_snapshot_list(r->disk->b, &list, &n, &r->f->err), 0);
	for (size_t i = 0; i < n; i++)
		snapshot_known(r, &list[i]);
	free(list);
	record_close(r);
	record_name(before, "before", number);
	fixture_run(r->f, "cp %s %s", r->disk->name, before);
	record(r, EV_DISK_THERE);
}

void record_begin(struct recorder *r, struct fixture *f, unsigned ndisks)
{
	*r = (struct recorder){ .trace = { on_submit, on_complete }, .f = f, .thread = pthread_self(), .disk = r->disks };
	for (unsigned i = 0; i < ndisks; i++)
		disk_known(r, i);
	r->disk = r->disks;
	r->start = r->n;
	recording = r;
	loop_trace(f->loop, &r->trace);
}

void record_end(struct recorder *r)
{
	recording = NULL;
	loop_trace(r->f->loop, NULL);
}

void record_free(struct recorder *r)
{
	for (size_t i = 0; i < r->n; i++) {
		free(r->ev[i].data);
		free(r->ev[i].vm);
	}
	free(r->ev);
}
