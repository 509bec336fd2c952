/* Pins: the content of an image as other VMs' disks read it while its owner writes. Oracle: a copy
 * of the content, and QEMU, which has to refuse an overlay on a pin.
 *
 * Environment: FORKS_OPS operations on each image of a chain of forks, each time the chain grows (30), from FORKS_SEED
 * (20). */
#include "fixture_block.h"

#include "base/pin_name.h"
#include "base/util.h"
#include "block/block_impl.h"
#include "block/qcow2/qcow2.h"

#include <pthread.h>
#include <stdatomic.h>

#define DISK (4 * MIB)
#define DEPTH 4u

static const uint8_t id_a[BLOCK_PIN_ID_BYTES] = { 0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff };
static const uint8_t id_b[BLOCK_PIN_ID_BYTES] = { 0xb0 };

struct pin_op {
	struct sync_op sync;
	struct fixture *f;
	const struct block *b;
	const uint8_t *id;
	bool stood;
};

/* Anybody can read the pin before the commit is over. */
static void pin_stands(struct block_snapshot_op *op)
{
	struct pin_op *o = container_of(container_of(op, struct sync_op, op), struct pin_op, sync);
	struct qcow2_pin pin;

	assert_int_equal(qcow2_pin_read(o->b->fd, "img", o->id, &pin, &o->f->err), 0);
	o->stood = true;
}

static void pin_commit(struct fixture *f, struct block *b, struct block_snapshot *s, const uint8_t *id)
{
	struct pin_op o = { .sync.op = { .done = sync_done, .stands = pin_stands }, .f = f, .b = b, .id = id };
	struct block_snapshot_info info = { .sec = 1700000000 };

	qcow2_pin_mark(&info, id);
	block_snapshot_commit(s, &info, &o.sync.op);
	if (sync_wait(f, &o.sync) < 0)
		fail_msg("commit: %s", o.sync.err.msg);
	assert_true(o.stood);
}

static struct block_snapshot *pin_begin(struct fixture *f, struct block *b)
{
	struct block_snapshot *s = NULL;

	if (block_snapshot_begin(b, &s, &f->err) < 0)
		fail_msg("begin: %s", f->err.msg);
	return s;
}

static void pin(struct fixture *f, struct block *b, const uint8_t *id)
{
	pin_commit(f, b, pin_begin(f, b), id);
}

static int pin_delete(struct fixture *f, struct block *b, const uint8_t *id)
{
	struct sync_op o = { .op.done = sync_done };

	block_pin_delete(b, id, &o.op);
	sync_wait(f, &o);
	f->err = o.err;
	return o.res;
}

static int snapshot_pin(struct fixture *f, struct block *b, const char *snapshot, const uint8_t *id)
{
	struct sync_op o = { .op.done = sync_done };

	block_pin_snapshot(b, snapshot, id, &o.op);
	sync_wait(f, &o);
	f->err = o.err;
	return o.res;
}

/* Make the overlay `name` on a pin of the image `source`. */
static void overlay(struct fixture *f, const char *name, const char *source, const uint8_t *id)
{
	int from = fixture_file(f, source, O_RDONLY), to = fixture_file(f, name, O_RDWR | O_CREAT);
	struct qcow2_pin p;

	if (qcow2_pin_read(from, source, id, &p, &f->err) < 0 || qcow2_pin_overlays(&to, 1, &p, source, &f->err) < 0)
		fail_msg("%s", f->err.msg);
	close(from);
	close(to);
}

static struct block *fork_open(struct fixture *f)
{
	const char *const names[] = { "fork", "img", NULL };
	struct block *b = NULL;

	if (fixture_open_chain(f, names, false, &b) < 0)
		fail_msg("%s", f->err.msg);
	return b;
}

static int fork_status(struct fixture *f)
{
	const char *const names[] = { "fork", "img", NULL };
	struct block *b = NULL;
	int r = fixture_open_chain(f, names, false, &b);

	if (!r)
		block_close(b);
	return r;
}

static void load(struct fixture *f, struct block *b, uint8_t *content, unsigned ops)
{
	uint8_t *shadow = f->shadow;

	f->shadow = content;
	shadow_run(f, b, ops, 4);
	f->shadow = shadow;
}

#define CREATE "qemu-img create -q -f qcow2 img 4M"

