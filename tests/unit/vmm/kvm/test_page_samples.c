/* Samples of guest memory: how many, which, and which count as changed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "vmm/kvm/memory.h"
#include "vmm/kvm/page_samples.h"
#include "vmm/vm_msg.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096u

static uint64_t file_bytes(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void test_count_follows_size_within_bounds(void **state)
{
	(void)state;
	assert_int_equal(page_samples_count(64 * GIB, VM_DIRTY_RATE_PAGES), 64 * 512);
	assert_int_equal(page_samples_count(2 * GIB + PAGE, VM_DIRTY_RATE_PAGES), 2 * 512 + 1);
	assert_int_equal(page_samples_count(GIB, VM_DIRTY_RATE_PAGES), 512);
	assert_int_equal(page_samples_count(128 * MIB, VM_DIRTY_RATE_PAGES), PAGE_SAMPLES_MIN);
	assert_int_equal(page_samples_count(MIB, VM_DIRTY_RATE_PAGES), 256); /* all pages */
	assert_int_equal(page_samples_count(PAGE, VM_DIRTY_RATE_PAGES), 1);
	assert_int_equal(page_samples_count(GIB, VM_DIRTY_RATE_PAGES_MAX), VM_DIRTY_RATE_PAGES_MAX);
	assert_int_equal(page_samples_count(VM_RAM_MAX_BYTES, VM_DIRTY_RATE_PAGES_MAX), PAGE_SAMPLES_MAX);
	assert_int_equal(page_samples_count(VM_RAM_MAX_BYTES, UINT32_MAX), PAGE_SAMPLES_MAX);
}

static void test_each_part_of_memory_has_one_page(void **state)
{
	static const uint64_t sizes[] = { MIB, 7 * MIB + 3 * PAGE, 64 * MIB, 5 * GIB + PAGE, VM_RAM_MAX_BYTES };

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
		struct memory m = { .bytes = sizes[k] };
		uint64_t pages = sizes[k] / PAGE;
		uint32_t n = page_samples_count(sizes[k], VM_DIRTY_RATE_PAGES), moved = 0;
		struct page_samples *a = page_samples_new(&m, n, 1), *b = page_samples_new(&m, n, 2);

		for (uint64_t i = 0; i < n; i++) {
			uint64_t page = page_samples_page(a, (uint32_t)i);

			assert_true(page >= pages * i / n && page < pages * (i + 1) / n);
			moved += page != page_samples_page(b, (uint32_t)i);
		}
		assert_true(n == pages ? !moved : moved > n / 4); /* another seed, other pages */
		page_samples_free(a);
		page_samples_free(b);
	}
	page_samples_free(NULL);
}

static void test_rate_extrapolates(void **state)
{
	(void)state;
	assert_int_equal(page_samples_rate(GIB, 512, 0, 1000000000), 0);
	assert_int_equal(page_samples_rate(GIB, 512, 512, 1000000000), GIB);
	assert_int_equal(page_samples_rate(GIB, 512, 128, 2000000000), GIB / 8);
	assert_int_equal(page_samples_rate(64 * MIB, 512, 1, 1000000000), 128 * KIB);
	assert_int_equal(page_samples_rate(MIB, 256, 256, 500000000), 2 * MIB);
	assert_int_equal(page_samples_rate(GIB, 512, 256, 60 * 1000000000ULL), GIB / 2 / 60);
	/* No overflow, and no division by zero. */
	assert_int_equal(page_samples_rate(VM_RAM_MAX_BYTES, PAGE_SAMPLES_MAX, PAGE_SAMPLES_MAX, 1000000), VM_RAM_MAX_BYTES * 1000);
	assert_int_equal(page_samples_rate(PAGE, 1, 1, 0), PAGE * 1000000ULL);
}

/* Memory of 256 pages, each of them a sample. */
static struct page_samples *samples_of(struct memory *m)
{
	struct page_samples *s = page_samples_new(m, 256, 1);

	assert_non_null(s);
	for (uint32_t i = 0; i < 256; i++)
		assert_int_equal(page_samples_page(s, i), i);
	return s;
}

static void noted(struct page_samples *s, bool loads)
{
	for (uint32_t i = 0; i < 256; i++)
		assert_int_equal(page_samples_note(s, i, loads), 0);
}

