/* fork_host: facts about the host's processor that a fork wrote read back; damaged or excessive ones are ignored. */
#include "vmm/kvm/fork_host.h"
#include "base/cpuid.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/cpu_state.h"
#include "snapshot/state.h"
#include "snapshot/vmstate.h"
#include "vmm/kvm/kvm.h"

#include <fcntl.h>
#include <linux/kernel-page-flags.h>
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

static struct cpuid *leaves_new(uint32_t n)
{
	struct cpuid *c = cpuid_new(n);

	assert_non_null(c);
	for (uint32_t i = 0; i < n; i++)
		c->leaf[i] = (struct cpuid_leaf){ .function = i, .index = i + 1, .flags = i + 2,
			.reg = { i + 3, i + 4, i + 5, ~i } };
	return c;
}

static int file_new(uint32_t entries, uint32_t kind)
{
	struct kvm k = { .supported = leaves_new(entries), .cpu_kind = (uint8_t)kind, .xcr0 = 7,
		.own = kind == CPU_KIND_PROCESSOR ? leaves_new(3) : NULL };
	struct vmstate_file f;
	struct err e;
	int fd = memfd_create("test_fork_host", 0);

	assert_true(fd >= 0);
	vmstate_file_init(&f, fd);
	assert_int_equal(fork_host_write(&f, &k, TOTAL_BYTES, &e), 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), TOTAL_BYTES);
	free(k.supported);
	free(k.own);
	return fd;
}

/* Returns whether the file has facts. */
static bool has_facts(int fd)
{
	struct fork_host h;
	bool has;

	fork_host_read(fd, &h);
	has = h.supported != NULL;
	assert_true(has || (!h.own && !h.kind));
	fork_host_done(&h);
	return has;
}

static void test_facts_read_back(void **state)
{
	static const uint32_t counts[] = { 1, 75, CPUID_LEAVES_MAX };

	(void)state;
	for (size_t n = 0; n < ARRAY_SIZE(counts); n++) {
		for (uint32_t kind = CPU_KIND_VIRTUAL; kind <= CPU_KIND_PROCESSOR; kind++) {
			struct cpuid *want = leaves_new(counts[n]), *own = leaves_new(3);
			int fd = file_new(counts[n], kind);
			struct fork_host h;

			fork_host_read(fd, &h);
			assert_non_null(h.supported);
			assert_true(cpuid_equal(h.supported, want));
			assert_int_equal(h.kind, kind);
			assert_int_equal(h.xcr0, 7);
			assert_int_equal(h.own != NULL, kind == CPU_KIND_PROCESSOR);
			if (h.own)
				assert_true(cpuid_equal(h.own, own));
			fork_host_done(&h);
			free(want);
			free(own);
			close(fd);
		}
	}
}

static void test_damaged_facts_are_ignored(void **state)
{
	int fd = file_new(3, CPU_KIND_PROCESSOR);

	(void)state;
	assert_true(has_facts(fd));
	for (off_t at = 0; at < 20 + 4 + 12 + 4 + 3 * 28 + 4 + 3 * 28; at++) {
		uint8_t b, broken;

		assert_int_equal(pread(fd, &b, 1, HOST_OFFSET + at), 1);
		broken = b ^ 0x10;
		assert_int_equal(pwrite(fd, &broken, 1, HOST_OFFSET + at), 1);
		assert_false(has_facts(fd));
		assert_int_equal(pwrite(fd, &b, 1, HOST_OFFSET + at), 1);
	}
	close(fd);
}

/* Returns whether the kernel has put the page of the file at offset on a list of recently used pages. Skips the test
 * for a plain user, who may not know. */
