/* control: the table of requests has a handler for each type of message that a daemon may send; a daemon that does not
 * read loses no answer and no change of state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vmm/control.c" /* for the table, which is static */
#include "vmm/machine/vm_impl.h"

#include <pthread.h>
#include <sys/un.h>

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

/* ---- a daemon that does not read ---- */

#define FLOOD 5000 /* events of the guest, many times what the socket holds */
#define PHASE_EACH 50
#define REPLY_EACH 100

/* Messages that the daemon's side has received. */
struct received {
	unsigned phases, replies, errors;
	int64_t newest; /* value of the last event of the disk */
	bool in_order;
};

/* Create a control with a loop of its own and a daemon's end of its connection. */
static struct control *control_begin(int *ret_daemon)
{
	struct control *c = calloc(1, sizeof(*c));
	struct loop *l;
	int pair[2];

	assert_non_null(c);
	assert_int_equal(loop_new(8, &l, NULL), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	c->loop = l;
	c->listen_fd = -1;
	c->peer_fd = pair[0];
	assert_int_equal(peer_watch_begin(c), 0);
	*ret_daemon = pair[1];
	return c;
}

static void control_end(struct control *c)
{
	struct loop *l = c->loop;

	control_free(c);
	loop_free(l);
}

static void flood(struct control *c)
{
	for (int i = 0; i < FLOOD; i++) {
		control_event(c, &(struct vm_event){ .kind = VM_EVENT_IO_ERROR, .device = "vda", .value = i });
		if (i % PHASE_EACH == 0)
			control_event(c, &(struct vm_event){ .kind = VM_EVENT_PHASE, .value = i / PHASE_EACH });
		if (i % REPLY_EACH == 0)
			control_reply(c, (uint64_t)i / REPLY_EACH, 0, NULL);
	}
}

/* Receive one message; check its order and that of the reply after its change of phase. Returns what channel_recv()
 * returns. */
static int message_take(int fd, void *buf, struct received *got)
{
	struct channel_msg m;
	int r = channel_recv(fd, VM_MSG_VERSION, vm_msg_from_vm, VM_MSG_TYPE_COUNT, buf, &m);
	const struct vm_event *ev = m.body;

	if (r <= 0)
		return r;
	if (m.head.type == VM_MSG_REPLY) {
		got->in_order &= m.head.seq == got->replies++ && got->phases == 2 * got->replies - 1;
	} else if (ev->kind == VM_EVENT_PHASE) {
		got->in_order &= ev->value == got->phases++;
	} else {
		got->in_order &= ev->value >= got->newest;
		got->newest = ev->value;
		got->errors++;
	}
	return r;
}

static void test_daemon_that_does_not_read_loses_no_answer_and_no_phase(void **state)
{
	struct received got = { .in_order = true };
	struct control *c;
	int daemon;

	(void)state;
	c = control_begin(&daemon);
	flood(c);
	assert_true(c->peer_fd >= 0); /* an earlier version closed the connection, and the daemon then killed the VM */
	assert_true(send_queue_waits(&c->waiting));
	do {
		while (message_take(daemon, c->buf, &got) > 0)
			;
		loop_run_once(c->loop, 0);
	} while (send_queue_waits(&c->waiting) || message_take(daemon, c->buf, &got) > 0);
	assert_true(got.in_order);
	assert_int_equal(got.phases, FLOOD / PHASE_EACH);
	assert_int_equal(got.replies, FLOOD / REPLY_EACH);
	assert_int_equal(got.newest, FLOOD - 1);
	assert_in_range(got.errors, 1, FLOOD / 2);
	close(daemon);
	control_end(c);
}

static void test_requests_wait_while_too_many_answers_do(void **state)
{
	struct control *c;
	struct channel_msg m;
	int daemon;

	(void)state;
	c = control_begin(&daemon);
	while (!send_queue_full(&c->waiting))
		control_reply(c, 1, 0, NULL);
	assert_int_equal(channel_send(daemon, VM_MSG_VERSION, VM_MSG_GO, 2, NULL, 0, NULL, 0), 0);
	loop_run_once(c->loop, 0);
	assert_int_equal(recv(c->peer_fd, c->buf, 1, MSG_PEEK), 1); /* the request was not read */
	do {
		while (channel_recv(daemon, VM_MSG_VERSION, vm_msg_from_vm, VM_MSG_TYPE_COUNT, c->buf, &m) < 0)
			loop_run_once(c->loop, UINT64_MAX);
	} while (m.head.seq != 2);
	assert_int_equal(((struct vm_reply *)m.body)->error, -EINVAL); /* no VM is being handed over */
	close(daemon);
	control_end(c);
}

struct reader {
	int fd;
	struct received got;
	_Alignas(16) uint8_t buf[CHANNEL_BODY_MAX];
};

static void *read_to_the_end(void *opaque)
{
	struct reader *r = opaque;

	while (message_take(r->fd, r->buf, &r->got) > 0)
		;
	return NULL;
}

static void test_process_ends_when_its_last_messages_are_sent(void **state)
{
	struct reader *r = calloc(1, sizeof(*r));
	struct control *c;
	pthread_t thread;

	(void)state;
	assert_non_null(r);
	r->got.in_order = true;
	c = control_begin(&r->fd);
	flood(c);
	assert_int_equal(fcntl(r->fd, F_SETFL, 0), 0); /* the reader waits */
	assert_int_equal(pthread_create(&thread, NULL, read_to_the_end, r), 0);
	control_end(c);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(r->got.in_order);
	assert_int_equal(r->got.phases, FLOOD / PHASE_EACH);
	assert_int_equal(r->got.replies, FLOOD / REPLY_EACH);
	close(r->fd);
	free(r);
}

static void test_process_ends_without_its_daemon(void **state)
{
	struct control *c;
	int daemon;

	(void)state;
	c = control_begin(&daemon);
	flood(c);
	close(daemon);
	control_end(c);
}

/* ---- the next daemon ---- */

/* The next daemon connects before the process has read that the earlier one has ended: the same happens as after that
 * end. */
static void test_next_daemon_ends_the_work_for_the_earlier_one(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX }; /* the kernel chooses the name */
	socklen_t len = sizeof(addr.sun_family);
	struct machine *m = calloc(1, sizeof(*m));
	struct vm vm = { .m = m, .phase = VM_PHASE_RUNNING, .work = "fork" };
	struct control *c;
	int daemon, next = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	(void)state;
	assert_non_null(m);
	c = control_begin(&daemon);
	c->vm = &vm;
	c->for_daemon = true;
	c->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(c->listen_fd, (struct sockaddr *)&addr, len), 0);
	assert_int_equal(listen(c->listen_fd, 1), 0);
	len = sizeof(addr);
	assert_int_equal(getsockname(c->listen_fd, (struct sockaddr *)&addr, &len), 0);
	assert_int_equal(connect(next, (struct sockaddr *)&addr, len), 0);
	close(daemon);
	listen_ready(c, POLLIN);
	assert_true(vm_work_cancelled(&vm));
	control_reply(c, 1, 0, NULL);
	assert_true(recv(next, c->buf, sizeof(c->buf), 0) > 0);
	close(next);
	control_end(c);
	free(m);
}

