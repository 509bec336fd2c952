/* Raw disks and the checks of block_submit(): valid and invalid requests, and the results of
 * unusual requests. */
#include "fixture_block.h"

#include "base/log.h"
#include "base/util.h"

#include <sys/mman.h>
#include <sys/stat.h>

static void test_odd_size_reads_zeros(void **state)
{
	struct fixture f;
	uint8_t buf[1024], want[1024] = { 0 };
	struct block_info info;
	struct block *b;

	fixture_begin(&f, 1);
	fixture_run(&f, "head -c 1000 /dev/zero | tr '\\0' 'x' >img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_RAW, false);
	block_info(b, &info);
	assert_int_equal(info.size_bytes, 1024);
	memset(want, 'x', 1000);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, 1024), 0);
	assert_memory_equal(buf, want, 1024);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 512, buf, 512), 0);
	assert_memory_equal(buf, want + 512, 512);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

static void test_requests_are_checked(void **state)
{
	struct fixture f;
	uint8_t buf[1024] = { 0 };
	struct iovec iov = { buf, 512 };
	struct block_req r = { .op = BLOCK_READ, .len = 1024, .iov = &iov, .niov = 1 };
	struct block *b;

	fixture_begin(&f, 2);
	fixture_run(&f, "truncate -s 64k img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_RAW, false);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 65536, buf, 512), -EINVAL);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 65536 - 512, buf, 1024), -EINVAL);
	assert_int_equal(fixture_rw(b, BLOCK_READ, UINT64_MAX - 511, buf, 512), -EINVAL);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 7, buf, 512), -EINVAL);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, buf, 100), -EINVAL);
	assert_int_equal(block_run(b, &r), -EINVAL); /* len is not the sum of iov */
	assert_int_equal(fixture_op(b, BLOCK_DISCARD, 0, 0, 1 << 20), -EINVAL);
	assert_int_equal(fixture_op(b, (enum block_op)77, 0, 0, 512), -EINVAL);
	assert_int_equal(fixture_op(b, BLOCK_WRITE_ZEROES, 0, 0, 0), 0);
	assert_int_equal(block_in_flight(b), 0);
	assert_int_equal(block_close(b), 0);
	b = fixture_open(&f, "img", BLOCK_FORMAT_RAW, true);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, buf, 512), -EROFS);
	assert_int_equal(fixture_op(b, BLOCK_DISCARD, 0, 0, 512), -EROFS);
	assert_int_equal(fixture_op(b, BLOCK_FLUSH, 0, 0, 0), 0);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

/* A line for each request and one for its completion, and none unless the level is trace. */
static void test_requests_are_traced(void **state)
{
	int log = memfd_create("log", MFD_CLOEXEC);
	uint8_t buf[1024] = { 0 };
	char text[2048] = "";
	struct fixture f;
	struct block *b;

	fixture_begin(&f, 4);
	fixture_run(&f, "truncate -s 64k img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_RAW, false);
	log_set_fd(log);
	log_set_level(LOG_LEVEL_DEBUG);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 512, buf, 1024), 0);
	assert_int_equal(lseek(log, 0, SEEK_CUR), 0);
	log_set_level(LOG_LEVEL_TRACE);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 512, buf, 1024), 0);
	assert_int_equal(fixture_op(b, BLOCK_WRITE_ZEROES, BLOCK_REQ_MAY_UNMAP, 4096, 4096), 0);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 65536, buf, 512), -EINVAL);
	log_set_level(LOG_LEVEL_INFO);
	log_set_fd(2);
	assert_true(pread(log, text, sizeof(text) - 1, 0) > 0);
	assert_non_null(strstr(text, ": write offset=512 bytes=1024 layer=0\n"));
	assert_non_null(strstr(text, ": write offset=512 bytes=1024 layer=0 done=0\n"));
	assert_non_null(strstr(text, ": zero offset=4096 bytes=4096 layer=0 may-unmap done=0\n"));
	assert_non_null(strstr(text, ": read offset=65536 bytes=512 layer=0 done=-22\n"));
	assert_int_equal(close(log), 0);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

