/* Runs the operations of an input on its image. */
#include "tests/fuzz/fuzz_image.h"

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"
#include "block/block_snapshot.h"
#include "block/qcow2/qcow2.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES (4 * MIB)
#define BACKING_BYTES (256 * KIB)
#define STEP_BYTES (128 * KIB)
#define GROWN_MAX (64 * MIB)
/* Limit of extents for walks over a whole disk. */
#define EXTENTS_MAX 256u

struct run {
	struct loop *loop;
	int fd;
	int data_fd; /* for an image with an external data file */
	struct block *b; /* NULL: closed, or cannot be opened */
	uint8_t *buf, *back;
	bool whole; /* check found no fault before the first operation */
	bool plain; /* neither leaks nor compressed clusters, whose content may be garbage */
};

#define DIE(...)                                                                                   \
	do {                                                                                       \
		fprintf(stderr, "image_run: " __VA_ARGS__);                                        \
		fputc('\n', stderr);                                                               \
		abort();                                                                           \
	} while (0)

/* ---- the file ---- */

static int memory_file(const uint8_t *data, size_t len, uint64_t bytes)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 || pwrite(fd, data, len, 0) != (ssize_t)len)
		DIE("no memory file: %s", strerror(errno));
	return fd;
}

/* Return a checksum of the first 256 KiB and the length, to check that readers do not write. */
static uint64_t file_sum(int fd)
{
	static uint64_t words[256 * KIB / 8];
	uint64_t sum = (uint64_t)lseek(fd, 0, SEEK_END);
	ssize_t n = pread(fd, words, sizeof(words), 0);

	for (ssize_t i = 0; i < n / 8; i++)
		sum = (sum ^ words[i]) * 0x9e3779b97f4a7c15ULL;
	return sum;
}

/* ---- opening and closing ---- */

static void image_open(struct run *r, bool read_only, struct err *e)
{
	struct block_layer layers[2] = { { .fd = dup(r->fd), .format = BLOCK_FORMAT_QCOW2 },
		{ .fd = -1, .format = BLOCK_FORMAT_RAW } };
	struct block_open o = { .layers = layers, .nlayers = 1, .no_lock = true, .buffered = true,
		.cache_bytes = 1, .read_only = read_only };
	struct qcow2_header h;

	if (!qcow2_header_read(r->fd, "image", &h, NULL)) {
		static uint8_t base[BACKING_BYTES];

		memset(base, 0xba, sizeof(base));
		if (h.has_pin) {
			layers[1] = (struct block_layer){ .fd = image_pin_base(NULL), .format = BLOCK_FORMAT_QCOW2 };
			o.nlayers = 2;
		} else if (h.has_backing) {
			layers[1].fd = memory_file(base, sizeof(base), sizeof(base));
			o.nlayers = 2;
		}
		if (h.incompatible & QCOW2_INCOMPAT_DATA_FILE)
			layers[0].data_fd = dup(r->data_fd);
	}
	if (!block_open(r->loop, &o, &r->b, e))
		return;
	r->b = NULL;
	close(layers[0].fd);
	if (layers[0].data_fd)
		close(layers[0].data_fd);
	if (layers[1].fd >= 0)
		close(layers[1].fd);
}

static int image_close(struct run *r)
{
	int res = block_close(r->b);

	r->b = NULL;
	return res;
}

/* An image that is marked as corrupt can still be read. */
static void image_reopen(struct run *r)
{
	uint64_t before;

	(void)image_close(r);
	image_open(r, false, NULL);
	if (r->b)
		return;
	before = file_sum(r->fd);
	image_open(r, true, NULL);
	if (file_sum(r->fd) != before)
		DIE("opening for reading has written");
}

static void line_print(void *opaque, const char *line)
{
	(void)opaque;
	fprintf(stderr, "%s\n", line);
}

/* Return the number of faults; ~0 when the check fails to run. */
static uint64_t image_check(struct run *r, struct qcow2_check *ret)
{
	uint64_t before = file_sum(r->fd);
	struct qcow2_check c = { .report = ret && ret->report ? line_print : NULL };
	struct qcow2_header h;
	int res = qcow2_header_read(r->fd, "image", &h, NULL);

	if (!res)
		res = qcow2_header_supported(&h, false, NULL);
	if (!res)
		res = qcow2_check(r->fd, &h, &c, NULL);
	if (file_sum(r->fd) != before)
		DIE("check has written");
	if (ret)
		*ret = c;
	return res ? UINT64_MAX : c.corruptions + c.errors;
}

