/* memory: the layout and the e820 map for sizes on both sides of each boundary. */
#include "base/err.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "vmm/kvm/memory.h"

#include <fcntl.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const uint64_t sizes[] = { 1 * MIB, 1 * MIB + 4096, 2 * MIB, 128 * MIB, 3 * GIB - 4096,
	3 * GIB, 3 * GIB + 4096, 4 * GIB, 8 * GIB, 64 * GIB };

static void memory_make(struct memory *m, uint64_t bytes)
{
	struct err e = { 0 };

	assert_int_equal(memory_init(m, bytes, false, &e), 0);
}

static void test_split_at_3_gib_or_2_with_uefi(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct memory m;
		struct stat st;

		memory_make(&m, sizes[i]);
		assert_true(m.bytes == sizes[i]);
		assert_true(m.low_bytes == MIN(sizes[i], 3 * GIB));
		assert_true(m.low_bytes + m.high_bytes == sizes[i]);
		assert_int_equal(fstat(m.fd, &st), 0);
		assert_true((uint64_t)st.st_size == sizes[i]);
		assert_int_equal(st.st_blocks, 0); /* nothing is allocated before it is touched */
		memory_lay_out_for_uefi(&m);
		assert_true(m.low_bytes == MIN(sizes[i], 2 * GIB));
		assert_true(m.low_bytes + m.high_bytes == sizes[i]);
		memory_done(&m);
		assert_int_equal(m.fd, -1);
		memory_done(&m);
	}
}

static void test_devices_see_the_same_ram(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct dev_host h = { 0 };
		struct memory m;

		memory_make(&m, sizes[i]);
		memory_describe(&m, &h);
		assert_ptr_equal(dev_ram(&h, 0, m.low_bytes), m.host);
		assert_null(dev_ram(&h, 0, m.low_bytes + 1));
		assert_non_null(dev_ram(&h, m.low_bytes - 1, 1));
		assert_null(dev_ram(&h, m.low_bytes - 1, 2));
		assert_null(dev_ram(&h, m.low_bytes, 1));
		assert_null(dev_ram(&h, 0xfee00000, 4));
		assert_null(dev_ram(&h, MEM_HIGH_BASE - 1, 1));
		assert_null(dev_ram(&h, UINT64_MAX, 2));
		assert_null(dev_ram(&h, 1, UINT64_MAX));
		if (m.high_bytes) {
			assert_ptr_equal(
				dev_ram(&h, MEM_HIGH_BASE, m.high_bytes), m.host + 3 * GIB);
			/* The last byte is accessible and is the file's last byte. */
			*(uint8_t *)dev_ram(&h, MEM_HIGH_BASE + m.high_bytes - 1, 1) = 0x77;
			assert_int_equal(m.host[m.bytes - 1], 0x77);
		} else {
			assert_null(dev_ram(&h, MEM_HIGH_BASE, 1));
			assert_null(dev_ram(&h, MEM_HIGH_BASE, 0));
		}
		assert_null(dev_ram(&h, MEM_HIGH_BASE + m.high_bytes, 1));
		memory_done(&m);
	}
}

static uint32_t type_at(const struct memory_e820 *t, size_t n, uint64_t gpa)
{
	for (size_t i = 0; i < n; i++)
		if (gpa >= t[i].gpa && gpa - t[i].gpa < t[i].bytes)
			return t[i].type;
	return 0;
}

static void test_e820_is_sorted_and_true(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct memory_e820 t[MEMORY_E820_MAX];
		struct dev_host h = { 0 };
		uint64_t ram = 0;
		struct memory m;
		size_t n;

		memory_make(&m, sizes[i]);
		memory_describe(&m, &h);
		n = memory_e820(&m, t);
		assert_in_range(n, 1, MEMORY_E820_MAX);
		for (size_t k = 0; k < n; k++) {
			assert_true(t[k].bytes > 0);
			assert_true(!k || t[k].gpa >= t[k - 1].gpa + t[k - 1].bytes);
			if (t[k].type == E820_RAM) {
				assert_non_null(dev_ram(&h, t[k].gpa, t[k].bytes));
				ram += t[k].bytes;
			} else {
				assert_int_equal(t[k].type, E820_RESERVED);
			}
		}
		/* All RAM except the range from the EBDA to 1 MiB. */
		assert_true(ram == sizes[i] - (0x100000 - MEM_EBDA_BASE));
		assert_int_equal(type_at(t, n, 0), E820_RAM);
		assert_int_equal(type_at(t, n, MEM_EBDA_BASE - 1), E820_RAM);
		assert_int_equal(type_at(t, n, MEM_EBDA_BASE), E820_RESERVED);
		assert_int_equal(type_at(t, n, 0xa0000), 0);
		assert_int_equal(type_at(t, n, MEM_ACPI_BASE), E820_RESERVED);
		assert_int_equal(type_at(t, n, 0xfffff), E820_RESERVED);
		assert_int_equal(type_at(t, n, 0x100000), sizes[i] > MIB ? E820_RAM : 0);
		assert_int_equal(
			type_at(t, n, m.low_bytes - 1), sizes[i] > MIB ? E820_RAM : E820_RESERVED);
		assert_int_equal(type_at(t, n, MEM_PCI_BASE), 0);
		assert_int_equal(type_at(t, n, MEM_ECAM_BASE), E820_RESERVED);
		assert_int_equal(type_at(t, n, MEM_ECAM_BASE + MEM_ECAM_BYTES), 0);
		assert_int_equal(type_at(t, n, MEM_HIGH_BASE), m.high_bytes ? E820_RAM : 0);
		assert_int_equal(type_at(t, n, MEM_HIGH_BASE + m.high_bytes), 0);
		memory_done(&m);
	}
}