static uint32_t changes(struct page_samples *s)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < 256; i++) {
		int r = page_samples_changed(s, i);

		assert_true(r == 0 || r == 1);
		n += (uint32_t)r;
	}
	return n;
}

static void test_absent_pages_stay_absent(void **state)
{
	struct memory m;
	struct page_samples *s;
	struct err e;

	(void)state;
	assert_int_equal(memory_init(&m, MIB, false, &e), 0);
	s = samples_of(&m);
	noted(s, false);
	assert_int_equal(changes(s), 0);
	assert_int_equal(file_bytes(m.fd), 0);
	m.host[5 * PAGE] = 1;
	assert_int_equal(page_samples_changed(s, 5), 1);
	assert_int_equal(changes(s), 1);
	assert_int_equal(file_bytes(m.fd), PAGE);
	page_samples_free(s);
	memory_done(&m);
}

static void test_written_pages_change_and_returned_ones_do_not(void **state)
{
	struct memory m;
	struct page_samples *s;
	struct err e;

	(void)state;
	assert_int_equal(memory_init(&m, MIB, false, &e), 0);
	s = samples_of(&m);
	memset(m.host, 7, 100 * PAGE);
	noted(s, false);
	assert_int_equal(changes(s), 0);
	assert_int_equal(memory_give_back(&m, 0, 20 * PAGE), 0);
	assert_int_equal(changes(s), 0);
	m.host[3 * PAGE] = 9;		       /* given back, and used again */
	memset(m.host + 50 * PAGE, 0, 2 * PAGE); /* zeros are a content, too */
	m.host[60 * PAGE + 4095] ^= 1;
	memset(m.host + 70 * PAGE, 7, PAGE); /* the same content */
	m.host[200 * PAGE] = 1;
	assert_int_equal(changes(s), 5);
	page_samples_free(s);
	memory_done(&m);
}

static void test_loaded_pages_count_as_unchanged(void **state)
{
	struct memory m;
	struct page_samples *s;
	struct err e;

	(void)state;
	assert_int_equal(memory_init(&m, MIB, false, &e), 0);
	s = samples_of(&m);
	memset(m.host, 7, 10 * PAGE);
	noted(s, true);
	memset(m.host + 10 * PAGE, 7, 30 * PAGE); /* a part that is loaded meanwhile */
	assert_int_equal(changes(s), 0);
	m.host[3 * PAGE] = 8;
	assert_int_equal(changes(s), 1);
	page_samples_free(s);
	memory_done(&m);
}

/* A clone: its base file has holes, and what it maps stays as it is. */
static void test_shared_pages_of_clone_are_not_mapped(void **state)
{
	int base = memfd_create("base", MFD_CLOEXEC), pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct page_samples *s;
	struct memory m;
	struct err e;
	uint8_t page[PAGE];
	uint64_t used;

	(void)state;
	assert_true(base >= 0 && pagemap >= 0);
	memset(page, 3, sizeof(page));
	assert_int_equal(ftruncate(base, MIB), 0);
	assert_int_equal(pwrite(base, page, sizeof(page), 9 * PAGE), PAGE);
	assert_int_equal(memory_init(&m, MIB, false, &e), 0);
	assert_int_equal(memory_map_cow(&m, base, 0, &pagemap, &e), 0);
	s = samples_of(&m);
	m.host[20 * PAGE] = m.host[21 * PAGE] = 5;
	used = file_bytes(base); /* the kernel fills a hole before it copies the page */
	noted(s, false);
	assert_int_equal(changes(s), 0);
	assert_int_equal(file_bytes(base), used);
	m.host[9 * PAGE] = 4;  /* of the base file */
	m.host[20 * PAGE] = 6; /* its own */
	m.host[30 * PAGE] = 1; /* a hole */
	assert_int_equal(memory_give_back(&m, 21 * PAGE, PAGE), 0);
	assert_int_equal(changes(s), 3);
	page_samples_free(s);
	memory_done(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_count_follows_size_within_bounds),
		cmocka_unit_test(test_each_part_of_memory_has_one_page),
		cmocka_unit_test(test_rate_extrapolates),
		cmocka_unit_test(test_absent_pages_stay_absent),
		cmocka_unit_test(test_written_pages_change_and_returned_ones_do_not),
		cmocka_unit_test(test_loaded_pages_count_as_unchanged),
		cmocka_unit_test(test_shared_pages_of_clone_are_not_mapped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
