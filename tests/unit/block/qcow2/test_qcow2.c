/* The qcow2 engine compared with a shadow file and qemu-img: after random operations on each set of
 * options, `qemu-img check` has to be clean and `qemu-img compare` has to find the shadow's
 * content. */
#include "fixture_block.h"

#include "base/log.h"
#include "base/util.h"
#include "block/qcow2/impl.h"
#include "block/qcow2/qcow2.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define DISK_BYTES (24 * MIB)

struct options {
	const char *name;
	const char *qemu; /* options for qemu-img create; NULL: create with Cairn and the fields below */
	uint32_t cluster_bits, refcount_order, version;
	bool extended, lazy;
	const char *backing; /* "raw" or "qcow2": a shorter backing file with a pattern */
};

static const struct options sets[] = {
	{ "ours 64k", NULL, 16, 4, 3, false, false, NULL },
	{ "ours 4k", NULL, 12, 4, 3, false, false, NULL },
	{ "ours 512", NULL, 9, 4, 3, false, false, NULL },
	{ "ours 512 refcount 64", NULL, 9, 6, 3, false, false, NULL },
	{ "ours 2M", NULL, 21, 4, 3, false, false, NULL },
	{ "ours refcount 1", NULL, 16, 0, 3, false, false, NULL },
	{ "ours refcount 8 v3 1k", NULL, 10, 3, 3, false, false, NULL },
	{ "ours v2", NULL, 16, 4, 2, false, false, NULL },
	{ "ours lazy", NULL, 16, 4, 3, false, true, NULL },
	{ "ours extended", NULL, 16, 4, 3, true, false, NULL },
	{ "ours backing raw", NULL, 16, 4, 3, false, false, "raw" },
	{ "ours v2 backing", NULL, 14, 4, 2, false, false, "raw" },
	{ "ours extended backing", NULL, 14, 4, 3, true, false, "qcow2" },
	{ "qemu default", "compat=1.1", 0, 0, 0, false, false, NULL },
	{ "qemu 512", "cluster_size=512", 0, 0, 0, false, false, NULL },
	{ "qemu 512 refcount 64", "cluster_size=512,refcount_bits=64", 0, 0, 0, false, false, NULL },
	{ "qemu 2M", "cluster_size=2M", 0, 0, 0, false, false, NULL },
	{ "qemu refcount 1", "refcount_bits=1,cluster_size=4k", 0, 0, 0, false, false, NULL },
	{ "qemu v2", "compat=0.10", 0, 0, 0, false, false, NULL },
	{ "qemu metadata", "preallocation=metadata", 0, 0, 0, false, false, NULL },
	{ "qemu extended", "extended_l2=on,cluster_size=128k", 0, 0, 0, false, false, NULL },
	{ "qemu backing qcow2", "cluster_size=32k", 0, 0, 0, false, false, "qcow2" },
};

static void image_make(struct fixture *f, const struct options *o)
{
	if (o->backing) {
		fixture_run(f, "qemu-img create -q -f %s base.img 13M", o->backing);
		fixture_run(f, "qemu-io -f %s -c 'write -P 0x5b 1M 9M' base.img", o->backing);
		fixture_run(f, "qemu-img convert -f %s -O raw base.img shadow", o->backing);
	}
	fixture_run(f, "truncate -s %llu shadow", (unsigned long long)DISK_BYTES);
	if (o->qemu) {
		fixture_run(f, "qemu-img create -q -f qcow2 -o %s %s %s img %llu", o->qemu,
			o->backing ? "-b base.img -F" : "", o->backing ? o->backing : "",
			(unsigned long long)DISK_BYTES);
	} else {
		struct qcow2_create c = { .size_bytes = DISK_BYTES, .cluster_bits = o->cluster_bits,
			.refcount_order = o->refcount_order, .version = o->version,
			.lazy_refcounts = o->lazy, .extended_l2 = o->extended,
			.backing_name = o->backing ? "base.img" : NULL, .backing_format = o->backing };

		fixture_create(f, "img", &c);
	}
}

static void judge(struct fixture *f)
{
	fixture_run(f, "qemu-img check -q -f qcow2 img");
	fixture_run(f, "qemu-img compare -q -f raw -F qcow2 shadow img");
}