/* ---- requests ---- */

static int rw(struct block *b, enum block_op op, unsigned flags, uint64_t off, uint8_t *buf,
	uint64_t len)
{
	struct iovec iov = { buf, len };
	struct block_req q = { .op = op, .flags = flags, .offset = off, .len = len, .iov = &iov,
		.niov = 1 };

	return block_run(b, &q);
}

/* Choose a range: op[1]/256 of the disk plus some sectors. */
static uint64_t place(const struct block_info *info, const uint8_t *op, uint64_t *ret_len)
{
	uint64_t off = info->size_bytes / 256 * op[1] / 512 * 512 + (op[3] & 15) * 512ULL;

	off = MIN(off, info->size_bytes);
	*ret_len = MIN(info->size_bytes - off, MIN((op[2] + 1) * 512ULL, STEP_BYTES));
	return off;
}

static void op_data(struct run *r, const uint8_t *op)
{
	static const enum block_op ops[] = { [IMAGE_READ] = BLOCK_READ, [IMAGE_WRITE] = BLOCK_WRITE,
		[IMAGE_ZERO] = BLOCK_WRITE_ZEROES, [IMAGE_DISCARD] = BLOCK_DISCARD,
		[IMAGE_FLUSH] = BLOCK_FLUSH };
	unsigned flags = (op[3] & 64 ? BLOCK_REQ_FUA : 0) | (op[3] & 128 ? BLOCK_REQ_MAY_UNMAP : 0);
	enum block_op kind = ops[op[0]];
	struct block_info info;
	uint64_t off, len;
	int res;

	block_info(r->b, &info);
	off = place(&info, op, &len);
	memset(r->buf, kind == BLOCK_WRITE ? 0x10 + op[3] % 64 : 0, STEP_BYTES);
	res = rw(r->b, kind, flags, kind == BLOCK_FLUSH ? 0 : off, r->buf, kind == BLOCK_FLUSH ? 0 : len);
	if (!r->plain || info.read_only || (kind != BLOCK_WRITE && kind != BLOCK_WRITE_ZEROES))
		return;
	if (res)
		DIE("a %s in a whole image fails: %s", kind == BLOCK_WRITE ? "write" : "zero", strerror(-res));
	if (rw(r->b, BLOCK_READ, 0, off, r->back, len) || memcmp(r->buf, r->back, len))
		DIE("what was written at 0x%llx does not read back", (unsigned long long)off);
}

static void op_extents(struct run *r)
{
	struct block_info info;
	uint64_t off = 0;

	block_info(r->b, &info);
	for (unsigned i = 0; i < EXTENTS_MAX && off < info.size_bytes; i++) {
		struct block_extent x;

		if (block_extent(r->b, off, info.size_bytes - off, &x) < 0) {
			off += 64 * KIB;
			continue;
		}
		if (!x.len || x.len > info.size_bytes - off)
			DIE("an extent of %llu bytes", (unsigned long long)x.len);
		off += x.len;
	}
}

/* ---- snapshots ---- */

struct snapshot_op {
	struct block_snapshot_op op;
	bool over;
};

static void snapshot_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	(void)res;
	(void)e;
	container_of(op, struct snapshot_op, op)->over = true;
}

static void snapshot_wait(struct run *r, struct snapshot_op *o)
{
	while (!o->over)
		loop_run_once(r->loop, UINT64_MAX);
}

static void vm_done(struct block_vmstate_req *q, int res)
{
	(void)res;
	q->iov = NULL;
}

static void vm_wait(struct run *r, struct block_vmstate_req *q)
{
	while (q->iov)
		loop_run_once(r->loop, UINT64_MAX);
}

/* Get the id of an existing snapshot. Returns false when there is none. */
static bool snapshot_pick(struct run *r, uint8_t which, struct block_snapshot_info *ret)
{
	struct block_snapshot_info *list;
	size_t n;

	if (block_snapshot_list(r->b, &list, &n, NULL) < 0)
		return false;
	if (n)
		*ret = list[which % n];
	free(list);
	return n;
}

