/* Power cuts while snapshots with VM state are created, deleted and applied and the guest
 * writes. */
#include "fixture_powercut.h"

static void test_snapshots_64k(void **state)
{
	powercut("qemu-img create -q -f qcow2 img 1M", 11, false, true);
	(void)state;
}

static void test_snapshots_4k(void **state)
{
	powercut("qemu-img create -q -f qcow2 -o cluster_size=4k img 1M", 12, false, true);
	(void)state;
}

static void test_snapshots_512(void **state)
{
	powercut("qemu-img create -q -f qcow2 -o cluster_size=512 img 1M", 13, false, true);
	(void)state;
}

static void test_snapshots_extended(void **state)
{
	powercut("qemu-img create -q -f qcow2 -o cluster_size=16k,extended_l2=on img 1M", 14, false, true);
	(void)state;
}

/* An L1 table of 4,608 clusters, 64 refcounts in a block, 64 blocks in a sector of the refcount table. */
static void test_runs_longer_than_a_sector_of_the_refcount_table_describes(void **state)
{
	powercut_long_runs("qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 img 1M && "
		"qemu-io -c 'write -q -P 3 0 100k' img", 18);
	(void)state;
}

/* Snapshots created, aborted, renamed, applied, deleted: none leaves a permanent leak. */
static void test_snapshot_operations_leave_no_permanent_leak(void **state)
{
	powercut_quiet("qemu-img create -q -f qcow2 -o cluster_size=4k img 1M && "
		"qemu-io -c 'write -q -P 3 0 700k' img && qemu-img snapshot -c one img && "
		"qemu-io -c 'write -q -P 4 300k 200k' img", 15, NULL);
	(void)state;
}

static void test_snapshot_operations_leave_no_permanent_leak_512(void **state)
{
	powercut_quiet("qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=8 img 1M && "
		"qemu-io -c 'write -q -P 3 0 100k' img && qemu-img snapshot -c one img && "
		"qemu-io -c 'write -q -P 4 30k 20k' img", 16, NULL);
	(void)state;
}

/* ---- a full file system ---- */

#define CLUSTER_BYTES 65536u

static bool full;
static unsigned refused;
static struct loop_op *victim;

void __real_loop_writev(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov, uint64_t off);
void __wrap_loop_writev(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov, uint64_t off);

static void write_refused(struct loop_op *op, int res)
{
	(void)op;
	(void)res;
	victim->done(victim, -ENOSPC);
}

/* There is no space for whole clusters. */
void __wrap_loop_writev(struct loop *l, struct loop_op *op, int fd, const struct iovec *iov, unsigned niov, uint64_t off)
{
	static struct loop_op later = { .done = write_refused };

	if (!full || niov != 1 || iov->iov_len < CLUSTER_BYTES) {
		__real_loop_writev(l, op, fd, iov, niov, off);
		return;
	}
	refused++;
	victim = op;
	loop_nop(l, &later);
}

static void test_deletion_on_full_file_system_needs_no_space_and_leaves_no_permanent_leak(void **state)
{
	powercut_quiet("qemu-img create -q -f qcow2 img 1M && qemu-io -c 'write -q -P 3 0 700k' img && qemu-img snapshot -c one img && "
		"qemu-io -c 'write -q -P 4 300k 200k' img", 17, &full);
	assert_int_equal(refused, 3);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_snapshots_64k),
		cmocka_unit_test(test_snapshots_4k),
		cmocka_unit_test(test_snapshots_512),
		cmocka_unit_test(test_snapshots_extended),
		cmocka_unit_test(test_runs_longer_than_a_sector_of_the_refcount_table_describes),
		cmocka_unit_test(test_snapshot_operations_leave_no_permanent_leak),
		cmocka_unit_test(test_snapshot_operations_leave_no_permanent_leak_512),
		cmocka_unit_test(test_deletion_on_full_file_system_needs_no_space_and_leaves_no_permanent_leak),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