static void random_ops(struct fixture *f, unsigned ops, unsigned depth)
{
	struct block *b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);

	fixture_shadow_open(f, "shadow", DISK_BYTES);
	shadow_run(f, b, ops, depth);
	shadow_verify(f, b);
	assert_int_equal(block_close(b), 0);
}

static void test_random_operations_with_each_set_of_options(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(sets); i++) {
		struct fixture f;

		fixture_begin(&f, (unsigned)i + 1);
		print_message("%s\n", sets[i].name);
		image_make(&f, &sets[i]);
		random_ops(&f, 150, 1);
		judge(&f);
		random_ops(&f, 250, 12);
		judge(&f);
		fixture_end(&f);
	}
	(void)state;
}

/* Clusters of a snapshot are shared: writes go elsewhere, and the snapshot keeps its content. */
static void test_snapshot_keeps_its_content(void **state)
{
	struct fixture f;

	fixture_begin(&f, 77);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=4k img %llu",
		(unsigned long long)DISK_BYTES);
	fixture_run(&f, "truncate -s %llu shadow", (unsigned long long)DISK_BYTES);
	random_ops(&f, 150, 8);
	fixture_run(&f, "cp --sparse=always shadow before");
	fixture_run(&f, "qemu-img snapshot -c one img");
	random_ops(&f, 300, 8);
	judge(&f);
	fixture_run(&f, "qemu-img convert -l one -O raw img then");
	fixture_run(&f, "cmp then before");
	fixture_run(&f, "qemu-img snapshot -d one img");
	judge(&f);
	fixture_end(&f);
	(void)state;
}

static void test_compressed_clusters_are_read_and_rewritten(void **state)
{
	static const char *const types[] = { "zlib", "zstd" };

	for (size_t i = 0; i < 2; i++) {
		struct fixture f;

		fixture_begin(&f, 5 + (unsigned)i);
		fixture_run(&f, "qemu-img create -q -f raw shadow %llu", (unsigned long long)DISK_BYTES);
		fixture_run(&f, "qemu-io -f raw -c 'write -P 7 0 5M' -c 'write -P 9 7M 3M' shadow");
		fixture_run(&f, "head -c 3M /dev/urandom | dd of=shadow bs=1M seek=11 conv=notrunc "
			"status=none");
		fixture_run(&f, "qemu-img convert -c -f raw -O qcow2 -o compression_type=%s shadow img",
			types[i]);
		random_ops(&f, 200, 6);
		judge(&f);
		fixture_end(&f);
	}
	(void)state;
}

struct sync_counter {
	struct loop_trace trace;
	unsigned syncs, writes;
};

static void count_submit(struct loop_trace *t, struct loop_op *op, enum loop_op_kind kind, int fd,
	const struct iovec *iov, unsigned niov, uint64_t offset, uint64_t len, int mode)
{
	struct sync_counter *c = container_of(t, struct sync_counter, trace);

	c->syncs += kind == LOOP_OP_SYNC;
	c->writes += kind == LOOP_OP_WRITE;
	(void)op, (void)fd, (void)iov, (void)niov, (void)offset, (void)len, (void)mode;
}

static void count_complete(struct loop_trace *t, struct loop_op *op, int res)
{
	(void)t, (void)op, (void)res;
}

/* Thousands of writes that each allocate a cluster, also with a snapshot, cost only a few syncs and
 * table writes: the purpose of ordered groups. */
static void test_many_writes_need_few_syncs(void **state)
{
	static uint8_t buf[4096] __attribute__((aligned(4096)));
	struct sync_counter c = { .trace = { count_submit, count_complete } };
	struct fixture f;

	fixture_begin(&f, 31);
	fixture_run(&f, "qemu-img create -q -f qcow2 -o cluster_size=4k img 24M && "
		"qemu-io -c 'write -P 1 0 12M' img && qemu-img snapshot -c one img");
	for (int round = 0; round < 2; round++) {
		struct block *b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
		uint64_t begin = loop_now_ns(), commits;

		c.syncs = c.writes = 0;
		loop_trace(f.loop, &c.trace);
		for (uint64_t off = round * 12 * MIB; off < (round + 1) * 12 * MIB; off += 4096)
			assert_int_equal(fixture_rw(b, BLOCK_WRITE, off, buf, 4096), 0);
		assert_int_equal(shadow_flush(&f, b), 0);
		loop_trace(f.loop, NULL);
		commits = 1 + (loop_now_ns() - begin) / 1000000000; /* the flush, and those of the timer on a slow host */
		assert_in_range(c.syncs, 1, 6 * commits);
		assert_in_range(c.writes, 3072, 3072 + 60 * commits);
		assert_int_equal(block_close(b), 0);
	}
	fixture_run(&f, "qemu-img check -q img");
	fixture_end(&f);
	(void)state;
}

