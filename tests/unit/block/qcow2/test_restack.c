/* A disk gets another chain of layers: an overlay on top, or a backing file that is open for writing. */
#include "../fixture_block.h"

#include "base/bytes.h"
#include "base/util.h"
#include "block/lock.h"
#include "block/restack.h"
#include "block/upper_range.h"

#define PIECE (64 * KIB)

static void fill(struct block *b, uint64_t off, uint8_t with)
{
	static uint8_t buf[PIECE];

	memset(buf, with, PIECE);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, off, buf, PIECE), 0);
}

static void has(struct block *b, uint64_t off, uint8_t with)
{
	static uint8_t buf[PIECE], want[PIECE];

	memset(want, with, PIECE);
	assert_int_equal(fixture_rw(b, BLOCK_READ, off, buf, PIECE), 0);
	assert_memory_equal(buf, want, PIECE);
}

static struct block_layer layer(struct fixture *f, const char *name)
{
	return (struct block_layer){ .fd = fixture_file(f, name, O_RDWR), .format = BLOCK_FORMAT_QCOW2 };
}

static void chain_make(struct fixture *f)
{
	fixture_begin(f, 1);
	fixture_run(f, "qemu-img create -q -f qcow2 base.img 24M && qemu-io -c 'write -P 7 0 1M' base.img >io && "
		"qemu-img create -q -f qcow2 -b base.img -F qcow2 img");
}

static void test_overlay_goes_on_top(void **state)
{
	struct block_restack o = { .nlayers = 3, .kept = { BLOCK_NEW_LAYER, 0, 1 } };
	struct block *b, *next;
	struct fixture f;

	(void)state;
	chain_make(&f);
	fixture_run(&f, "qemu-img create -q -u -f qcow2 -b img -F qcow2 over 24M");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	fill(b, 2 * MIB, 1);
	o.layers[0] = layer(&f, "over");
	assert_int_equal(block_restack_begin(b, &o, &next, &f.err), 0);
	assert_ptr_equal(block_restack_end(b, &o, next, true), b);
	fixture_run(&f, "cp img was");
	fill(next, 2 * MIB, 2);
	block_close(b);
	fill(next, 3 * MIB, 3);
	has(next, 0, 7);
	has(next, 2 * MIB, 2);
	/* The image has a reader now, and the overlay a writer. */
	fixture_run(&f, "qemu-io -r -c 'read -P 1 2M 64k' img >io && ! grep failed io");
	assert_int_not_equal(fixture_status(&f, "qemu-io -c 'read 0 512' img >io 2>&1"), 0);
	assert_int_not_equal(fixture_status(&f, "qemu-io -r -c 'read 0 512' over >io 2>&1"), 0);
	assert_int_equal(block_close(next), 0);
	fixture_run(&f, "cmp img was && qemu-img check -q img && qemu-img check -q over && qemu-io -c 'read -P 3 3M 64k' over | grep ops");
	fixture_end(&f);
}

/* The old chain has the same image as the new one, which has grown it meanwhile. */
static void test_close_of_the_old_chain_leaves_the_image(void **state)
{
	struct block_restack o = { .nlayers = 2, .kept = { 0, BLOCK_NEW_LAYER }, .writable = 1 };
	struct block *b, *next;
	struct fixture f;

	(void)state;
	chain_make(&f);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	fill(b, 2 * MIB, 1);
	o.layers[1] = layer(&f, "base.img");
	assert_int_equal(block_restack_begin(b, &o, &next, &f.err), 0);
	block_restack_end(b, &o, next, true);
	for (unsigned i = 0; i < 32; i++)
		fill(next, 4 * MIB + i * PIECE, (uint8_t)i);
	assert_int_equal(fixture_op(next, BLOCK_FLUSH, 0, 0, 0), 0);
	block_close(b);
	/* Writes to the backing file stay hidden where the image has a cluster. */
	fill(block_layer(next, 1), 4 * MIB, 9);
	fill(block_layer(next, 1), 8 * MIB, 9);
	has(next, 4 * MIB, 0);
	has(next, 8 * MIB, 9);
	assert_int_equal(block_stop_writing(block_layer(next, 1)), 0);
	fixture_run(&f, "qemu-io -r -c 'read -P 9 8M 64k' base.img | grep ops && qemu-img check -q base.img");
	assert_int_equal(block_close(next), 0);
	fixture_run(&f, "qemu-img check -q img && qemu-io -c 'read -P 31 6225920 64k' img >io && ! grep failed io");
	fixture_end(&f);
}