static void test_clear_zeros_and_frees_memory(void **state)
{
	struct memory m;
	struct stat st;

	(void)state;
	memory_make(&m, 8 * GIB);
	m.host[0] = m.host[3 * GIB] = m.host[8 * GIB - 1] = 1;
	memory_clear(&m);
	assert_int_equal(m.host[0] | m.host[3 * GIB] | m.host[8 * GIB - 1], 0);
	memory_clear(&m);
	assert_int_equal(fstat(m.fd, &st), 0);
	assert_int_equal(st.st_blocks, 0);
	memory_done(&m);
}

/* ---- private view of another VM's memory ---- */

#define VIEW_BYTES (64 * MIB)
#define VIEW_OFFSET (2 * MIB)

/* Memory of a clone's source: bytes at 1 and 2 MiB are set, the rest is a hole. */
static int base_make(void)
{
	int fd = memfd_create("base", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, VIEW_OFFSET + VIEW_BYTES), 0);
	assert_int_equal(pwrite(fd, "\xb1", 1, VIEW_OFFSET + MIB), 1);
	assert_int_equal(pwrite(fd, "\xb2", 1, VIEW_OFFSET + 2 * MIB), 1);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK), 0);
	return fd;
}

/* Borrowed: a view takes the file. */
static int *pagemap(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return &fd;
}

static void view_make(struct memory *m, int base)
{
	struct err e = { 0 };

	memory_make(m, VIEW_BYTES);
	assert_int_equal(memory_map_cow(m, fcntl(base, F_DUPFD_CLOEXEC, 3), VIEW_OFFSET, pagemap(), &e), 0);
	assert_non_null(memory_view(m));
}

static uint64_t blocks_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void test_views_share_and_diverge(void **state)
{
	int base = base_make();
	uint64_t before = blocks_of(base);
	struct memory a, b;
	uint8_t byte;

	(void)state;
	view_make(&a, base);
	view_make(&b, base);
	assert_int_equal(a.host[MIB], 0xb1);
	a.host[MIB] = 0xa1;
	a.host[5 * MIB] = 0xa5;
	assert_int_equal(b.host[MIB], 0xb1);
	assert_int_equal(b.host[2 * MIB], 0xb2);
	assert_int_equal(pread(base, &byte, 1, VIEW_OFFSET + MIB), 1);
	assert_int_equal(byte, 0xb1);
	assert_true(blocks_of(base) <= before + 2 * 4096); /* the page touched first was a hole */
	assert_int_equal(blocks_of(a.fd) + blocks_of(b.fd), 0);
	memory_done(&a);
	memory_done(&b);
	close(base);
}

static void test_cleared_view_is_ordinary_memory_and_base_unchanged(void **state)
{
	int base = base_make();
	uint8_t byte;
	struct memory m;

	(void)state;
	view_make(&m, base);
	m.host[5 * MIB] = 0xa5;
	memory_clear(&m);
	assert_null(memory_view(&m));
	assert_int_equal(m.host[MIB] | m.host[2 * MIB] | m.host[5 * MIB], 0);
	assert_int_equal(pread(base, &byte, 1, VIEW_OFFSET + MIB), 1);
	assert_int_equal(byte, 0xb1); /* other clones still see it */
	memory_done(&m);
	close(base);
}

/* Both processes of a handover map the same pages. */
static void test_taken_memory_is_the_same_memory(void **state)
{
	struct err e = { 0 };
	struct memory m, taken, wrong;

	(void)state;
	memory_make(&m, 2 * MIB);
	m.host[MIB] = 0xa5;
	assert_int_equal(memory_take(&taken, 2 * MIB, false, dup(m.fd), &e), 0);
	assert_int_equal(taken.host[MIB], 0xa5);
	taken.host[4096] = 0x5a;
	assert_int_equal(m.host[4096], 0x5a);
	assert_int_equal(memory_take(&wrong, 4 * MIB, false, m.fd, &e), -EINVAL);
	assert_string_equal(e.msg, "the file of the VM's memory does not have 4 MiB");
	memory_done(&wrong); /* m.fd is still open */
	memory_done(&m);
	assert_int_equal(taken.host[MIB], 0xa5);
	memory_done(&taken);
}

