/* After a failed sync, a disk in the page cache fails all syncs, because the kernel reports the loss of written data
 * only once. With direct I/O, the sync after a failed one may succeed. */
#include "fixture_block.h"

#include "base/util.h"
#include "block/qcow2/qcow2.h"

#include <linux/magic.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

/* Number of syncs up to the one that fails; 0 or less: none fails. A disk with a data file syncs in two threads at
 * once. */
static atomic_int sync_to_fail;
static atomic_uint syncs;

int fdatasync(int fd);

/* Replaces libc's, which the loop on epoll calls in its threads. */
int fdatasync(int fd)
{
	atomic_fetch_add(&syncs, 1);
	if (atomic_fetch_sub(&sync_to_fail, 1) == 1) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fdatasync, fd);
}

static int flush(struct block *b)
{
	return fixture_op(b, BLOCK_FLUSH, 0, 0, 0);
}

static bool begin(struct fixture *f, bool buffered)
{
	struct statfs fs;

	fixture_begin(f, 1);
	f->buffered = buffered;
	assert_int_equal(statfs(f->dir, &fs), 0);
	return fs.f_type != TMPFS_MAGIC; /* the loop does not sync files there */
}

/* Write, fail one sync of the flush, and check the following ones. */
static void check_disk(struct fixture *f, const char *name, enum block_format fmt, unsigned good_syncs)
{
	struct block *b = fixture_open(f, name, fmt, false);
	static uint8_t buf[4096];
	struct block_info info;
	int later;

	block_info(b, &info);
	later = info.direct ? 0 : -EIO;
	memset(buf, 'x', sizeof(buf));
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, buf, sizeof(buf)), 0);
	atomic_store(&sync_to_fail, (int)good_syncs + 1);
	log_silence(true);
	assert_int_equal(flush(b), -EIO);
	log_silence(false);
	assert_true(atomic_load(&sync_to_fail) <= 0);
	log_silence(true);
	assert_int_equal(flush(b), later);
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 4096, buf, sizeof(buf)), 0);
	assert_int_equal(flush(b), later);
	assert_int_equal(fixture_rw(b, BLOCK_READ, 0, buf, sizeof(buf)), 0);
	assert_int_equal(block_flush_all(b), later);
	assert_int_equal(block_close(b), later);
	log_silence(false);
	b = fixture_open(f, name, fmt, false); /* a new beginning */
	assert_int_equal(flush(b), 0);
	assert_int_equal(block_close(b), 0);
}

static void check_disks(bool buffered)
{
	static const struct qcow2_create plain = { .size_bytes = MIB, .cluster_bits = 16, .refcount_order = 4, .version = 3 };
	struct fixture f;

	if (begin(&f, buffered)) {
		fixture_run(&f, "truncate -s 1M raw; qemu-img create -q -f qcow2 -o data_file=data,data_file_raw=on ext 1M");
		check_disk(&f, "raw", BLOCK_FORMAT_RAW, 0);
		/* the first sync of a flush with new clusters, and the last one */
		fixture_create(&f, "first", &plain);
		check_disk(&f, "first", BLOCK_FORMAT_QCOW2, 0);
		fixture_create(&f, "last", &plain);
		check_disk(&f, "last", BLOCK_FORMAT_QCOW2, 1);
		for (unsigned i = 0; i < 3; i++)
			check_disk(&f, "ext", BLOCK_FORMAT_QCOW2, 0);
	}
	fixture_end(&f);
}

static void test_buffered_disk_remembers_failed_sync(void **state)
{
	check_disks(true);
	(void)state;
}

static void test_direct_disk_recovers_from_failed_sync(void **state)
{
	check_disks(false);
	(void)state;
}

/* Change the disk in each way that ends with a sync, and close it. Returns the number of syncs. */
static unsigned syncs_of_changes(struct fixture *f, const char *name, enum block_format fmt)
{
	struct block *b = fixture_open(f, name, fmt, false);
	struct block_info info;
	static uint8_t buf[4096];

	block_info(b, &info);
	atomic_store(&syncs, 0);
	memset(buf, 'y', sizeof(buf));
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 0, buf, sizeof(buf)), 0);
	assert_int_equal(flush(b), 0);
	assert_int_equal(fixture_op(b, BLOCK_WRITE_ZEROES, BLOCK_REQ_FUA, 8192, 4096), 0);
	if (fmt == BLOCK_FORMAT_QCOW2 && !info.data_file) {
		struct block_snapshot_info s1 = { .name = "s1" };
		struct sync_op o = { .op.done = sync_done };
		struct block_snapshot *s;

		assert_int_equal(block_snapshot_begin(b, &s, &f->err), 0);
		block_snapshot_commit(s, &s1, &o.op);
		assert_int_equal(sync_wait(f, &o), 0);
	}
	assert_int_equal(fixture_rw(b, BLOCK_WRITE, 16384, buf, sizeof(buf)), 0);
	assert_int_equal(block_flush_all(b), 0);
	assert_int_equal(block_resize(b, 2 * MIB, &f->err), 0);
	assert_int_equal(block_close(b), 0);
	return atomic_load(&syncs);
}

/* The content is in the page cache all the same. */
static void test_disk_without_flush_syncs_nothing(void **state)
{
	static const struct qcow2_create plain = { .size_bytes = MIB, .cluster_bits = 16, .refcount_order = 4, .version = 3 };
	struct fixture f;

	if (begin(&f, true)) {
		for (int no_flush = 0; no_flush < 2; no_flush++) {
			f.no_flush = no_flush;
			fixture_run(&f, "rm -f raw ext data plain; truncate -s 1M raw; "
					"qemu-img create -q -f qcow2 -o data_file=data,data_file_raw=on ext 1M");
			fixture_create(&f, "plain", &plain);
			assert_int_equal(!syncs_of_changes(&f, "raw", BLOCK_FORMAT_RAW), no_flush);
			assert_int_equal(!syncs_of_changes(&f, "plain", BLOCK_FORMAT_QCOW2), no_flush);
			assert_int_equal(!syncs_of_changes(&f, "ext", BLOCK_FORMAT_QCOW2), no_flush);
			fixture_run(&f, "qemu-img check -q plain && qemu-img check -q ext && qemu-io -f raw -c 'read -q -P 121 0 4k' raw && "
					"qemu-io -f qcow2 -c 'read -q -P 121 16k 4k' plain");
		}
	}
	fixture_end(&f);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_buffered_disk_remembers_failed_sync),
		cmocka_unit_test(test_direct_disk_recovers_from_failed_sync),
		cmocka_unit_test(test_disk_without_flush_syncs_nothing),
	};

	setenv("CAIRN_LOOP", "epoll", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
