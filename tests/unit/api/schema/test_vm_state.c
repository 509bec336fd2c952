/* The state table: every pair of state and request, compared with a second copy of the table. */
#include "api/schema/vm_state.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Columns: shut off, running, paused, in shutdown, saved, crashed, preserved. The letter is the
 * next state: o r p i s c v; '-': not allowed. */
static const struct {
	enum vm_trigger t;
	const char *to;
} want[] = {
	{ VM_ASK_START, "r---rr-" },
	{ VM_ASK_START_PAUSED, "p---pp-" },
	{ VM_ASK_RESUME, "--r----" },
	{ VM_ASK_SUSPEND, "-p-p---" },
	{ VM_ASK_SHUTDOWN, "-i-i---" },
	{ VM_ASK_REBOOT, "-i-i---" },
	{ VM_ASK_RESET, "-rpr---" },
	{ VM_ASK_DESTROY, "-ooo--o" },
	{ VM_ASK_CONSOLE, "-rpi--v" },
	{ VM_ASK_GUEST, "-r-i---" },
	{ VM_ASK_UNDEFINE, "o---oo-" },
	{ VM_ASK_RENAME, "o---oo-" },
	{ VM_ASK_PULL, "orrroo-" },
	{ VM_ASK_RESTART_PROCESS, "-pp----" },
	{ VM_ASK_SAVE, "-ppp---" },
	{ VM_ASK_DROP_SAVED, "----o--" },
	{ VM_ASK_FORK, "-rp----" },
	{ VM_ASK_FORK_SNAPSHOT, "orrroo-" },
	{ VM_ASK_TEMPLATE, "o----o-" },
	{ VM_ASK_DUMP, "-rpi--v" },
	{ VM_ASK_RECLAIM, "-rpi---" },
	{ VM_ASK_DIRTY_RATE, "-rpi---" },
	{ VM_ASK_SNAPSHOT, "orrroo-" },
	{ VM_ASK_REVERT, "oooo-oo" },
	{ VM_SAW_RUNNING, "--r---r" },
	{ VM_SAW_PAUSED, "-ppp---" },
	{ VM_SAW_PRESERVED, "-vvv---" },
	{ VM_SAW_ENDED, "-ooo--o" },
	{ VM_SAW_SAVED, "sssssss" },
	{ VM_SAW_CRASHED, "-ccc--c" },
	{ VM_SAW_TAKEN_BACK_RUNNING, "rrrrrr-" },
	{ VM_SAW_TAKEN_BACK_PAUSED, "pppppp-" },
	{ VM_SAW_NOT_REVERTED, "c------" },
};

static void test_every_pair(void **state)
{
	static const char letters[] = "orpiscv";

	(void)state;
	assert_int_equal(ARRAY_SIZE(want), VM_TRIGGER_COUNT);
	for (size_t i = 0; i < ARRAY_SIZE(want); i++)
		for (unsigned s = 0; s < VM_STATE_COUNT; s++) {
			const struct vm_transition *row = vm_transition_find(s, want[i].t);
			char got = row ? letters[row->to] : '-';

			if (got != want[i].to[s])
				fail_msg("%s, trigger %d: leads to %c, not %c", vm_state_name(s),
					want[i].t, got, want[i].to[s]);
		}
}

static void test_refusals_name_next_step(void **state)
{
	(void)state;
	for (unsigned t = 0; t < VM_ASK_COUNT; t++)
		for (unsigned s = 0; s < VM_STATE_COUNT; s++) {
			struct err e = { 0 };
			int r = vm_state_check("web1", s, t, &e);

			if (vm_transition_find(s, t)) {
				assert_int_equal(r, 0);
				continue;
			}
			assert_int_equal(r, -1);
			assert_int_equal(e.cls, ERR_WRONG_STATE);
			assert_non_null(strstr(e.msg, "web1"));
			assert_non_null(strstr(e.msg, vm_state_name(s)));
			if (strstr(e.msg, " already, "))
				continue; /* no next step to suggest */
			assert_non_null(strstr(e.msg, vm_trigger_name(t)));
			assert_non_null(strstr(e.msg, "Next: cairn "));
		}
}

