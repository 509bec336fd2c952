#include "fixture_block.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/util.h"
#include "block/block_snapshot.h"
#include "block/qcow2/impl.h"
#include "block/qcow2/qcow2.h"
#include "tests/unit/tmp.h"

#include <sys/mman.h>
#include <sys/wait.h>

#define OP_BYTES_MAX (320 * KIB)

/* Start a process that removes the test's folders after this process is gone, because a failing
 * test or a test killed at its time limit does not run its cleanup. TEST_KEEP in the environment keeps
 * the folders. */
static void remove_at_death(const char *dir)
{
	static int names = -1;
	int ends[2];
	pid_t pid;

	if (getenv("TEST_KEEP"))
		return;
	if (names < 0) {
		assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (!pid) {
			setsid(); /* keep signals to the test's process group away */
			dup2(ends[0], 0);
			execlp("xargs", "xargs", "-r", "-d", "\n", "rm", "-rf", NULL);
			_exit(127);
		}
		close(ends[0]);
		names = ends[1];
	}
	assert_true(dprintf(names, "%s\n", dir) > 0);
}

void fixture_begin(struct fixture *f, unsigned seed)
{
	/* Alternate between a disk and a tmpfs: files in memory are written without io_uring. */
	const char *folder = seed % 2 ? tmp_folder() : tmp_folder_in_memory();

	memset(f, 0, sizeof(*f));
	snprintf(f->dir, sizeof(f->dir), "%.76s/cairn-block-XXXXXX", folder);
	assert_non_null(mkdtemp(f->dir));
	remove_at_death(f->dir);
	assert_int_equal(loop_new(64, &f->loop, &f->err), 0);
	f->random = seed * 0x9e3779b97f4a7c15ULL + 1;
	log_set_level(LOG_LEVEL_ERROR);
}

void fixture_end(struct fixture *f)
{
	if (f->shadow)
		munmap(f->shadow, f->shadow_bytes);
	loop_free(f->loop);
	fixture_run(f, "rm -rf \"$PWD\"");
}

static int run_shell(struct fixture *f, const char *fmt, va_list ap)
{
	char cmd[1024];
	int n = snprintf(cmd, sizeof(cmd), "cd %s && { ", f->dir), st;

	vsnprintf(cmd + n, sizeof(cmd) - (size_t)n - 20, fmt, ap);
	strcat(cmd, "; } >out 2>&1");
	st = system(cmd);
	return WIFEXITED(st) ? WEXITSTATUS(st) : 255;
}

int fixture_status(struct fixture *f, const char *fmt, ...)
{
	va_list ap;
	int st;

	va_start(ap, fmt);
	st = run_shell(f, fmt, ap);
	va_end(ap);
	return st;
}

void fixture_run(struct fixture *f, const char *fmt, ...)
{
	char print[160];
	va_list ap;
	int st;

	va_start(ap, fmt);
	st = run_shell(f, fmt, ap);
	va_end(ap);
	if (!st)
		return;
	snprintf(print, sizeof(print), "cat %s/out", f->dir);
	(void)!system(print);
	fail_msg("command ended with status %d: %s (folder %s)", st, fmt, f->dir);
}

void fixture_path(struct fixture *f, const char *name, char *ret, size_t cap)
{
	snprintf(ret, cap, "%s/%s", f->dir, name);
}

static int path_open(struct fixture *f, const char *name, int flags)
{
	char path[128];

	fixture_path(f, name, path, sizeof(path));
	return open(path, flags | O_CLOEXEC, 0600);
}

void fixture_create(struct fixture *f, const char *name, const struct qcow2_create *c)
{
	int fd = path_open(f, name, O_RDWR | O_CREAT);

	assert_true(fd >= 0);
	if (qcow2_create(fd, c, &f->err) < 0)
		fail_msg("%s", f->err.msg);
	close(fd);
}

bool fixture_small_parts;

static void parts_shrink(struct block *b)
{
	for (; fixture_small_parts && b; b = b->backing) {
		b->info.direct = true;
		b->info.buffer_align = 1u << 30; /* all memory is bounced */
		b->bounce_piece = 4096;
		b->bounce.max_bytes = 3 * 4096;
		if (b->info.format == BLOCK_FORMAT_QCOW2) {
			qcow2_of(b)->parts_max = 1;
			qcow2_of(b)->parts_bytes_max = 1;
		}
	}
}