static void op_snapshot(struct run *r, const uint8_t *op)
{
	struct block_snapshot_info old, info = { .vm_state_bytes = (op[2] & 15) * 4096ULL };
	struct snapshot_op make = { .op.done = snapshot_done };
	struct iovec iov = { r->buf, info.vm_state_bytes };
	struct block_vmstate_req q = { .offset = (op[2] >> 4) * 4096ULL, .len = info.vm_state_bytes,
		.iov = &iov, .niov = 1, .done = vm_done };
	bool share = (op[3] & 32) && snapshot_pick(r, op[1], &old);
	struct block_snapshot *s;

	snprintf(info.name, sizeof(info.name), "fuzz%u", op[1]);
	info.vm_state_bytes += q.offset;
	if (block_snapshot_begin(r->b, &s, NULL))
		return;
	if (op[3] & 128)
		op_data(r, (uint8_t[]){ IMAGE_WRITE, op[1], op[2], 0 });
	if (q.len) {
		if (share)
			block_snapshot_vmstate_share(s, old.id, &q);
		else
			block_snapshot_vmstate_write(s, &q);
		vm_wait(r, &q);
	}
	if (op[0] == IMAGE_ABORT)
		block_snapshot_abort(s, &make.op);
	else
		block_snapshot_commit(s, &info, &make.op);
	snapshot_wait(r, &make);
}

static void op_existing(struct run *r, const uint8_t *op)
{
	struct snapshot_op o = { .op.done = snapshot_done };
	struct block_snapshot_info info;

	if (!snapshot_pick(r, op[1], &info))
		return;
	if (op[0] == IMAGE_UPDATE) {
		snprintf(info.name, sizeof(info.name), "new%u", op[2]);
		info.extra_bytes = op[3] * 3;
		block_snapshot_update(r->b, &info, &o.op);
	} else if (op[0] == IMAGE_APPLY) {
		block_snapshot_apply(r->b, info.id, &o.op);
	} else {
		block_snapshot_delete(r->b, info.id, &o.op);
	}
	snapshot_wait(r, &o);
}

static void op_vmstate(struct run *r, const uint8_t *op)
{
	struct snapshot_op o = { .op.done = snapshot_done };
	struct iovec iov = { r->back, 64 * KIB };
	struct block_vmstate_req q = { .offset = op[2] * 4096ULL, .len = 64 * KIB, .iov = &iov,
		.niov = 1, .done = vm_done };
	struct block_vmstate_map map = { 0 };
	struct block_snapshot_info info;

	if (!snapshot_pick(r, op[1], &info))
		return;
	block_vmstate_read(r->b, info.id, &q);
	vm_wait(r, &q);
	block_vmstate_map(r->b, info.id, &map, &o.op);
	snapshot_wait(r, &o);
	free(map.extents);
}

/* ---- the whole image ---- */

static void op_resize(struct run *r, const uint8_t *op)
{
	struct block_info info;
	uint64_t size;

	block_info(r->b, &info);
	size = op[3] & 1 ? info.size_bytes / 256 * op[1] / 512 * 512
			 : info.size_bytes + (op[1] * 256ULL + op[2]) * 512;
	if (size > info.size_bytes && size > GROWN_MAX)
		return;
	if (r->b && !block_resize(r->b, size, NULL)) {
		block_info(r->b, &info);
		if (info.size_bytes != size)
			DIE("resized to another size");
	}
}

static void op_repair(struct run *r, enum qcow2_repair how)
{
	struct qcow2_check c = { 0 };
	struct qcow2_header h;
	struct err e;

	(void)image_close(r);
	if (!qcow2_header_read_damaged(r->fd, "image", &h, NULL) && !qcow2_header_supported(&h, false, NULL) &&
		!qcow2_repair(r->fd, &h, how, &c, NULL) && how == QCOW2_REPAIR_ALL && !c.corruptions &&
		!c.errors) {
		image_open(r, false, &e);
		if (!r->b)
			DIE("repaired, but it does not open: %s", e.msg);
		return;
	}
	image_reopen(r);
}

/* Run operations that tools perform on an image that is not open. */
static void op_header(struct run *r, const uint8_t *op)
{
	struct qcow2_header h;

	(void)image_close(r);
	if (!qcow2_header_read(r->fd, "image", &h, NULL) && !qcow2_header_supported(&h, true, NULL)) {
		switch (op[1] % 6) {
		case 0:
			/* As in the tool: version 3 wants the sizes in all entries of the snapshot table. */
			if (h.version < 3 && op[2] % 2 &&
				(image_check(r, NULL) || qcow2_refcounts_rebuild(r->fd, &h, h.refcount_order, NULL)))
				break;
			(void)qcow2_set_version(r->fd, &h, 2 + op[2] % 2, NULL);
			break;
		case 1:
			(void)qcow2_set_lazy_refcounts(r->fd, &h, op[2] & 1, NULL);
			break;
		case 2:
			(void)qcow2_set_backing(r->fd, &h, "base.img", "raw", NULL);
			break;
		case 3:
			(void)qcow2_set_backing(r->fd, &h, NULL, NULL, NULL);
			break;
		case 4:
			/* As in the tool: refuse when the check finds faults. */
			if (!image_check(r, NULL))
				(void)qcow2_refcounts_rebuild(r->fd, &h, op[2] % 7, NULL);
			break;
		default:
			(void)qcow2_trim(r->fd, &h, NULL);
			break;
		}
	}
	image_reopen(r);
}

