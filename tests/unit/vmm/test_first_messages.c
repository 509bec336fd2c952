/* Messages that a process accepts before its configuration: the memory of a clone that another process hands over. */
#include "base/channel.h"
#include "base/err.h"
#include "base/util.h"
#include "vmm/first_messages.h"
#include "vmm/kvm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define BYTES (4 * MIB)
#define OFFSET (2 * MIB)

struct fixture {
	int peer, base, own, pagemap_fd;
	struct first_messages f;
	const struct vm_config *cfg;
	int fds[CHANNEL_FDS_MAX];
	unsigned nfds;
	struct err e;
	_Alignas(16) uint8_t buf[CHANNEL_BODY_MAX];
};

static int file_new(uint64_t bytes)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	return fd;
}

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	int pair[2];

	assert_non_null(x);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	x->peer = pair[1];
	x->base = file_new(OFFSET + BYTES);
	x->own = file_new(BYTES);
	x->f = (struct first_messages){ .fd = pair[0], .takes_over = true, .buf = x->buf,
		.pagemap_fd = &x->pagemap_fd };
	x->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	close(x->peer);
	close(x->base);
	close(x->own);
	if (x->pagemap_fd >= 0)
		close(x->pagemap_fd);
	close(x->f.fd);
	if (x->f.memory)
		memory_done(x->f.memory);
	free(x->f.memory);
	free(x);
	return 0;
}

static void memory_send(struct fixture *x, uint64_t bytes, uint64_t offset, unsigned nfds)
{
	struct vm_memory body = { bytes, offset };
	int fds[] = { x->base, x->own };

	assert_int_equal(channel_send(x->peer, VM_MSG_VERSION, VM_MSG_MEMORY, 7, &body, sizeof(body), fds, nfds), 0);
}

/* Receive until the peer has hung up. Returns the number of replies. */
static int receive(struct fixture *x, int want)
{
	struct channel_msg m;
	int n = 0;

	shutdown(x->peer, SHUT_WR);
	assert_int_equal(first_messages_receive(&x->f, &x->cfg, x->fds, &x->nfds, &x->e), want);
	shutdown(x->f.fd, SHUT_WR);
	while (channel_recv(x->peer, VM_MSG_VERSION, vm_msg_from_vm, VM_MSG_TYPE_COUNT, x->buf, &m) > 0) {
		assert_int_equal(m.head.type, VM_MSG_REPLY);
		assert_int_equal(m.head.seq, 7);
		n++;
	}
	return n;
}

static void test_memory_has_the_pages_of_both_files(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(pwrite(x->base, "\xb1", 1, OFFSET + 4096), 1);
	assert_int_equal(pwrite(x->base, "\xb2", 1, OFFSET + 8192), 1);
	assert_int_equal(pwrite(x->own, "\xa2", 1, 8192), 1);
	memory_send(x, BYTES, OFFSET, 2);
	memory_send(x, BYTES, OFFSET, 0);
	assert_int_equal(receive(x, -EPIPE), 2);
	assert_int_equal(x->f.memory->host[4096], 0xb1);
	assert_int_equal(x->f.memory->host[8192], 0xa2);
	assert_int_equal(x->f.memory->host[12288], 0);
}

static void test_only_a_successor_takes_memory(void **state)
{
	struct fixture *x = *state;

	x->f.takes_over = false;
	memory_send(x, BYTES, OFFSET, 2);
	assert_int_equal(receive(x, -EINVAL), 0);
	assert_null(x->f.memory);
}

static void refused(void **state, uint64_t bytes, uint64_t offset, unsigned nfds)
{
	teardown(state);
	setup(state);
	memory_send(*state, bytes, offset, nfds);
	assert_int_equal(receive(*state, -EINVAL), 0);
}

static void test_impossible_memory_is_refused(void **state)
{
	refused(state, BYTES, OFFSET, 0);
	refused(state, BYTES, OFFSET, 1);
	refused(state, BYTES + 4096, OFFSET, 2); /* the files are shorter */
	refused(state, BYTES - 1, OFFSET, 2);
	refused(state, 4096, OFFSET, 2);
	refused(state, VM_RAM_MAX_BYTES + 4096, OFFSET, 2);
	refused(state, BYTES, OFFSET + 1, 2);
	refused(state, BYTES, OFFSET + 4096, 2);
	refused(state, BYTES, 1ULL << 63, 2);
}

static void test_other_messages_are_refused(void **state)
{
	struct fixture *x = *state;

	memory_send(x, BYTES, OFFSET, 2);
	assert_int_equal(channel_send(x->peer, VM_MSG_VERSION, VM_MSG_CONT, 8, NULL, 0, NULL, 0), 0);
	assert_int_equal(receive(x, -EPROTO), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_memory_has_the_pages_of_both_files, setup, teardown),
		cmocka_unit_test_setup_teardown(test_only_a_successor_takes_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_impossible_memory_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_messages_are_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