int fixture_try_open(struct fixture *f, const char *name, enum block_format fmt, bool read_only,
	struct block **ret_b)
{
	struct block_layer layers[2] = { { .fd = path_open(f, name, read_only ? O_RDONLY : O_RDWR),
		.format = fmt } };
	struct block_open o = { .layers = layers, .nlayers = 1, .read_only = read_only, .name = "vda",
		.cache_bytes = f->cache_bytes, .buffered = f->buffered, .no_flush = f->no_flush, .snapshot = f->snapshot,
		.beside_pins = f->beside_pins };
	struct qcow2_header h = { 0 };
	int r;

	assert_true(layers[0].fd >= 0);
	if (fmt == BLOCK_FORMAT_QCOW2)
		(void)qcow2_header_read(layers[0].fd, name, &h, NULL);
	if (*h.data_file)
		layers[0].data_fd = path_open(f, h.data_file, read_only ? O_RDONLY : O_RDWR);
	if (h.has_backing) {
		layers[1].fd = path_open(f, "base.img", O_RDONLY);
		layers[1].format = (enum block_format)block_format_from_name(h.backing_format);
		o.nlayers = 2;
	}
	r = block_open(f->loop, &o, ret_b, &f->err);
	if (!r)
		parts_shrink(*ret_b);
	for (unsigned i = 0; r < 0 && i < o.nlayers; i++)
		close(layers[i].fd);
	if (r < 0 && layers[0].data_fd)
		close(layers[0].data_fd);
	return r;
}

struct block *fixture_open(struct fixture *f, const char *name, enum block_format fmt,
	bool read_only)
{
	struct block *b = NULL;

	if (fixture_try_open(f, name, fmt, read_only, &b) < 0)
		fail_msg("%s", f->err.msg);
	return b;
}

int fixture_file(struct fixture *f, const char *name, int flags)
{
	int fd = path_open(f, name, flags);

	if (fd < 0)
		fail_msg("%s: %s", name, strerror(errno));
	return fd;
}

int fixture_open_chain(struct fixture *f, const char *const *names, bool read_only, struct block **ret_b)
{
	struct block_layer layers[BLOCK_LAYERS_MAX];
	struct block_open o = { .layers = layers, .name = "vda", .read_only = read_only, .cache_bytes = f->cache_bytes,
		.buffered = f->buffered, .snapshot = f->snapshot, .beside_pins = true,
		.pin_readable = f->pin_readable };
	int r;

	for (unsigned i = 0; names[i]; i++)
		layers[o.nlayers++] = (struct block_layer){ .format = BLOCK_FORMAT_QCOW2,
			.fd = fixture_file(f, names[i], i || read_only ? O_RDONLY : O_RDWR) };
	r = block_open(f->loop, &o, ret_b, &f->err);
	if (!r)
		parts_shrink(*ret_b);
	for (unsigned i = 0; r < 0 && i < o.nlayers; i++)
		close(layers[i].fd);
	return r;
}

unsigned fixture_number(const char *variable, unsigned otherwise)
{
	const char *v = getenv(variable);

	return v ? (unsigned)strtoul(v, NULL, 10) : otherwise;
}

int fixture_rw(struct block *b, enum block_op op, uint64_t off, void *buf, size_t len)
{
	struct iovec iov = { buf, len };
	struct block_req r = { .op = op, .offset = off, .len = len, .iov = &iov, .niov = 1 };

	return block_run(b, &r);
}

int fixture_op(struct block *b, enum block_op op, unsigned flags, uint64_t off, uint64_t len)
{
	struct block_req r = { .op = op, .flags = flags, .offset = off, .len = len };

	return block_run(b, &r);
}

struct vm_read {
	struct block_vmstate_req req;
	bool over;
	int res;
};

static void vm_read_done(struct block_vmstate_req *r, int res)
{
	struct vm_read *v = container_of(r, struct vm_read, req);

	v->over = true;
	v->res = res;
}

int fixture_vm_read(struct fixture *f, struct block *b, const char *id, void *buf, size_t len)
{
	struct iovec iov = { buf, len };
	struct vm_read v = { .req = { .len = len, .iov = &iov, .niov = 1, .done = vm_read_done } };

	block_vmstate_read(b, id, &v.req);
	while (!v.over)
		loop_run_once(f->loop, UINT64_MAX);
	return v.res;
}

void sync_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	struct sync_op *s = container_of(op, struct sync_op, op);

	s->over = true;
	s->res = res;
	s->err = *e;
}

int sync_wait(struct fixture *f, struct sync_op *s)
{
	while (!s->over)
		loop_run_once(f->loop, UINT64_MAX);
	return s->res;
}

