#include "fixture_record.h"

#include "block/qcow2/qcow2.h"

#include <linux/falloc.h>
#include <sys/syscall.h>

/* The active recorder, for calls that bypass the loop. */
static struct recorder *recording;

struct event *record(struct recorder *r, enum event_kind kind)
{
	if (r->n == r->cap) {
		r->cap = r->cap ? 2 * r->cap : 1024;
		r->ev = realloc(r->ev, r->cap * sizeof(*r->ev));
	}
	r->ev[r->n] = (struct event){ .kind = kind };
	return &r->ev[r->n++];
}

/* ---- through the loop ---- */

static void on_submit(struct loop_trace *t, struct loop_op *op, enum loop_op_kind kind, int fd,
	const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t len, int mode)
{
	struct recorder *r = container_of(t, struct recorder, trace);
	struct event *ev;

	(void)fd;
	if (kind != LOOP_OP_WRITE && kind != LOOP_OP_SYNC && kind != LOOP_OP_FALLOCATE)
		return;
	ev = record(r, kind == LOOP_OP_WRITE ? EV_WRITE : kind == LOOP_OP_SYNC ? EV_SYNC
		: mode & FALLOC_FL_PUNCH_HOLE ? EV_PUNCH : EV_GROW);
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

/* ---- calls that bypass the loop: replacements of libc's functions ---- */

static void record_done(enum event_kind kind, uint64_t offset, uint64_t len, const void *data)
{
	struct event *ev;
	size_t at;

	/* A thread of the loop performs what on_submit() has recorded. */
	if (!recording || !pthread_equal(recording->thread, pthread_self()))
		return;
	at = recording->n;
	ev = record(recording, kind);
	ev->offset = offset;
	ev->len = len;
	if (data) {
		ev->data = malloc(len);
		memcpy(ev->data, data, len);
	}
	record(recording, EV_COMPLETE)->of = at;
}

/* Weak, because test_repair.c replaces it. */
__attribute__((weak)) ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	ssize_t n = syscall(SYS_pwrite64, fd, buf, len, off);

	if (n > 0)
		record_done(EV_WRITE, (uint64_t)off, (uint64_t)n, buf);
	return n;
}

__attribute__((weak)) int fdatasync(int fd)
{
	int r = (int)syscall(SYS_fdatasync, fd);

	if (!r)
		record_done(EV_SYNC, 0, 0, NULL);
	return r;
}

int ftruncate(int fd, off_t len)
{
	int r = (int)syscall(SYS_ftruncate, fd, len);

	if (!r)
		record_done(EV_CUT, (uint64_t)len, 0, NULL);
	return r;
}

int fallocate(int fd, int mode, off_t off, off_t len)
{
	int r = (int)syscall(SYS_fallocate, fd, mode, off, len);

	if (!r)
		record_done(mode & FALLOC_FL_PUNCH_HOLE ? EV_PUNCH : EV_GROW, (uint64_t)off, (uint64_t)len, NULL);
	return r;
}

/* ---- known content ---- */

void record_flushed(struct recorder *r)
{
	uint8_t *now = calloc(1, RECORD_DISK_MAX);
	struct event *ev;

	assert_int_equal(fixture_rw(r->b, BLOCK_READ, 0, now, r->disk_bytes), 0);
	ev = record(r, EV_FLUSHED);
	ev->data = now;
	ev->len = r->disk_bytes;
}

void record_open(struct recorder *r)
{
	struct block_info info;

	r->b = fixture_open(r->f, "img", BLOCK_FORMAT_QCOW2, false);
	block_info(r->b, &info);
	r->disk_bytes = info.size_bytes;
}

void record_close(struct recorder *r)
{
	assert_int_equal(block_close(r->b), 0);
	r->b = NULL;
}

static void snapshot_known(struct recorder *r, const struct block_snapshot_info *info)
{
	struct event *ev;
	struct block *s;

	assert_in_range(atoi(info->id), 1, RECORD_SNAPSHOTS_MAX - 1);
	ev = record(r, EV_SNAPSHOT_MAKE);
	ev->of = (size_t)atoi(info->id);
	ev->len = info->disk_bytes;
	ev->vm_bytes = info->vm_state_bytes;
	ev->data = calloc(1, RECORD_DISK_MAX);
	ev->vm = aligned_alloc(4096, MAX(ev->vm_bytes, 4096u));
	if (ev->vm_bytes)
		assert_int_equal(fixture_vm_read(r->f, r->b, info->id, ev->vm, ev->vm_bytes), 0);
	r->f->snapshot = info->id;
	s = fixture_open(r->f, "img", BLOCK_FORMAT_QCOW2, true);
	r->f->snapshot = NULL;
	assert_int_equal(fixture_rw(s, BLOCK_READ, 0, ev->data, ev->len), 0);
	block_close(s);
	r->snapshots[r->nsnapshots++] = (struct known_snapshot){ (unsigned)ev->of, ev->data, ev->vm, ev->len, ev->vm_bytes, 0 };
	record(r, EV_SNAPSHOT_THERE)->of = (size_t)atoi(info->id);
}

void record_begin(struct recorder *r, struct fixture *f)
{
	struct block_snapshot_info *list;
	struct block_info info;
	size_t n;

	*r = (struct recorder){ .trace = { on_submit, on_complete }, .f = f, .thread = pthread_self() };
	r->b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, true);
	block_info(r->b, &info);
	r->disk_bytes = info.size_bytes;
	record_flushed(r);
	assert_int_equal(block_snapshot_list(r->b, &list, &n, &f->err), 0);
	for (size_t i = 0; i < n; i++)
		snapshot_known(r, &list[i]);
	free(list);
	record_close(r);
	fixture_run(f, "cp img before");
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
