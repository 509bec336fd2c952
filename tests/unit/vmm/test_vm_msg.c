/* vm_msg: vm_config_check() with each field out of range. */
#include "base/err.h"
#include "base/util.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define NFDS 4u

static struct vm_config sane(void)
{
	struct vm_config c;

	memset(&c, 0, sizeof(c));
	strcpy(c.name, "vm1");
	strcpy(c.cmdline, "console=ttyS0");
	c.ram_bytes = 64 * MIB;
	c.vcpus = 4;
	c.kernel_fd = 0;
	c.initrd_fd = c.log_fd = c.end_fd = c.restore_fd = c.working_sets_fd = VM_NO_FD;
	c.ndisks = 1;
	strcpy(c.disks[0].id, "vda");
	c.disks[0].nlayers = 2;
	memset(c.disks[0].data_fd, 0xff, sizeof(c.disks[0].data_fd));
	c.disks[0].fd[0] = 1;
	c.disks[0].fd[1] = 2;
	c.disks[0].format[0] = c.disks[0].format[1] = 1;
	return c;
}

static int check(struct vm_config *c)
{
	struct err e = { 0 };
	int r = vm_config_check(c, NFDS, &e);

	if (r < 0) {
		assert_int_equal(r, -EINVAL);
		assert_int_equal(e.cls, ERR_INVALID);
		assert_true(strlen(e.msg) > 10);
	}
	return r;
}

/* EXPR changes a valid configuration c. */
#define REFUSED(expr)                                                                              \
	do {                                                                                       \
		struct vm_config c = sane();                                                       \
		expr;                                                                              \
		assert_int_equal(check(&c), -EINVAL);                                              \
	} while (0)
#define ACCEPTED(expr)                                                                             \
	do {                                                                                       \
		struct vm_config c = sane();                                                       \
		expr;                                                                              \
		assert_int_equal(check(&c), 0);                                                    \
	} while (0)

static void test_valid_configuration_is_accepted(void **state)
{
	(void)state;
	ACCEPTED();
	ACCEPTED(c.ndisks = 0);
	ACCEPTED(c.kernel_fd = VM_NO_FD); /* a process for images needs none */
	REFUSED(c.forked = 1);
	ACCEPTED(c.forked = 1; c.restore_fd = 3);
	ACCEPTED(c.start_paused = c.huge_pages = c.rng = c.virtio_console = c.foreground = 1);
}

static void test_name_is_checked(void **state)
{
	(void)state;
	REFUSED(c.name[0] = 0);
	REFUSED(strcpy(c.name, "../etc"));
	REFUSED(strcpy(c.name, "/"));
	ACCEPTED(memset(c.name, 'x', sizeof(c.name)); /* unterminated: the check terminates it */
		 c.name[VM_NAME_MAX] = 'x');
}

static void test_strings_are_terminated(void **state)
{
	struct vm_config c = sane();

	(void)state;
	memset(c.name, 'n', sizeof(c.name));
	memset(c.cmdline, 'c', sizeof(c.cmdline));
	memset(c.disks[0].id, 'i', sizeof(c.disks[0].id));
	memset(c.disks[0].serial, 's', sizeof(c.disks[0].serial));
	assert_int_equal(check(&c), 0);
	assert_int_equal(strlen(c.name), VM_NAME_MAX);
	assert_int_equal(strlen(c.cmdline), VM_CMDLINE_MAX);
	assert_int_equal(strlen(c.disks[0].id), sizeof(c.disks[0].id) - 1);
	assert_int_equal(strlen(c.disks[0].serial), sizeof(c.disks[0].serial) - 1);
}

static void test_memory_size_is_checked(void **state)
{
	(void)state;
	REFUSED(c.ram_bytes = 0);
	REFUSED(c.ram_bytes = 4096);
	REFUSED(c.ram_bytes = VM_RAM_MIN_BYTES - 4096);
	REFUSED(c.ram_bytes = 64 * MIB + 1);
	REFUSED(c.ram_bytes = 64 * MIB + 2048);
	REFUSED(c.ram_bytes = VM_RAM_MAX_BYTES + 4096);
	REFUSED(c.ram_bytes = 10ULL << 40);
	REFUSED(c.ram_bytes = UINT64_MAX);
	REFUSED(c.ram_bytes = UINT64_MAX - 4095);
	ACCEPTED(c.ram_bytes = VM_RAM_MIN_BYTES);
	ACCEPTED(c.ram_bytes = VM_RAM_MAX_BYTES);
	ACCEPTED(c.ram_bytes = 3 * GIB + 4096);
}

