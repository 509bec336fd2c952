/* The external data file: random operations against a shadow, power cuts over both files, malformed
 * images. */
#include "fixture_block.h"

#include "base/util.h"
#include "block/block_impl.h"
#include "block/block_snapshot.h"
#include "block/qcow2/qcow2.h"

#include <linux/falloc.h>
#include <sys/stat.h>

#define DISK_BYTES (2 * MIB)

/* ---- comparison with a shadow ---- */

static void random_run(const char *options, bool raw, bool backing, bool buffered, unsigned seed)
{
	struct fixture f;
	struct block *b;

	fixture_begin(&f, seed);
	f.buffered = buffered;
	f.cache_bytes = 1;
	fixture_run(&f, "head -c %llu /dev/urandom >noise && truncate -s %llu shadow",
		(unsigned long long)DISK_BYTES / 2, (unsigned long long)DISK_BYTES);
	if (backing)
		fixture_run(&f, "cp noise base.img && dd if=noise of=shadow conv=notrunc status=none && "
			"qemu-img create -q -f qcow2 -o data_file=data,%s -b base.img -F raw img %llu",
			options, (unsigned long long)DISK_BYTES);
	else
		fixture_run(&f, "qemu-img create -q -f qcow2 -o data_file=data,%s img %llu", options,
			(unsigned long long)DISK_BYTES);
	fixture_shadow_open(&f, "shadow", DISK_BYTES);
	for (unsigned life = 0; life < 3; life++) {
		b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
		shadow_run(&f, b, 250, 1 + life * 7);
		shadow_verify(&f, b);
		assert_int_equal(block_close(b), 0);
		fixture_run(&f, "qemu-img check -q img && qemu-img compare -q -f raw -F qcow2 shadow img");
		if (raw)
			fixture_run(&f, "cmp shadow data");
		/* QEMU's turn */
		fixture_run(&f, "qemu-io -c 'write -P %u %uk 300k' -c 'write -z -u 1M 130k' "
			"-c 'write -z 1400k 70k' img && qemu-img convert -O raw img now && cat now >shadow",
			life + 1, 100 * life);
		if (raw)
			fixture_run(&f, "cmp shadow data");
	}
	fixture_end(&f);
}

static void test_random_operations_match_shadow(void **state)
{
	random_run("cluster_size=64k", false, false, false, 1);
	random_run("cluster_size=4k", false, true, false, 2);
	random_run("cluster_size=16k,extended_l2=on", false, true, true, 3);
	random_run("cluster_size=4k,data_file_raw=on", true, false, false, 4);
	random_run("cluster_size=16k,extended_l2=on,data_file_raw=on", true, false, true, 5);
	(void)state;
}

static void test_raw_zeros_keep_the_map(void **state)
{
	uint8_t buf[4096];
	struct fixture f;
	struct block *b;
	struct block_extent x;

	fixture_begin(&f, 7);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o data_file=data,data_file_raw=on img 1M && "
		"qemu-io -c 'write -P 5 0 1M' img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(fixture_op(b, BLOCK_DISCARD, 0, 0, 128 * KIB), 0);
	assert_int_equal(fixture_op(b, BLOCK_WRITE_ZEROES, 0, 512 * KIB + 512, 1024), 0);
	assert_int_equal(block_extent(b, 0, MIB, &x), 0);
	assert_true(x.has_host && !x.zero && x.host == 0 && x.len == MIB);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 512 * KIB, buf, sizeof(buf)), 0);
	for (unsigned i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], i >= 512 && i < 1536 ? 0 : 5);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img convert -O raw img now && cmp now data && qemu-img check -q img");
	assert_int_equal(fixture_peek_be(&f, "img", 88, 8), 2); /* the data file is still marked raw */
	fixture_end(&f);
	(void)state;
}

/* ---- power cuts ---- */

#define CUT_DISK (512 * KIB)
#define CUT_SECTORS (CUT_DISK / 512)
#define CUT_FILE_MAX (2 * MIB)
#define CUT_EVENTS_MAX 20000
#define CUTS 60
#define CUT_DEPTH 4

enum cut_kind { CUT_WRITE, CUT_ZERO, CUT_SYNC, CUT_DONE, CUT_TOUCH, CUT_FLUSHED };

struct cut_event {
	enum cut_kind kind;
	unsigned file; /* 0: the image, 1: the data file */
	struct loop_op *op;
	uint64_t offset, len;
	uint8_t *data;
	size_t of; /* DONE */
};