void fixture_check_leaks_only(struct fixture *f, const char *name)
{
	int st = fixture_status(f, "qemu-img check -q -f qcow2 %s", name);

	if (st && st != 3)
		fixture_run(f, "qemu-img check -f qcow2 %s", name);
}

void fixture_poke(struct fixture *f, const char *name, uint64_t off, const void *buf, size_t len)
{
	int fd = path_open(f, name, O_WRONLY);

	assert_int_equal(pwrite(fd, buf, len, (off_t)off), len);
	close(fd);
}

void fixture_poke_be(struct fixture *f, const char *name, uint64_t off, unsigned size, uint64_t v)
{
	uint8_t buf[8];

	store_be64(buf, v);
	fixture_poke(f, name, off, buf + 8 - size, size);
}

uint64_t fixture_peek_be(struct fixture *f, const char *name, uint64_t off, unsigned size)
{
	int fd = path_open(f, name, O_RDONLY);
	uint8_t buf[8] = { 0 };

	assert_int_equal(pread(fd, buf + 8 - size, size, (off_t)off), size);
	close(fd);
	return load_be64(buf);
}

uint64_t fixture_random(struct fixture *f)
{
	f->random ^= f->random << 13;
	f->random ^= f->random >> 7;
	f->random ^= f->random << 17;
	return f->random * 0x2545f4914f6cdd1dULL >> 11;
}

void fixture_shadow_open(struct fixture *f, const char *name, uint64_t bytes)
{
	int fd = path_open(f, name, O_RDWR);

	if (f->shadow)
		munmap(f->shadow, f->shadow_bytes);
	f->shadow = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(f->shadow, MAP_FAILED);
	f->shadow_bytes = bytes;
	close(fd);
}

void log_silence(bool on)
{
	static int null = -1;

	if (null < 0)
		null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	log_set_fd(on ? null : 2);
}

/* ---- random operations ---- */

struct shadow_op {
	struct fixture *f;
	struct block *b;
	struct block_req req;
	struct iovec iov[3];
	uint8_t *memory, *buf;
	bool busy, after_discard;
};

static void op_range(struct fixture *f, struct shadow_op *all, unsigned n, struct shadow_op *op)
{
	for (;;) {
		uint64_t max = fixture_random(f) % 4 ? 16 * KIB : OP_BYTES_MAX, off, len;
		bool apart = true;

		len = (1 + fixture_random(f) % (max / 512)) * 512;
		off = fixture_random(f) % (f->shadow_bytes / 512) * 512;
		if (!(fixture_random(f) % 4))
			off = ROUND_DOWN(off, 64 * KIB);
		len = MIN(len, f->shadow_bytes - off);
		for (unsigned i = 0; i < n && apart; i++)
			apart = !all[i].busy || off >= all[i].req.offset + all[i].req.len ||
				off + len <= all[i].req.offset;
		if (!apart)
			continue;
		op->req.offset = off;
		op->req.len = len;
		return;
	}
}

/* Split the buffer into up to three pieces, sometimes at an address that O_DIRECT refuses. */
static void op_iov(struct shadow_op *op)
{
	struct fixture *f = op->f;
	uint64_t sectors = op->req.len / 512, a = fixture_random(f) % (sectors + 1) * 512;

	op->buf = op->memory + (fixture_random(f) % 8 ? 0 : 20);
	op->iov[0] = (struct iovec){ op->buf, a };
	op->iov[1] = (struct iovec){ op->buf + a, op->req.len - a };
	op->req.iov = op->iov;
	op->req.niov = 2;
}

static void op_finish(struct shadow_op *op)
{
	uint8_t *shadow = op->f->shadow + op->req.offset;
	static const uint8_t zeros[512];

	switch (op->req.op) {
	case BLOCK_WRITE:
		memcpy(shadow, op->buf, op->req.len);
		break;
	case BLOCK_WRITE_ZEROES:
		memset(shadow, 0, op->req.len);
		break;
	case BLOCK_READ:
		for (uint64_t i = 0; i < op->req.len; i += 512) {
			if (op->after_discard && !memcmp(op->buf + i, zeros, 512))
				memset(shadow + i, 0, 512);
			if (memcmp(op->buf + i, shadow + i, 512))
				fail_msg("wrong data at 0x%llx (request 0x%llx + 0x%llx)",
					(unsigned long long)(op->req.offset + i),
					(unsigned long long)op->req.offset,
					(unsigned long long)op->req.len);
		}
		break;
	default:
		break;
	}
	op->busy = false;
}