static void test_vcpus_and_topology_are_checked(void **state)
{
	(void)state;
	REFUSED(c.vcpus = 0);
	REFUSED(c.vcpus = VM_VCPUS_MAX + 1);
	REFUSED(c.vcpus = 10000);
	REFUSED(c.vcpus = UINT32_MAX);
	ACCEPTED(c.vcpus = VM_VCPUS_MAX);
	ACCEPTED(c.vcpus = 1);
	ACCEPTED(c.sockets = 2; c.cores = 1; c.threads = 2);
	ACCEPTED(c.sockets = 1; c.cores = 4; c.threads = 1);
	REFUSED(c.sockets = 1; c.cores = 1; c.threads = 1);
	REFUSED(c.sockets = 2; c.cores = 2); /* threads 0 */
	REFUSED(c.cores = 4);
	REFUSED(c.threads = 4; c.sockets = 1; c.cores = 1);
	REFUSED(c.sockets = 0x40000001; c.cores = 4; c.threads = 1);
	/* 2^32 and 2^64: products that wrap to 4 or 0. */
	REFUSED(c.sockets = 0x80000000; c.cores = 0x80000000; c.threads = 4);
	REFUSED(c.sockets = UINT32_MAX; c.cores = UINT32_MAX; c.threads = UINT32_MAX);
}

static void test_fds_are_checked(void **state)
{
	static const uint16_t bad[] = { NFDS, NFDS + 1, 0x7fff, 0x8000, 0xfffe };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		REFUSED(c.kernel_fd = bad[i]);
		REFUSED(c.initrd_fd = bad[i]);
		REFUSED(c.restore_fd = bad[i]);
		REFUSED(c.working_sets_fd = bad[i]);
		REFUSED(c.log_fd = bad[i]);
		REFUSED(c.end_fd = bad[i]);
		REFUSED(c.disks[0].fd[0] = bad[i]);
		REFUSED(c.disks[0].fd[1] = bad[i]);
	}
	ACCEPTED(c.kernel_fd = NFDS - 1);
	REFUSED(c.disks[0].fd[0] = VM_NO_FD); /* a disk needs a file */
	REFUSED(c.disks[0].fd[1] = VM_NO_FD);
	ACCEPTED(c.disks[0].fd[2] = 0xfffe); /* beyond nlayers: ignored */
	ACCEPTED(c.disks[0].format[0] = 2; c.disks[0].data_fd[0] = 3);
	REFUSED(c.disks[0].data_fd[0] = 3); /* with a raw image */
	REFUSED(c.disks[0].format[0] = 2; c.disks[0].data_fd[0] = c.disks[0].fd[1]);
	REFUSED(c.disks[0].format[0] = 2; c.disks[0].data_fd[0] = NFDS);
}

/* Each fd is taken by its first user, so a second user would get -1 or the same file twice. */
static void test_duplicate_files_and_names_are_refused(void **state)
{
	(void)state;
	REFUSED(c.initrd_fd = c.kernel_fd);
	REFUSED(c.log_fd = c.kernel_fd);
	REFUSED(c.end_fd = c.disks[0].fd[1]);
	REFUSED(c.disks[0].fd[1] = c.disks[0].fd[0]);
	REFUSED(c.disks[0].fd[0] = c.kernel_fd);
	REFUSED(c.ndisks = 2; c.disks[1] = c.disks[0]; strcpy(c.disks[1].id, "vdb"));
	REFUSED(c.disks[0].nlayers = 1; c.ndisks = 2; c.disks[1] = c.disks[0];
		c.disks[1].fd[0] = 2);
	ACCEPTED(c.disks[0].nlayers = 1; c.ndisks = 2; c.disks[1] = c.disks[0];
		 c.disks[1].fd[0] = 2; strcpy(c.disks[1].id, "vdb"));
}

static void test_enums_are_checked(void **state)
{
	(void)state;
	for (unsigned v = 0; v < 256; v++) {
		struct vm_config c;
#define CHOICE(field, max)                                                                         \
	do {                                                                                       \
		c = sane();                                                                        \
		c.field = (uint8_t)v;                                                              \
		assert_int_equal(check(&c), v <= (max) ? 0 : -EINVAL);                             \
	} while (0)
		CHOICE(assist, VM_ASSIST_OFF);
		CHOICE(on_poweroff, VM_ACTION_PRESERVE);
		CHOICE(on_reboot, VM_ACTION_PRESERVE);
		CHOICE(on_crash, VM_ACTION_PRESERVE);
		CHOICE(log_level, 4);
		CHOICE(disks[0].error_policy, VM_ERRORS_IGNORE);
		c = sane();
		c.disks[0].format[1] = (uint8_t)v;
		assert_int_equal(check(&c), v == 1 || v == 2 ? 0 : -EINVAL);
	}
}