/* A clone's memory in its next process: own pages from the clone's file, all others from the base file. */
static void test_taken_view_shares_and_has_its_own_pages(void **state)
{
	int base = base_make();
	struct err e = { 0 };
	struct memory m, first, taken;

	(void)state;
	view_make(&m, base);
	assert_int_equal(pwrite(m.fd, "\xa1", 1, 5 * MIB), 1);
	assert_int_equal(memory_take_view(&first, VIEW_BYTES, dup(m.fd), dup(base), VIEW_OFFSET, pagemap(), &e), 0);
	assert_int_equal(memory_read_copy(&first, &e), 0);
	memory_drop_copy(&m); /* the process that hands the VM over does so, before it copies more */
	assert_int_equal(pwrite(m.fd, "\xa2", 1, 2 * MIB), 1);
	memory_adopt(&taken, &first);
	memory_done(&first);
	assert_non_null(memory_view(&taken));
	assert_int_equal(memory_read_copy(&taken, &e), 0);
	assert_int_equal(taken.host[MIB], 0xb1);
	assert_int_equal(taken.host[2 * MIB], 0xa2);
	assert_int_equal(taken.host[5 * MIB], 0xa1);
	taken.host[MIB] = 0xa3;
	assert_int_equal(m.host[MIB], 0xb1);
	memory_drop_copy(&taken);
	assert_int_equal(blocks_of(taken.fd), 0);
	assert_int_equal(taken.host[5 * MIB], 0xa1);
	assert_int_equal(pwrite(m.fd, "\xa4", 1, 5 * MIB), 1); /* a copy that is left over is no memory */
	memory_clear(&m);
	assert_int_equal(m.host[5 * MIB], 0);
	memory_done(&m);
	memory_done(&taken);
	close(base);
}

/* As where tmpfs has larger pages: one page was written, and its neighbours are zeros. */
static void test_copy_with_larger_pages_is_completed(void **state)
{
	static const uint8_t zeros[8192];
	int base = base_make();
	struct err e = { 0 };
	struct memory m, taken;

	(void)state;
	view_make(&m, base);
	assert_int_equal(m.host[MIB], 0xb1);
	assert_int_equal(pwrite(m.fd, zeros, 8192, MIB), 8192);
	m.host[MIB + 4096] = 0xa1;
	assert_int_equal(pwrite(m.fd, m.host + MIB + 4096, 4096, MIB + 4096), 4096);
	assert_int_equal(memory_take_view(&taken, VIEW_BYTES, dup(m.fd), dup(base), VIEW_OFFSET, pagemap(), &e), 0);
	assert_int_equal(memory_complete_copy(&m, 4096), 0);
	assert_int_equal(memory_read_copy(&taken, &e), 0);
	assert_int_equal(taken.host[MIB], 0xb1);
	assert_int_equal(taken.host[MIB + 4096], 0xa1);
	memory_done(&m);
	memory_done(&taken);
	close(base);
}

static void test_view_that_does_not_fit_is_refused(void **state)
{
	int base = base_make(), pipes[2];
	struct err e = { 0 };
	struct memory m, taken;

	(void)state;
	view_make(&m, base);
	assert_int_equal(memory_take_view(&taken, 2 * VIEW_BYTES, m.fd, base, VIEW_OFFSET, pagemap(), &e), -EINVAL);
	assert_string_equal(e.msg, "the file of the VM's memory does not have 128 MiB");
	memory_done(&taken); /* m.fd and base are still open */
	assert_int_equal(memory_take_view(&taken, VIEW_BYTES, m.fd, base, VIEW_OFFSET + 4096, pagemap(), &e), -EINVAL);
	assert_string_equal(e.msg, "the file of the clone's shared memory is too short");
	memory_done(&taken);
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(memory_take_view(&taken, VIEW_BYTES, m.fd, pipes[0], 0, pagemap(), &e), -EINVAL);
	memory_done(&taken);
	close(pipes[0]);
	close(pipes[1]);
	memory_done(&m);
	close(base);
}

static void test_impossible_size_is_an_error(void **state)
{
	struct err e = { 0 };
	struct memory m;

	(void)state;
	assert_true(memory_init(&m, 1ULL << 62, false, &e) < 0);
	assert_int_equal(e.cls, ERR_HOST);
	assert_non_null(strstr(e.msg, "MiB of guest memory"));
	memory_done(&m); /* after a failed init */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_split_at_3_gib_or_2_with_uefi),
		cmocka_unit_test(test_devices_see_the_same_ram),
		cmocka_unit_test(test_e820_is_sorted_and_true),
		cmocka_unit_test(test_clear_zeros_and_frees_memory),
		cmocka_unit_test(test_views_share_and_diverge),
		cmocka_unit_test(test_taken_memory_is_the_same_memory),
		cmocka_unit_test(test_taken_view_shares_and_has_its_own_pages),
		cmocka_unit_test(test_copy_with_larger_pages_is_completed),
		cmocka_unit_test(test_view_that_does_not_fit_is_refused),
		cmocka_unit_test(test_cleared_view_is_ordinary_memory_and_base_unchanged),
		cmocka_unit_test(test_impossible_size_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