struct late_write {
	struct block_req req;
	bool over;
};

static void late_done(struct block_req *r, int res)
{
	assert_int_equal(res, 0);
	container_of(r, struct late_write, req)->over = true;
}

/* While a round of frees waits for I/O, the frees of later commits are queued in memory; a write that needs clusters
 * waits when they are too many. */
static void test_writes_wait_while_too_many_frees_are_queued(void **state)
{
	static uint8_t buf[4096] __attribute__((aligned(4096))) = { 1 };
	struct iovec iov = { buf, sizeof(buf) };
	struct late_write w = { .req = { .op = BLOCK_WRITE, .offset = MIB, .len = sizeof(buf), .iov = &iov, .niov = 1,
		.done = late_done } };
	struct free_list first = { .n = 1, .cap = 1 }, later = { .n = 2 * 65536 + 1, .cap = 2 * 65536 + 1 };
	struct fixture f;
	struct qcow2 *q;
	struct block *b;
	unsigned epoch;

	fixture_begin(&f, 33);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 24M");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	q = qcow2_of(b);
	/* Runs without clusters, which free nothing, and a read that does not end. */
	first.runs = calloc(first.n, sizeof(*first.runs));
	later.runs = calloc(later.n, sizeof(*later.runs));
	for (size_t i = 0; i < later.n; i++)
		later.runs[i].cluster = 2 * i;
	epoch = epoch_enter(q);
	deferred_free_start(q, &first);
	deferred_free_start(q, &later);
	block_submit(b, &w.req);
	while (!w.over && !q->deferred_free.idle.head)
		loop_run_once(f.loop, UINT64_MAX);
	assert_false(w.over);
	epoch_leave(q, epoch);
	while (!w.over)
		loop_run_once(f.loop, UINT64_MAX);
	assert_int_equal(q->deferred_free.next.n, 0);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img");
	fixture_end(&f);
	(void)state;
}

/* Without a flush, the tables are in the file within a second. */
static void test_tables_are_written_without_flush(void **state)
{
	static uint8_t buf[4096] __attribute__((aligned(4096))) = { 1 };
	uint64_t begin, until, now;
	struct fixture f;
	struct block *b;

	fixture_begin(&f, 32);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 24M");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	begin = loop_now_ns();
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, MIB, buf, 4096), 0);
	until = loop_now_ns() + 1200 * 1000000ULL;
	if (until - begin < 2000 * 1000000ULL) /* the timer has not fired; the loop does not run now */
		fixture_run(&f, "cp img now && qemu-io -r -c 'read -P 0 1M 4k' now");
	while ((now = loop_now_ns()) < until)
		loop_run_once(f.loop, until - now);
	do
		loop_run_once(f.loop, 0);
	while (loop_ops_in_flight(f.loop));
	fixture_run(&f, "cp img then && qemu-io -r -c 'read -P 1 1M 1' then");
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

/* Flushed data is in the file without a close. */
static void test_flush_is_durable(void **state)
{
	struct fixture f;
	struct qcow2_create c = { .size_bytes = DISK_BYTES, .cluster_bits = 12, .refcount_order = 4,
		.version = 3 };
	struct block *b;

	fixture_begin(&f, 9);
	fixture_create(&f, "img", &c);
	fixture_run(&f, "truncate -s %llu shadow", (unsigned long long)DISK_BYTES);
	fixture_shadow_open(&f, "shadow", DISK_BYTES);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(&f, b, 200, 8);
	assert_int_equal(shadow_flush(&f, b), 0);
	/* A copy of the file now equals what a crash would leave. */
	fixture_run(&f, "cp img crashed");
	fixture_run(&f, "qemu-img compare -q -f raw -F qcow2 shadow crashed");
	fixture_check_leaks_only(&f, "crashed");
	assert_int_equal(block_close(b), 0);
	judge(&f);
	fixture_end(&f);
	(void)state;
}

