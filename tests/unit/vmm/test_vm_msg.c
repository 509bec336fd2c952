/* vm_msg: vm_config_check() with each field out of range, and the layout of messages of version 1. */
#include "base/err.h"
#include "base/machine_version.h"
#include "base/util.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
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
	ACCEPTED(c.small_pages = 1);
	REFUSED(c.small_pages = 2);
	REFUSED(c.small_pages = c.huge_pages = 1);
	ACCEPTED(c.start_paused = c.huge_pages = c.rng = c.virtio_console = c.foreground = 1);
}

/* An interface with two pairs of queues, whose files are the last one and one that no other part of sane() has. */
static void two_pairs(struct vm_config *c)
{
	c->disks[0].nlayers = 1;
	c->ninterfaces = 1;
	strcpy(c->interfaces[0].id, "net0");
	c->interfaces[0].tap_fd = 3;
	c->queue_pairs[0] = 2;
	c->pair_fds[0][0] = 2;
}

static void second_interface(struct vm_config *c)
{
	c->ninterfaces = 2;
	strcpy(c->interfaces[1].id, "net1");
	c->interfaces[1].tap_fd = VM_NO_FD;
}

static void test_pairs_of_queues_need_a_file_each(void **state)
{
	(void)state;
	ACCEPTED(two_pairs(&c));
	ACCEPTED(two_pairs(&c); c.interfaces[0].tap_fd = c.pair_fds[0][0] = VM_NO_FD);
	REFUSED(two_pairs(&c); c.pair_fds[0][0] = 3);
	REFUSED(two_pairs(&c); c.pair_fds[0][0] = NFDS);
	REFUSED(two_pairs(&c); c.pair_fds[0][0] = VM_NO_FD);
	REFUSED(two_pairs(&c); c.interfaces[0].tap_fd = VM_NO_FD);
	REFUSED(two_pairs(&c); c.queue_pairs[0] = 3);
	REFUSED(two_pairs(&c); c.queue_pairs[0] = VM_QUEUE_PAIRS_MAX + 1);
	REFUSED(two_pairs(&c); c.queue_pairs[0] = 255);
	REFUSED(two_pairs(&c); c.interfaces[0].user = 1);
}

static void test_slots_of_interfaces_differ(void **state)
{
	(void)state;
	ACCEPTED(two_pairs(&c); c.interface_slots[0] = MACHINE_SLOT_MAX);
	REFUSED(two_pairs(&c); c.interface_slots[0] = MACHINE_SLOT_MAX + 1);
	ACCEPTED(two_pairs(&c); second_interface(&c); c.interface_slots[0] = 3; c.interface_slots[1] = 4);
	ACCEPTED(two_pairs(&c); second_interface(&c));
	REFUSED(two_pairs(&c); second_interface(&c); c.interface_slots[0] = c.interface_slots[1] = 3);
}

static void with_vhost(struct vm_config *c)
{
	two_pairs(c);
	c->queue_pairs[0] = 0;
	c->vhost[0] = VM_VHOST_YES;
	c->vhost_fds[0][0] = 2;
}

static void test_vhost_needs_a_file_for_each_pair_and_a_tap(void **state)
{
	(void)state;
	ACCEPTED(with_vhost(&c));
	ACCEPTED(with_vhost(&c); c.vhost[0] = VM_VHOST_NO; c.vhost_fds[0][0] = NFDS);
	ACCEPTED(with_vhost(&c); c.vhost[0] = VM_VHOST_BEFORE; c.vhost_fds[0][0] = NFDS);
	REFUSED(with_vhost(&c); c.vhost_fds[0][0] = 3);
	REFUSED(with_vhost(&c); c.vhost_fds[0][0] = NFDS);
	REFUSED(with_vhost(&c); c.vhost_fds[0][0] = VM_NO_FD);
	REFUSED(with_vhost(&c); c.interfaces[0].tap_fd = VM_NO_FD);
	REFUSED(with_vhost(&c); c.interfaces[0].user = 1);
	REFUSED(with_vhost(&c); c.vhost[0] = VM_VHOST_BEFORE + 1);
	REFUSED(two_pairs(&c); c.vhost[0] = VM_VHOST_YES; c.vhost_fds[0][0] = 2);
}