static bool page_is_active(int fd, off_t offset)
{
	int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), flags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	volatile const uint8_t *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, offset);
	uint64_t entry = 0, bits = 0;

	assert_true(p != MAP_FAILED);
	(void)*p;
	assert_int_equal(pread(map, &entry, sizeof(entry), (off_t)((uintptr_t)p / 4096 * sizeof(entry))), sizeof(entry));
	entry &= (1ULL << 55) - 1;
	if (!entry || pread(flags, &bits, sizeof(bits), (off_t)(entry * sizeof(bits))) != sizeof(bits)) {
		print_message("skipped: only root reads the flags of pages\n");
		skip();
	}
	assert_int_equal(madvise((void *)p, 4096, MADV_SEQUENTIAL), 0);
	munmap((void *)p, 4096);
	close(map);
	close(flags);
	return bits & (1 << KPF_ACTIVE);
}

/* On such a list a page has a reference, for which a seal of the file would wait. */
static void test_reading_does_not_make_pages_active(void **state)
{
	int fd = file_new(75, CPU_KIND_PROCESSOR);
	uint8_t b;

	(void)state;
	for (unsigned i = 0; i < 3; i++)
		assert_true(has_facts(fd));
	for (unsigned i = 0; i < 4; i++)
		assert_false(page_is_active(fd, HOST_OFFSET + i * 4096));
	assert_int_equal(pread(fd, &b, 1, HOST_OFFSET), 1);
	if (!page_is_active(fd, HOST_OFFSET)) {
		print_message("skipped: this kernel has no list of recently used pages\n");
		skip();
	}
	close(fd);
}

/* Write a complete section with a valid checksum: a kind, a count of n and as many entries, and no own ones. */
static void section_put(int fd, const char *name, uint16_t version, uint32_t kind, uint32_t promised, uint32_t there)
{
	struct state_writer w;

	state_writer_init(&w);
	state_section_begin(&w, name, "", version);
	state_put_u32(&w, kind);
	state_put_u64(&w, 0);
	state_put_u32(&w, promised);
	for (uint32_t i = 0; i < there * 7; i++)
		state_put_u32(&w, i);
	state_put_u32(&w, 0);
	state_section_end(&w);
	assert_int_equal(pwrite(fd, w.buf, w.len, HOST_OFFSET), w.len);
	state_writer_done(&w);
}

static void test_missing_facts_read_as_none(void **state)
{
	static const struct {
		const char *name;
		uint16_t version;
		uint32_t kind, promised, there;
	} bad[] = { { "host", 2, CPU_KIND_VIRTUAL, 0, 0 }, { "host", 2, CPU_KIND_VIRTUAL, 3, 2 },
		{ "host", 2, CPU_KIND_VIRTUAL, 2, 3 }, { "host", 2, CPU_KIND_PROCESSOR, 2, 2 }, { "host", 2, 3, 2, 2 },
		{ "host", 2, CPU_KIND_VIRTUAL, CPUID_LEAVES_MAX + 1, CPUID_LEAVES_MAX + 1 },
		{ "host", 2, CPU_KIND_VIRTUAL, UINT32_MAX, 2 }, { "host", 1, CPU_KIND_VIRTUAL, 2, 2 },
		{ "guest", 2, CPU_KIND_VIRTUAL, 2, 2 } };
	struct kvm nothing = { 0 };
	struct vmstate_file f;
	struct err e;
	int fd = memfd_create("test_fork_host", 0);

	(void)state;
	assert_false(has_facts(fd));
	vmstate_file_init(&f, fd);
	assert_int_equal(fork_host_write(&f, &nothing, TOTAL_BYTES, &e), 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), TOTAL_BYTES);
	assert_false(has_facts(fd));
	section_put(fd, "host", 2, CPU_KIND_VIRTUAL, 2, 2);
	assert_true(has_facts(fd));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		section_put(fd, bad[i].name, bad[i].version, bad[i].kind, bad[i].promised, bad[i].there);
		assert_false(has_facts(fd));
	}
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_facts_read_back),
		cmocka_unit_test(test_reading_does_not_make_pages_active),
		cmocka_unit_test(test_damaged_facts_are_ignored), cmocka_unit_test(test_missing_facts_read_as_none) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