/* No space: writes fail with an error, earlier data stays intact, and writing works again once
 * there is space. A limit on file sizes simulates the full disk. */
static void test_full_disk_fails_writes_and_recovers(void **state)
{
	static uint8_t buf[256 * KIB] __attribute__((aligned(4096)));
	struct qcow2_create c = { .size_bytes = DISK_BYTES, .cluster_bits = 12, .refcount_order = 4,
		.version = 3 };
	struct rlimit none, limit;
	struct fixture f;
	struct block *b;
	uint64_t off = 0;

	fixture_begin(&f, 21);
	signal(SIGXFSZ, SIG_IGN);
	fixture_create(&f, "img", &c);
	fixture_run(&f, "truncate -s %llu shadow", (unsigned long long)DISK_BYTES);
	fixture_shadow_open(&f, "shadow", DISK_BYTES);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	getrlimit(RLIMIT_FSIZE, &none);
	limit = (struct rlimit){ 2 * MIB, none.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	memset(buf, 0x77, sizeof(buf));
	log_silence(true);
	for (; off < DISK_BYTES; off += sizeof(buf)) {
		if (fixture_rw(b, BLOCK_WRITE, off, buf, sizeof(buf)) < 0)
			break;
		memcpy(f.shadow + off, buf, sizeof(buf));
	}
	assert_true(off > MIB && off < 2 * MIB);
	(void)shadow_flush(&f, b);
	shadow_verify(&f, b);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	log_silence(false);
	assert_int_equal(shadow_flush(&f, b), 0);
	for (; off < DISK_BYTES; off += sizeof(buf)) {
		assert_int_equal(fixture_rw(b, BLOCK_WRITE, off, buf, sizeof(buf)), 0);
		memcpy(f.shadow + off, buf, sizeof(buf));
	}
	assert_int_equal(block_close(b), 0);
	judge(&f);
	fixture_end(&f);
	(void)state;
}

static bool reads_fail;

void __real_loop_readv(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov, uint64_t off);
void __wrap_loop_readv(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov, uint64_t off);

void __wrap_loop_readv(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov, uint64_t off)
{
	__real_loop_readv(l, op, reads_fail ? -1 : fd, iov, niov, off);
}

/* Clusters that cannot be freed, since their refcounts cannot be read, leak, and the log says so. */
static void test_leak_is_logged(void **state)
{
	struct qcow2_create c = { .size_bytes = DISK_BYTES, .cluster_bits = 16, .refcount_order = 4, .version = 3 };
	int log = memfd_create("log", MFD_CLOEXEC);
	uint8_t buf[4096] = { 1 };
	char text[2048] = "";
	struct fixture f;
	struct block *b;

	fixture_begin(&f, 23);
	fixture_create(&f, "img", &c);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, buf, sizeof(buf)), 0);
	assert_int_equal(block_close(b), 0);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, sizeof(buf)), 0); /* reads the L2 table */
	log_set_fd(log);
	log_set_level(LOG_LEVEL_WARN);
	reads_fail = true;
	assert_int_equal(fixture_op(b, BLOCK_DISCARD, 0, 0, DISK_BYTES), 0);
	assert_int_equal(block_close(b), 0);
	reads_fail = false;
	log_set_level(LOG_LEVEL_ERROR);
	log_set_fd(2);
	assert_true(pread(log, text, sizeof(text) - 1, 0) > 0);
	assert_non_null(strstr(text, ": cannot free 1 clusters (Bad file descriptor): they leak\n"));
	close(log);
	fixture_check_leaks_only(&f, "img");
	fixture_end(&f);
	(void)state;
}

struct told {
	struct block_listener listener;
	unsigned times;
	int error;
};

static void told_trouble(struct block_listener *l, int error, const char *why)
{
	struct told *t = (struct told *)l;

	(void)why;
	t->times++;
	t->error = error;
}

static void file_limit(uint64_t bytes)
{
	struct rlimit l;

	getrlimit(RLIMIT_FSIZE, &l);
	l.rlim_cur = bytes;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &l), 0);
}

