/* Seeds: small images of each kind of the format, written by Cairn's engine. */
#include "tests/fuzz/fuzz_image.h"

#include "base/err.h"
#include "base/hex.h"
#include "base/loop.h"
#include "base/pin_name.h"
#include "base/util.h"
#include "block/block.h"
#include "block/block_snapshot.h"
#include "block/qcow2/pack.h"
#include "block/qcow2/qcow2.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES (16 * KIB)
#define PIN_BASE_BYTES (256 * KIB)

enum seed_kind {
	SEED_PLAIN,
	SEED_PACKED, /* compressed clusters */
	SEED_PINNED, /* the last snapshot is a pin */
	SEED_ON_PIN, /* overlay on a pin of image_pin_base() */
};

struct seed {
	const char *name;
	struct qcow2_create create;
	enum seed_kind kind;
	unsigned snapshots;
	uint8_t program[IMAGE_OPS][4];
};

#define PLAIN(bits, order, ver) .cluster_bits = (bits), .refcount_order = (order), .version = (ver)

static const struct seed seeds[] = {
	{ "plain", { PLAIN(9, 4, 3), .size_bytes = 256 * KIB }, SEED_PLAIN, 2,
		{ { IMAGE_READ, 0, 60, 0 }, { IMAGE_WRITE, 1, 20, 1 }, { IMAGE_FLUSH, 0, 0, 0 },
			{ IMAGE_SNAPSHOT, 0, 0x12, 0 }, { IMAGE_WRITE, 2, 40, 3 }, { IMAGE_APPLY, 1, 0, 0 },
			{ IMAGE_DISCARD, 0, 90, 0 }, { IMAGE_DELETE, 0, 0, 0 }, { IMAGE_DELETE, 1, 0, 0 },
			{ IMAGE_REOPEN, 0, 0, 0 }, { IMAGE_REPAIR_ALL, 0, 0, 0 }, { IMAGE_WRITE, 0, 9, 0 } } },
	{ "wide", { PLAIN(9, 6, 3), .size_bytes = 200 * KIB, .lazy_refcounts = true }, SEED_PLAIN, 1,
		{ { IMAGE_ZERO, 0, 60, 128 }, { IMAGE_WRITE, 9, 200, 64 }, { IMAGE_VMSTATE, 0, 0, 0 },
			{ IMAGE_RESIZE, 3, 7, 0 }, { IMAGE_EXTENTS, 0, 0, 0 }, { IMAGE_UPDATE, 0, 1, 9 },
			{ IMAGE_DELETE, 0, 0, 0 }, { IMAGE_TRIM, 0, 0, 0 }, { IMAGE_HEADER, 4, 3, 0 } } },
	{ "narrow", { PLAIN(9, 1, 3), .size_bytes = 128 * KIB }, SEED_PLAIN, 1,
		{ { IMAGE_SNAPSHOT, 0, 1, 128 }, { IMAGE_SNAPSHOT, 1, 1, 32 }, { IMAGE_ABORT, 2, 2, 0 },
			{ IMAGE_APPLY, 0, 0, 0 }, { IMAGE_REPAIR_LEAKS, 0, 0, 0 }, { IMAGE_WRITE, 5, 5, 5 } } },
	{ "old", { PLAIN(9, 4, 2), .size_bytes = 256 * KIB }, SEED_PLAIN, 2,
		{ { IMAGE_WRITE, 30, 99, 0 }, { IMAGE_ZERO, 31, 40, 0 }, { IMAGE_RESIZE, 128, 0, 1 },
			{ IMAGE_HEADER, 0, 1, 0 }, { IMAGE_APPLY, 0, 0, 0 }, { IMAGE_PREALLOCATE, 0, 0, 0 } } },
	{ "4k", { PLAIN(12, 4, 3), .size_bytes = 2 * MIB }, SEED_PLAIN, 1,
		{ { IMAGE_WRITE, 0, 255, 0 }, { IMAGE_WRITE, 128, 255, 0 }, { IMAGE_APPLY, 0, 0, 0 },
			{ IMAGE_EMPTY, 0, 0, 0 }, { IMAGE_PREALLOCATE, 0, 0, 0 }, { IMAGE_CHECK, 0, 0, 0 } } },
	{ "subclusters", { PLAIN(14, 4, 3), .size_bytes = 1 * MIB, .extended_l2 = true }, SEED_PLAIN, 1,
		{ { IMAGE_READ, 0, 60, 0 }, { IMAGE_WRITE, 1, 3, 3 }, { IMAGE_ZERO, 1, 2, 2 },
			{ IMAGE_DISCARD, 0, 90, 0 }, { IMAGE_SNAPSHOT, 0, 3, 128 }, { IMAGE_APPLY, 0, 0, 0 },
			{ IMAGE_DELETE, 0, 0, 0 }, { IMAGE_REPAIR_ALL, 0, 0, 0 } } },
	{ "zlib", { PLAIN(12, 4, 3), .size_bytes = 128 * KIB }, SEED_PACKED, 0,
		{ { IMAGE_READ, 0, 255, 0 }, { IMAGE_WRITE, 2, 3, 0 }, { IMAGE_SNAPSHOT, 0, 1, 0 },
			{ IMAGE_WRITE, 60, 3, 0 }, { IMAGE_DISCARD, 0, 30, 0 }, { IMAGE_DELETE, 0, 0, 0 },
			{ IMAGE_REPAIR_ALL, 0, 0, 0 }, { IMAGE_READ, 100, 255, 0 } } },
	{ "zstd", { PLAIN(12, 4, 3), .size_bytes = 128 * KIB,
		.compression = QCOW2_COMPRESSION_ZSTD }, SEED_PACKED, 0,
		{ { IMAGE_READ, 0, 255, 0 }, { IMAGE_DISCARD, 0, 40, 0 }, { IMAGE_WRITE, 80, 30, 0 },
			{ IMAGE_EXTENTS, 0, 0, 0 }, { IMAGE_READ, 0, 255, 0 } } },
	{ "backed", { PLAIN(9, 4, 3), .size_bytes = 300 * KIB, .backing_name = "base.img",
		.backing_format = "raw" }, SEED_PLAIN, 1,
		{ { IMAGE_READ, 0, 255, 0 }, { IMAGE_WRITE, 11, 3, 0 }, { IMAGE_ZERO, 20, 30, 128 },
			{ IMAGE_HEADER, 3, 0, 0 }, { IMAGE_DISCARD, 0, 60, 0 }, { IMAGE_RESIZE, 1, 1, 0 },
			{ IMAGE_RESIZE, 20, 0, 1 }, { IMAGE_RESIZE, 2, 1, 0 }, { IMAGE_EMPTY, 0, 0, 0 } } },
	{ "overlay", { PLAIN(9, 4, 3), .size_bytes = 300 * KIB }, SEED_ON_PIN, 1,
		{ { IMAGE_READ, 0, 255, 0 }, { IMAGE_WRITE, 11, 3, 0 }, { IMAGE_ZERO, 20, 30, 128 },
			{ IMAGE_SNAPSHOT, 0, 3, 0 }, { IMAGE_DISCARD, 0, 60, 0 }, { IMAGE_REOPEN, 0, 0, 0 },
			{ IMAGE_APPLY, 0, 0, 0 }, { IMAGE_REPAIR_ALL, 0, 0, 0 }, { IMAGE_HEADER, 3, 0, 0 } } },
	{ "pinned", { PLAIN(9, 4, 3), .size_bytes = 256 * KIB }, SEED_PINNED, 2,
		{ { IMAGE_WRITE, 1, 20, 1 }, { IMAGE_APPLY, 1, 0, 0 }, { IMAGE_UPDATE, 1, 1, 9 },
			{ IMAGE_SNAPSHOT, 0, 0x12, 0 }, { IMAGE_DELETE, 0, 0, 0 }, { IMAGE_REOPEN, 0, 0, 0 },
			{ IMAGE_DELETE, 0, 0, 0 }, { IMAGE_REPAIR_ALL, 0, 0, 0 }, { IMAGE_READ, 0, 255, 0 } } },
};