struct cut {
	struct loop_trace trace;
	struct fixture f;
	struct block *b;
	struct cut_event *ev;
	size_t n;
	uint8_t *was[2]; /* the files at the start */
	uint64_t bytes[2];
};

static struct cut_event *cut_record(struct cut *c, enum cut_kind kind)
{
	assert_true(c->n < CUT_EVENTS_MAX);
	c->ev[c->n] = (struct cut_event){ .kind = kind };
	return &c->ev[c->n++];
}

static void on_submit(struct loop_trace *t, struct loop_op *op, enum loop_op_kind kind, int fd,
	const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t len, int mode)
{
	struct cut *c = container_of(t, struct cut, trace);
	struct cut_event *ev;

	if (kind == LOOP_OP_FALLOCATE && !(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)))
		return;
	if (kind != LOOP_OP_WRITE && kind != LOOP_OP_SYNC && kind != LOOP_OP_FALLOCATE)
		return;
	ev = cut_record(c, kind == LOOP_OP_WRITE ? CUT_WRITE : kind == LOOP_OP_SYNC ? CUT_SYNC : CUT_ZERO);
	ev->file = fd == c->b->data_fd;
	ev->op = op;
	ev->offset = offset;
	ev->len = kind == LOOP_OP_WRITE ? 0 : len;
	if (kind != LOOP_OP_WRITE)
		return;
	for (unsigned i = 0; i < niov; i++)
		ev->len += iov[i].iov_len;
	ev->data = malloc(ev->len);
	for (size_t i = 0, at = 0; i < niov; at += iov[i++].iov_len)
		memcpy(ev->data + at, iov[i].iov_base, iov[i].iov_len);
}

static void on_complete(struct loop_trace *t, struct loop_op *op, int res)
{
	struct cut *c = container_of(t, struct cut, trace);

	for (size_t i = c->n; i-- > 0;) {
		if (c->ev[i].op != op)
			continue;
		c->ev[i].op = NULL;
		if (res < 0) { /* the host refuses, and the engine falls back */
			assert_int_equal(c->ev[i].kind, CUT_ZERO);
			c->ev[i].len = 0;
		}
		cut_record(c, CUT_DONE)->of = i;
		return;
	}
}

struct cut_req {
	struct block_req req;
	struct iovec iov;
	uint8_t *buf;
	bool busy;
};

static void cut_req_done(struct block_req *r, int res)
{
	assert_int_equal(res, 0);
	container_of(r, struct cut_req, req)->busy = false;
}

static void cut_req_start(struct cut *c, struct cut_req *all, struct cut_req *q)
{
	uint64_t kind = fixture_random(&c->f) % 10, len = (1 + fixture_random(&c->f) % 40) * 512;
	uint64_t off = fixture_random(&c->f) % CUT_SECTORS * 512;
	struct cut_event *ev;

	if (kind >= 6) {
		len = 64 * KIB;
		off = ROUND_DOWN(off, 16 * KIB);
	}
	len = MIN(len, CUT_DISK - off);
	for (unsigned i = 0; i < CUT_DEPTH; i++)
		if (all[i].busy && off < all[i].req.offset + all[i].req.len && all[i].req.offset < off + len)
			return;
	for (uint64_t i = 0; i < len; i += 8) {
		uint64_t v = fixture_random(&c->f) | 1;

		memcpy(q->buf + i, &v, 8);
	}
	q->busy = true;
	q->iov = (struct iovec){ q->buf, len };
	q->req = (struct block_req){ .offset = off, .len = len, .iov = &q->iov, .niov = 1,
		.done = cut_req_done, .flags = kind == 8 ? BLOCK_REQ_MAY_UNMAP : 0,
		.op = kind < 6 ? BLOCK_WRITE : kind < 8 ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES };
	ev = cut_record(c, CUT_TOUCH);
	ev->offset = off;
	ev->len = len;
	if (kind < 6) {
		ev->data = malloc(len);
		memcpy(ev->data, q->buf, len);
	}
	block_submit(c->b, &q->req);
}

