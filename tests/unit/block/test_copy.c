/* block_copy: the same content for any layout of the source's files, with direct and buffered I/O;
 * a source that is truncated meanwhile yields an error, not a signal. */
#include "fixture_block.h"

#include "base/util.h"
#include "block/copy.h"
#include "block/qcow2/qcow2.h"

#define DISK_BYTES (16 * MIB + 512)

/* Long and short extents, holes, written zeros, an end inside a page. */
static const char content[] = "rm -f base.img a.img; truncate -s 16777728 raw; "
	"head -c 5000000 /dev/urandom | dd of=raw conv=notrunc status=none; "
	"head -c 3000000 /dev/urandom | dd of=raw bs=64k seek=100 conv=notrunc status=none; "
	"head -c 1049088 /dev/urandom | dd of=raw bs=1M seek=15 conv=notrunc status=none; "
	"for i in 0 1 2 3 4 5; do printf x$i | dd of=raw bs=64k seek=$((150 + 2 * i)) conv=notrunc status=none; done";

/* Each command makes a.img from the file `raw`. */
static const char *const sources[] = {
	"qemu-img convert -O qcow2 raw a.img",
	"qemu-img convert -O qcow2 -o cluster_size=512 raw a.img", /* clusters too small to map */
	"qemu-img convert -O qcow2 -o cluster_size=4k raw a.img",
	"qemu-img convert -O qcow2 -S 0 raw a.img",
	"qemu-img convert -O qcow2 -c raw a.img",
	"qemu-img convert -O qcow2 -o extended_l2=on raw a.img",
	("cp raw base.img; qemu-img create -q -f qcow2 -b base.img -F raw a.img; "
	 "qemu-io -c 'write -P 3 1M 2M' -c 'write -z 4M 1M' -c 'write -P 4 9M 700k' a.img >/dev/null; "
	 "qemu-img convert -O raw a.img raw"),
	("qemu-img convert -O qcow2 raw base.img; qemu-img create -q -f qcow2 -b base.img -F qcow2 a.img; "
	 "qemu-io -c 'write -P 3 100k 3M' -c 'discard 4M 1M' a.img >/dev/null; qemu-img convert -O raw a.img raw"),
};

struct run {
	struct loop *from_loop;
	struct block *from, *to;
};

static struct run run_begin(struct fixture *f, bool buffered)
{
	struct qcow2_create c = { .size_bytes = DISK_BYTES, .cluster_bits = 16, .refcount_order = 4, .version = 3 };
	struct loop *writers = f->loop;
	struct run r;

	fixture_create(f, "b.img", &c);
	assert_int_equal(loop_new(64, &r.from_loop, &f->err), 0);
	f->loop = r.from_loop;
	f->buffered = true;
	r.from = fixture_open(f, "a.img", BLOCK_FORMAT_QCOW2, true);
	f->loop = writers;
	f->buffered = buffered;
	r.to = fixture_open(f, "b.img", BLOCK_FORMAT_QCOW2, false);
	return r;
}

static int run_copy(struct fixture *f, struct run *r)
{
	struct block_copy c = { .from = r->from, .to = r->to, .from_loop = r->from_loop, .loop = f->loop,
		.to_is_zero = true };

	return block_copy(&c, &f->err);
}

static void run_end(struct run *r)
{
	block_close(r->from);
	assert_int_equal(block_close(r->to), 0);
	loop_free(r->from_loop);
}

static void test_copy_has_same_content(void **state)
{
	struct fixture f;

	(void)state;
	fixture_begin(&f, 1);
	for (size_t i = 0; i < 2 * ARRAY_SIZE(sources); i++) {
		struct run r;

		fixture_run(&f, "%s", content);
		fixture_run(&f, "%s", sources[i / 2]);
		r = run_begin(&f, i % 2);
		assert_int_equal(run_copy(&f, &r), 0);
		run_end(&r);
		fixture_run(&f, "qemu-img check -q b.img && qemu-img compare -q -f raw -F qcow2 raw b.img");
	}
	fixture_end(&f);
}

static void test_truncated_source_is_an_error(void **state)
{
	struct fixture f;

	(void)state;
	fixture_begin(&f, 2);
	for (int buffered = 0; buffered < 2; buffered++) {
		struct run r;

		fixture_run(&f, "%s", content);
		fixture_run(&f, "%s", sources[0]);
		r = run_begin(&f, buffered);
		fixture_run(&f, "truncate -s 2M a.img");
		assert_true(run_copy(&f, &r) < 0);
		run_end(&r);
	}
	fixture_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_copy_has_same_content), cmocka_unit_test(test_truncated_source_is_an_error) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