static const uint8_t pin_id[BLOCK_PIN_ID_BYTES] = "the seeds' pin.";

size_t image_seeds(void)
{
	return ARRAY_SIZE(seeds);
}

const char *image_seed_name(size_t i)
{
	return seeds[i].name;
}

static void must(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "image_seed: %s\n", what);
	abort();
}

static void fill(uint8_t *buf, size_t len, unsigned kind)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(i / 64 + kind);
}

/* Fill an image so that half of its clusters compress and the others are stored raw. */
static void pack_fill(int fd, const struct seed *s)
{
	size_t cluster = (size_t)1 << s->create.cluster_bits;
	struct qcow2_compressor *z = qcow2_compressor_new(s->create.compression, (uint32_t)cluster);
	uint8_t *in = malloc(cluster), *out = malloc(cluster);
	struct qcow2_pack *p;

	must(z && in && out && !qcow2_pack_new(fd, &s->create, &p, NULL), "cannot pack");
	for (uint64_t off = 0; off < s->create.size_bytes / 2; off += cluster) {
		size_t n;

		fill(in, cluster, (unsigned)(off >> s->create.cluster_bits));
		n = off / cluster % 4 == 3 ? 0 : qcow2_compress(z, in, out);
		must(!qcow2_pack_add(p, off, n ? out : in, n ? n : cluster), "cannot pack a cluster");
	}
	must(!qcow2_pack_finish(p, NULL), "cannot finish a packed image");
	qcow2_pack_free(p);
	qcow2_compressor_free(z);
	free(in);
	free(out);
}

