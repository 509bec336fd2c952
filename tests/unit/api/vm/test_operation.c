/* operation: the claims that each operation under way excludes, and the text of the refusal. */
#include "api/definition/definition.h"
#include "api/jobs/job.h"
#include "api/vm/operation.h"
#include "api/vm/vm.h"
#include "base/err.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
	struct definition def;
	struct job job;
	struct vm vm;
	struct err e;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (!f)
		return -1;
	snprintf(f->def.name, sizeof(f->def.name), "web");
	snprintf(f->job.id, sizeof(f->job.id), "job7");
	f->job.type = "fork";
	f->vm.def = &f->def;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static void assert_refused(struct fixture *f, enum vm_claim claim, const char *sentence)
{
	assert_int_equal(vm_check_claim(&f->vm, claim, "rename it", &f->e), -EBUSY);
	assert_string_equal(f->e.msg, sentence);
}

static void assert_allowed(struct fixture *f, enum vm_claim claim)
{
	assert_int_equal(vm_check_claim(&f->vm, claim, "rename it", &f->e), 0);
}

static void test_every_claim_is_allowed_when_nothing_is_under_way(void **state)
{
	for (unsigned claim = 0; claim < VM_CLAIM_COUNT; claim++)
		assert_allowed(*state, claim);
}

static void test_a_second_owner_is_refused(void **state)
{
	static const enum vm_operation_kind owners[] = { VM_OP_UNDEFINE, VM_OP_TEMPLATE, VM_OP_RENAME, VM_OP_DROP_SAVED };
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(owners) / sizeof(owners[0]); i++) {
		vm_operation_begin(&f->vm, &(struct vm_operation){ .kind = owners[i] });
		assert_int_equal(vm_check_claim(&f->vm, VM_CLAIM_ALL, "rename it", &f->e), -EBUSY);
		assert_int_equal(vm_check_claim(&f->vm, VM_CLAIM_JOB, "rename it", &f->e), -EBUSY);
		assert_int_equal(vm_check_claim(&f->vm, VM_CLAIM_START, "rename it", &f->e), -EBUSY);
		vm_operation_end(&f->vm);
	}
	assert_allowed(f, VM_CLAIM_ALL);
}

static void test_job_is_named_with_the_command_that_ends_it(void **state)
{
	struct fixture *f = *state;

	job_own(&f->job, &f->vm, VM_OP_JOB);
	assert_refused(f, VM_CLAIM_ALL,
		"VM 'web': job job7 (fork) is under way; rename it afterwards, or end the job with: cairn job-cancel job7");
	assert_allowed(f, VM_CLAIM_READ);
	assert_allowed(f, VM_CLAIM_DEFINE);
	assert_allowed(f, VM_CLAIM_CONTROL);
}

static void test_job_answers_for_its_start(void **state)
{
	struct fixture *f = *state;

	job_own(&f->job, &f->vm, VM_OP_JOB);
	f->vm.start.kind = VM_OP_START;
	assert_refused(f, VM_CLAIM_CONTROL, "VM 'web' is being started; rename it afterwards");
	assert_refused(f, VM_CLAIM_SNAPSHOTS,
		"VM 'web': job job7 (fork) is under way; rename it afterwards, or end the job with: cairn job-cancel job7");
	assert_allowed(f, VM_CLAIM_READ);
}

static void test_refusal_names_the_first_kind_under_way(void **state)
{
	struct fixture *f = *state;

	f->vm.stop.kind = VM_OP_STOP;
	vm_operation_begin(&f->vm, &(struct vm_operation){ .kind = VM_OP_UNDEFINE });
	assert_refused(f, VM_CLAIM_DEFINE, "VM 'web' is being stopped; rename it afterwards");
}

static void test_start_waits_for_readers_and_for_a_save_that_is_kept(void **state)
{
	struct fixture *f = *state;

	f->vm.offline = (void *)f; /* never looked into */
	assert_allowed(f, VM_CLAIM_START);
	assert_allowed(f, VM_CLAIM_AFTER_READ);
	assert_refused(f, VM_CLAIM_ALL, "VM 'web': its snapshots are being read; rename it afterwards");
	job_own(&f->job, &f->vm, VM_OP_SAVE_KEPT);
	assert_true(vm_is_saving(&f->vm));
	assert_allowed(f, VM_CLAIM_START);
	f->vm.operation.kind = VM_OP_SAVE;
	assert_int_equal(vm_check_claim(&f->vm, VM_CLAIM_START, "start it", &f->e), -EBUSY);
}

static void test_incomplete_vm_without_a_job_is_being_forgotten(void **state)
{
	struct fixture *f = *state;

	vm_set(&f->vm, VM_FACT_INCOMPLETE, true);
	assert_refused(f, VM_CLAIM_READ, "VM 'web' was never completed and is being removed; rename it afterwards");
	job_own(&f->job, &f->vm, VM_OP_MAKE);
	assert_refused(f, VM_CLAIM_READ,
		"VM 'web': job job7 (fork) is under way; rename it afterwards, or end the job with: cairn job-cancel job7");
}

static void test_process_of_a_vm_that_is_off_excludes_a_start(void **state)
{
	struct fixture *f = *state;

	f->vm.proc = (void *)f; /* never looked into */
	assert_refused(f, VM_CLAIM_START, "VM 'web': its old process is still ending; rename it afterwards");
	f->vm.state = VM_RUNNING;
	assert_allowed(f, VM_CLAIM_START);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_every_claim_is_allowed_when_nothing_is_under_way, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_second_owner_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_job_is_named_with_the_command_that_ends_it, setup, teardown),
		cmocka_unit_test_setup_teardown(test_job_answers_for_its_start, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refusal_names_the_first_kind_under_way, setup, teardown),
		cmocka_unit_test_setup_teardown(test_start_waits_for_readers_and_for_a_save_that_is_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(test_incomplete_vm_without_a_job_is_being_forgotten, setup, teardown),
		cmocka_unit_test_setup_teardown(test_process_of_a_vm_that_is_off_excludes_a_start, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