/* The process before this one has taken the locks, and its fds are here. */
static void test_layers_of_a_process_before_change(void **state)
{
	struct block_restack o = { .nlayers = 2, .kept = { 0, BLOCK_NEW_LAYER }, .writable = 1 };
	struct block_open open = { .nlayers = 2, .name = "vda", .beside_pins = true, .as_handed_over = true };
	struct block_layer layers[2];
	struct block *b, *next;
	struct fixture f;

	(void)state;
	chain_make(&f);
	layers[0] = layer(&f, "img");
	layers[1] = layer(&f, "base.img");
	assert_int_equal(lock_acquire(layers[0].fd, LOCK_AS_WRITER_BESIDE_PINS, "img", &f.err), 0);
	assert_int_equal(lock_acquire(layers[1].fd, LOCK_AS_READER, "base.img", &f.err), 0);
	open.layers = layers;
	assert_int_equal(block_open(f.loop, &open, &b, &f.err), 0);
	o.layers[1] = layer(&f, "base.img");
	assert_int_equal(block_restack_begin(b, &o, &next, &f.err), 0);
	block_close(block_restack_end(b, &o, next, true));
	fill(block_layer(next, 1), 8 * MIB, 9);
	assert_int_not_equal(fixture_status(&f, "qemu-io -r -c 'read 0 512' img >io 2>&1"), 0);
	assert_int_not_equal(fixture_status(&f, "qemu-io -r -c 'read 0 512' base.img >io 2>&1"), 0);
	assert_int_equal(block_stop_writing(block_layer(next, 1)), 0);
	fixture_run(&f, "qemu-io -r -c 'read -P 9 8M 64k' base.img | grep ops");
	assert_int_equal(block_close(next), 0);
	fixture_run(&f, "qemu-io -c 'write -P 3 0 64k' img >io");
	fixture_end(&f);
}

static void read_done(struct block_req *r, int res)
{
	(void)res;
	r->niov = 0; /* over */
}

/* A commit that is cancelled leaves its layer to a guest that reads it all the time. */
static void test_layer_becomes_read_only_beside_reads(void **state)
{
	struct block_restack o = { .nlayers = 2, .kept = { 0, BLOCK_NEW_LAYER }, .writable = 1 };
	static uint8_t buf[PIECE], want[PIECE];
	struct iovec iov = { buf, PIECE };
	struct block_req r = { .op = BLOCK_READ, .len = PIECE, .iov = &iov, .niov = 1, .done = read_done };
	struct block *b, *next, *base;
	struct fixture f;

	(void)state;
	chain_make(&f);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	o.layers[1] = layer(&f, "base.img");
	assert_int_equal(block_restack_begin(b, &o, &next, &f.err), 0);
	block_restack_end(b, &o, next, true);
	block_close(b);
	base = block_layer(next, 1);
	fill(base, 8 * MIB, 9);
	has(next, 0, 7); /* its tables are read */
	block_submit(next, &r);
	assert_int_equal(block_in_flight(base), 1);
	assert_int_equal(block_stop_writing(base), 0);
	while (r.niov)
		loop_run_once(f.loop, UINT64_MAX);
	memset(want, 7, PIECE);
	assert_memory_equal(buf, want, PIECE);
	fixture_run(&f, "qemu-io -r -c 'read -P 9 8M 64k' base.img | grep ops && qemu-img check -q base.img");
	assert_int_equal(block_close(next), 0);
	fixture_end(&f);
}

static void test_refused_layers_leave_the_disk(void **state)
{
	struct block_restack o = { .nlayers = 2, .kept = { 0, BLOCK_NEW_LAYER }, .writable = 1 };
	struct block_restack other = { .nlayers = 3, .kept = { BLOCK_NEW_LAYER, 0, 1 } };
	struct block *b, *next = NULL, *reader;
	struct fixture f;

	(void)state;
	chain_make(&f);
	fixture_run(&f, "qemu-img create -q -f qcow2 alone 24M");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	reader = fixture_open(&f, "base.img", BLOCK_FORMAT_QCOW2, true);
	o.layers[1] = layer(&f, "base.img");
	assert_int_equal(block_restack_begin(b, &o, &next, &f.err), -EBUSY);
	block_close(reader);
	close(o.layers[1].fd);
	other.layers[0] = layer(&f, "alone");
	assert_int_equal(block_restack_begin(b, &other, &next, &f.err), -EINVAL);
	close(other.layers[0].fd);
	assert_null(next);
	/* The backing file has its lock again. */
	assert_int_not_equal(fixture_status(&f, "qemu-io -c 'read 0 512' base.img >io 2>&1"), 0);
	o.layers[1] = layer(&f, "base.img");
	assert_int_equal(block_restack_begin(b, &o, &next, &f.err), 0);
	assert_ptr_equal(block_restack_end(b, &o, next, false), next);
	block_close(next);
	assert_int_not_equal(fixture_status(&f, "qemu-io -c 'read 0 512' base.img >io 2>&1"), 0);
	assert_int_not_equal(fixture_status(&f, "qemu-io -r -c 'read 0 512' img >io 2>&1"), 0);
	fill(b, 0, 5);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "qemu-img check -q img && qemu-img check -q base.img");
	fixture_end(&f);
}