static void cut_load(struct cut *c, unsigned batches)
{
	struct cut_req reqs[CUT_DEPTH] = { 0 };

	for (unsigned i = 0; i < CUT_DEPTH; i++)
		reqs[i].buf = aligned_alloc(4096, 64 * KIB);
	while (batches--) {
		for (unsigned n = 2 + fixture_random(&c->f) % 16; n; loop_run_once(c->f.loop, 0))
			for (unsigned i = 0; i < CUT_DEPTH && n; i++)
				if (!reqs[i].busy) {
					cut_req_start(c, reqs, &reqs[i]);
					n--;
				}
		while (block_in_flight(c->b))
			loop_run_once(c->f.loop, UINT64_MAX);
		assert_int_equal(fixture_op(c->b, BLOCK_FLUSH, 0, 0, 0), 0);
		cut_record(c, CUT_FLUSHED)->data = malloc(CUT_DISK);
		assert_int_equal(fixture_rw(c->b, BLOCK_READ, 0, c->ev[c->n - 1].data, CUT_DISK), 0);
	}
	for (unsigned i = 0; i < CUT_DEPTH; i++)
		free(reqs[i].buf);
}

/* A write is durable when it is complete and a sync of its file began after its completion. */
static void durable_mark(const struct cut *c, size_t k, bool *durable)
{
	memset(durable, 0, c->n);
	for (size_t i = 0; i < k; i++) {
		const struct cut_event *sync = &c->ev[c->ev[i].of];

		if (c->ev[i].kind != CUT_DONE || sync->kind != CUT_SYNC)
			continue;
		for (size_t d = 0; d < c->ev[i].of; d++)
			if (c->ev[d].kind == CUT_DONE && c->ev[c->ev[d].of].file == sync->file)
				durable[c->ev[d].of] = true;
	}
}

static void cut_files_write(struct cut *c, size_t k, bool *durable)
{
	static const char *const names[] = { "cut", "data" };

	durable_mark(c, k, durable);
	for (unsigned file = 0; file < 2; file++) {
		uint8_t *p = calloc(1, CUT_FILE_MAX);

		memcpy(p, c->was[file], c->bytes[file]);
		for (size_t i = 0; i < k; i++) {
			const struct cut_event *ev = &c->ev[i];

			if (ev->kind > CUT_ZERO || ev->file != file || (!durable[i] && fixture_random(&c->f) % 2))
				continue;
			assert_true(ev->offset + ev->len <= CUT_FILE_MAX);
			if (ev->data)
				memcpy(p + ev->offset, ev->data, ev->len);
			else
				memset(p + ev->offset, 0, ev->len);
		}
		fixture_poke(&c->f, names[file], 0, p, file ? c->bytes[1] : CUT_FILE_MAX);
		free(p);
	}
}

/* A sector holds its content at the last flush or, if changed since, that of any change. */
static void cut_content_check(const struct cut *c, size_t k, const uint8_t *now)
{
	static const uint8_t zeros[512];
	const uint8_t *flushed = NULL;
	size_t from = 0;

	for (size_t i = 0; i < k; i++)
		if (c->ev[i].kind == CUT_FLUSHED) {
			flushed = c->ev[i].data;
			from = i;
		}
	for (uint64_t s = 0; s < CUT_DISK; s += 512) {
		bool good = !memcmp(now + s, flushed ? flushed + s : zeros, 512);

		for (size_t i = from; i < k && !good; i++) {
			const struct cut_event *ev = &c->ev[i];

			if (ev->kind == CUT_TOUCH && s >= ev->offset && s < ev->offset + ev->len)
				good = !memcmp(now + s, ev->data ? ev->data + s - ev->offset : zeros, 512);
		}
		if (!good)
			fail_msg("cut after %zu of %zu: offset %llu is lost", k, c->n, (unsigned long long)s);
	}
}

static void cut_check(struct cut *c, size_t k, bool raw)
{
	struct qcow2_check check = { 0 };
	struct qcow2_header h;
	uint8_t *now = aligned_alloc(4096, CUT_DISK);
	char path[128];
	struct block *b;
	int fd;

	fixture_path(&c->f, "cut", path, sizeof(path));
	fd = open(path, O_RDONLY);
	assert_int_equal(qcow2_header_read(fd, path, &h, &c->f.err), 0);
	assert_int_equal(qcow2_check(fd, &h, &check, &c->f.err), 0);
	close(fd);
	if (check.corruptions || check.errors)
		fail_msg("cut after %zu of %zu: the image is damaged", k, c->n);
	b = fixture_open(&c->f, "cut", BLOCK_FORMAT_QCOW2, true);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, now, CUT_DISK), 0);
	block_close(b);
	cut_content_check(c, k, now);
	if (raw) {
		fixture_path(&c->f, "data", path, sizeof(path));
		b = fixture_open(&c->f, "data", BLOCK_FORMAT_RAW, true);
		uint8_t *alone = aligned_alloc(4096, CUT_DISK);

		assert_int_equal(fixture_rw(b, BLOCK_READ, 0, alone, CUT_DISK), 0);
		assert_memory_equal(alone, now, CUT_DISK);
		free(alone);
		block_close(b);
	}
	free(now);
}

