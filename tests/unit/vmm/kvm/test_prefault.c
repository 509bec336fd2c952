/* The pages that a guest touches first: which are found, and that a list's written pages are copied in advance.
 * One test needs /dev/kvm; tests/e2e/vmm/test_linux_warm.py shows what a guest gains. */
#include "fixture_kvm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "snapshot/first_pages.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/memory.h"
#include "vmm/kvm/prefault.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define RAM_OFFSET (16 * MIB)
#define RAM_BYTES (40 * MIB)

static const atomic_bool go; /* false: the thread need not stop */

struct fixture {
	struct memory mem;
	struct prefault p;
	int state; /* the state's file: the list, then RAM full of data */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint8_t *data = malloc(RAM_BYTES);
	struct err e;

	*state = f;
	memset(data, 5, RAM_BYTES);
	f->state = memfd_create("state", MFD_CLOEXEC);
	assert_int_equal(pwrite(f->state, data, RAM_BYTES, RAM_OFFSET), RAM_BYTES);
	free(data);
	assert_int_equal(memory_init(&f->mem, RAM_BYTES, false, &e), 0);
	assert_int_equal(memory_map_cow(&f->mem, dup(f->state), RAM_OFFSET, &pagemap, &e), 0);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	prefault_done(&f->p);
	memory_done(&f->mem);
	close(f->state);
	free(f);
	return 0;
}

static uint8_t page_read(const struct fixture *f, size_t page)
{
	return *(volatile uint8_t *)(f->mem.host + page * PAGE);
}

static void page_write(const struct fixture *f, size_t page)
{
	*(volatile uint8_t *)(f->mem.host + page * PAGE) = 7;
}

/* Return the list that a run makes. */
static size_t list_make(const struct fixture *f, uint32_t *list)
{
	int fd = memfd_create("list", MFD_CLOEXEC);
	struct err e;
	ssize_t n;

	assert_int_equal(prefault_make(&f->p, fd, &e), 0);
	n = pread(fd, list, FIRST_PAGES_MAX * sizeof(*list), 0);
	assert_true(n >= 0 && n % sizeof(*list) == 0);
	close(fd);
	return (size_t)n / sizeof(*list);
}

static uint64_t entry_of(const struct fixture *f, size_t page)
{
	uint64_t entry;

	assert_int_equal(ram_view_entries(memory_view(&f->mem), page * PAGE, &entry, 1), 0);
	return entry;
}

static void test_list_has_touched_pages(void **state)
{
	struct fixture *f = *state;
	uint32_t list[FIRST_PAGES_MAX];
	const uint32_t all[] = { first_page(0, false), first_page(1, true), first_page(17, false), first_page(5000, true), first_page(RAM_BYTES / PAGE - 1, false) },
		written[] = { all[1], all[3] };
	size_t n;

	prefault_init(&f->p, &f->mem, f->state, -1);
	page_write(f, 1);
	page_write(f, 5000);
	assert_int_equal(page_read(f, 0) + page_read(f, 17) + page_read(f, RAM_BYTES / PAGE - 1), 15);
	n = list_make(f, list);
	if (f->p.uffd >= 0) { /* Linux 6.7 */
		assert_int_equal(n, ARRAY_SIZE(all));
		assert_memory_equal(list, all, sizeof(all));
	} else {
		assert_int_equal(n, ARRAY_SIZE(written));
		assert_memory_equal(list, written, sizeof(written));
	}
}

static void test_without_userfaultfd_only_written_pages_are_known(void **state)
{
	struct fixture *f = *state;
	uint32_t list[FIRST_PAGES_MAX];

	prefault_init(&f->p, &f->mem, f->state, -1);
	if (f->p.uffd >= 0)
		close(f->p.uffd);
	f->p.uffd = -1;
	page_write(f, 1);
	page_read(f, 17); /* maps its neighbours, too */
	assert_int_equal(list_make(f, list), 1);
	assert_int_equal(list[0], first_page(1, true));
}

static void test_too_many_pages_make_an_empty_list(void **state)
{
	struct fixture *f = *state;
	uint32_t list[FIRST_PAGES_MAX];

	prefault_init(&f->p, &f->mem, f->state, -1);
	for (size_t i = 0; i < FIRST_PAGES_MAX; i++)
		page_write(f, 2 * i);
	assert_int_equal(list_make(f, list), FIRST_PAGES_MAX);
	page_write(f, 1);
	assert_int_equal(list_make(f, list), 0);
}

static void test_written_pages_of_a_list_are_copied(void **state)
{
	struct fixture *f = *state;
	const uint32_t list[] = { first_page(3, true), first_page(4, true), first_page(5, false), first_page(6, true), first_page(900, false),
		first_page(RAM_BYTES / PAGE - 1, true) };

	assert_int_equal(first_pages_write(f->state, list, ARRAY_SIZE(list)), 0);
	prefault_init(&f->p, &f->mem, f->state, -1);
	assert_int_equal(f->p.uffd, -1); /* the list is there */
	prefault_run(&f->p, -1, &go); /* KVM maps nothing, as where it shadows page tables */
	for (size_t i = 0; i < ARRAY_SIZE(list); i++)
		assert_int_equal(ram_view_entry_is_own(entry_of(f, first_page_number(list[i]))), first_page_is_written(list[i]));
	assert_false(ram_view_entry_is_own(entry_of(f, 7)));
	assert_int_equal(page_read(f, 3) + page_read(f, 5) + page_read(f, RAM_BYTES / PAGE - 1), 15);
}