static void op_done(struct block_req *r, int res)
{
	struct shadow_op *op = container_of(r, struct shadow_op, req);

	if (res < 0)
		fail_msg("op %d at 0x%llx + 0x%llx: %s", r->op, (unsigned long long)r->offset,
			(unsigned long long)r->len, strerror(-res));
	if (r->op == BLOCK_DISCARD) {
		/* A discard may have an effect or not, so read the range back. */
		op->after_discard = true;
		r->op = BLOCK_READ;
		op_iov(op);
		block_submit(op->b, r);
		return;
	}
	op_finish(op);
}

static void op_start(struct shadow_op *all, unsigned n, struct shadow_op *op)
{
	static const enum block_op ops[] = { BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE,
		BLOCK_READ, BLOCK_READ, BLOCK_WRITE_ZEROES, BLOCK_WRITE_ZEROES, BLOCK_DISCARD,
		BLOCK_FLUSH };
	struct fixture *f = op->f;

	op->after_discard = false;
	op->req = (struct block_req){ .op = ops[fixture_random(f) % ARRAY_SIZE(ops)],
		.done = op_done };
	op_range(f, all, n, op);
	if (op->req.op == BLOCK_FLUSH && fixture_random(f) % 2)
		op->req.op = BLOCK_WRITE;
	if (op->req.op == BLOCK_FLUSH) {
		op->req.len = 0;
	} else if (op->req.op == BLOCK_WRITE || op->req.op == BLOCK_READ) {
		op_iov(op);
		for (uint64_t i = 0; i + 8 <= op->req.len; i += 8) {
			uint64_t v = fixture_random(f);

			memcpy(op->buf + i, &v, 8);
		}
		if (op->req.op == BLOCK_WRITE && !(fixture_random(f) % 16))
			op->req.flags |= BLOCK_REQ_FUA;
	} else if (fixture_random(f) % 2) {
		op->req.flags |= BLOCK_REQ_MAY_UNMAP;
	}
	op->busy = true;
	block_submit(op->b, &op->req);
	assert_true(op->busy); /* done() never runs inside block_submit() */
}

/* A mirror may hold back operations that the disk does not have in flight. */
static bool any_busy(const struct shadow_op *all, unsigned n)
{
	while (n--)
		if (all[n].busy)
			return true;
	return false;
}

void shadow_run(struct fixture *f, struct block *b, unsigned ops, unsigned depth)
{
	struct shadow_op *all = calloc(depth, sizeof(*all));

	for (unsigned i = 0; i < depth; i++) {
		all[i].f = f;
		all[i].b = b;
		all[i].memory = aligned_alloc(4096, OP_BYTES_MAX + 4096);
	}
	while (ops || any_busy(all, depth) || block_in_flight(b)) {
		for (unsigned i = 0; i < depth && ops; i++)
			if (!all[i].busy) {
				op_start(all, depth, &all[i]);
				ops--;
			}
		loop_run_once(f->loop, UINT64_MAX);
	}
	for (unsigned i = 0; i < depth; i++)
		free(all[i].memory);
	free(all);
}

void shadow_verify(struct fixture *f, struct block *b)
{
	uint8_t *buf = aligned_alloc(4096, MIB);

	for (uint64_t off = 0; off < f->shadow_bytes; off += MIB) {
		uint64_t len = MIN(MIB, f->shadow_bytes - off);

		assert_int_equal(fixture_rw(b, BLOCK_READ, off, buf, len), 0);
		assert_memory_equal(buf, f->shadow + off, len);
	}
	free(buf);
}

uint8_t *shadow_copy(const struct fixture *f)
{
	uint8_t *c = malloc(f->shadow_bytes);

	memcpy(c, f->shadow, f->shadow_bytes);
	return c;
}

void content_is(struct fixture *f, struct block *b, uint8_t *content)
{
	uint8_t *shadow = f->shadow;

	f->shadow = content;
	shadow_verify(f, b);
	f->shadow = shadow;
}

int shadow_flush(struct fixture *f, struct block *b)
{
	(void)f;
	return fixture_op(b, BLOCK_FLUSH, 0, 0, 0);
}

struct block *fixture_begin_source(struct fixture *f, unsigned seed, uint64_t bytes, const char *create)
{
	struct block *b;

	fixture_begin(f, seed);
	f->beside_pins = true;
	fixture_run(f, "%s && truncate -s %llu shadow", create, (unsigned long long)bytes);
	fixture_shadow_open(f, "shadow", bytes);
	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(f, b, 100, 4);
	return b;
}