static void cut_keep(struct cut *c, unsigned file, const char *name)
{
	char path[128];
	struct stat st;
	int fd;

	fixture_path(&c->f, name, path, sizeof(path));
	fd = open(path, O_RDONLY);
	assert_int_equal(fstat(fd, &st), 0);
	c->bytes[file] = (uint64_t)st.st_size;
	c->was[file] = malloc(c->bytes[file] + 1);
	assert_int_equal(read(fd, c->was[file], c->bytes[file]), c->bytes[file]);
	close(fd);
}

static void cut_run(const char *options, bool raw, unsigned seed)
{
	struct cut c = { .trace = { on_submit, on_complete } };
	bool *durable;

	fixture_begin(&c.f, seed);
	c.f.cache_bytes = 1;
	fixture_run(&c.f, "qemu-img create -q -f qcow2 -o data_file=data,%s img %llu", options,
		(unsigned long long)CUT_DISK);
	cut_keep(&c, 0, "img");
	cut_keep(&c, 1, "data");
	c.ev = calloc(CUT_EVENTS_MAX, sizeof(*c.ev));
	c.b = fixture_open(&c.f, "img", BLOCK_FORMAT_QCOW2, false);
	loop_trace(c.f.loop, &c.trace);
	cut_load(&c, 12);
	loop_trace(c.f.loop, NULL);
	assert_int_equal(block_close(c.b), 0);
	durable = calloc(c.n + 1, 1);
	fixture_run(&c.f, "cp img cut");
	for (unsigned i = 0; i < CUTS; i++) {
		size_t k = i ? fixture_random(&c.f) % (c.n + 1) : c.n;

		cut_files_write(&c, k, durable);
		cut_check(&c, k, raw);
	}
	for (size_t i = 0; i < c.n; i++)
		free(c.ev[i].data);
	free(c.ev);
	free(durable);
	free(c.was[0]);
	free(c.was[1]);
	fixture_end(&c.f);
}

static void test_power_cuts(void **state)
{
	cut_run("cluster_size=4k", false, 11);
	cut_run("cluster_size=64k", false, 12);
	cut_run("cluster_size=16k,extended_l2=on", false, 13);
	cut_run("cluster_size=4k,data_file_raw=on", true, 14);
	(void)state;
}

/* ---- malformed ---- */

static int files_open(struct fixture *f, const char *img, const char *data, struct block **ret_b)
{
	char a[128], b[128];
	struct block_layer y = { .format = BLOCK_FORMAT_QCOW2 };
	struct block_open o = { .layers = &y, .nlayers = 1, .name = "vda" };
	int r;

	fixture_path(f, img, a, sizeof(a));
	y.fd = open(a, O_RDWR | O_CLOEXEC);
	if (data) {
		fixture_path(f, data, b, sizeof(b));
		y.data_fd = open(b, O_RDWR | O_CLOEXEC);
	}
	r = block_open(f->loop, &o, ret_b, &f->err);
	if (r < 0) {
		close(y.fd);
		if (data)
			close(y.data_fd);
	}
	return r;
}

static void refused(struct fixture *f, const char *img, const char *data, const char *says)
{
	struct block *b;

	assert_true(files_open(f, img, data, &b) < 0);
	if (!strstr(f->err.msg, says))
		fail_msg("says '%s', not '%s'", f->err.msg, says);
}

static void test_invalid_data_files_are_refused(void **state)
{
	struct fixture f;

	fixture_begin(&f, 21);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o data_file=data img 1M && "
		"qemu-img create -q -f qcow2 plain 1M && ln img hard && qemu-img snapshot -c s plain");
	refused(&f, "img", NULL, "give that file, too");
	refused(&f, "img", "img", "its own data file");
	refused(&f, "img", "hard", "its own data file");
	refused(&f, "plain", "data", "keeps its data itself");
	/* a header that has both */
	fixture_poke_be(&f, "plain", 72, 8, 4);
	refused(&f, "plain", "data", "snapshots and an external data file");
	fixture_end(&f);
	(void)state;
}