/* A source with a pin and the overlay `fork` on it; the source is closed. */
static void forked_begin(struct fixture *f, unsigned seed)
{
	struct block *b = fixture_begin_source(f, seed, DISK, CREATE);

	pin(f, b, id_a);
	assert_int_equal(block_close(b), 0);
	overlay(f, "fork", "img", id_a);
}

/* ---- content ---- */

static void source_and_fork_write_at_once(struct fixture *f, unsigned seed, const char *create)
{
	struct block *b = fixture_begin_source(f, seed, DISK, create), *fork;
	struct block_snapshot *s = pin_begin(f, b);
	uint8_t *frozen = shadow_copy(f);

	shadow_run(f, b, 100, 4); /* while the pin is being made */
	pin_commit(f, b, s, id_a);
	overlay(f, "fork", "img", id_a);
	fork = fork_open(f);
	content_is(f, fork, frozen);
	for (unsigned i = 0; i < 4; i++) {
		shadow_run(f, b, 50, 4);
		load(f, fork, frozen, 50);
	}
	content_is(f, fork, frozen);
	shadow_verify(f, b);
	assert_int_equal(block_close(fork), 0);
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q -f qcow2 img");
	fork = fork_open(f); /* while the source is closed */
	content_is(f, fork, frozen);
	block_close(fork);
	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_verify(f, b);
	assert_int_equal(pin_delete(f, b, id_a), 0);
	shadow_verify(f, b);
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q -f qcow2 img && test $(qemu-img snapshot -l img | wc -l) = 0");
	assert_int_equal(fork_status(f), -ENOENT);
	assert_non_null(strstr(f->err.msg, "is gone"));
	free(frozen);
	fixture_end(f);
}

static void test_fork_keeps_the_frozen_content_while_the_source_writes(void **state)
{
	static const char *const creates[] = { CREATE,
		"qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 img 4M",
		"qemu-img create -q -f qcow2 -o extended_l2=on img 4M",
		"qemu-img create -q -f qcow2 -o cluster_size=2M,refcount_bits=8 img 4M",
		"qemu-img create -q -f qcow2 -o compat=0.10 img 4M" };

	for (unsigned i = 0; i < ARRAY_SIZE(creates); i++) {
		struct fixture f;

		source_and_fork_write_at_once(&f, 10 + i, creates[i]);
	}
	(void)state;
}

