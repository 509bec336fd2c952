/* fork_host: CPUID leaves written by a fork read back; damaged or excessive ones are ignored. */
#include "vmm/kvm/fork_host.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/state.h"
#include "snapshot/vmstate.h"
#include "vmm/kvm/kvm.h"

#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define HOST_OFFSET (14 * MIB)
#define TOTAL_BYTES (20 * MIB)

static int file_new(uint32_t entries)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + entries * sizeof(c->entries[0]));
	struct kvm k = { .supported = c };
	struct vmstate_file f;
	struct err e;
	int fd = memfd_create("test_fork_host", 0);

	assert_true(fd >= 0);
	c->nent = entries;
	for (uint32_t i = 0; i < entries; i++)
		c->entries[i] = (struct kvm_cpuid_entry2){ .function = i, .index = i + 1, .flags = i + 2, .eax = i + 3,
			.ebx = i + 4, .ecx = i + 5, .edx = ~i };
	vmstate_file_init(&f, fd);
	assert_int_equal(fork_host_write(&f, &k, TOTAL_BYTES, &e), 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), TOTAL_BYTES);
	free(c);
	return fd;
}

static void test_cpuid_leaves_read_back(void **state)
{
	static const uint32_t counts[] = { 1, 75, KVM_CPUID_ENTRIES_MAX };

	(void)state;
	for (size_t n = 0; n < ARRAY_SIZE(counts); n++) {
		int fd = file_new(counts[n]);
		struct kvm_cpuid2 *c = fork_host_read(fd);

		assert_non_null(c);
		assert_int_equal(c->nent, counts[n]);
		for (uint32_t i = 0; i < c->nent; i++) {
			const struct kvm_cpuid_entry2 want = { .function = i, .index = i + 1, .flags = i + 2, .eax = i + 3,
				.ebx = i + 4, .ecx = i + 5, .edx = ~i };

			assert_memory_equal(&c->entries[i], &want, sizeof(want));
		}
		free(c);
		close(fd);
	}
}

static void test_damaged_leaves_are_ignored(void **state)
{
	int fd = file_new(3);

	(void)state;
	for (off_t at = 0; at < 20 + 4 + 4 + 3 * 28; at++) {
		uint8_t b, broken;

		assert_int_equal(pread(fd, &b, 1, HOST_OFFSET + at), 1);
		broken = b ^ 0x10;
		assert_int_equal(pwrite(fd, &broken, 1, HOST_OFFSET + at), 1);
		assert_null(fork_host_read(fd));
		assert_int_equal(pwrite(fd, &b, 1, HOST_OFFSET + at), 1);
	}
	close(fd);
}

/* Write a complete section with a valid checksum: a count of n, and as many entries. */
static void section_put(int fd, const char *name, uint16_t version, uint32_t promised, uint32_t there)
{
	struct state_writer w;

	state_writer_init(&w);
	state_section_begin(&w, name, "", version);
	state_put_u32(&w, promised);
	for (uint32_t i = 0; i < there * 7; i++)
		state_put_u32(&w, i);
	state_section_end(&w);
	assert_int_equal(pwrite(fd, w.buf, w.len, HOST_OFFSET), w.len);
	state_writer_done(&w);
}

static void test_missing_leaves_read_as_null(void **state)
{
	struct kvm nothing = { 0 };
	struct vmstate_file f;
	struct kvm_cpuid2 *c;
	struct err e;
	int fd = memfd_create("test_fork_host", 0);

	(void)state;
	assert_null(fork_host_read(fd));
	vmstate_file_init(&f, fd);
	assert_int_equal(fork_host_write(&f, &nothing, TOTAL_BYTES, &e), 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), TOTAL_BYTES);
	assert_null(fork_host_read(fd));
	section_put(fd, "host", 1, 2, 2);
	c = fork_host_read(fd);
	assert_non_null(c);
	free(c);
	section_put(fd, "host", 1, 0, 0);
	assert_null(fork_host_read(fd));
	section_put(fd, "host", 1, 3, 2);
	assert_null(fork_host_read(fd));
	section_put(fd, "host", 1, 2, 3);
	assert_null(fork_host_read(fd));
	section_put(fd, "host", 1, KVM_CPUID_ENTRIES_MAX + 1, KVM_CPUID_ENTRIES_MAX + 1);
	assert_null(fork_host_read(fd));
	section_put(fd, "host", 1, UINT32_MAX, 2);
	assert_null(fork_host_read(fd));
	section_put(fd, "host", 2, 2, 2);
	assert_null(fork_host_read(fd));
	section_put(fd, "guest", 1, 2, 2);
	assert_null(fork_host_read(fd));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_cpuid_leaves_read_back), cmocka_unit_test(test_damaged_leaves_are_ignored),
		cmocka_unit_test(test_missing_leaves_read_as_null) };

	alarm(30 * TEST_SLOW);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
