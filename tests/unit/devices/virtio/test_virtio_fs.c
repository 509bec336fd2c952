/* The virtio-fs device: requests to the process that serves the folder and its answers, requests that never reach it,
 * its end, resets and pauses with requests under way, and saved states. */
#include "tests/unit/devices/fixture.h"

#include "base/bytes.h"
#include "base/share_link.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_fs.h"

#include <errno.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLOT 3
#define QUEUE 1
#define SLOT_BYTES 4096
#define IN_FLIGHT 32
#define QUEUE_SIZE 128

struct bench {
	struct fixture f;
	struct device *dev;
	struct drv d;
	int ours, peer; /* peer: what cairn-share has */
	uint64_t buffers;
	unsigned n;
};

static void bench_init(struct bench *b)
{
	struct virtio_fs_config c = { .name = "share0", .tag = "data", .slot = SLOT };
	int pair[2];

	memset(b, 0, sizeof(*b));
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	b->ours = c.fd = pair[0];
	b->peer = pair[1];
	fx_init(&b->f);
	assert_int_equal(virtio_fs_new(&b->f.host, b->f.pci, &c, &b->dev, NULL), 0);
	b->buffers = fx_alloc(&b->f, 160 * SLOT_BYTES, 4096);
}

static void driver_start(struct bench *b)
{
	drv_init(&b->d, &b->f, SLOT, 0, true);
	for (unsigned q = 0; q < 2; q++)
		drv_queue_setup(&b->d, q, QUEUE_SIZE);
	drv_ok(&b->d);
}

static void bench_done(struct bench *b)
{
	b->dev->ops->free(b->dev);
	close(b->ours);
	if (b->peer >= 0)
		close(b->peer);
	fx_done(&b->f);
}

/* Send a request with `extra` bytes behind its header, and room for an answer. Returns the answer's address. */
static uint64_t request_send(struct bench *b, unsigned q, uint32_t opcode, uint32_t len, uint32_t extra, uint32_t room)
{
	uint64_t at = b->buffers + SLOT_BYTES * (uint64_t)(b->n++ % 160);
	struct fuse_in_header in = { .len = len, .opcode = opcode, .unique = 7, .nodeid = 1 };
	struct drv_sg sg[] = { { at, sizeof(in) / 2, false }, { at + sizeof(in) / 2, (uint32_t)sizeof(in) / 2 + extra, false },
		{ at + 2048, room, true } };

	memset(fx_ram(&b->f, at), 0xa5, SLOT_BYTES);
	memcpy(fx_ram(&b->f, at), &in, sizeof(in));
	drv_add(&b->d.q[q], sg, room ? 3 : 2, false);
	drv_kick(&b->d.q[q]);
	fx_run(&b->f, 4);
	return at + 2048;
}

static uint64_t request(struct bench *b, uint32_t opcode)
{
	return request_send(b, QUEUE, opcode, sizeof(struct fuse_in_header) + 8, 8, 64);
}

/* Receive a request as cairn-share does. Returns its id; 0: there is none. */
static uint64_t peer_receive(struct bench *b, uint32_t *ret_opcode)
{
	struct {
		struct share_header head;
		struct fuse_in_header in;
		uint8_t more[64];
	} m;
	ssize_t n = recv(b->peer, &m, sizeof(m), 0);

	if (n < 0)
		return 0;
	assert_int_equal(n, sizeof(m.head) + m.in.len);
	if (ret_opcode)
		*ret_opcode = m.in.opcode;
	return m.head.id;
}

static void peer_answer(struct bench *b, uint64_t id, uint32_t bytes)
{
	struct {
		struct share_header head;
		struct fuse_out_header out;
		uint8_t more[48];
	} m = { { id }, { bytes, 0, 7 }, "answer" };

	assert_int_equal(send(b->peer, &m, sizeof(m.head) + bytes, 0), sizeof(m.head) + bytes);
	fx_run(&b->f, 4);
}