static void test_disks_are_checked(void **state)
{
	(void)state;
	REFUSED(c.ndisks = VM_DISKS_MAX + 1);
	REFUSED(c.ndisks = UINT32_MAX);
	REFUSED(c.ndisks = 2); /* the second disk is all zeros */
	REFUSED(c.disks[0].id[0] = 0);
	REFUSED(c.disks[0].nlayers = 0);
	REFUSED(c.disks[0].nlayers = VM_DISK_LAYERS_MAX + 1);
	REFUSED(c.disks[0].nlayers = 0xffff);
	REFUSED(c.disks[0].queues = 9);
	REFUSED(c.disks[0].queues = 0xffff);
	REFUSED(c.disks[0].queue_size = 3);
	REFUSED(c.disks[0].queue_size = 1000);
	REFUSED(c.disks[0].queue_size = 2048);
	REFUSED(c.disks[0].queue_size = 0x8000);
	ACCEPTED(c.disks[0].queues = 8; c.disks[0].queue_size = 1024);
	ACCEPTED(c.disks[0].queue_size = 2);
	/* Only the last one is invalid. */
	REFUSED(c.ndisks = VM_DISKS_MAX;
		for (int i = 1; i < VM_DISKS_MAX; i++) c.disks[i] = c.disks[0];
		c.disks[VM_DISKS_MAX - 1].nlayers = 99);
}

/* No received bytes may crash the check, whatever it answers. */
static void test_random_bytes_do_not_crash_check(void **state)
{
	struct vm_config *c = malloc(sizeof(*c));
	unsigned seed = 5;

	(void)state;
	for (int round = 0; round < 3000; round++) {
		*c = sane();
		for (int k = 0; k < 4; k++)
			((uint8_t *)c)[(size_t)rand_r(&seed) % sizeof(*c)] = (uint8_t)rand_r(&seed);
		if (round % 50 == 0)
			for (size_t i = 0; i < sizeof(*c); i++)
				((uint8_t *)c)[i] = (uint8_t)rand_r(&seed);
		if (!check(c)) {
			assert_in_range(c->vcpus, 1, VM_VCPUS_MAX);
			assert_in_range(c->ndisks, 0, VM_DISKS_MAX);
			assert_int_equal(c->ram_bytes % 4096, 0);
		}
	}
	free(c);
}

static void test_message_tables_have_directions(void **state)
{
	(void)state;
	assert_int_equal(vm_msg_to_vm[VM_MSG_CONFIG].body_min, sizeof(struct vm_config));
	assert_int_equal(vm_msg_to_vm[VM_MSG_CONFIG].body_max, sizeof(struct vm_config));
	assert_false(vm_msg_to_vm[0].known);
	assert_false(vm_msg_to_vm[VM_MSG_REPLY].known);
	assert_false(vm_msg_to_vm[VM_MSG_EVENT].known);
	for (unsigned t = 0; t < VM_MSG_TYPE_COUNT; t++) {
		assert_false(vm_msg_to_vm[t].known && vm_msg_from_vm[t].known);
		assert_int_equal(
			vm_msg_from_vm[t].fds_max, 0); /* a VM process sends no fds to its daemon */
	}
}

static void test_reasons_have_names(void **state)
{
	(void)state;
	for (int r = -1; r <= VM_REASON_COUNT; r++)
		assert_non_null(vm_reason_name((enum vm_reason)r));
	for (int r = 1; r < VM_REASON_COUNT; r++)
		for (int k = 0; k < r; k++)
			assert_string_not_equal(vm_reason_name((enum vm_reason)r),
				vm_reason_name((enum vm_reason)k));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_valid_configuration_is_accepted),
		cmocka_unit_test(test_name_is_checked),
		cmocka_unit_test(test_strings_are_terminated),
		cmocka_unit_test(test_memory_size_is_checked),
		cmocka_unit_test(test_vcpus_and_topology_are_checked),
		cmocka_unit_test(test_fds_are_checked),
		cmocka_unit_test(test_duplicate_files_and_names_are_refused),
		cmocka_unit_test(test_enums_are_checked),
		cmocka_unit_test(test_disks_are_checked),
		cmocka_unit_test(test_random_bytes_do_not_crash_check),
		cmocka_unit_test(test_message_tables_have_directions),
		cmocka_unit_test(test_reasons_have_names),
	};

	alarm(30 * TEST_SLOW);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
