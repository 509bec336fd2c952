/* A snapshot copied into an image of its own: same content, no faults, and nothing else in it. */
#include "fixture_block.h"

#include "block/qcow2/qcow2.h"

#include <sys/stat.h>

struct kind {
	const char *options, *content;
};

/* Each image starts empty, with a backing file if it names one. */
static const struct kind kinds[] = {
	{ "-o cluster_size=64k", "-c 'write -P 1 0 1M' -c 'write -P 2 5M 300k'" },
	{ "-o cluster_size=512", "-c 'write -P 1 0 100k' -c 'write -P 2 5M 3k'" },
	{ "-o cluster_size=2M", "-c 'write -P 1 0 100k' -c 'write -P 2 15M 3k'" },
	{ "-o extended_l2=on", "-c 'write -P 1 0 6k' -c 'write -z 128k 4k' -c 'write -P 2 9M 10k'" },
	{ "-o compat=0.10", "-c 'write -P 1 0 1M' -c 'write -P 2 5M 300k'" },
	{ "-o refcount_bits=64", "-c 'write -P 1 0 1M' -c 'write -z 512k 64k'" },
	{ "-o compression_type=zstd", "-c 'write -c -P 1 0 64k' -c 'write -c -P 2 64k 64k' -c 'write -P 3 1M 9k'" },
	{ "-b base.img -F raw", "-c 'write -P 1 1M 64k' -c 'write -z 0 64k'" },
};

static void image_make(struct fixture *f, const struct kind *k)
{
	fixture_run(f, "rm -f a.qcow2 b.qcow2 base.img; truncate -s 16M base.img; "
		"printf base | dd of=base.img conv=notrunc status=none; "
		"qemu-img create -q -f qcow2 %s a.qcow2 16M; qemu-io -c 'write -P 9 12M 70k' a.qcow2 >/dev/null; "
		"qemu-io %s a.qcow2 >/dev/null; qemu-img snapshot -c other a.qcow2; "
		"qemu-io -c 'write -P 4 2M 200k' a.qcow2 >/dev/null; qemu-img snapshot -c wanted a.qcow2; "
		"qemu-io -c 'write -P 5 0 4M' -c 'discard 12M 1M' a.qcow2 >/dev/null", k->options, k->content);
}

static int open_file(struct fixture *f, const char *name, int flags)
{
	char path[256];
	int fd;

	fixture_path(f, name, path, sizeof(path));
	fd = open(path, flags, 0600);
	assert_true(fd >= 0);
	return fd;
}

static int image_copy(struct fixture *f, bool cloned, const char *snapshot)
{
	struct qcow2_copy c = { .cloned = cloned, .snapshot = snapshot };
	int r;

	fixture_run(f, cloned ? "cp a.qcow2 b.qcow2" : "rm -f b.qcow2");
	c.from = open_file(f, "a.qcow2", O_RDONLY);
	c.to = open_file(f, "b.qcow2", O_RDWR | O_CREAT);
	r = qcow2_copy(&c, &f->err);
	close(c.from);
	close(c.to);
	return r;
}

static uint64_t blocks(struct fixture *f, const char *name)
{
	struct stat st;
	int fd = open_file(f, name, O_RDONLY);

	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	return (uint64_t)st.st_blocks;
}

static void copies(struct fixture *f, bool cloned)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		image_make(f, &kinds[i]);
		assert_int_equal(image_copy(f, cloned, "2"), 0);
		fixture_run(f, "qemu-img check -q b.qcow2; qemu-img convert -O raw -l wanted a.qcow2 want; "
			"qemu-img compare -q want b.qcow2; test -z \"$(qemu-img snapshot -l b.qcow2)\"");
		assert_true(blocks(f, "b.qcow2") < blocks(f, "a.qcow2"));
		/* The copy is writable and shares nothing. */
		fixture_run(f, "qemu-io -c 'write -P 7 0 8M' b.qcow2 >/dev/null; qemu-img check -q b.qcow2; "
			"qemu-img check -q a.qcow2");
		assert_int_equal(image_copy(f, cloned, NULL), 0);
		fixture_run(f, "qemu-img check -q b.qcow2; qemu-img compare -q a.qcow2 b.qcow2");
	}
}

static void test_copy_of_snapshot_has_its_content(void **state)
{
	struct fixture f;

	(void)state;
	fixture_begin(&f, 1);
	copies(&f, false);
	fixture_end(&f);
}

static void test_reflinked_copy_of_snapshot_has_its_content(void **state)
{
	struct fixture f;

	(void)state;
	fixture_begin(&f, 1);
	copies(&f, true);
	fixture_end(&f);
}

/* A snapshot of another size keeps its size. */
static void test_copy_has_size_of_snapshot(void **state)
{
	struct fixture f;

	(void)state;
	fixture_begin(&f, 1);
	image_make(&f, &kinds[0]);
	fixture_run(&f, "qemu-img resize -q a.qcow2 20G");
	assert_int_equal(image_copy(&f, false, "2"), 0);
	fixture_run(&f, "qemu-img info b.qcow2 | grep -q '(16777216 bytes)'; qemu-img check -q b.qcow2");
	fixture_end(&f);
}

static int stop_at_once(void *opaque, uint64_t done, uint64_t total)
{
	assert_true(done <= total);
	++*(unsigned *)opaque;
	return 1;
}

static void test_malformed_sources_are_refused(void **state)
{
	struct qcow2_copy c = { .snapshot = "2", .step = stop_at_once };
	struct fixture f;
	unsigned steps = 0;
	uint64_t l1, l2;

	(void)state;
	fixture_begin(&f, 1);
	image_make(&f, &kinds[0]);
	assert_int_equal(image_copy(&f, false, "7"), -ENOENT);
	c.from = open_file(&f, "a.qcow2", O_RDONLY);
	c.to = open_file(&f, "b.qcow2", O_RDWR);
	c.opaque = &steps;
	assert_int_equal(qcow2_copy(&c, &f.err), -ECANCELED);
	assert_int_equal(steps, 1);
	close(c.from);
	close(c.to);
	/* A cluster or table past the end, or misaligned: refused, and nothing is written. */
	l1 = fixture_peek_be(&f, "a.qcow2", 40, 8);
	l2 = fixture_peek_be(&f, "a.qcow2", l1, 8) & 0x00fffffffffffe00ULL;
	fixture_poke_be(&f, "a.qcow2", l2, 8, 1ULL << 40);
	assert_int_equal(image_copy(&f, false, NULL), -EINVAL);
	fixture_poke_be(&f, "a.qcow2", l2, 8, 0x10200);
	assert_int_equal(image_copy(&f, false, NULL), -EINVAL);
	fixture_poke_be(&f, "a.qcow2", l2, 8, 0);
	fixture_poke_be(&f, "a.qcow2", l1, 8, 1ULL << 40);
	assert_int_equal(image_copy(&f, false, NULL), -EINVAL);
	assert_int_equal(blocks(&f, "b.qcow2"), 0);
	fixture_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_copy_of_snapshot_has_its_content), cmocka_unit_test(test_reflinked_copy_of_snapshot_has_its_content),
		cmocka_unit_test(test_copy_has_size_of_snapshot), cmocka_unit_test(test_malformed_sources_are_refused) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