static void test_backing_name_changes(void **state)
{
	struct block_restack o = { .nlayers = 2, .kept = { 0, 2 }, .backing_name = "base.img", .backing_format = "qcow2" };
	const char *const names[] = { "img", "mid", "base.img", NULL };
	struct block_layer layers[BLOCK_LAYERS_MAX];
	struct block *b, *next;
	struct fixture f;

	(void)state;
	chain_make(&f);
	fixture_run(&f, "mv img mid && qemu-img create -q -f qcow2 -b mid -F qcow2 img");
	assert_int_equal(fixture_open_chain(&f, names, false, &b), 0);
	fill(b, 0, 4);
	block_layers(b, layers);
	o.above_fd = layers[0].fd;
	assert_int_equal(block_restack_begin(b, &o, &next, &f.err), 0);
	block_close(block_restack_end(b, &o, next, true));
	fill(next, MIB, 5);
	has(next, PIECE, 7);
	assert_int_equal(block_close(next), 0);
	fixture_run(&f, "rm mid && qemu-img check -q img && qemu-img info img | grep 'backing file: base.img'");
	fixture_end(&f);
}

struct found {
	struct upper_range x;
	int res;
	uint64_t off, len;
	bool over;
};

static void found(struct upper_range *x, int res, uint64_t off, uint64_t len)
{
	struct found *a = container_of(x, struct found, x);

	a->res = res;
	a->off = off;
	a->len = len;
	a->over = true;
}

static struct found look(struct fixture *f, struct block *b, unsigned depth, uint64_t off, uint64_t len)
{
	struct found a = { .x = { .b = b, .depth = depth, .off = off, .len = len, .done = found } };

	upper_range_find(&a.x);
	while (!a.over)
		loop_run_once(f->loop, UINT64_MAX);
	assert_int_equal(a.res, 0);
	return a;
}

static void test_above_finds_what_upper_layers_have(void **state)
{
	const char *const names[] = { "img", "mid", "base.img", NULL };
	struct fixture f;
	struct block *b;
	struct found a;

	(void)state;
	chain_make(&f);
	/* The layer in the middle is shorter than the disk. */
	fixture_run(&f, "rm img && qemu-img create -q -f qcow2 -u -b base.img -F qcow2 mid 20M && qemu-io -c 'write 5M 64k' -c 'write -z 9M 64k' mid >io && "
		"qemu-img create -q -f qcow2 -u -b mid -F qcow2 img 24M && qemu-io -c 'write 12M 128k' img >io");
	assert_int_equal(fixture_open_chain(&f, names, false, &b), 0);
	a = look(&f, b, 2, 0, 20 * MIB);
	assert_true(a.off == 5 * MIB && a.len == PIECE);
	a = look(&f, b, 1, 0, 20 * MIB);
	assert_true(a.off == 12 * MIB && a.len == 2 * PIECE);
	a = look(&f, b, 2, 5 * MIB + PIECE, 15 * MIB);
	assert_true(a.off == 9 * MIB && a.len == PIECE);
	a = look(&f, b, 2, 13 * MIB, 11 * MIB);
	assert_true(a.off == 20 * MIB && a.len == 4 * MIB);
	assert_int_equal(look(&f, b, 2, 13 * MIB, 7 * MIB).len, 0);
	assert_int_equal(look(&f, b, 1, 0, 12 * MIB).len, 0);
	block_close(b);
	fixture_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_overlay_goes_on_top),
		cmocka_unit_test(test_close_of_the_old_chain_leaves_the_image),
		cmocka_unit_test(test_layers_of_a_process_before_change), cmocka_unit_test(test_layer_becomes_read_only_beside_reads),
		cmocka_unit_test(test_refused_layers_leave_the_disk),
		cmocka_unit_test(test_backing_name_changes), cmocka_unit_test(test_above_finds_what_upper_layers_have) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
