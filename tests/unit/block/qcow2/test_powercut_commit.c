/* Power cuts of a commit: of a layer in the middle, of the upper layers while the guest writes until the disk goes on
 * with the base, and of the upper layers of a VM that is off. After each cut, the chain of layers that a definition may
 * name then has all that the guest has flushed.
 *
 * Environment: COMMIT_CUTS: loads (6) of some 100 cuts, from COMMIT_SEED (1). */
#include "fixture_powercut.h"
#include "fixture_powerload.h"

#include "base/bytes.h"
#include "base/util.h"
#include "block/upper_range.h"
#include "block/mirror.h"
#include "block/restack.h"

#define PIECE (64 * KIB)

enum kind { COMMIT_MIDDLE, COMMIT_ACTIVE, COMMIT_OFF };

/* ---- layers ---- */

static void at_once(void *opaque)
{
	*(bool *)opaque = true;
}

static struct block *restack(struct recorder *r, struct block_restack *o)
{
	struct block *next;

	if (block_restack_begin(r->disk->b, o, &next, &r->f->err) < 0)
		fail_msg("%s", r->f->err.msg);
	return next;
}

/* Open the base for writing at its place in the chain. Returns the new chain. */
static struct block *base_open(struct recorder *r, struct block_restack *o)
{
	*o = (struct block_restack){ .nlayers = 3, .kept = { 0, 1, BLOCK_NEW_LAYER }, .writable = 2,
		.layers[2] = { .fd = fixture_file(r->f, "img", O_RDWR), .format = BLOCK_FORMAT_QCOW2 } };
	return restack(r, o);
}

static void disk_replace(struct recorder *r, struct block_restack *o, struct block *next)
{
	assert_int_equal(block_close(block_restack_end(r->disk->b, o, next, true)), 0);
	r->disk->b = next;
}

/* ---- copying ---- */

struct look {
	struct upper_range above;
	uint64_t off, len;
	bool over;
};

static void look_done(struct upper_range *a, int res, uint64_t off, uint64_t len)
{
	struct look *x = container_of(a, struct look, above);

	assert_int_equal(res, 0);
	x->off = off;
	x->len = len;
	x->over = true;
}

/* Copy from `from` to layer 2 what `depth` layers from `top` on have in a part. */
static void part_copy(struct recorder *r, unsigned top, unsigned depth, uint64_t off, uint64_t len)
{
	struct block *b = r->disk->b, *from = block_layer(b, top), *to = block_layer(b, 2);
	uint64_t end = off + len, n;
	uint8_t *buf = aligned_alloc(4096, PIECE);

	for (; off < end; off += n) {
		struct look x = { .above = { .b = from, .depth = depth, .off = off, .len = MIN(end - off, PIECE), .done = look_done } };

		upper_range_find(&x.above);
		while (!x.over)
			loop_run_once(r->f->loop, UINT64_MAX);
		n = x.len ? x.off + x.len - off : MIN(end - off, PIECE);
		if (!x.len)
			continue;
		assert_int_equal(fixture_rw(from, BLOCK_READ, x.off, buf, x.len), 0);
		if (bytes_are_zero(buf, x.len))
			assert_int_equal(fixture_op(to, BLOCK_WRITE_ZEROES, BLOCK_REQ_MAY_UNMAP, x.off, x.len), 0);
		else
			assert_int_equal(fixture_rw(to, BLOCK_WRITE, x.off, buf, x.len), 0);
	}
	free(buf);
}

static void base_flush(struct recorder *r)
{
	assert_int_equal(fixture_op(block_layer(r->disk->b, 2), BLOCK_FLUSH, 0, 0, 0), 0);
}

/* ---- commits ---- */

