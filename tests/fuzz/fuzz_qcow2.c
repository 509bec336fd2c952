/* fuzz_qcow2: an image from anybody is opened, read, written, its snapshots listed, made, applied,
 * deleted, then closed. libFuzzer. The input is the image's first bytes; the file is longer (a
 * hole), so that tables may lie anywhere in its first 4 MiB. */
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"
#include "block/block_snapshot.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FILE_BYTES (4 * MIB)
#define STEP_BYTES (64 * KIB)
#define OFFSETS 6

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct op {
	struct block_snapshot_op op;
	bool over;
};

static void op_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	(void)res;
	(void)e;
	container_of(op, struct op, op)->over = true;
}

static void op_wait(struct loop *l, struct op *o)
{
	while (!o->over)
		loop_run_once(l, UINT64_MAX);
}

static void rw(struct block *b, enum block_op op, uint64_t off, uint8_t *buf, uint64_t len)
{
	struct iovec iov = { buf, len };
	struct block_req r = { .op = op, .offset = off, .len = len, .iov = &iov, .niov = 1 };

	(void)block_run(b, &r);
}

static void io_all(struct block *b, uint8_t *buf)
{
	struct block_info info;

	block_info(b, &info);
	for (unsigned i = 0; i < OFFSETS; i++) {
		uint64_t off = info.size_bytes / OFFSETS * i / 512 * 512;
		uint64_t len = MIN(info.size_bytes - off, STEP_BYTES);

		rw(b, BLOCK_READ, off, buf, len);
		if (!info.read_only)
			rw(b, (enum block_op[]){ BLOCK_WRITE, BLOCK_DISCARD, BLOCK_WRITE_ZEROES }[i % 3], off,
				buf, len);
	}
	rw(b, BLOCK_FLUSH, 0, NULL, 0);
}

static void vm_done(struct block_vmstate_req *r, int res)
{
	(void)res;
	r->iov = NULL;
}

static void snapshots(struct loop *l, struct block *b, uint8_t *buf)
{
	struct block_snapshot_info *list, info = { .name = "fuzz" };
	struct iovec iov = { buf, STEP_BYTES };
	struct op make = { .op.done = op_done };
	struct block_snapshot *s;
	size_t n;

	if (!block_snapshot_begin(b, &s, NULL)) {
		io_all(b, buf);
		block_snapshot_commit(s, &info, &make.op);
		op_wait(l, &make);
		io_all(b, buf);
	}
	if (block_snapshot_list(b, &list, &n, NULL) < 0)
		return;
	for (size_t i = 0; i < n && i < 3; i++) {
		struct op apply = { .op.done = op_done }, delete = { .op.done = op_done };
		struct block_vmstate_req r = { .len = STEP_BYTES, .iov = &iov, .niov = 1, .done = vm_done };

		block_vmstate_read(b, list[i].id, &r);
		while (r.iov)
			loop_run_once(l, UINT64_MAX);
		block_snapshot_apply(b, list[i].id, &apply.op);
		op_wait(l, &apply);
		io_all(b, buf);
		block_snapshot_delete(b, list[i].id, &delete.op);
		op_wait(l, &delete);
	}
	free(list);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_set_fd(-1);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct block_layer layer = { memfd_create("image", 0), BLOCK_FORMAT_QCOW2 };
	struct block_open o = { .layers = &layer, .nlayers = 1, .no_lock = true, .buffered = true,
		.cache_bytes = 1 };
	uint8_t *buf = aligned_alloc(4096, STEP_BYTES);
	struct loop *l = NULL;
	struct block *b;

	memset(buf, 0x5a, STEP_BYTES);
	if (ftruncate(layer.fd, FILE_BYTES) < 0 ||
		pwrite(layer.fd, data, MIN(len, FILE_BYTES), 0) < 0 || loop_new(64, &l, NULL) < 0)
		abort();
	if (!block_open(l, &o, &b, NULL)) {
		io_all(b, buf);
		snapshots(l, b, buf);
		(void)block_close(b);
	} else {
		close(layer.fd);
	}
	loop_free(l);
	free(buf);
	return 0;
}