struct seed_op {
	struct block_snapshot_op op;
	bool over;
	int res;
};

static void seed_op_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	struct seed_op *o = container_of(op, struct seed_op, op);

	(void)e;
	o->over = true;
	o->res = res;
}

static void vm_done(struct block_vmstate_req *r, int res)
{
	must(!res, "cannot write a VM state");
	r->iov = NULL;
}

static void snapshot_commit(struct loop *l, struct block_snapshot *s, const struct block_snapshot_info *info)
{
	struct seed_op o = { .op.done = seed_op_done };

	block_snapshot_commit(s, info, &o.op);
	while (!o.over)
		loop_run_once(l, UINT64_MAX);
	must(!o.res, "cannot make a snapshot");
}

static void pin(struct loop *l, struct block *b)
{
	struct block_snapshot_info info = { 0 };
	struct block_snapshot *s;

	must(!block_snapshot_begin(b, &s, NULL), "cannot begin a pin");
	qcow2_pin_mark(&info, pin_id);
	snapshot_commit(l, s, &info);
}

static void snapshot(struct loop *l, struct block *b, uint8_t *buf, unsigned i)
{
	struct block_snapshot_info info = { .vm_state_bytes = 4096, .vm_clock_ns = 1 };
	struct iovec iov = { buf, 4096 };
	struct block_vmstate_req q = { .len = 4096, .iov = &iov, .niov = 1, .done = vm_done };
	struct block_snapshot *s;

	snprintf(info.name, sizeof(info.name), "seed%u", i);
	must(!block_snapshot_begin(b, &s, NULL), "cannot begin a snapshot");
	block_snapshot_vmstate_write(s, &q);
	while (q.iov)
		loop_run_once(l, UINT64_MAX);
	snapshot_commit(l, s, &info);
}

static void put(struct block *b, enum block_op op, uint64_t off, uint8_t *buf, uint64_t len)
{
	struct iovec iov = { buf, len };
	struct block_req r = { .op = op, .offset = off, .len = len, .iov = &iov, .niov = 1 };

	must(!block_run(b, &r), "cannot write");
}