/* A read fails and changes nothing; a write marks the image corrupt. */
static void test_invalid_entries_are_detected(void **state)
{
	static const struct entry_case {
		uint64_t entry;
		const char *what;
	} cases[] = {
		{ 0x8000000000030000, "another offset" },
		{ 0x0000000000030000, "another offset, not COPIED" },
		{ 0x8000000000010200, "misaligned" },
		{ 0x4000000000020000, "compressed" },
		{ 0x8000000000000000, "the place of cluster 0" },
		{ 0x80ff000000010000, "far away" },
	};
	uint8_t buf[4096];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct fixture f;
		struct block *b;
		uint64_t l2;

		fixture_begin(&f, 22);
		fixture_run(&f, "qemu-img create -q -f qcow2 -o data_file=data img 1M && "
			"qemu-io -c 'write -P 5 0 256k' img");
		l2 = fixture_peek_be(&f, "img", fixture_peek_be(&f, "img", 40, 8), 8) & QCOW2_OFFSET_MASK;
		fixture_poke_be(&f, "img", l2 + 8, 8, cases[i].entry); /* entry of cluster 1 */
		fixture_run(&f, "cp data was");
		log_silence(true);
		assert_int_equal(files_open(&f, "img", "data", &b), 0);
		assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, sizeof(buf)), 0);
		if (fixture_rw(b, BLOCK_READ, 64 * KIB, buf, sizeof(buf)) != -EIO)
			fail_msg("%s: it reads", cases[i].what);
		assert_int_equal(fixture_rw(b, BLOCK_WRITE, 64 * KIB, buf, sizeof(buf)), -EIO);
		block_close(b);
		log_silence(false);
		fixture_run(&f, "cmp data was");
		assert_int_equal(fixture_peek_be(&f, "img", 72, 8), 6);
		fixture_end(&f);
	}
	(void)state;
}

/* The missing end of the data file reads as zeros, as in QEMU; a write extends it. */
static void test_truncated_data_file_reads_zeros(void **state)
{
	uint8_t buf[4096], zeros[4096] = { 0 };
	struct fixture f;
	struct block *b;

	fixture_begin(&f, 23);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o data_file=data img 1M && "
		"qemu-io -c 'write -P 5 0 1M' img && truncate -s 100k data");
	assert_int_equal(files_open(&f, "img", "data", &b), 0);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 512 * KIB, buf, sizeof(buf)), 0);
	assert_memory_equal(buf, zeros, sizeof(buf));
	/* unmapped and mapped again: no old content shows */
	assert_int_equal(fixture_op(b, BLOCK_DISCARD, 0, 512 * KIB, 64 * KIB), 0);
	memset(buf, 7, sizeof(buf));
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 512 * KIB + 8192, buf, sizeof(buf)), 0);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 512 * KIB, buf, sizeof(buf)), 0);
	assert_memory_equal(buf, zeros, sizeof(buf));
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img && qemu-io -c 'read -P 7 520k 4k' -c 'read -P 0 524k 52k' img");
	fixture_end(&f);
	(void)state;
}

/* Two images with one data file: the second open fails, whichever image it is. */
static void test_data_file_is_locked_for_one_image(void **state)
{
	struct fixture f;
	struct block *b, *twin;

	fixture_begin(&f, 25);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o data_file=data img 1M && cp img twin");
	assert_int_equal(files_open(&f, "img", "data", &b), 0);
	assert_int_not_equal(fixture_status(&f, "qemu-io -c 'write 0 512' twin 2>/dev/null"), 0);
	assert_int_equal(files_open(&f, "twin", "data", &twin), -EBUSY);
	assert_non_null(strstr(f.err.msg, "data file"));
	assert_int_equal(block_close(b), 0);
	assert_int_equal(fixture_status(&f, "qemu-io -c 'write 0 512' twin"), 0);
	fixture_end(&f);
	(void)state;
}

static void test_snapshots_are_refused(void **state)
{
	struct block_snapshot *s;
	struct fixture f;
	struct block *b;

	fixture_begin(&f, 24);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o data_file=data img 1M && cp img was");
	assert_int_equal(files_open(&f, "img", "data", &b), 0);
	assert_int_equal(block_snapshot_begin(b, &s, &f.err), -ENOTSUP);
	assert_non_null(strstr(f.err.msg, "external data file"));
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "cmp img was");
	fixture_end(&f);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_operations_match_shadow),
		cmocka_unit_test(test_raw_zeros_keep_the_map),
		cmocka_unit_test(test_power_cuts),
		cmocka_unit_test(test_invalid_data_files_are_refused),
		cmocka_unit_test(test_invalid_entries_are_detected),
		cmocka_unit_test(test_truncated_data_file_reads_zeros),
		cmocka_unit_test(test_data_file_is_locked_for_one_image),
		cmocka_unit_test(test_snapshots_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