static void commit_middle(struct recorder *r)
{
	struct block_restack o, drop = { .nlayers = 2, .kept = { 0, 2 }, .backing_name = "img", .backing_format = "qcow2" };
	struct block_layer layers[BLOCK_LAYERS_MAX];

	disk_replace(r, &o, base_open(r, &o));
	for (uint64_t off = 0; off < r->disk->bytes; off += 4 * PIECE) {
		part_copy(r, 1, 1, off, MIN(4 * PIECE, r->disk->bytes - off));
		load_run(r, 1);
	}
	base_flush(r);
	block_layers(r->disk->b, layers);
	drop.above_fd = layers[0].fd;
	disk_replace(r, &drop, restack(r, &drop));
	load_run(r, 3);
}

/* Copy what is due; parts: at most so many, while the guest makes more due. */
static void due_copy(struct recorder *r, struct block_mirror *m, unsigned parts)
{
	uint64_t off, len;
	bool ready;

	for (unsigned i = 0; (!parts || i < parts) && block_mirror_next(m, 4 * PIECE, &off, &len, at_once, &ready); i++) {
		part_copy(r, 0, 2, off, len);
		if (parts)
			load_run(r, 1);
	}
}

static void chains(struct recorder *r, unsigned which)
{
	record(r, EV_CHAINS)->of = which;
}

/* While the guest writes, until both have each change, and then with the base alone. */
static void commit_active(struct recorder *r, bool off)
{
	struct block_restack o;
	struct block *next = base_open(r, &o), *upper, *base;
	struct block_mirror *m;
	bool held = false;

	assert_int_equal(block_mirror_new(next, block_layer(next, 2), &m, &r->f->err), 0);
	disk_replace(r, &o, next);
	if (!off)
		due_copy(r, m, 8);
	block_mirror_write_through(m);
	due_copy(r, m, 0);
	base_flush(r);
	assert_true(block_mirror_seal(m));
	chains(r, CHAIN_FULL | CHAIN_BASE);
	if (!off)
		load_run(r, 4);
	assert_true(block_mirror_is_equal(m));
	block_mirror_hold(m, at_once, &held);
	assert_true(held && !block_mirror_end(m));
	if (off) {
		assert_int_equal(block_stop_writing(block_layer(r->disk->b, 2)), 0);
		return;
	}
	upper = r->disk->b;
	base = block_cut(upper, 2);
	assert_int_equal(block_close(upper), 0);
	r->disk->b = base;
	chains(r, CHAIN_BASE); /* the definition names it before the guest writes to it alone */
	load_run(r, 3);
}

static void power_cut(const char *options, enum kind kind, unsigned seed)
{
	struct recorder r;
	struct fixture f;

	fixture_begin(&f, seed);
	f.cache_bytes = 1;
	fixture_run(&f, "qemu-img create -q -f qcow2 -o %s img 1M && qemu-io -c 'write -P 7 0 300k' -c 'write -P 8 700k 200k' img >io && "
		"qemu-img create -q -f qcow2 -o %s -b img -F qcow2 img1 && qemu-io -c 'write -P 9 100k 300k' -c 'write -z 700k 100k' img1 >io && "
		"qemu-img create -q -f qcow2 -o %s -b img1 -F qcow2 img2 && qemu-io -c 'write -P 10 350k 100k' img2 >io", options, options, options);
	record_begin(&r, &f, 3);
	r.disk = &r.disks[2];
	record_open(&r);
	chains(&r, CHAIN_FULL | CHAIN_OF_HEADER);
	load_run(&r, 2);
	if (kind == COMMIT_MIDDLE)
		commit_middle(&r);
	else
		commit_active(&r, kind == COMMIT_OFF);
	record_close(&r);
	record_end(&r);
	fixture_run(&f, "qemu-img check -q img");
	scene_cut(&r, 1);
}

static void test_power_cut_of_a_commit_loses_nothing(void **state)
{
	static const char *const options[] = { "cluster_size=64k", "cluster_size=4k", "cluster_size=512,refcount_bits=64" };
	unsigned loads = fixture_number("COMMIT_CUTS", 6), seed = fixture_number("COMMIT_SEED", 1);

	(void)state;
	for (unsigned i = 0; i < loads; i++)
		power_cut(options[i / 3 % ARRAY_SIZE(options)], (enum kind)(i % 3), seed + i);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_power_cut_of_a_commit_loses_nothing) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