static int32_t error_of(struct bench *b, uint64_t answer)
{
	return ((struct fuse_out_header *)fx_ram(&b->f, answer))->error;
}

static void mount_it(struct bench *b)
{
	uint32_t opcode, len;
	uint64_t id;

	request(b, FUSE_INIT);
	id = peer_receive(b, &opcode);
	assert_int_equal(opcode, FUSE_INIT);
	peer_answer(b, id, 24);
	drv_wait(&b->d.q[QUEUE], &len);
	assert_int_equal(len, 24);
}

static void test_requests_and_answers_pass(void **state)
{
	struct bench b;
	uint64_t id, answer;
	uint32_t len;

	(void)state;
	bench_init(&b);
	driver_start(&b);
	assert_memory_equal((const char *)"data", virtio_fs_tag(b.dev), 5);
	assert_int_equal(fx_read(&b.f, b.d.device, 4), load_le32("data"));
	assert_int_equal(fx_read(&b.f, b.d.device + 36, 4), 1);
	assert_false(virtio_fs_is_used(b.dev));
	mount_it(&b);
	assert_true(virtio_fs_is_used(b.dev));
	answer = request(&b, FUSE_GETATTR);
	id = peer_receive(&b, NULL);
	peer_answer(&b, id, 32);
	drv_wait(&b.d.q[QUEUE], &len);
	assert_int_equal(len, 32);
	assert_string_equal((char *)fx_ram(&b.f, answer + 16), "answer");
	/* FUSE_FORGET has no answer, and no room for one. */
	request_send(&b, 0, FUSE_FORGET, sizeof(struct fuse_in_header) + 8, 8, 0);
	peer_answer(&b, peer_receive(&b, NULL), 0);
	drv_wait(&b.d.q[0], &len);
	assert_int_equal(len, 0);
	request(&b, FUSE_DESTROY);
	assert_true(virtio_fs_is_used(b.dev));
	peer_answer(&b, peer_receive(&b, NULL), 16);
	assert_false(virtio_fs_is_used(b.dev));
	bench_done(&b);
}

static void test_malformed_requests_stay_here(void **state)
{
	struct bench b;
	uint64_t answer;
	uint32_t len;

	(void)state;
	bench_init(&b);
	driver_start(&b);
	answer = request(&b, FUSE_LOOKUP); /* before FUSE_INIT */
	drv_wait(&b.d.q[QUEUE], &len);
	assert_int_equal(len, 16);
	assert_int_equal(error_of(&b, answer), -EIO);
	mount_it(&b);
	for (unsigned i = 0; i < 3; i++) {
		static const uint32_t lengths[] = { 0, sizeof(struct fuse_in_header) + 7, UINT32_MAX };

		answer = request_send(&b, QUEUE, FUSE_LOOKUP, lengths[i], 8, 64);
		drv_wait(&b.d.q[QUEUE], &len);
		assert_int_equal(error_of(&b, answer), -EINVAL);
	}
	/* Too short for a header, and without room for an answer. */
	drv_add(&b.d.q[QUEUE], (struct drv_sg[]){ { b.buffers, 39, false } }, 1, false);
	drv_kick(&b.d.q[QUEUE]);
	drv_wait(&b.d.q[QUEUE], &len);
	assert_int_equal(len, 0);
	assert_int_equal(peer_receive(&b, NULL), 0);
	assert_int_equal(fx_count_events(&b.f, DEV_EVENT_NEEDS_RESET), 0);
	bench_done(&b);
}

static void test_requests_wait_for_answers(void **state)
{
	struct bench b;
	unsigned n = 0;
	uint64_t ids[QUEUE_SIZE];

	(void)state;
	bench_init(&b);
	driver_start(&b);
	mount_it(&b);
	for (unsigned i = 0; i < IN_FLIGHT + 8; i++)
		request(&b, FUSE_GETATTR);
	while (n < QUEUE_SIZE && (ids[n] = peer_receive(&b, NULL)))
		n++;
	assert_int_equal(n, IN_FLIGHT);
	for (unsigned i = 0; i < IN_FLIGHT; i++)
		peer_answer(&b, ids[i], 16);
	for (n = 0; n < 8; n++)
		peer_answer(&b, peer_receive(&b, NULL), 16);
	assert_int_equal(drv_used_idx(&b.d.q[QUEUE]), 1 + IN_FLIGHT + 8);
	bench_done(&b);
}