/* ---- changes of devices ---- */

/* Receive the answer to a request, and return its error. */
static int answer_take(int fd, void *buf, uint64_t seq)
{
	struct channel_msg m;

	assert_int_equal(channel_recv(fd, VM_MSG_VERSION, vm_msg_from_vm, VM_MSG_TYPE_COUNT, buf, &m), 1);
	assert_int_equal(m.head.type, VM_MSG_REPLY);
	assert_int_equal(m.head.seq, seq);
	return ((struct vm_reply *)m.body)->error;
}

/* Send a request that has to wait. */
static void waiting_send(struct control *c, int daemon, enum vm_msg_type type, uint64_t seq, const void *body, size_t len)
{
	assert_int_equal(channel_send(daemon, VM_MSG_VERSION, type, seq, body, len, NULL, 0), 0);
	peer_ready(c, POLLIN);
	control_changes_run(c, loop_now_ns());
	assert_int_equal(recv(daemon, c->buf, 1, MSG_PEEK), -1); /* no answer */
}

static void unplug_send(struct control *c, int daemon, uint64_t seq)
{
	const struct vm_unplug what = { .id = "vdb", .force = true };

	waiting_send(c, daemon, VM_MSG_UNPLUG, seq, &what, sizeof(what));
}

/* The first request waits until its time has expired; the others are answered, in order, when the job on the disks
 * ends. */
static void test_change_waits_in_order_and_no_longer_than_its_time(void **state)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct vm vm = { .m = m, .phase = VM_PHASE_PAUSED };
	struct control *c;
	int daemon;

	(void)state;
	assert_non_null(m);
	c = control_begin(&daemon);
	c->vm = &vm;
	vm.sink = (struct vm_sink){ .disks_free = control_disks_free, .opaque = c };
	m->worker_readers = 1;
	unplug_send(c, daemon, 1);
	control_changes_run(c, UINT64_MAX);
	assert_int_equal(answer_take(daemon, c->buf, 1), -EBUSY);
	unplug_send(c, daemon, 2);
	unplug_send(c, daemon, 3);
	m->worker_readers = 0;
	vm_plug_remove_released(&vm);
	assert_int_equal(recv(daemon, c->buf, 1, MSG_PEEK), -1); /* the end of the job is reported first */
	loop_run_once(c->loop, UINT64_MAX);
	for (uint64_t seq = 2; seq <= 3; seq++)
		assert_int_equal(answer_take(daemon, c->buf, seq), -ENOENT); /* the machine has no such device */
	close(daemon);
	control_end(c);
	free(m);
}

static void test_resize_waits_no_longer_than_its_time(void **state)
{
	const struct vm_disk_resize what = { .id = "vdb", .size_bytes = 1 << 20 };
	struct machine *m = calloc(1, sizeof(*m));
	struct vm vm = { .m = m, .phase = VM_PHASE_PAUSED };
	struct control *c;
	int daemon;

	(void)state;
	assert_non_null(m);
	c = control_begin(&daemon);
	c->vm = &vm;
	m->disk_readers = 1;
	waiting_send(c, daemon, VM_MSG_DISK_RESIZE, 1, &what, sizeof(what));
	control_changes_run(c, UINT64_MAX);
	assert_int_equal(answer_take(daemon, c->buf, 1), -EBUSY);
	close(daemon);
	control_end(c);
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_request_has_a_handler),
		cmocka_unit_test(test_each_type_has_one_direction),
		cmocka_unit_test(test_event_does_not_overtake_go),
		cmocka_unit_test(test_daemon_that_does_not_read_loses_no_answer_and_no_phase),
		cmocka_unit_test(test_requests_wait_while_too_many_answers_do),
		cmocka_unit_test(test_process_ends_when_its_last_messages_are_sent),
		cmocka_unit_test(test_process_ends_without_its_daemon),
		cmocka_unit_test(test_next_daemon_ends_the_work_for_the_earlier_one),
		cmocka_unit_test(test_change_waits_in_order_and_no_longer_than_its_time),
		cmocka_unit_test(test_resize_waits_no_longer_than_its_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
