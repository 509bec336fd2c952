/* RAM that comes when it is touched, and by itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "snapshot/pager.h"
#include "snapshot/uffd.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_BYTES (16 * MIB + 8192)

struct fixture {
	struct vmstate_file file;
	struct pager_config c;
	struct pager *p;
	struct uffd uffd;
	uint8_t *expect;
	atomic_int failures;
	char sentence[ERR_SENTENCE_MAX];
	atomic_bool slow; /* the store takes its time */
	atomic_ulong reads;
	int (*real_read)(struct vmstate_store *s, uint64_t off, void *buf, size_t len);
};

static struct fixture *fx;

static void failed(void *opaque, const struct err *e)
{
	struct fixture *f = opaque;

	snprintf(f->sentence, sizeof(f->sentence), "%s", e->msg);
	atomic_fetch_add(&f->failures, 1);
}

static int slow_read(struct vmstate_store *s, uint64_t off, void *buf, size_t len)
{
	atomic_fetch_add(&fx->reads, 1);
	if (atomic_load(&fx->slow))
		usleep(20000);
	return fx->real_read(s, off, buf, len);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct vmstate_header h = { .realtime_ns = 1 };
	struct vmstate_source src = { .sections = (const uint8_t *)"x", .sections_bytes = 1,
		.ram_bytes = RAM_BYTES, .ram_fd = -1 };
	struct vmstate_result result;

	fx = f;
	f->uffd.fd = -1;
	*state = f;
	f->expect = calloc(1, RAM_BYTES);
	for (size_t i = 0; i < RAM_BYTES; i += 512) /* every third block stays zeros */
		if (i / VMSTATE_BLOCK_BYTES % 3)
			memset(f->expect + i, (int)(i / 512 * 7 + 1), 512);
	vmstate_file_init(&f->file, memfd_create("state", MFD_CLOEXEC));
	src.ram = f->expect;
	assert_int_equal(vmstate_write(&f->file.store, &h, &src, NULL, &result, NULL), 0);
	assert_int_equal(vmstate_read_header(&f->file.store, &f->c.header, NULL), 0);
	assert_int_equal(vmstate_read_crcs(&f->file.store, &f->c.header, &f->c.crcs, NULL), 0);
	f->real_read = f->file.store.read;
	f->file.store.read = slow_read;
	f->c.store = &f->file.store;
	f->c.failed = failed;
	f->c.opaque = f;
	return 0;
}

static void begin(struct fixture *f)
{
	struct err e = { 0 };
	int r = uffd_open(&f->uffd);

	if (r < 0) {
		print_message("skipped: no userfaultfd for this user (%s)\n", strerror(-r));
		skip();
	}
	f->c.ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(f->c.ram != MAP_FAILED);
	if (pager_new(&f->c, &f->uffd, &f->p, &e) < 0 || pager_start(f->p, &e) < 0)
		fail_msg("%s", e.msg);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	pager_free(f->p);
	uffd_close(&f->uffd);
	if (f->c.ram)
		munmap(f->c.ram, RAM_BYTES);
	close(f->file.fd);
	free(f->expect);
	free(f);
	return 0;
}

static void test_touched_pages_come_first(void **state)
{
	struct fixture *f = *state;
	size_t last = RAM_BYTES - 1;
	struct pager_stats s;

	atomic_store(&f->slow, true); /* all of it would take seconds */
	begin(f);
	assert_int_equal(f->c.ram[last], f->expect[last]);
	assert_int_equal(f->c.ram[9 * MIB], f->expect[9 * MIB]);
	pager_stats(f->p, &s);
	assert_false(s.complete);
	assert_in_range(s.blocks_faulted, 1, 2);
	atomic_store(&f->slow, false);
	assert_true(pager_wait(f->p));
	assert_memory_equal(f->c.ram, f->expect, RAM_BYTES);
}

static void test_all_comes_by_itself(void **state)
{
	struct fixture *f = *state;
	struct pager_stats s;

	begin(f);
	assert_true(pager_wait(f->p));
	pager_stats(f->p, &s);
	assert_true(s.complete);
	assert_int_equal(s.blocks_prefetched + s.blocks_faulted, s.blocks_total);
	assert_memory_equal(f->c.ram, f->expect, RAM_BYTES);
	assert_int_equal(atomic_load(&f->failures), 0);
}

/* What a guest wrote before the background came by is not overwritten. */
static void test_writes_stay(void **state)
{
	struct fixture *f = *state;

	atomic_store(&f->slow, true);
	begin(f);
	for (size_t off = 12 * MIB; off < 13 * MIB; off += VMSTATE_BLOCK_BYTES)
		f->c.ram[off + 5] = f->expect[off + 5] = 0x5a;
	atomic_store(&f->slow, false);
	assert_true(pager_wait(f->p));
	assert_memory_equal(f->c.ram, f->expect, RAM_BYTES);
}

static void *toucher(void *opaque)
{
	struct fixture *f = fx;
	unsigned seed = (unsigned)(uintptr_t)opaque;

	for (int i = 0; i < 3000; i++) {
		size_t off = ((size_t)rand_r(&seed) * 4099) % RAM_BYTES;

		if (f->c.ram[off] != f->expect[off])
			return (void *)1;
	}
	return NULL;
}

static void test_many_at_once(void **state)
{
	struct fixture *f = *state;
	pthread_t t[6];
	void *bad;

	begin(f);
	for (uintptr_t i = 0; i < 6; i++)
		assert_int_equal(pthread_create(&t[i], NULL, toucher, (void *)(i + 1)), 0);
	for (int i = 0; i < 6; i++) {
		pthread_join(t[i], &bad);
		assert_null(bad);
	}
	assert_true(pager_wait(f->p));
}

static void test_a_damaged_block_is_reported_before_it_is_given(void **state)
{
	struct fixture *f = *state;
	uint8_t b = 0;
	uint64_t block = 100; /* no block of zeros */

	assert_int_equal(pwrite(f->file.fd, &b, 1,
				 (off_t)(f->c.header.layout.ram_offset + block * VMSTATE_BLOCK_BYTES)), 1);
	begin(f);
	assert_false(pager_wait(f->p));
	assert_int_equal(atomic_load(&f->failures), 1);
	assert_non_null(strstr(f->sentence, "block 100"));
	/* Whoever waits for it gets zeros, so that it can be stopped. */
	assert_int_equal(f->c.ram[block * VMSTATE_BLOCK_BYTES], 0);
}

static void test_stopped_in_the_middle(void **state)
{
	struct fixture *f = *state;

	atomic_store(&f->slow, true);
	begin(f);
	assert_int_equal(f->c.ram[MIB], f->expect[MIB]);
	pager_free(f->p);
	f->p = NULL;
	assert_true(atomic_load(&f->reads) < 50);
	/* The rest is zeros, and nobody waits for ever. */
	assert_int_equal(f->c.ram[RAM_BYTES - 1], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_touched_pages_come_first, setup, teardown),
		cmocka_unit_test_setup_teardown(test_all_comes_by_itself, setup, teardown),
		cmocka_unit_test_setup_teardown(test_writes_stay, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_damaged_block_is_reported_before_it_is_given, setup,
			teardown),
		cmocka_unit_test_setup_teardown(test_stopped_in_the_middle, setup, teardown),
	};

	alarm(60 * TEST_SLOW);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