static void test_thread_that_has_to_stop_maps_nothing(void **state)
{
	struct fixture *f = *state;
	const uint32_t list[] = { first_page(3, true) };
	atomic_bool stop = true;

	assert_int_equal(first_pages_write(f->state, list, ARRAY_SIZE(list)), 0);
	prefault_init(&f->p, &f->mem, f->state, -1);
	prefault_run(&f->p, -1, &stop);
	assert_false(ram_view_entry_is_own(entry_of(f, 3)));
}

/* Of two first runs at the same time, one has written the list, but `cairn run` of the other has found none. */
static void test_list_that_was_there_is_not_made_again(void **state)
{
	struct fixture *f = *state;
	const uint32_t list[] = { first_page(3, true), first_page(5, false), first_page(900, false) };
	uint32_t made[FIRST_PAGES_MAX];

	assert_int_equal(first_pages_write(f->state, list, ARRAY_SIZE(list)), 0);
	prefault_init(&f->p, &f->mem, f->state, -1);
	prefault_run(&f->p, -1, &go);
	page_write(f, 17);
	assert_int_equal(list_make(f, made), ARRAY_SIZE(list));
	assert_memory_equal(made, list, sizeof(list));
}

/* Return a figure of KVM's binary statistics (KVM_GET_STATS_FD); -1: this KVM lacks it. */
static int64_t kvm_figure(int stats_fd, const char *name)
{
	struct kvm_stats_header h;
	int64_t value = -1;

	assert_int_equal(pread_full(stats_fd, &h, sizeof(h), 0), 0);
	for (uint32_t i = 0; i < h.num_desc && value < 0; i++) {
		uint8_t buf[sizeof(struct kvm_stats_desc) + 256] = { 0 };
		struct kvm_stats_desc d;

		assert_in_range(h.name_size, 1, 255);
		assert_int_equal(pread_full(stats_fd, buf, sizeof(d) + h.name_size, (off_t)(h.desc_offset + i * (sizeof(d) + h.name_size))), 0);
		memcpy(&d, buf, sizeof(d));
		if (!strcmp((char *)buf + sizeof(d), name))
			assert_int_equal(pread_full(stats_fd, &value, sizeof(value), (off_t)h.data_offset + d.offset), 0);
	}
	return value;
}

static void test_kvm_maps_the_pages_of_a_list(void **state)
{
	struct fixture *f = *state;
	struct kvm *k = kvm_fx_new(sizeof(*k));
	const uint32_t list[] = { first_page(3, true), first_page(4, true), first_page(5, false), first_page(900, false), first_page(RAM_BYTES / PAGE - 1, true) };
	bool can = kvm_ioctl(k->sys_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_PRE_FAULT_MEMORY) > 0;
	int stats = kvm_ioctl(k->vm_fd, KVM_GET_STATS_FD, NULL), vcpu;
	struct err e = { 0 };

	print_message("this KVM %s map pages in advance\n", can ? "can" : "cannot");
	must(memory_attach(&f->mem, k, &e), &e);
	vcpu = kvm_ioctl(k->vm_fd, KVM_CREATE_VCPU, 0);
	assert_true(stats >= 0 && vcpu >= 0);
	assert_int_equal(first_pages_write(f->state, list, ARRAY_SIZE(list)), 0);
	prefault_init(&f->p, &f->mem, f->state, k->sys_fd);
	assert_int_equal(f->p.maps, can);
	assert_int_equal(kvm_figure(stats, "pages_4k"), 0);
	prefault_run(&f->p, vcpu, &go);
	assert_int_equal(kvm_figure(stats, "pages_4k"), can ? ARRAY_SIZE(list) : 0);
	for (size_t i = 0; i < ARRAY_SIZE(list); i++)
		assert_int_equal(ram_view_entry_is_own(entry_of(f, first_page_number(list[i]))), first_page_is_written(list[i]));
	close(vcpu);
	close(stats);
	kvm_done(k);
	free(k);
}

static void test_vm_without_a_state_has_no_pages(void **state)
{
	struct prefault none = { .uffd = -1 };
	int fd = memfd_create("list", MFD_CLOEXEC);
	struct err e;
	char c;

	(void)state;
	prefault_run(&none, -1, &go);
	assert_int_equal(prefault_make(&none, fd, &e), 0);
	assert_int_equal(read(fd, &c, 1), 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_list_has_touched_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_without_userfaultfd_only_written_pages_are_known, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_many_pages_make_an_empty_list, setup, teardown),
		cmocka_unit_test_setup_teardown(test_written_pages_of_a_list_are_copied, setup, teardown),
		cmocka_unit_test_setup_teardown(test_thread_that_has_to_stop_maps_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_list_that_was_there_is_not_made_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kvm_maps_the_pages_of_a_list, setup, teardown),
		cmocka_unit_test(test_vm_without_a_state_has_no_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