static void run_until(struct fixture *f, const struct told *t, unsigned times)
{
	while (t->times < times)
		loop_run_once(f->loop, UINT64_MAX); /* waits for the commit's timer */
}

/* Tables cannot be written while no request waits: the listener is notified once, the engine
 * retries, and notifies again only after a success in between. A flush gets the error itself. */
static void test_unwritable_tables_are_reported(void **state)
{
	static uint8_t buf[4096] __attribute__((aligned(4096)));
	struct told told = { .listener.on_error = told_trouble };
	struct fixture f;
	struct block *b;

	fixture_begin(&f, 22);
	signal(SIGXFSZ, SIG_IGN);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 24M");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	block_set_listener(b, &told.listener);
	log_silence(true);
	for (unsigned i = 1; i <= 2; i++) {
		assert_int_equal(fixture_rw(b, BLOCK_WRITE, i * MIB, buf, sizeof(buf)), 0);
		file_limit(4096);
		run_until(&f, &told, i);
		assert_int_equal(told.error, -EFBIG);
		assert_int_equal(fixture_op(b, BLOCK_FLUSH, 0, 0, 0), -EFBIG);
		assert_int_equal(told.times, i);
		file_limit(RLIM_INFINITY);
		assert_int_equal(fixture_op(b, BLOCK_FLUSH, 0, 0, 0), 0);
	}
	log_silence(false);
	assert_false(block_is_corrupt(b));
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img");
	fixture_end(&f);
	(void)state;
}

/* The first write has to clear an autoclear bit that the engine does not know. If it cannot, the next one does. */
static void test_autoclear_bit_is_cleared_at_the_next_try(void **state)
{
	static uint8_t buf[4096] __attribute__((aligned(4096)));
	const unsigned autoclear = 88;
	struct fixture f;
	struct block *b;

	fixture_begin(&f, 23);
	signal(SIGXFSZ, SIG_IGN);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 24M");
	fixture_poke_be(&f, "img", autoclear, 8, 1ULL << 40);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	log_silence(true);
	file_limit(0);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, buf, sizeof(buf)), -EFBIG);
	file_limit(RLIM_INFINITY);
	log_silence(false);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, buf, sizeof(buf)), 0);
	assert_int_equal(fixture_peek_be(&f, "img", autoclear, 8), 0);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

/* Tables cannot be written, and only an aborted snapshot waits for them: the listener is notified. After there is space
 * again, the tables are written. */
static void test_unwritable_tables_at_abort_are_reported(void **state)
{
	static uint8_t buf[4096] __attribute__((aligned(4096)));
	struct told told = { .listener.on_error = told_trouble };
	struct sync_op o = { .op.done = sync_done };
	struct block_snapshot *s;
	struct fixture f;
	struct block *b;

	fixture_begin(&f, 24);
	signal(SIGXFSZ, SIG_IGN);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 24M");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	block_set_listener(b, &told.listener);
	log_silence(true);
	assert_int_equal(block_snapshot_open(b, &s, &f.err), 0);
	while (!(fixture_peek_be(&f, "img", 72, 8) & 1))
		loop_run_once(f.loop, UINT64_MAX);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, MIB, buf, sizeof(buf)), 0);
	file_limit(4096);
	block_snapshot_abort(s, &o.op);
	assert_int_equal(sync_wait(&f, &o), -EFBIG);
	assert_non_null(strstr(o.err.msg, "File too large"));
	run_until(&f, &told, 1);
	assert_int_equal(told.error, -EFBIG);
	assert_int_equal(fixture_op(b, BLOCK_FLUSH, 0, 0, 0), -EFBIG);
	assert_int_equal(told.times, 1);
	file_limit(RLIM_INFINITY);
	assert_int_equal(fixture_op(b, BLOCK_FLUSH, 0, 0, 0), 0);
	log_silence(false);
	assert_int_equal(block_close(b), 0);
	fixture_check_leaks_only(&f, "img");
	fixture_end(&f);
	(void)state;
}

/* Each clone of a VM has such an image. */
static void test_new_image_takes_three_pages(void **state)
{
	struct qcow2_create c = { .size_bytes = 20480 * MIB, .cluster_bits = 16, .refcount_order = 4, .version = 3 };
	int fd = memfd_create("img", MFD_CLOEXEC);
	struct stat st;
	struct err e;

	(void)state;
	assert_int_equal(qcow2_create(fd, &c, &e), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 4 << 16);
	assert_int_equal(st.st_blocks * 512, 3 * sysconf(_SC_PAGESIZE));
	close(fd);
}

