/* dirty_log: when KVM's log is on, and what counts as written. Needs /dev/kvm; each test is skipped with a message
 * without it. */
#include "fixture_kvm.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/vmstate.h"
#include "vmm/kvm/dirty_log.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/memory.h"

#include <errno.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define RAM_BYTES (2 * MIB)
#define BLOCKS (RAM_BYTES / VMSTATE_BLOCK_BYTES)

struct fixture {
	struct kvm kvm;
	struct memory mem;
	struct dirty_log log;
	struct err e;
};

static struct fixture *fixture_new(void)
{
	struct fixture *f = kvm_fx_new(sizeof(*f));

	kvm_fx_memory(&f->kvm, &f->mem, RAM_BYTES);
	must(dirty_log_init(&f->log, &f->kvm, &f->mem, &f->e), &f->e);
	return f;
}

static void fixture_free(struct fixture *f)
{
	dirty_log_done(&f->log);
	kvm_done(&f->kvm);
	memory_done(&f->mem);
	free(f);
}

/* Return whether KVM has a log of RAM. */
static bool kvm_logs(struct fixture *f)
{
	uint64_t pages[RAM_BYTES / 4096 / 64];
	struct kvm_dirty_log get = { .slot = MEMORY_SLOT_LOW, .dirty_bitmap = pages };
	int r = kvm_ioctl(f->kvm.vm_fd, KVM_GET_DIRTY_LOG, &get);

	assert_true(r == 0 || r == -ENOENT);
	return r == 0;
}

static void test_log_is_on_from_start_to_stop(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	assert_false(kvm_logs(f));
	must(dirty_log_stop(&f->log, &f->e), &f->e);
	for (int i = 0; i < 2; i++) {
		must(dirty_log_start(&f->log, &f->e), &f->e);
		assert_true(kvm_logs(f));
		must(dirty_log_stop(&f->log, &f->e), &f->e);
		assert_false(kvm_logs(f));
	}
	fixture_free(f);
}

static void test_all_blocks_count_after_each_start(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	for (int i = 0; i < 2; i++) {
		must(dirty_log_start(&f->log, &f->e), &f->e);
		assert_int_equal(bitmap_count(&f->log.written), BLOCKS);
		must(dirty_log_collect(&f->log, NULL, &f->e), &f->e);
		dirty_log_reset(&f->log);
		assert_int_equal(bitmap_count(&f->log.written), 0);
		must(dirty_log_stop(&f->log, &f->e), &f->e);
	}
	fixture_free(f);
}

static void test_marks_count_while_the_log_is_on(void **state)
{
	struct fixture *f = fixture_new();
	struct bitmap more;

	(void)state;
	assert_int_equal(bitmap_init(&more, BLOCKS), 0);
	dirty_log_mark(&f->log, 0, 1);
	must(dirty_log_start(&f->log, &f->e), &f->e);
	must(dirty_log_collect(&f->log, NULL, &f->e), &f->e);
	dirty_log_reset(&f->log);
	dirty_log_mark(&f->log, 3 * VMSTATE_BLOCK_BYTES - 1, 2);
	must(dirty_log_collect(&f->log, &more, &f->e), &f->e);
	assert_int_equal(bitmap_count(&more), 2);
	assert_true(bitmap_test(&more, 2) && bitmap_test(&more, 3));
	assert_int_equal(bitmap_count(&f->log.written), 2);
	must(dirty_log_stop(&f->log, &f->e), &f->e);
	dirty_log_mark(&f->log, 0, 1);
	assert_int_equal(f->log.marks[0], 0);
	bitmap_done(&more);
	fixture_free(f);
}

/* KVM maps huge pages as small ones while the log is on. */
static void test_log_stays_on_except_with_huge_pages(void **state)
{
	struct memory ordinary = { .huge_pages = false }, huge = { .huge_pages = true };
	struct dirty_log none = { .mem = &ordinary }, stays = { .mem = &ordinary, .blocks = 1 };
	struct dirty_log brief = { .mem = &huge, .blocks = 1 };

	(void)state;
	assert_false(dirty_log_stays(&none));
	assert_true(dirty_log_stays(&stays));
	assert_false(dirty_log_stays(&brief));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_log_is_on_from_start_to_stop),
		cmocka_unit_test(test_all_blocks_count_after_each_start),
		cmocka_unit_test(test_marks_count_while_the_log_is_on),
		cmocka_unit_test(test_log_stays_on_except_with_huge_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
