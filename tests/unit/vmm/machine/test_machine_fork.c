/* A clone's machine maps the memory of the fork's sealed file before KVM gets the memory slots, and refuses a file that
 * somebody could still change. Needs /dev/kvm; each test is skipped with a message without it. */
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "snapshot/vmstate.h"
#include "vmm/kvm/host_files.h"
#include "vmm/kvm/memory.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM_BYTES (8 * MIB)
#define MARK_GPA (5 * MIB)
#define MARK 0xa5

static struct {
	unsigned calls;
	uint8_t mark; /* the byte at MARK_GPA at the first call */
	bool is_view;
} attached;

int __wrap_memory_attach(struct memory *m, struct kvm *k, struct err *e);

/* In place of memory_attach(), which gives KVM the slots. The machine is not built any further. */
int __wrap_memory_attach(struct memory *m, struct kvm *k, struct err *e)
{
	(void)k;
	if (!attached.calls++) {
		attached.mark = m->host[MARK_GPA];
		attached.is_view = memory_view(m) != NULL;
	}
	return err_set(e, -ECANCELED, ERR_GENERIC, "memory slots");
}

static int state_fd(unsigned seals)
{
	static const uint8_t sections[4096], mark = MARK;
	struct vmstate_source src = { .sections = sections, .sections_bytes = sizeof(sections) };
	struct vmstate_header h = { .uuid = { 1 } };
	struct vmstate_file f;
	struct err e = { 0 };
	uint32_t *crcs;
	int fd = memfd_create("fork", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	vmstate_layout_of(RAM_BYTES, &h.layout);
	crcs = calloc(h.layout.blocks, sizeof(*crcs));
	assert_non_null(crcs);
	assert_int_equal(ftruncate(fd, (off_t)h.layout.total_bytes), 0);
	assert_int_equal(pwrite(fd, &mark, 1, (off_t)(h.layout.ram_offset + MARK_GPA)), 1);
	vmstate_file_init(&f, fd);
	assert_int_equal(vmstate_write_rest(&f.store, &h, &src, crcs, &e), 0);
	free(crcs);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

/* Build the machine of a clone from a state file with these seals. Returns what machine_new() returns. */
static int build(unsigned seals, struct err *e)
{
	static const struct machine_listener listener = { .event = NULL };
	struct vm_config c = { .name = "test", .ram_bytes = RAM_BYTES, .vcpus = 1, .initrd_fd = VM_NO_FD, .log_fd = VM_NO_FD,
		.end_fd = VM_NO_FD, .restore_fd = 1, .forked = 1, .working_sets_fd = VM_NO_FD };
	int fds[] = { memfd_create("kernel", MFD_CLOEXEC), -1 }, state = state_fd(seals), r;
	struct host_files host;
	struct machine *m = NULL;
	struct loop *l;

	memset(&attached, 0, sizeof(attached));
	assert_int_equal(loop_new(64, &l, NULL), 0);
	host_files_open(&host);
	host_files_open_pagemap(&host);
	r = machine_new(&c, fds, ARRAY_SIZE(fds), state, NULL, &host, l, &listener, &m, e);
	assert_null(m);
	host_files_done(&host);
	loop_free(l);
	close(state);
	return r;
}

static void need_kvm(void)
{
	if (access("/dev/kvm", R_OK | W_OK) == 0)
		return;
	print_message("skipped: no access to /dev/kvm\n");
	skip();
}

static void test_clone_maps_memory_before_kvm_has_slots(void **state)
{
	struct err e = { 0 };

	(void)state;
	need_kvm();
	assert_int_equal(build(F_SEAL_WRITE | F_SEAL_SHRINK, &e), -ECANCELED);
	assert_int_equal(attached.calls, 1);
	assert_true(attached.is_view);
	assert_int_equal(attached.mark, MARK);
}

static void test_clone_refuses_a_state_file_that_may_change(void **state)
{
	static const unsigned seals[] = { 0, F_SEAL_WRITE, F_SEAL_SHRINK, F_SEAL_GROW | F_SEAL_SEAL };

	(void)state;
	need_kvm();
	for (unsigned i = 0; i < ARRAY_SIZE(seals); i++) {
		struct err e = { 0 };

		assert_int_equal(build(seals[i], &e), -EINVAL);
		assert_string_equal(e.msg, "the file of a clone's memory is not sealed against writing");
		assert_int_equal(attached.calls, 0);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clone_maps_memory_before_kvm_has_slots),
		cmocka_unit_test(test_clone_refuses_a_state_file_that_may_change),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