/* The suggested next step never contradicts the request. */
static void test_request_for_current_state_is_refused(void **state)
{
	static const struct {
		enum vm_state is;
		enum vm_trigger asked;
		const char *word;
	} all[] = {
		{ VM_RUNNING, VM_ASK_START, "running" },
		{ VM_RUNNING, VM_ASK_START_PAUSED, "running" },
		{ VM_RUNNING, VM_ASK_RESUME, "running" },
		{ VM_PAUSED, VM_ASK_SUSPEND, "paused" },
		{ VM_SHUT_OFF, VM_ASK_SHUTDOWN, "shut off" },
		{ VM_SAVED, VM_ASK_DESTROY, "saved" },
		{ VM_CRASHED, VM_ASK_DESTROY, "crashed" },
	};
	char told[80];
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		assert_int_equal(vm_state_check("vm1", all[i].is, all[i].asked, &e), -EPERM);
		assert_int_equal(e.cls, ERR_WRONG_STATE);
		snprintf(told, sizeof(told), "VM 'vm1' is %s already, and nothing was done", all[i].word);
		assert_string_equal(e.msg, told);
	}
}

static void test_sentence_words(void **state)
{
	struct err e;

	(void)state;
	vm_state_check("vm1", VM_PAUSED, VM_ASK_SHUTDOWN, &e);
	assert_string_equal(e.msg, "VM 'vm1' is paused; shutdown works when it is running or in "
				   "shutdown. Next: cairn resume vm1");
	vm_state_check("vm1", VM_PAUSED, VM_ASK_UNDEFINE, &e);
	assert_string_equal(e.msg, "VM 'vm1' is paused; undefine works when it is shut off, saved or "
				   "crashed. Next: cairn destroy vm1");
	vm_state_check("vm1", VM_PAUSED, VM_ASK_START, &e);
	assert_non_null(strstr(e.msg, "Next: cairn resume vm1"));
	vm_state_check("vm1", VM_IN_SHUTDOWN, VM_ASK_START, &e);
	assert_string_equal(e.msg, "VM 'vm1' is in shutdown; start works when it is shut off, saved or "
				   "crashed. Next: cairn wait --for shutoff vm1");
	vm_state_check("vm1", VM_PRESERVED, VM_ASK_START, &e);
	assert_non_null(strstr(e.msg, "is crashed (its process is kept)"));
	assert_non_null(strstr(e.msg, "Next: cairn destroy vm1"));
}

static void test_next_step_has_the_whole_name(void **state)
{
	char name[256] = { 0 };
	struct err e;

	(void)state;
	memset(name, 'v', sizeof(name) - 1);
	assert_int_equal(vm_state_check(name, VM_PRESERVED, VM_ASK_FORK_SNAPSHOT, &e), -EPERM);
	assert_string_equal(strrchr(e.msg, ' ') + 1, name);
	assert_int_equal(vm_state_refuse_kept(name, VM_RUNNING, "clone it", &e), 0);
	assert_int_equal(vm_state_refuse_kept(name, VM_PRESERVED, "clone it", &e), -EPERM);
	assert_string_equal(strrchr(e.msg, ' ') + 1, name);
}

static void test_transitions_emit_expected_events(void **state)
{
	(void)state;
	assert_int_equal(vm_transition_find(VM_RUNNING, VM_ASK_SUSPEND)->event, VM_EMITS_STOP);
	assert_int_equal(vm_transition_find(VM_PAUSED, VM_ASK_RESUME)->event, VM_EMITS_RESUME);
	assert_int_equal(vm_transition_find(VM_RUNNING, VM_SAW_ENDED)->event, VM_EMITS_SHUTDOWN);
	assert_int_equal(vm_transition_find(VM_RUNNING, VM_SAW_CRASHED)->event,
		VM_EMITS_SHUTDOWN_IF_PANICKED);
	assert_int_equal(vm_transition_find(VM_PAUSED, VM_SAW_RUNNING)->event, VM_EMITS_RESUME);
}

static void test_state_words_round_trip(void **state)
{
	char states[128];

	(void)state;
	for (unsigned s = 0; s < VM_STATE_COUNT; s++)
		assert_int_equal(vm_state_from_word(vm_state_word(s)), s);
	assert_int_equal(vm_state_from_word("nonsense"), VM_STATE_COUNT);
	vm_trigger_states(VM_ASK_SUSPEND, states, sizeof(states));
	assert_string_equal(states, "running,in-shutdown");
	assert_true(vm_state_is_active(VM_PRESERVED));
	assert_false(vm_state_is_active(VM_CRASHED));
	assert_string_equal(vm_state_name(VM_STATE_COUNT), "unknown");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_pair),
		cmocka_unit_test(test_refusals_name_next_step),
		cmocka_unit_test(test_request_for_current_state_is_refused),
		cmocka_unit_test(test_sentence_words), cmocka_unit_test(test_next_step_has_the_whole_name),
		cmocka_unit_test(test_transitions_emit_expected_events),
		cmocka_unit_test(test_state_words_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