static int take_held(unsigned held, unsigned relays, bool taken_over, unsigned *nfds)
{
	struct vm_config c = sane();
	struct channel_msg m = { .nfds = *nfds };
	struct err e;
	int r;

	c.held = (uint16_t)held;
	c.relays = (uint16_t)relays;
	c.taken_over = taken_over;
	memset(m.fds, 0xff, sizeof(m.fds));
	r = vm_config_take_held(&c, &m, &e);
	assert_true(!c.held && !c.relays);
	*nfds = m.nfds;
	return r;
}

static void test_numbers_of_held_files_are_checked(void **state)
{
	const struct {
		unsigned held, relays, nfds;
		int r;
	} rows[] = {
		{ 0, 0, 3, 0 },
		{ 0, 4, 3, -EINVAL },
		{ CHANNEL_FDS_MAX - 2, 1, 3, -EINVAL },
		{ UINT16_MAX, UINT16_MAX, CHANNEL_FDS_MAX, -EINVAL },
		{ 2, 0, 3, -EPROTO }, /* nobody has them */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		unsigned nfds = rows[i].nfds;

		assert_int_equal(take_held(rows[i].held, rows[i].relays, false, &nfds), rows[i].r);
		/* Bytes in the struct's padding, from a process of an earlier build, are ignored. */
		nfds = rows[i].nfds;
		assert_int_equal(take_held(rows[i].held, rows[i].relays, true, &nfds), 0);
		assert_int_equal(nfds, rows[i].nfds);
	}
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

static struct vm_config handed_over(void)
{
	struct vm_config c = sane();

	c.ndisks = 0;
	c.taken_over = 1;
	c.restore_fd = 1;
	c.taken = (struct vm_taken){ .ram_fd = 2, .listen_fd = 3, .phase = VM_PHASE_RUNNING, .reason = VM_REASON_BOOTED };
	memset(c.taken.detail, 'd', sizeof(c.taken.detail));
	return c;
}

static void test_handed_over_vm_is_checked(void **state)
{
	struct vm_config c = handed_over();

	(void)state;
	assert_int_equal(check(&c), 0);
	assert_int_equal(strlen(c.taken.detail), VM_DETAIL_MAX - 1);
#define REFUSED_HANDED_OVER(expr)                                                                  \
	do {                                                                                       \
		c = handed_over();                                                                 \
		expr;                                                                              \
		assert_int_equal(check(&c), -EINVAL);                                              \
	} while (0)
	REFUSED_HANDED_OVER(c.restore_fd = VM_NO_FD);
	REFUSED_HANDED_OVER(c.taken.ram_fd = VM_NO_FD);
	REFUSED_HANDED_OVER(c.taken.ram_fd = NFDS);
	REFUSED_HANDED_OVER(c.taken.listen_fd = VM_NO_FD);
	REFUSED_HANDED_OVER(c.taken.listen_fd = c.taken.ram_fd);
	REFUSED_HANDED_OVER(c.taken.phase = VM_PHASE_CRASHED);
	REFUSED_HANDED_OVER(c.taken.phase = VM_PHASE_NONE);
	REFUSED_HANDED_OVER(c.taken.reason = VM_REASON_COUNT);
	REFUSED_HANDED_OVER(c.forked = 1);
	REFUSED_HANDED_OVER(c.images_only = 1);
	REFUSED_HANDED_OVER(c.foreground = 1);
	REFUSED_HANDED_OVER(c.taken_memory = 1); /* and ram_fd */
	REFUSED_HANDED_OVER((c.taken_memory = c.huge_pages = 1, c.taken.ram_fd = VM_NO_FD));
	c = handed_over();
	c.taken_memory = 1;
	c.taken.ram_fd = VM_NO_FD;
	assert_int_equal(check(&c), 0);
	c = sane();
	c.taken = (struct vm_taken){ .ram_fd = NFDS, .phase = 77 };
	assert_int_equal(check(&c), 0); /* without taken_over: ignored */
}

/* Each fd is taken by its first user, so a second user would get -1 or the same file twice. */
static void test_duplicate_files_and_names_are_refused(void **state)
{
	(void)state;
	REFUSED((c.firmware = VM_FIRMWARE_BIOS, c.network_place = 1, c.network_rom_fd = c.kernel_fd));
	REFUSED((c.firmware = VM_FIRMWARE_BIOS, c.network_place = 1, c.network_rom_fd = VM_NO_FD));
	REFUSED((c.firmware = VM_FIRMWARE_BIOS, c.network_place = VM_BOOT_PLACES_MAX + 1, c.network_rom_fd = NFDS - 1));
	REFUSED((c.network_place = 1, c.network_rom_fd = NFDS - 1)); /* no firmware */
	ACCEPTED((c.firmware = VM_FIRMWARE_BIOS, c.network_place = 1, c.network_rom_fd = NFDS - 1));
	ACCEPTED(c.network_rom_fd = 0xfff0); /* not used */
	ACCEPTED((c.firmware = VM_FIRMWARE_BIOS, c.screen = c.screen_rom = 1, c.screen_rom_fd = NFDS - 1));
	ACCEPTED((c.firmware = VM_FIRMWARE_BIOS, c.screen = 1, c.screen_rom_fd = 0xfff0)); /* not used */
	REFUSED((c.firmware = VM_FIRMWARE_BIOS, c.screen = c.screen_rom = 1, c.screen_rom_fd = c.kernel_fd));
	REFUSED((c.firmware = VM_FIRMWARE_BIOS, c.screen = c.screen_rom = 1, c.screen_rom_fd = VM_NO_FD));
	REFUSED((c.firmware = VM_FIRMWARE_BIOS, c.screen = 1, c.screen_rom = 2, c.screen_rom_fd = NFDS - 1));
	REFUSED((c.firmware = VM_FIRMWARE_BIOS, c.screen_rom = 1, c.screen_rom_fd = NFDS - 1)); /* no screen */
	REFUSED((c.screen = c.screen_rom = 1, c.screen_rom_fd = NFDS - 1)); /* no firmware */
	ACCEPTED((c.firmware = VM_FIRMWARE_UEFI, c.nvram_fd = NFDS - 1, c.nvram_template_fd = c.kernel_fd, c.kernel_fd = VM_NO_FD));
	ACCEPTED((c.firmware = VM_FIRMWARE_UEFI, c.nvram_fd = NFDS - 1, c.nvram_template_fd = c.kernel_fd, c.kernel_fd = VM_NO_FD,
		c.network_place = 1)); /* OVMF needs no ROM */
	ACCEPTED((c.forked = c.state_later = 1, c.restore_fd = NFDS - 1, c.state_ready_fd = c.kernel_fd, c.kernel_fd = VM_NO_FD));
	REFUSED((c.state_later = 1, c.restore_fd = NFDS - 1, c.state_ready_fd = c.kernel_fd, c.kernel_fd = VM_NO_FD));
	REFUSED((c.forked = c.state_later = 1, c.restore_fd = NFDS - 1, c.state_ready_fd = NFDS - 1));
	REFUSED((c.forked = c.state_later = 1, c.restore_fd = NFDS - 1, c.state_ready_fd = VM_NO_FD));
	REFUSED((c.forked = 1, c.state_later = 2, c.restore_fd = NFDS - 1, c.state_ready_fd = c.kernel_fd, c.kernel_fd = VM_NO_FD));
	ACCEPTED((c.forked = 1, c.restore_fd = NFDS - 1, c.pins_readable = 1));
	REFUSED((c.restore_fd = NFDS - 1, c.pins_readable = 1));
	REFUSED((c.forked = 1, c.restore_fd = NFDS - 1, c.pins_readable = 1u << c.ndisks));
	REFUSED((c.firmware = VM_FIRMWARE_UEFI, c.nvram_fd = NFDS - 1, c.nvram_template_fd = NFDS - 1));
	REFUSED((c.firmware = VM_FIRMWARE_UEFI, c.nvram_fd = VM_NO_FD, c.nvram_template_fd = NFDS - 1));
	REFUSED((c.firmware = VM_FIRMWARE_UEFI, c.nvram_fd = NFDS - 1, c.nvram_template_fd = NFDS));
	REFUSED(c.firmware = VM_FIRMWARE_UEFI + 1);
	ACCEPTED(memcpy(c.sysinfo, "\1a\0\7b\0\7c", 9));
	ACCEPTED(memcpy(c.sysinfo, "\x15" "a", 3));
	REFUSED(memcpy(c.sysinfo, "\x16" "a", 3));		/* no such key */
	REFUSED(memcpy(c.sysinfo, "\1\0", 3));		/* an empty text */
	REFUSED(memset(c.sysinfo, 'a' - '`', sizeof(c.sysinfo))); /* no end of the text */
	REFUSED((memset(c.sysinfo, 'x', sizeof(c.sysinfo)), c.sysinfo[0] = 1, c.sysinfo[VM_SYSINFO_MAX - 1] = 0)); /* nor of the list */
	ACCEPTED((c.nshares = 1, strcpy(c.shares[0].tag, "t"), c.shares[0].fd = NFDS - 1));
	ACCEPTED((c.nshares = 1, strcpy(c.shares[0].tag, "t"), c.shares[0].fd = VM_NO_FD));
	ACCEPTED(c.shares[0].fd = c.kernel_fd); /* not used */
	REFUSED((c.nshares = 1, c.shares[0].fd = NFDS - 1)); /* no tag */
	REFUSED((c.nshares = 1, strcpy(c.shares[0].tag, "t"), c.shares[0].fd = c.kernel_fd));
	REFUSED((c.nshares = 1, strcpy(c.shares[0].tag, "t"), c.shares[0].fd = NFDS));
	REFUSED((c.nshares = VM_SHARES_MAX + 1, memset(c.shares, 'x', sizeof(c.shares))));
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
	assert_int_equal(vm_msg_to_vm[VM_MSG_CONFIG].body_min, offsetof(struct vm_config, taken_memory));
	assert_int_equal(vm_msg_to_vm[VM_MSG_CONFIG].body_max, sizeof(struct vm_config));
	assert_int_equal(vm_msg_to_vm[VM_MSG_FORK].body_min, offsetof(struct vm_fork, shared));
	assert_false(vm_msg_to_vm[0].known);
	assert_false(vm_msg_to_vm[VM_MSG_REPLY].known);
	assert_false(vm_msg_to_vm[VM_MSG_EVENT].known);
	for (unsigned t = 0; t < VM_MSG_TYPE_COUNT; t++) {
		assert_false(vm_msg_to_vm[t].known && vm_msg_from_vm[t].known);
		assert_int_equal(
			vm_msg_from_vm[t].fds_max, 0); /* a VM process sends no fds to its daemon */
	}
}

/* The layout of messages of version 1, which the daemon still exchanges with processes that an older version of Cairn
 * started. Taken from commit 823e769. VM_MSG_CONFIG and VM_MSG_CLONE_DISK go only to processes of the daemon's own
 * version. */
static void test_vm_msg_layout(void **state)
{
#define AT(type, field, at) { #type "." #field, offsetof(struct type, field), at }
	static const struct {
		const char *name;
		size_t is, was;
	} fields[] = {
		AT(vm_reply, error, 0), AT(vm_reply, cls, 4), AT(vm_reply, msg, 8),
		AT(vm_agent, action, 0), AT(vm_agent, text, 4),
		AT(vm_addresses, n, 0), AT(vm_addresses, cut, 4), AT(vm_addresses, list, 8),
		AT(vm_address, name, 0), AT(vm_address, mac, 32), AT(vm_address, has_mac, 38), AT(vm_address, family, 39),
		AT(vm_address, bytes, 40), AT(vm_address, prefix, 56),
		AT(vm_console, kind, 0), AT(vm_console, history, 4),
		AT(vm_event, kind, 0), AT(vm_event, phase, 4), AT(vm_event, reason, 5), AT(vm_event, is_write, 6),
		AT(vm_event, image_corrupt, 7), AT(vm_event, value, 8), AT(vm_event, realtime_ns, 16),
		AT(vm_event, device, 24), AT(vm_event, detail, 56), AT(vm_event, total, 440),
		AT(vm_snapshot_create, name, 0), AT(vm_snapshot_create, description, 256),
		AT(vm_snapshot_create, tags, 768), AT(vm_snapshot_create, disks_only, 896),
		AT(vm_snapshot_create, halt, 897), AT(vm_snapshot_create, quiesce, 898),
		AT(vm_snapshot_create, rate_bytes_per_s, 904),
		AT(vm_snapshot_done, error, 0), AT(vm_snapshot_done, cls, 4), AT(vm_snapshot_done, msg, 8),
		AT(vm_snapshot_done, id, 488), AT(vm_snapshot_done, pause_ns, 512),
		AT(vm_snapshot_done, total_ns, 520), AT(vm_snapshot_done, ram_bytes_written, 528),
		AT(vm_snapshot_done, ram_bytes_shared, 536), AT(vm_snapshot_done, left_out, 544),
		AT(vm_fork, copies, 0), AT(vm_fork, snapshot, 8), AT(vm_fork, pins, 264), AT(vm_fork, shared, 23688),
		AT(vm_dump, stay, 0),
		AT(vm_watchdog, action, 0),
		AT(vm_snapshot_name, name, 0),
		AT(vm_snapshot_revert, name, 0), AT(vm_snapshot_revert, then, 256),
		AT(vm_snapshot_revert, disks_only, 257), AT(vm_snapshot_revert, eager, 258),
		AT(vm_snapshot_revert, verify, 259), AT(vm_snapshot_revert, look_only, 260),
		AT(vm_snapshot_revert, disk, 264),
		AT(vm_snapshot_set, name, 0), AT(vm_snapshot_set, new_name, 256),
		AT(vm_snapshot_set, description, 512), AT(vm_snapshot_set, tags, 1024),
		AT(vm_snapshot_set, set_description, 1152), AT(vm_snapshot_set, set_tags, 1153),
		AT(vm_snapshot_list, from, 0),
		AT(vm_snapshot_info, id, 0), AT(vm_snapshot_info, parent, 24), AT(vm_snapshot_info, name, 48),
		AT(vm_snapshot_info, description, 304), AT(vm_snapshot_info, tags, 816),
		AT(vm_snapshot_info, realtime_ns, 944), AT(vm_snapshot_info, vm_clock_ns, 952),
		AT(vm_snapshot_info, vm_state_bytes, 960), AT(vm_snapshot_info, disk_bytes, 968),
		AT(vm_snapshot_info, own_bytes, 976), AT(vm_snapshot_info, state, 984),
		AT(vm_snapshot_info, current, 985), AT(vm_snapshot_info, disks_missing, 986),
		AT(vm_snapshot_info, disks_only, 987), AT(vm_snapshot_info, disks_added, 988),
		AT(vm_snapshots, total, 0), AT(vm_snapshots, from, 4), AT(vm_snapshots, n, 8),
		AT(vm_snapshots, list, 16),
		AT(vm_disk_info, id, 0), AT(vm_disk_info, size_bytes, 16), AT(vm_disk_info, rd_reqs, 24),
		AT(vm_disk_info, rd_bytes, 32), AT(vm_disk_info, rd_ns, 40), AT(vm_disk_info, wr_reqs, 48),
		AT(vm_disk_info, wr_bytes, 56), AT(vm_disk_info, wr_ns, 64), AT(vm_disk_info, fl_reqs, 72),
		AT(vm_disk_info, fl_ns, 80), AT(vm_disk_info, errors, 88),
		AT(vm_interface_info, id, 0), AT(vm_interface_info, target, 16), AT(vm_interface_info, mac, 32),
		AT(vm_interface_info, link_up, 38), AT(vm_interface_info, rx_bytes, 40),
		AT(vm_interface_info, rx_packets, 48), AT(vm_interface_info, rx_errors, 56),
		AT(vm_interface_info, rx_drops, 64), AT(vm_interface_info, tx_bytes, 72),
		AT(vm_interface_info, tx_packets, 80), AT(vm_interface_info, tx_errors, 88),
		AT(vm_interface_info, tx_drops, 96),
		AT(vm_info, phase, 0), AT(vm_info, reason, 1), AT(vm_info, host_kind, 2), AT(vm_info, assist_on, 3),
		AT(vm_info, vcpus, 4), AT(vm_info, vcpus_halted, 8), AT(vm_info, ndisks, 12), AT(vm_info, value, 16),
		AT(vm_info, detail, 24), AT(vm_info, ram_bytes, 408), AT(vm_info, started_realtime_ns, 416),
		AT(vm_info, exits_io, 424), AT(vm_info, exits_mmio, 432), AT(vm_info, exits_other, 440),
		AT(vm_info, assist_syscalls, 448), AT(vm_info, assist_instructions, 456), AT(vm_info, vcpu_ns, 464),
		AT(vm_info, disks, 976), AT(vm_info, disk_faults, 3280), AT(vm_info, console_bytes, 3304),
		AT(vm_info, console_readers, 3312), AT(vm_info, agent, 3316), AT(vm_info, ninterfaces, 3320),
		AT(vm_info, interfaces, 3328),
		/* of version 2, whose padding got new fields */
		AT(vm_info, hands_over, 4184), AT(vm_info, landlock, 4188),
		AT(vm_info, ends_consoles, 4189), AT(vm_info, agent_commands, 4190), AT(vm_info, handover_pause_ns, 4192),
		AT(vm_info, sets_interfaces, 4200), AT(vm_info, link_down, 4201), AT(vm_info, ends_agents, 4209), AT(vm_info, limits, 4216), AT(vm_info, vsock, 4728), AT(vm_info, dumps_then, 4737),
		AT(vm_interface_set, id, 0), AT(vm_interface_set, set_link, 16), AT(vm_interface_set, limits, 24),
	};
#undef AT
	/* requests; vm_compat_fit() cuts a longer body */
	_Static_assert(sizeof(struct vm_console) >= 8, "");
	_Static_assert(sizeof(struct vm_snapshot_create) >= 912, "");
	_Static_assert(sizeof(struct vm_snapshot_list) >= 4, "");
	_Static_assert(sizeof(struct vm_snapshot_revert) >= 280, "");
	_Static_assert(sizeof(struct vm_snapshot_name) >= 256, "");
	_Static_assert(sizeof(struct vm_snapshot_set) >= 1160, "");
	_Static_assert(sizeof(struct vm_fork) >= 264, "");
	_Static_assert(sizeof(struct vm_watchdog) >= 1, "");
	_Static_assert(sizeof(struct vm_dump) >= 1, "");
	_Static_assert(sizeof(struct vm_agent) >= 260, "");
	/* entries of arrays cannot grow */
	_Static_assert(sizeof(struct vm_snapshot_info) == 992, "");
	_Static_assert(sizeof(struct vm_disk_info) == 96, "");
	_Static_assert(sizeof(struct vm_interface_info) == 104, "");
	_Static_assert(sizeof(struct vm_address) == 64, "");
	static const struct {
		enum vm_msg_type type;
		uint32_t bytes;
	} answers[] = { { VM_MSG_REPLY, 488 }, { VM_MSG_INFO, 4160 }, { VM_MSG_SNAPSHOTS, 63504 },
		{ VM_MSG_SNAPSHOT_DONE, 928 }, { VM_MSG_SPACES, 384 }, { VM_MSG_ADDRESS_LIST, 6152 },
		{ VM_MSG_EVENT, 448 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (fields[i].is != fields[i].was)
			fail_msg("%s is at %zu, and was at %zu", fields[i].name, fields[i].is, fields[i].was);
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++)
		assert_in_range(answers[i].bytes, vm_msg_from_vm[answers[i].type].body_min,
			vm_msg_from_vm[answers[i].type].body_max);
}

/* The numbers in messages of version 1. Of an enum without gaps, the last one of version 1 stands for all. */
static void test_vm_msg_numbers(void **state)
{
	static const uint8_t types[][2] = { { VM_MSG_CONT, 2 }, { VM_MSG_STOP, 3 }, { VM_MSG_POWERDOWN, 4 },
		{ VM_MSG_RESET, 5 }, { VM_MSG_QUIT, 6 }, { VM_MSG_QUERY, 7 }, { VM_MSG_CONSOLE, 8 }, { VM_MSG_NMI, 9 },
		{ VM_MSG_SAVE, 10 }, { VM_MSG_CANCEL, 11 }, { VM_MSG_SNAPSHOT_CREATE, 12 }, { VM_MSG_SNAPSHOT_LIST, 13 },
		{ VM_MSG_SNAPSHOT_REVERT, 14 }, { VM_MSG_SNAPSHOT_DELETE, 15 }, { VM_MSG_REPLY, 16 }, { VM_MSG_INFO, 17 },
		{ VM_MSG_SNAPSHOT_SET, 18 }, { VM_MSG_SNAPSHOTS, 19 }, { VM_MSG_SNAPSHOT_DONE, 20 },
		{ VM_MSG_SNAPSHOT_SIZE, 21 }, { VM_MSG_FORK, 22 }, { VM_MSG_WATCHDOG, 23 }, { VM_MSG_DUMP, 24 },
		{ VM_MSG_AGENT, 25 }, { VM_MSG_SPACE, 27 }, { VM_MSG_SPACES, 28 }, { VM_MSG_ADDRESSES, 29 },
		{ VM_MSG_ADDRESS_LIST, 30 }, { VM_MSG_EVENT, 32 }, { VM_PHASE_ENDED, 4 }, { VM_REASON_WATCHDOG, 19 },
		{ VM_MSG_SNAPSHOT_GO, 63 }, { VM_GROUP_HELD, 3 }, { VM_GROUP_FROZEN, 4 }, { VM_STEP_RESUME, 3 },
		{ VM_EVENT_LINK_LOST, 13 }, { VM_EVENT_FORK_READY, 14 }, { VM_FORK_READY, 0 }, { VM_FORK_BEGUN, 1 }, { VM_FORK_DURABLE, 2 }, { VM_RECOVERY_REVERTED, 4 }, { VM_WATCHDOG_NMI, 6 }, { VM_CONSOLE_VIRTIO, 1 },
		{ VM_SNAPSHOT_PAUSED, 2 }, { VM_AGENT_REBOOT, 2 }, { VM_AGENT_ANSWERS, 3 }, { VM_DISK_CORRUPT, 3 },
		{ VM_HOST_PVM, 3 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		assert_int_equal(types[i][0], types[i][1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_valid_configuration_is_accepted),
		cmocka_unit_test(test_slots_of_interfaces_differ),
		cmocka_unit_test(test_pairs_of_queues_need_a_file_each),
		cmocka_unit_test(test_vhost_needs_a_file_for_each_pair_and_a_tap),
		cmocka_unit_test(test_numbers_of_held_files_are_checked),
		cmocka_unit_test(test_name_is_checked),
		cmocka_unit_test(test_strings_are_terminated),
		cmocka_unit_test(test_memory_size_is_checked),
		cmocka_unit_test(test_vcpus_and_topology_are_checked),
		cmocka_unit_test(test_fds_are_checked),
		cmocka_unit_test(test_duplicate_files_and_names_are_refused),
		cmocka_unit_test(test_handed_over_vm_is_checked),
		cmocka_unit_test(test_enums_are_checked),
		cmocka_unit_test(test_disks_are_checked),
		cmocka_unit_test(test_random_bytes_do_not_crash_check),
		cmocka_unit_test(test_message_tables_have_directions),
		cmocka_unit_test(test_vm_msg_layout),
		cmocka_unit_test(test_vm_msg_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
