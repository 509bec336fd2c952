/* Pulls: an image gets the content of its backing file while its guest writes, and then stands
 * alone. Oracle: a shadow of the disk, and qemu-img. */
#include "fixture_pull.h"
#include "fixture_powercut.h"

#include "base/util.h"

#define DISK (4 * MIB)

/* base: a command that makes base.img from the file "content" of 3 MiB and 3 sectors. */
static void pull_one(const char *base, const char *format, const char *options)
{
	struct pull p;
	struct fixture f;
	struct block *b;

	fixture_begin(&f, 11);
	fixture_run(&f, "head -c 1M /dev/zero > content; seq 400000 | head -c %llu >> content", 2 * MIB + 3 * 512);
	fixture_run(&f, "%s && qemu-img create -q -f qcow2 -o %s -b base.img -F %s img %llu", base, options, format, DISK);
	fixture_run(&f, "cp content shadow && truncate -s %llu shadow", DISK);
	fixture_shadow_open(&f, "shadow", DISK);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_run(&f, b, 40, 4);
	pull_begin(&p, &f, b);
	shadow_run(&f, b, 400, 8);
	pull_end(&p);
	shadow_run(&f, b, 100, 8);
	shadow_verify(&f, b);
	assert_int_equal(fixture_op(b, BLOCK_WRITE_ZEROES, BLOCK_REQ_MAY_UNMAP, 2 * MIB, 64 * KIB), 0);
	memset(f.shadow + 2 * MIB, 0, 64 * KIB);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "rm base.img && qemu-img check -q img && ! qemu-img info img | grep -q 'backing file:' && "
		"qemu-img compare -q -f qcow2 -F raw img shadow");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	shadow_verify(&f, b);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
}

static void test_raw_backing(void **state)
{
	(void)state;
	pull_one("cp content base.img", "raw", "cluster_size=64k");
}

static void test_qcow2_backing(void **state)
{
	(void)state;
	pull_one("qemu-img convert -c -f raw -O qcow2 content base.img", "qcow2", "cluster_size=4k");
}

static void test_large_clusters(void **state)
{
	(void)state;
	pull_one("cp content base.img", "raw", "cluster_size=2M");
}

static void test_small_clusters(void **state)
{
	(void)state;
	pull_one("cp content base.img", "raw", "cluster_size=512");
}

static void test_extended_l2(void **state)
{
	(void)state;
	pull_one("qemu-img convert -f raw -O qcow2 content base.img", "qcow2", "cluster_size=16k,extended_l2=on");
}

static void test_zeros_of_backing_file_take_no_space(void **state)
{
	struct pull p;
	struct fixture f;
	struct block *b;

	(void)state;
	fixture_begin(&f, 1);
	fixture_run(&f, "truncate -s 64M base.img && qemu-img create -q -f qcow2 -b base.img -F raw img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	pull_begin(&p, &f, b);
	pull_end(&p);
	assert_int_equal(block_close(b), 0);
	fixture_run(&f, "[ $(stat -c %%s img) -le 524288 ]");
	fixture_end(&f);
}

static void test_pull_is_refused(void **state)
{
	struct fixture f;
	struct block *b;
	uint64_t bytes;

	(void)state;
	fixture_begin(&f, 1);
	fixture_run(&f, "qemu-img create -q -f raw base.img 1M && qemu-img create -q -f qcow2 alone 1M && "
		"qemu-img create -q -f qcow2 -b base.img -F raw img && qemu-img snapshot -c s img");
	b = fixture_open(&f, "alone", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(block_pull_check(b, &bytes, &f.err), -ENOTSUP);
	block_close(b);
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, false);
	assert_int_equal(block_pull_check(b, &bytes, &f.err), -ENOTSUP);
	assert_non_null(strstr(f.err.msg, "internal snapshots"));
	block_close(b);
	fixture_run(&f, "qemu-img snapshot -d s img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_QCOW2, true);
	assert_int_equal(block_pull_check(b, &bytes, &f.err), -EROFS);
	block_close(b);
	fixture_end(&f);
}

/* The caller of block_open() may still know backing files that a pull has dropped. */
static void test_dropped_backing_file_is_ignored(void **state)
{
	struct fixture f;
	struct block *b = NULL;
	struct block_layer layers[2];
	struct block_open o = { .layers = layers, .nlayers = 2, .name = "vda" };
	char img[128], base[128];

	(void)state;
	fixture_begin(&f, 1);
	fixture_run(&f, "qemu-img create -q -f raw base.img 1M && qemu-img create -q -f qcow2 img 1M");
	fixture_path(&f, "img", img, sizeof(img));
	fixture_path(&f, "base.img", base, sizeof(base));
	layers[0] = (struct block_layer){ .fd = open(img, O_RDWR | O_CLOEXEC), .format = BLOCK_FORMAT_QCOW2 };
	layers[1] = (struct block_layer){ .fd = open(base, O_RDONLY | O_CLOEXEC), .format = BLOCK_FORMAT_RAW };
	assert_int_equal(block_open(f.loop, &o, &b, &f.err), -EINVAL);
	o.may_stand_alone = true;
	assert_int_equal(block_open(f.loop, &o, &b, &f.err), 0);
	assert_int_equal(fcntl(layers[1].fd, F_GETFD), -1);
	block_close(b);
	fixture_end(&f);
}

/* A cut leaves an image with or without its backing file; both read the same. */
static void test_power_cut_during_pull(void **state)
{
	static const char *const options[] = { "cluster_size=4k", "cluster_size=512,refcount_bits=64" };
	char create[256];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
		snprintf(create, sizeof(create), "qemu-img create -q -f raw base.img 1M && "
			"qemu-io -f raw -c 'write -P 5 100k 700k' base.img && "
			"qemu-img create -q -f qcow2 -o %s -b base.img -F raw img 1M", options[i]);
		powercut_pull(create, 5 + i);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_raw_backing),
		cmocka_unit_test(test_qcow2_backing),
		cmocka_unit_test(test_large_clusters),
		cmocka_unit_test(test_small_clusters),
		cmocka_unit_test(test_extended_l2),
		cmocka_unit_test(test_zeros_of_backing_file_take_no_space),
		cmocka_unit_test(test_pull_is_refused),
		cmocka_unit_test(test_dropped_backing_file_is_ignored),
		cmocka_unit_test(test_power_cut_during_pull),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