static void op_large(struct run *r, const uint8_t *op)
{
	struct block_info info;

	block_info(r->b, &info);
	if (info.read_only || info.size_bytes > GROWN_MAX)
		return;
	if (op[0] == IMAGE_EMPTY)
		(void)qcow2_make_empty(r->b, NULL);
	else if (info.size_bytes <= 2 * MIB)
		(void)qcow2_preallocate(r->b, 0, NULL);
}

static void op_run(struct run *r, const uint8_t *op)
{
	switch (op[0]) {
	case IMAGE_REOPEN:
		image_reopen(r);
		return;
	case IMAGE_CHECK:
		(void)image_close(r);
		(void)image_check(r, NULL);
		image_reopen(r);
		return;
	case IMAGE_REPAIR_LEAKS:
	case IMAGE_REPAIR_ALL:
		op_repair(r, op[0] == IMAGE_REPAIR_ALL ? QCOW2_REPAIR_ALL : QCOW2_REPAIR_LEAKS);
		return;
	case IMAGE_HEADER:
	case IMAGE_TRIM:
		op_header(r, op[0] == IMAGE_TRIM ? (uint8_t[]){ op[0], 5, 0, 0 } : op);
		return;
	default:
		break;
	}
	if (!r->b)
		return;
	if (op[0] <= IMAGE_FLUSH)
		op_data(r, op);
	else if (op[0] <= IMAGE_ABORT)
		op_snapshot(r, op);
	else if (op[0] <= IMAGE_UPDATE)
		op_existing(r, op);
	else if (op[0] == IMAGE_VMSTATE)
		op_vmstate(r, op);
	else if (op[0] == IMAGE_EXTENTS)
		op_extents(r);
	else if (op[0] == IMAGE_RESIZE)
		op_resize(r, op);
	else
		op_large(r, op);
}

/* Return the loop for all inputs: a request left in flight by one image fails the next. */
static struct loop *loop_shared(void)
{
	static struct loop *l;

	if (!l && loop_new(64, &l, NULL) < 0)
		DIE("no loop");
	return l;
}

void image_run(const uint8_t *input, size_t len)
{
	static const uint8_t none[IMAGE_PROGRAM_BYTES];
	const uint8_t *program = len < IMAGE_PROGRAM_BYTES ? none : input;
	size_t skip = MIN(len, IMAGE_PROGRAM_BYTES);
	struct run r = { .fd = memory_file(input + skip, len - skip, MAX(FILE_BYTES, len - skip)) };
	struct qcow2_check c = { 0 };

	log_set_fd(-1);
	r.buf = aligned_alloc(4096, STEP_BYTES);
	r.back = aligned_alloc(4096, STEP_BYTES);
	if (!r.buf || !r.back)
		DIE("no memory");
	r.loop = loop_shared();
	r.data_fd = memory_file(NULL, 0, FILE_BYTES);
	memset(r.buf, 0x5a, STEP_BYTES);
	r.whole = !image_check(&r, &c);
	r.plain = r.whole && !c.compressed_clusters && !c.leaks;
	image_reopen(&r);
	for (unsigned i = 0; i < IMAGE_OPS; i++) {
		uint8_t op[4] = { program[i * 4] % IMAGE_OP_COUNT, program[i * 4 + 1],
			program[i * 4 + 2], program[i * 4 + 3] };

		op_run(&r, op);
	}
	(void)image_close(&r);
	if (r.whole && image_check(&r, NULL)) {
		c = (struct qcow2_check){ .report = line_print };
		(void)image_check(&r, &c);
		DIE("an image that was whole is so no more");
	}
	if (loop_ops_in_flight(r.loop))
		DIE("closed with %u operations in flight", loop_ops_in_flight(r.loop));
	close(r.fd);
	close(r.data_fd);
	free(r.buf);
	free(r.back);
}