/* Write a file's content over itself, so that it has no hole. */
static void holes_fill(int fd)
{
	uint8_t page[4096];
	ssize_t n;

	for (off_t at = 0; (n = pread(fd, page, sizeof(page), at)) > 0; at += n)
		assert_int_equal(pwrite(fd, page, (size_t)n, at), n);
}

/* The open leaves the hole, or the zeros, that end a new image's refcount table alone. Blocks that belong there are
 * found after the next open. A refcount block counts 64 clusters of 512 bytes, and a piece of the table 16 MiB. With a
 * disk of this size, no page of the file holds the table's end and what follows. */
static void end_of_new_refcount_table_is_used(bool hole)
{
	struct qcow2_create c = { .size_bytes = 75 * MIB, .cluster_bits = 9, .refcount_order = 6, .version = 3 };
	struct fixture f;
	struct block *b;
	uint8_t *buf = malloc(MIB);
	int fd;

	fixture_begin(&f, 4);
	fd = fixture_file(&f, "img", O_RDWR | O_CREAT);
	assert_int_equal(qcow2_create(fd, &c, &f.err), 0);
	if (!hole)
		holes_fill(fd);
	close(fd);
	for (unsigned from = 0; from < 40; from += 20) {
		b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
		if (!from)
			assert_true(qcow2_of(b)->reftable.n < qcow2_of(b)->reftable.cap);
		for (unsigned i = from; i < from + 20; i++) {
			memset(buf, (int)i + 1, MIB);
			assert_int_equal(fixture_rw(b, BLOCK_WRITE, i * MIB, buf, MIB), 0);
		}
		assert_false(qcow2_of(b)->reftable.moved);
		assert_int_equal(block_close(b), 0);
		fixture_run(&f, "qemu-img check -q img");
	}
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, true);
	for (unsigned i = 0; i < 40; i++) {
		assert_int_equal(fixture_rw(b, BLOCK_READ, i * MIB, buf, MIB), 0);
		assert_true(buf[0] == i + 1 && !memcmp(buf, buf + 1, MIB - 1));
	}
	assert_int_equal(block_close(b), 0);
	free(buf);
	fixture_end(&f);
}

static void test_hole_of_new_refcount_table_is_used(void **state)
{
	(void)state;
	end_of_new_refcount_table_is_used(true);
}

static void test_zeros_of_new_refcount_table_are_used(void **state)
{
	(void)state;
	end_of_new_refcount_table_is_used(false);
}

static void test_read_only_image_is_not_written(void **state)
{
	struct fixture f;
	char sector[512] = { 1 };
	struct block *b;

	fixture_begin(&f, 3);
	fixture_run(&f, "qemu-img create -q -f qcow2 img 1M");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, true);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, sector, 512), -EROFS);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, sector, 512), 0);
	assert_int_equal(sector[0], 0);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 1 * MIB, sector, 512), -EINVAL);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 100, sector, 512), -EINVAL);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_new_image_takes_three_pages),
		cmocka_unit_test(test_hole_of_new_refcount_table_is_used),
		cmocka_unit_test(test_zeros_of_new_refcount_table_are_used),
		cmocka_unit_test(test_read_only_image_is_not_written),
		cmocka_unit_test(test_full_disk_fails_writes_and_recovers), cmocka_unit_test(test_leak_is_logged),
		cmocka_unit_test(test_unwritable_tables_at_abort_are_reported),
		cmocka_unit_test(test_unwritable_tables_are_reported),
		cmocka_unit_test(test_autoclear_bit_is_cleared_at_the_next_try),
		cmocka_unit_test(test_random_operations_with_each_set_of_options),
		cmocka_unit_test(test_snapshot_keeps_its_content),
		cmocka_unit_test(test_compressed_clusters_are_read_and_rewritten),
		cmocka_unit_test(test_flush_is_durable),
		cmocka_unit_test(test_many_writes_need_few_syncs),
		cmocka_unit_test(test_writes_wait_while_too_many_frees_are_queued),
		cmocka_unit_test(test_tables_are_written_without_flush),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