static void engine_fill(int fd, int base, const struct seed *s)
{
	struct block_layer layers[2] = { { .fd = dup(fd), .format = BLOCK_FORMAT_QCOW2 },
		{ .fd = base, .format = s->kind == SEED_ON_PIN ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW } };
	struct block_open o = { .layers = layers, .nlayers = base >= 0 ? 2 : 1,
		.no_lock = true, .buffered = true };
	uint8_t *buf = aligned_alloc(4096, PIECE_BYTES);
	struct loop *l;
	struct block *b;

	must(buf && !loop_new(64, &l, NULL) && !block_open(l, &o, &b, NULL), "cannot open");
	for (unsigned i = 0; i <= s->snapshots; i++) {
		fill(buf, PIECE_BYTES, i);
		put(b, BLOCK_WRITE, i * 4096, buf, i ? 2048 : PIECE_BYTES);
		put(b, BLOCK_WRITE, s->create.size_bytes - 8192 - i * 512, buf, 4096);
		if (s->create.version > 2)
			put(b, BLOCK_WRITE_ZEROES, 32 * KIB + i * 512, buf, 2048);
		if (s->kind == SEED_PINNED && i + 1 == s->snapshots)
			pin(l, b);
		else if (i < s->snapshots)
			snapshot(l, b, buf, i);
	}
	must(!block_close(b), "cannot close");
	loop_free(l);
	free(buf);
}

/* ---- images on a pin ---- */

static void pin_base_make(int fd, struct qcow2_pin *ret)
{
	static const struct seed seed = { "base", { PLAIN(9, 4, 3), .size_bytes = 256 * KIB }, SEED_PINNED, 1, { { 0 } } };

	must(!qcow2_create(fd, &seed.create, NULL), "cannot create");
	engine_fill(fd, -1, &seed);
	must(!qcow2_pin_read(fd, "base", pin_id, ret, NULL), "cannot read the pin");
}

int image_pin_base(struct qcow2_pin *ret)
{
	static uint8_t bytes[PIN_BASE_BYTES];
	static struct qcow2_pin made;
	static ssize_t n;
	int fd = memfd_create("base", MFD_CLOEXEC);

	must(fd >= 0, "no memory file");
	if (!n) {
		pin_base_make(fd, &made);
		n = pread(fd, bytes, sizeof(bytes), 0);
		must(n > 0 && lseek(fd, 0, SEEK_END) == n, "the pin's image is too large");
	}
	must(pwrite(fd, bytes, (size_t)n, 0) == n, "no memory file");
	if (ret)
		*ret = made;
	return fd;
}

/* Create an empty image on the pin, and return the pin's image. */
static int overlay_create(int fd, const struct seed *s)
{
	char name[128], id[2 * BLOCK_PIN_ID_BYTES + 1];
	struct qcow2_create c = s->create;
	struct qcow2_pin pin;
	int base = image_pin_base(&pin);

	hex_print(pin.id, sizeof(pin.id), id);
	snprintf(name, sizeof(name), PIN_NAME_PROTOCOL "base.img" PIN_NAME_SNAPSHOT "%s", id);
	c.backing_name = name;
	c.backing_format = "qcow2";
	c.pin = &pin;
	must(!qcow2_create(fd, &c, NULL), "cannot create an overlay");
	return base;
}

size_t image_seed(size_t i, uint8_t *input, size_t cap)
{
	const struct seed *s = &seeds[i];
	int fd = memfd_create("seed", MFD_CLOEXEC), base = -1;
	ssize_t n;

	must(fd >= 0, "no memory file");
	if (s->create.backing_name) {
		base = memfd_create("base", MFD_CLOEXEC);
		must(base >= 0 && !ftruncate(base, 256 * KIB), "no memory file");
	}
	if (s->kind == SEED_PACKED) {
		pack_fill(fd, s);
	} else if (s->kind == SEED_ON_PIN) {
		engine_fill(fd, overlay_create(fd, s), s);
	} else {
		must(!qcow2_create(fd, &s->create, NULL), "cannot create");
		engine_fill(fd, base, s);
	}
	memcpy(input, s->program, IMAGE_PROGRAM_BYTES);
	n = pread(fd, input + IMAGE_PROGRAM_BYTES, cap - IMAGE_PROGRAM_BYTES, 0);
	must(n > 0 && lseek(fd, 0, SEEK_END) == n, "a seed is too large");
	close(fd);
	return (size_t)n + IMAGE_PROGRAM_BYTES;
}