static uint64_t blocks_of(struct fixture *f, const char *name)
{
	char path[128];
	struct stat st;

	fixture_path(f, name, path, sizeof(path));
	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* Discard frees space; write-zeroes without unmap keeps it; both read as zeros. */
static void test_discard_and_zeroes(void **state)
{
	struct fixture f;
	uint8_t *buf = aligned_alloc(4096, MIB);
	struct block *b;

	fixture_begin(&f, 3);
	fixture_run(&f, "head -c 4M /dev/urandom >img; sync img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_RAW, false);
	assert_int_equal(fixture_op(b, BLOCK_DISCARD, 0, MIB, MIB), 0);
	assert_true(blocks_of(&f, "img") <= 3 * MIB + 64 * KIB);
	assert_int_equal(fixture_op(b, BLOCK_WRITE_ZEROES, 0, 2 * MIB, MIB), 0);
	assert_true(blocks_of(&f, "img") > 3 * MIB - 64 * KIB);
	assert_int_equal(fixture_op(b, BLOCK_WRITE_ZEROES, BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_FUA,
		3 * MIB, 512), 0);
	for (uint64_t off = MIB; off < 3 * MIB; off += MIB) {
		assert_int_equal(fixture_rw(b, BLOCK_READ, off, buf, MIB), 0);
		for (size_t i = 0; i < MIB; i++)
			assert_int_equal(buf[i], 0);
	}
	free(buf);
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

/* Random operations, some from memory that O_DIRECT refuses, against a shadow. */
static void test_random_operations_match_shadow(void **state)
{
	for (int buffered = 0; buffered < 2; buffered++) {
		struct fixture f;
		struct block *b;

		fixture_begin(&f, 4);
		f.buffered = buffered;
		fixture_run(&f, "truncate -s 8M img shadow");
		fixture_shadow_open(&f, "shadow", 8 * MIB);
		b = fixture_open(&f, "img", BLOCK_FORMAT_RAW, false);
		shadow_run(&f, b, 400, 8);
		shadow_verify(&f, b);
		assert_int_equal(block_close(b), 0);
		fixture_run(&f, "cmp img shadow");
		fixture_end(&f);
	}
	(void)state;
}

/* More iovecs than one system call takes. */
static void test_many_iovecs_are_split(void **state)
{
	static struct iovec iov[2500];
	static uint8_t buf[2500 * 512], back[2500 * 512];
	struct block_req r = { .op = BLOCK_WRITE, .len = sizeof(buf), .iov = iov, .niov = 2500 };
	struct fixture f;
	struct block *b;

	fixture_begin(&f, 5);
	fixture_run(&f, "truncate -s 4M img");
	b = fixture_open(&f, "img", BLOCK_FORMAT_RAW, false);
	for (size_t i = 0; i < 2500; i++) {
		memset(buf + i * 512, (int)(i % 251), 512);
		iov[i] = (struct iovec){ buf + i * 512, 512 };
	}
	assert_int_equal(block_run(b, &r), 0);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, back, sizeof(back)), 0);
	assert_memory_equal(buf, back, sizeof(buf));
	assert_int_equal(block_close(b), 0);
	fixture_end(&f);
	(void)state;
}

/* An image that cannot be opened yields a message, and the caller keeps the fds. */
static void test_failed_open_reports_error_and_keeps_fds(void **state)
{
	struct block_layer y = { .fd = -1, .format = BLOCK_FORMAT_RAW }, two[2];
	struct block_open o = { .layers = &y, .nlayers = 1, .name = "vda" };
	struct block *b = NULL;
	struct fixture f;

	fixture_begin(&f, 6);
	y.fd = open(f.dir, O_RDONLY | O_DIRECTORY);
	o.read_only = true;
	assert_int_equal(block_open(f.loop, &o, &b, &f.err), -EINVAL);
	assert_non_null(strstr(f.err.msg, "folder"));
	assert_int_equal(close(y.fd), 0);
	fixture_run(&f, "truncate -s 1M img base");
	o.read_only = false;
	y.fd = open("/dev/null", O_RDONLY);
	assert_int_equal(block_open(f.loop, &o, &b, &f.err), -EINVAL);
	close(y.fd);
	o.nlayers = 0;
	assert_int_equal(block_open(f.loop, &o, &b, &f.err), -EINVAL);
	/* raw has no backing layer */
	o.layers = two;
	o.nlayers = 2;
	o.read_only = true;
	for (int i = 0; i < 2; i++) {
		char path[128];

		fixture_path(&f, i ? "base" : "img", path, sizeof(path));
		two[i] = (struct block_layer){ .fd = open(path, O_RDONLY),
			.format = BLOCK_FORMAT_RAW };
	}
	assert_int_equal(block_open(f.loop, &o, &b, &f.err), -EINVAL);
	assert_non_null(strstr(f.err.msg, "raw"));
	assert_null(b);
	assert_int_equal(close(two[0].fd), 0);
	assert_int_equal(close(two[1].fd), 0);
	fixture_end(&f);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_odd_size_reads_zeros),
		cmocka_unit_test(test_requests_are_checked),
		cmocka_unit_test(test_requests_are_traced),
		cmocka_unit_test(test_discard_and_zeroes),
		cmocka_unit_test(test_random_operations_match_shadow),
		cmocka_unit_test(test_many_iovecs_are_split),
		cmocka_unit_test(test_failed_open_reports_error_and_keeps_fds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
