/* control: the table of requests has a handler for each type of message that a daemon may send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vmm/control.c" /* for the table, which is static */

static void test_each_request_has_a_handler(void **state)
{
	unsigned n = 0;

	(void)state;
	for (unsigned t = 0; t < VM_MSG_TYPE_COUNT; t++) {
		bool has_row = requests[t].handle != NULL;

		if (has_row != vm_msg_to_vm[t].known)
			fail_msg("message type %u: %s", t, has_row ? "has a handler, but vm_msg_to_vm does not let it in" :
				"vm_msg_to_vm lets it in, but it has no handler in requests[]");
		n += has_row;
	}
	assert_true(n > 0);
}

static void test_each_type_has_one_direction(void **state)
{
	(void)state;
	for (unsigned t = 1; t < VM_MSG_TYPE_COUNT; t++)
		if (vm_msg_to_vm[t].known + vm_msg_from_vm[t].known != 1)
			fail_msg("message type %u must be in exactly one of vm_msg_to_vm and vm_msg_from_vm", t);
}

/* A device of the new process reports an event after the old process has sent VM_MSG_GO and ended, and before the new
 * process reads that message. The VM must not be lost. */
static void test_event_does_not_overtake_go(void **state)
{
	struct control *c = calloc(1, sizeof(*c));
	struct vm_event ev = { .kind = VM_EVENT_AGENT };
	struct channel_msg m;
	int pair[2];

	(void)state;
	assert_non_null(c);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	c->listen_fd = -1;
	c->peer_fd = pair[0];
	c->awaits_go = true;
	assert_int_equal(channel_send(pair[1], VM_MSG_VERSION, VM_MSG_GO, 0, NULL, 0, NULL, 0), 0);
	close(pair[1]);
	control_event(c, &ev); /* used to end this process */
	assert_int_equal(channel_recv(c->peer_fd, VM_MSG_VERSION, vm_msg_to_vm, VM_MSG_TYPE_COUNT, c->buf, &m), 1);
	assert_int_equal(m.head.type, VM_MSG_GO);
	control_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_request_has_a_handler),
		cmocka_unit_test(test_each_type_has_one_direction),
		cmocka_unit_test(test_event_does_not_overtake_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