static void test_end_of_the_process_fails_requests(void **state)
{
	struct bench b;
	uint64_t answers[2];
	uint32_t len;

	(void)state;
	bench_init(&b);
	driver_start(&b);
	mount_it(&b);
	answers[0] = request(&b, FUSE_GETATTR);
	close(b.peer);
	b.peer = -1;
	drv_wait(&b.d.q[QUEUE], &len);
	answers[1] = request(&b, FUSE_GETATTR);
	drv_wait(&b.d.q[QUEUE], &len);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(error_of(&b, answers[i]), -ENOTCONN);
	assert_true(virtio_fs_is_used(b.dev)); /* the guest still has it mounted */
	request(&b, FUSE_DESTROY);
	drv_wait(&b.d.q[QUEUE], &len);
	assert_false(virtio_fs_is_used(b.dev));
	assert_int_equal(fx_count_events(&b.f, DEV_EVENT_NEEDS_RESET), 0);
	bench_done(&b);
}

static void test_malformed_answer_ends_the_link(void **state)
{
	struct bench b;
	uint64_t answer;
	uint32_t len;

	(void)state;
	bench_init(&b);
	driver_start(&b);
	mount_it(&b);
	answer = request(&b, FUSE_GETATTR);
	peer_receive(&b, NULL);
	assert_int_equal(send(b.peer, "x", 1, 0), 1);
	drv_wait(&b.d.q[QUEUE], &len);
	assert_int_equal(error_of(&b, answer), -ENOTCONN);
	bench_done(&b);
}

static void test_reset_drops_what_is_under_way(void **state)
{
	struct bench b;
	uint64_t answer, id;

	(void)state;
	bench_init(&b);
	driver_start(&b);
	mount_it(&b);
	answer = request(&b, FUSE_GETATTR);
	id = peer_receive(&b, NULL);
	b.dev->ops->reset(b.dev);
	assert_false(virtio_fs_is_used(b.dev));
	peer_answer(&b, id, 32);
	assert_int_equal(((uint8_t *)fx_ram(&b.f, answer))[0], 0xa5);
	driver_start(&b);
	mount_it(&b);
	bench_done(&b);
}

static void test_answer_waits_while_the_vm_is_paused(void **state)
{
	struct bench b;
	uint64_t answer, id;
	uint32_t len;

	(void)state;
	bench_init(&b);
	driver_start(&b);
	mount_it(&b);
	answer = request(&b, FUSE_GETATTR);
	id = peer_receive(&b, NULL);
	b.dev->ops->pause(b.dev);
	peer_answer(&b, id, 32);
	assert_int_equal(((uint8_t *)fx_ram(&b.f, answer))[0], 0xa5);
	b.dev->ops->resume(b.dev);
	drv_wait(&b.d.q[QUEUE], &len);
	assert_int_equal(len, 32);
	bench_done(&b);
}

static void test_saved_state_has_no_session(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b);
	driver_start(&b);
	fx_state_test(&b.f, b.dev, 500);
	mount_it(&b);
	fx_state_test(&b.f, b.dev, 20);
	assert_false(virtio_fs_is_used(b.dev));
	bench_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests_and_answers_pass),
		cmocka_unit_test(test_malformed_requests_stay_here),
		cmocka_unit_test(test_requests_wait_for_answers),
		cmocka_unit_test(test_end_of_the_process_fails_requests),
		cmocka_unit_test(test_malformed_answer_ends_the_link),
		cmocka_unit_test(test_reset_drops_what_is_under_way),
		cmocka_unit_test(test_answer_waits_while_the_vm_is_paused),
		cmocka_unit_test(test_saved_state_has_no_session),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