/* The snapshot may go before the pin, and its deletion leaves what the pin reads. */
static void snapshot_is_pinned(struct fixture *f, unsigned seed, const char *create)
{
	struct sync_op made = { .op.done = sync_done }, gone = { .op.done = sync_done };
	struct block_snapshot_info info = { .name = "own" };
	struct block *b = fixture_begin_source(f, seed, DISK, create), *fork;
	uint8_t *frozen = shadow_copy(f);

	block_snapshot_commit(pin_begin(f, b), &info, &made.op);
	assert_int_equal(sync_wait(f, &made), 0);
	shadow_run(f, b, 100, 4);
	assert_int_equal(snapshot_pin(f, b, "7", id_a), -ENOENT);
	assert_int_equal(snapshot_pin(f, b, made.op.id, id_a), 0);
	assert_int_equal(snapshot_pin(f, b, made.op.id, id_a), -EEXIST);
	overlay(f, "fork", "img", id_a);
	fork = fork_open(f);
	content_is(f, fork, frozen);
	block_snapshot_delete(b, made.op.id, &gone.op);
	shadow_run(f, b, 50, 4);
	assert_int_equal(sync_wait(f, &gone), 0);
	load(f, fork, frozen, 50);
	assert_int_equal(block_close(fork), 0);
	fork = fork_open(f);
	content_is(f, fork, frozen);
	shadow_verify(f, b);
	block_close(fork);
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q -f qcow2 img");
	b = fixture_open(f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(pin_delete(f, b, id_a), 0);
	assert_int_equal(block_close(b), 0);
	fixture_run(f, "qemu-img check -q -f qcow2 img && test $(qemu-img snapshot -l img | wc -l) = 0");
	free(frozen);
	fixture_end(f);
}

static void test_pin_of_a_snapshot_keeps_its_content(void **state)
{
	static const char *const creates[] = { CREATE,
		"qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 img 4M",
		"qemu-img create -q -f qcow2 -o extended_l2=on img 4M",
		"qemu-img create -q -f qcow2 -o compat=0.10 img 4M" };

	for (unsigned i = 0; i < ARRAY_SIZE(creates); i++) {
		struct fixture f;

		snapshot_is_pinned(&f, 50 + i, creates[i]);
	}
	(void)state;
}

static void test_damaged_snapshot_gives_no_pin(void **state)
{
	struct sync_op made = { .op.done = sync_done };
	struct block_snapshot_info info = { .name = "own" };
	struct qcow2_snapshot_info *list;
	struct qcow2_header h;
	struct fixture f;
	struct block *b;
	uint8_t was, bad;
	size_t n;
	int fd;

	b = fixture_begin_source(&f, 56, DISK, CREATE);
	block_snapshot_commit(pin_begin(&f, b), &info, &made.op);
	assert_int_equal(sync_wait(&f, &made), 0);
	fd = fixture_file(&f, "img", O_RDWR);
	assert_int_equal(qcow2_header_read(fd, "img", &h, &f.err), 0);
	assert_int_equal(qcow2_snapshots_read(fd, &h, &list, &n, &f.err), 0);
	assert_int_equal(pread(fd, &was, 1, (off_t)list[0].l1_offset + 7), 1);
	bad = was | 1; /* a reserved bit */
	assert_int_equal(pwrite(fd, &bad, 1, (off_t)list[0].l1_offset + 7), 1);
	assert_int_equal(snapshot_pin(&f, b, "1", id_a), -EINVAL);
	assert_non_null(strstr(f.err.msg, "L1 table"));
	shadow_run(&f, b, 50, 4);
	assert_int_equal(pwrite(fd, &was, 1, (off_t)list[0].l1_offset + 7), 1);
	assert_int_equal(snapshot_pin(&f, b, "1", id_a), 0);
	shadow_verify(&f, b);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q -f qcow2 img");
	qcow2_snapshots_free(list, n);
	close(fd);
	fixture_end(&f);
	(void)state;
}

/* Forks of forks, all open for writing at once: each is the source of the next. */
static void test_chain_of_forks_keeps_every_content(void **state)
{
	static const char *const names[] = { "f4", "f3", "f2", "f1", "img", NULL };
	unsigned ops = fixture_number("FORKS_OPS", 30);
	uint8_t *content[DEPTH + 1];
	struct block *b[DEPTH + 1];
	struct fixture f;

	b[0] = fixture_begin_source(&f, fixture_number("FORKS_SEED", 20), DISK, CREATE);
	content[0] = f.shadow;
	for (unsigned i = 1; i <= DEPTH; i++) {
		uint8_t id[BLOCK_PIN_ID_BYTES] = { (uint8_t)i };

		f.shadow = content[i - 1];
		content[i] = shadow_copy(&f);
		f.shadow = content[0];
		pin(&f, b[i - 1], id);
		overlay(&f, names[DEPTH - i], names[DEPTH - i + 1], id);
		assert_int_equal(fixture_open_chain(&f, names + DEPTH - i, false, &b[i]), 0);
		for (unsigned k = 0; k <= i; k++)
			load(&f, b[k], content[k], ops);
	}
	for (unsigned i = 0; i <= DEPTH; i++) {
		content_is(&f, b[i], content[i]);
		if (i)
			free(content[i]);
	}
	for (unsigned i = 0; i <= DEPTH; i++)
		assert_int_equal(block_close(b[i]), 0);
	for (unsigned i = 0; i <= DEPTH; i++)
		fixture_run(&f, "cp %s copy && qemu-img rebase -u -b '' copy && qemu-img check -q -f qcow2 copy", names[i]);
	fixture_end(&f);
	(void)state;
}

static void test_resize_and_revert_of_the_source_leave_the_fork(void **state)
{
	struct sync_op o = { .op.done = sync_done };
	struct block *b, *fork;
	struct fixture f;

	b = fixture_begin_source(&f, 21, DISK, "qemu-img create -q -f qcow2 img 4M && qemu-img snapshot -c empty img");
	pin(&f, b, id_a);
	overlay(&f, "fork", "img", id_a);
	fork = fork_open(&f);
	block_snapshot_apply(b, "1", &o.op);
	assert_int_equal(sync_wait(&f, &o), 0);
	assert_int_equal(block_resize(b, DISK / 2, &f.err), 0);
	shadow_verify(&f, fork);
	assert_int_equal(block_resize(b, DISK * 2, &f.err), 0);
	assert_int_equal(block_close(b), 0);
	assert_int_equal(block_close(fork), 0);
	fork = fork_open(&f);
	shadow_verify(&f, fork);
	block_close(fork);
	fixture_end(&f);
	(void)state;
}

/* ---- what a pin looks like ---- */

static void test_list_tells_a_pin_and_its_id(void **state)
{
	struct block_snapshot_info *list;
	struct fixture f;
	struct block *b;
	size_t n;

	b = fixture_begin_source(&f, 22, DISK, "qemu-img create -q -f qcow2 img 4M && qemu-img snapshot -c own img");
	pin(&f, b, id_a);
	pin(&f, b, id_b);
	assert_int_equal(block_snapshot_list(b, &list, &n, &f.err), 0);
	assert_int_equal(n, 3);
	assert_false(list[0].pinned);
	assert_true(list[1].pinned && list[2].pinned);
	assert_memory_equal(list[1].pin_id, id_a, sizeof(id_a));
	assert_memory_equal(list[2].pin_id, id_b, sizeof(id_b));
	assert_string_equal(list[1].name, "cairn-pin-a00102030405060708090a0b0c0d0eff");
	assert_int_equal(list[1].vm_state_bytes, 0);
	free(list);
	assert_int_equal(pin_delete(&f, b, id_a), 0);
	assert_int_equal(pin_delete(&f, b, id_a), -ENOENT);
	assert_int_equal(pin_delete(&f, b, id_b), 0);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q -f qcow2 img");
	fixture_end(&f);
	(void)state;
}

static void test_overlay_names_the_source_and_the_pin(void **state)
{
	uint8_t id[BLOCK_PIN_ID_BYTES];
	char path[1200];
	struct qcow2_header h;
	struct qcow2_pin p;
	struct fixture f;
	size_t n;
	int fd;

	forked_begin(&f, 23);
	fd = fixture_file(&f, "fork", O_RDWR);
	assert_int_equal(qcow2_header_read(fd, "fork", &h, &f.err), 0);
	assert_string_equal(h.backing_name, "cairn-fork:img?snapshot=a00102030405060708090a0b0c0d0eff");
	assert_string_equal(h.backing_format, "qcow2");
	assert_true(h.has_pin && h.size_bytes == DISK);
	assert_true(pin_name_parse(h.backing_name, &n, id));
	assert_int_equal(n, 3);
	assert_memory_equal(id, id_a, sizeof(id));
	/* Another backing file, and none, take the extension away. */
	p = h.pin;
	assert_int_equal(qcow2_set_backing(fd, &h, "other.img", "qcow2", &f.err), 0);
	assert_int_equal(qcow2_header_read(fd, "fork", &h, &f.err), 0);
	assert_false(h.has_pin);
	assert_int_not_equal(fixture_status(&f, "head -c 4096 fork | grep -q CRNP"), 0);
	memset(path, 'x', sizeof(path));
	path[QCOW2_BACKING_NAME_MAX - 11 - 10 - 32 + 1] = 0;
	assert_int_equal(qcow2_pin_overlays(&fd, 1, &p, path, &f.err), -EINVAL);
	path[QCOW2_BACKING_NAME_MAX - 11 - 10 - 32] = 0;
	assert_int_equal(qcow2_pin_overlays(&fd, 1, &p, path, &f.err), 0);
	assert_int_equal(qcow2_header_read(fd, "fork", &h, &f.err), 0);
	assert_true(h.has_pin && pin_name_parse(h.backing_name, &n, id));
	assert_int_equal(n, strlen(path));
	close(fd);
	fixture_end(&f);
	(void)state;
}

static void test_names_of_another_form_are_no_pins(void **state)
{
	static const char *const bad[] = { "", "img", "cairn-fork:", "cairn-fork:?snapshot=a00102030405060708090a0b0c0d0eff",
		"cairn-fork:img", "cairn-fork:img?snapshot=a00102030405060708090a0b0c0d0ef",
		"cairn-fork:img?snapshot=a00102030405060708090a0b0c0d0efg",
		"cairn-fork:img?snapshot=a00102030405060708090a0b0c0d0effa",
		"cairn-fork:img!snapshot=a00102030405060708090a0b0c0d0eff",
		"cairn:img?snapshot=a00102030405060708090a0b0c0d0eff" };
	uint8_t id[BLOCK_PIN_ID_BYTES];
	size_t n;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(pin_name_parse(bad[i], &n, id));
	assert_true(pin_name_parse("cairn-fork:/a?snapshot=b?snapshot=00000000000000000000000000000000", &n, id));
	assert_int_equal(n, 13);
	(void)state;
}

/* ---- refusals ---- */

/* Opened by its path alone, the source would show its present content. */
static void test_qemu_refuses_an_overlay(void **state)
{
	static const char *const tries[] = { "qemu-img convert -O raw fork out.raw",
		"qemu-img convert -f qcow2 -O raw fork out.raw", "qemu-io -r -c 'read 0 512' fork",
		"qemu-io -c 'write 0 512' fork", "qemu-img info --backing-chain fork", "qemu-img commit fork",
		"qemu-img rebase -b '' fork", "qemu-img compare fork img", "qemu-img map fork" };
	struct fixture f;

	forked_begin(&f, 24);
	for (unsigned i = 0; i < ARRAY_SIZE(tries); i++) {
		if (!fixture_status(&f, "%s </dev/null", tries[i]) && i != 2 && i != 3)
			fail_msg("QEMU accepts: %s", tries[i]);
		fixture_run(&f, "(%s </dev/null 2>&1; true) | grep -q \"Unknown protocol 'cairn-fork'\"", tries[i]);
	}
	assert_int_equal(fork_status(&f), 0);
	fixture_end(&f);
	(void)state;
}

static void test_every_flipped_bit_of_the_description_is_refused(void **state)
{
	uint8_t cluster[1024];
	struct fixture f;
	unsigned at, tried = 0;
	int fd;

	forked_begin(&f, 25);
	fd = fixture_file(&f, "fork", O_RDWR);
	assert_int_equal(pread(fd, cluster, sizeof(cluster), 0), sizeof(cluster));
	for (at = 104; at < sizeof(cluster) && memcmp(cluster + at, "CRNP", 4); at += 8)
		;
	assert_true(at < 512);
	for (unsigned bit = 0; bit < (8 + QCOW2_PIN_EXT_BYTES) * 8; bit++, tried++) {
		uint8_t old = cluster[at + bit / 8], new = (uint8_t)(old ^ 1u << bit % 8);

		assert_int_equal(pwrite(fd, &new, 1, at + bit / 8), 1);
		if (fork_status(&f) != -EINVAL)
			fail_msg("bit %u of the extension: %d", bit, fork_status(&f));
		assert_int_equal(f.err.cls, ERR_CORRUPT);
		assert_int_equal(pwrite(fd, &old, 1, at + bit / 8), 1);
	}
	assert_int_equal(tried, 512);
	/* The name has to have the same id. */
	fixture_run(&f, "sed -i 's/snapshot=a0010203/snapshot=a0010204/' fork");
	assert_int_equal(fork_status(&f), -EINVAL);
	fixture_run(&f, "sed -i 's/snapshot=a0010204/snapshot=a0010203/' fork");
	assert_int_equal(fork_status(&f), 0);
	close(fd);
	fixture_end(&f);
	(void)state;
}

/* Returns 0 when the fork can be opened with the bit flipped. */
static int flipped(struct fixture *f, int fd, uint64_t at, unsigned bit)
{
	uint8_t b;
	int r;

	assert_int_equal(pread(fd, &b, 1, (off_t)at), 1);
	b ^= (uint8_t)(1u << bit);
	assert_int_equal(pwrite(fd, &b, 1, (off_t)at), 1);
	r = fork_status(f);
	b ^= (uint8_t)(1u << bit);
	assert_int_equal(pwrite(fd, &b, 1, (off_t)at), 1);
	return r;
}

static void test_flipped_bits_of_the_pin_are_refused(void **state)
{
	struct qcow2_snapshot_info *list;
	struct qcow2_header h;
	struct fixture f;
	uint64_t mark;
	size_t n;
	int fd;

	forked_begin(&f, 26);
	fd = fixture_file(&f, "img", O_RDWR);
	assert_int_equal(qcow2_header_read(fd, "img", &h, &f.err), 0);
	assert_int_equal(qcow2_snapshots_read(fd, &h, &list, &n, &f.err), 0);
	for (unsigned bit = 0; bit < 64 * list[0].l1_size; bit++) {
		bool copied = bit % 64 == 7; /* a repair may set it */

		assert_int_equal(flipped(&f, fd, list[0].l1_offset + bit / 8, bit % 8), copied ? 0 : -EINVAL);
	}
	mark = h.snapshots_offset + QCOW2_SNAPSHOT_HEADER_BYTES + QCOW2_SNAPSHOT_QEMU_BYTES;
	for (unsigned bit = 0; bit < 24 * 8; bit++)
		assert_int_equal(flipped(&f, fd, mark + bit / 8, bit % 8), -ENOENT);
	for (unsigned bit = 0; bit < 12 * 8; bit++) /* the L1's place and size */
		assert_int_equal(flipped(&f, fd, h.snapshots_offset + bit / 8, bit % 8), -EINVAL);
	qcow2_snapshots_free(list, n);
	close(fd);
	fixture_end(&f);
	(void)state;
}

static void test_fork_is_refused_when_qemu_deleted_the_pin(void **state)
{
	struct fixture f;

	forked_begin(&f, 27);
	fixture_run(&f, "qemu-img snapshot -d cairn-pin-a00102030405060708090a0b0c0d0eff img");
	assert_int_equal(fork_status(&f), -ENOENT);
	assert_int_equal(f.err.cls, ERR_NOT_FOUND);
	assert_non_null(strstr(f.err.msg, "its pin (a hidden snapshot) was deleted"));
	fixture_end(&f);
	(void)state;
}

static void test_fork_is_refused_on_another_file(void **state)
{
	const char *const raw[] = { "fork", "shadow", NULL };
	struct block *b = NULL;
	struct fixture f;

	forked_begin(&f, 28);
	fixture_run(&f, "mv img old && qemu-img create -q -f qcow2 img 4M");
	assert_int_equal(fork_status(&f), -ENOENT);
	fixture_run(&f, "qemu-img convert -f raw -O qcow2 shadow img && qemu-img snapshot -c x img");
	assert_int_equal(fork_status(&f), -ENOENT);
	assert_int_equal(fixture_open_chain(&f, raw, false, &b), -EINVAL);
	fixture_run(&f, "mv old img");
	assert_int_equal(fork_status(&f), 0);
	fixture_end(&f);
	(void)state;
}

/* ---- the source's table changes while a fork opens ---- */

struct reader {
	int fd;
	atomic_bool stop;
	unsigned reads, failed;
	struct err err;
};

static void *reader_run(void *opaque)
{
	struct reader *x = opaque;

	while (!atomic_load(&x->stop)) {
		struct qcow2_pin p;

		if (qcow2_pin_read(x->fd, "img", id_a, &p, &x->err) < 0)
			x->failed++;
		x->reads++;
	}
	return NULL;
}

static void test_pin_is_found_while_the_table_is_replaced(void **state)
{
	struct reader x = { 0 };
	struct fixture f;
	struct block *b;
	pthread_t thread;

	b = fixture_begin_source(&f, 29, DISK, CREATE);
	pin(&f, b, id_a);
	x.fd = fixture_file(&f, "img", O_RDONLY);
	assert_int_equal(pthread_create(&thread, NULL, reader_run, &x), 0);
	for (unsigned i = 0; i < 200; i++) {
		pin(&f, b, id_b);
		assert_int_equal(pin_delete(&f, b, id_b), 0);
	}
	atomic_store(&x.stop, true);
	pthread_join(thread, NULL);
	if (x.failed)
		fail_msg("%u of %u: %s", x.failed, x.reads, x.err.msg);
	assert_true(x.reads > 0);
	close(x.fd);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

/* ---- what a pin costs ---- */

struct syncs {
	struct loop_trace trace;
	unsigned n;
};

static void sync_count(struct loop_trace *t, struct loop_op *op, enum loop_op_kind kind, int fd, const struct iovec *iov,
	unsigned niov, uint64_t offset, uint64_t len, int mode)
{
	container_of(t, struct syncs, trace)->n += kind == LOOP_OP_SYNC;
	(void)op, (void)fd, (void)iov, (void)niov, (void)offset, (void)len, (void)mode;
}

static void nothing(struct loop_trace *t, struct loop_op *op, int res)
{
	(void)t, (void)op, (void)res;
}

static unsigned pin_syncs(struct fixture *f, struct block *b, const uint8_t *id)
{
	struct syncs s = { .trace = { .submit = sync_count, .complete = nothing } };

	assert_int_equal(shadow_flush(f, b), 0);
	loop_trace(f->loop, &s.trace);
	pin(f, b, id);
	loop_trace(f->loop, NULL);
	return s.n;
}

static void test_pin_takes_few_syncs(void **state)
{
	struct fixture f;
	struct block *b = fixture_begin_source(&f, 31, DISK, CREATE);

	/* the mark, the tables, the header, no mark */
	assert_int_equal(pin_syncs(&f, b, id_a), 4);
	/* The old snapshot table is freed after a sync, and the refcounts after another. */
	assert_int_equal(pin_syncs(&f, b, id_b), 6);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

/* ---- locks ---- */

static void test_reader_of_a_pin_keeps_other_programs_from_writing(void **state)
{
	const char *const chain[] = { "fork", "img", NULL }, *const chain2[] = { "fork2", "img", NULL };
	struct block *source = NULL, *fork, *fork2 = NULL;
	struct fixture f;

	forked_begin(&f, 30);
	overlay(&f, "fork2", "img", id_a);
	fork = fork_open(&f);
	fixture_run(&f, "! qemu-io -c 'write 0 512' img 2>&1 | grep -q 'wrote 512'");
	assert_int_not_equal(fixture_status(&f, "qemu-img snapshot -d 1 img"), 0);
	fixture_run(&f, "qemu-io -r -c 'read 0 512' img | grep -q 'read 512'");
	f.beside_pins = false;
	assert_int_equal(fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &source), -EBUSY);
	assert_non_null(strstr(f.err.msg, "live clones"));
	assert_int_equal(fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, true, &source), 0);
	block_close(source);
	f.beside_pins = true;
	/* The source starts beside its forks, and a fork beside the source. */
	source = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(fixture_open_chain(&f, chain2, false, &fork2), 0);
	block_close(fork2);
	assert_int_equal(block_close(fork), 0);
	assert_int_equal(fixture_open_chain(&f, chain, false, &fork), 0);
	assert_int_not_equal(fixture_status(&f, "qemu-io -c 'write 0 512' img | grep -q 'wrote 512'"), 0);
	block_close(source);
	block_close(fork);
	fixture_run(&f, "qemu-io -c 'write 0 512' img | grep -q 'wrote 512'");
	fixture_end(&f);
	(void)state;
}

static void test_fork_is_refused_beside_a_writer_that_may_delete_the_pin(void **state)
{
	struct block *tool, *fork, *other = NULL;
	struct fixture f;

	forked_begin(&f, 31);
	f.beside_pins = false;
	tool = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(fork_status(&f), -EBUSY);
	block_close(tool);
	/* An ordinary reader does not count as a reader of a pin. */
	fork = fork_open(&f);
	tool = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, true);
	f.beside_pins = true;
	assert_int_equal(fixture_try_open(&f, "img", BLOCK_FORMAT_QCOW2, false, &other), -EBUSY);
	assert_null(other);
	block_close(tool);
	block_close(fork);
	fixture_end(&f);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fork_keeps_the_frozen_content_while_the_source_writes),
		cmocka_unit_test(test_pin_of_a_snapshot_keeps_its_content),
		cmocka_unit_test(test_damaged_snapshot_gives_no_pin),
		cmocka_unit_test(test_chain_of_forks_keeps_every_content),
		cmocka_unit_test(test_resize_and_revert_of_the_source_leave_the_fork),
		cmocka_unit_test(test_list_tells_a_pin_and_its_id),
		cmocka_unit_test(test_overlay_names_the_source_and_the_pin),
		cmocka_unit_test(test_names_of_another_form_are_no_pins),
		cmocka_unit_test(test_qemu_refuses_an_overlay),
		cmocka_unit_test(test_every_flipped_bit_of_the_description_is_refused),
		cmocka_unit_test(test_flipped_bits_of_the_pin_are_refused),
		cmocka_unit_test(test_fork_is_refused_when_qemu_deleted_the_pin),
		cmocka_unit_test(test_fork_is_refused_on_another_file),
		cmocka_unit_test(test_pin_is_found_while_the_table_is_replaced),
		cmocka_unit_test(test_pin_takes_few_syncs),
		cmocka_unit_test(test_reader_of_a_pin_keeps_other_programs_from_writing),
		cmocka_unit_test(test_fork_is_refused_beside_a_writer_that_may_delete_the_pin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
