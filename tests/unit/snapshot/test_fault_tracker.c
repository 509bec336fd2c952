/* Memory as of a reset of the dirty bits, while it keeps changing. */
#include "fixture_tracker.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRITERS 3

/* The threads that write the memory of a test. */
static struct {
	pthread_t thread[WRITERS];
	atomic_bool stop, hold;
	atomic_uint holding, born;
} writers;

static bool everybody_waits(void *opaque, int tid)
{
	(void)opaque;
	assert_true(tid > 0);
	return true;
}

static void test_written_blocks_are_dirty(void **state)
{
	struct tracker_fixture *f = *state;

	tracker_begin(f);
	tracker_reset_dirty(f);
	f->c.ram[3 * VMSTATE_BLOCK_BYTES + 100] = 1;
	f->c.ram[3 * VMSTATE_BLOCK_BYTES + 50000] = 1;
	f->c.ram[RAM_BYTES - 1] = 2; /* an untouched page, in the short last block */
	assert_int_equal(f->c.ram[5 * VMSTATE_BLOCK_BYTES], 0); /* reading does not make it dirty */
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 2);
	assert_true(bitmap_test(&f->dirty, 3));
	assert_true(bitmap_test(&f->dirty, BLOCKS - 1));
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 0);
	f->c.ram[3 * VMSTATE_BLOCK_BYTES] = 9; /* protected again */
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 1);
	assert_true(bitmap_test(&f->dirty, 3));
}

/* A writer that pauses only while the dirty bits are reset. */
static void *writer(void *opaque)
{
	struct tracker_fixture *f = opaque;
	size_t own = atomic_fetch_add(&writers.born, 1) % 8; /* this thread's byte of each eight */
	unsigned seed = (unsigned)(uintptr_t)pthread_self();

	while (!atomic_load(&writers.stop)) {
		size_t off = ((size_t)rand_r(&seed) * 8192 + (size_t)rand_r(&seed) % 8192) % RAM_BYTES;

		off = ROUND_DOWN(off, 8) + own;

		if (atomic_load(&writers.hold)) {
			atomic_fetch_add(&writers.holding, 1);
			while (atomic_load(&writers.hold))
				usleep(100);
			atomic_fetch_sub(&writers.holding, 1);
		}
		f->c.ram[off]++;
	}
	return NULL;
}

static void writers_start(struct tracker_fixture *f)
{
	memset(&writers, 0, sizeof(writers));
	for (int i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&writers.thread[i], NULL, writer, f), 0);
}

static void writers_hold(void)
{
	atomic_store(&writers.hold, true);
	while (atomic_load(&writers.holding) < WRITERS)
		usleep(50);
}

static void writers_release(void)
{
	atomic_store(&writers.hold, false);
	while (atomic_load(&writers.holding))
		usleep(50);
}

static void writers_stop(void)
{
	atomic_store(&writers.stop, true);
	for (int i = 0; i < WRITERS; i++)
		pthread_join(writers.thread[i], NULL);
}

static void save_round(struct tracker_fixture *f, const struct bitmap *wanted, unsigned delay_us)
{
	writers_hold();
	tracker_reset_dirty(f);
	fault_tracker_save_begin(f->t, wanted ? wanted : &f->dirty);
	memcpy(f->before, f->c.ram, RAM_BYTES);
	writers_release();
	tracker_save_and_compare(f, wanted ? wanted : &f->dirty, delay_us);
}

static void test_save_has_memory_as_of_reset_while_writers_run(void **state)
{
	struct tracker_fixture *f = *state;
	struct fault_tracker_stats s;

	tracker_begin(f);
	writers_start(f);
	for (int i = 0; i < 20; i++)
		save_round(f, &f->all, i % 4 ? 0 : 200);
	writers_stop();
	fault_tracker_stats(f->t, &s);
	assert_true(s.copied_aside > 0);
}

/* A save from a hold is complete, and does not change which blocks the next reset reports. */
static void test_hold_keeps_dirty_blocks(void **state)
{
	struct tracker_fixture *f = *state;
	struct err e;

	tracker_begin(f);
	tracker_reset_dirty(f);
	memset(f->c.ram + 3 * VMSTATE_BLOCK_BYTES, 3, VMSTATE_BLOCK_BYTES);
	assert_int_equal(fault_tracker_hold(f->t, &e), 0);
	fault_tracker_save_begin(f->t, &f->all);
	memcpy(f->before, f->c.ram, RAM_BYTES);
	f->c.ram[3 * VMSTATE_BLOCK_BYTES] = 4; /* copied aside although it is already dirty */
	f->c.ram[5 * VMSTATE_BLOCK_BYTES] = 5;
	tracker_save_and_compare(f, &f->all, 0);
	f->c.ram[7 * VMSTATE_BLOCK_BYTES] = 7;
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 3);
	for (size_t b = 3; b < 8; b += 2)
		assert_true(bitmap_test(&f->dirty, b));
}

/* A block that fault_tracker_preprotect() protects again stays dirty, and the next write to it faults. */
static void test_preprotected_block_stays_dirty(void **state)
{
	struct tracker_fixture *f = *state;
	struct fault_tracker_stats s;
	struct err e;
	uint64_t before;

	tracker_begin(f);
	tracker_reset_dirty(f);
	memset(f->c.ram + 3 * VMSTATE_BLOCK_BYTES, 3, 4 * VMSTATE_BLOCK_BYTES);
	assert_int_equal(fault_tracker_preprotect(f->t, 4, &e), 0); /* few enough */
	fault_tracker_stats(f->t, &s);
	before = s.faults;
	f->c.ram[3 * VMSTATE_BLOCK_BYTES] = 4;
	fault_tracker_stats(f->t, &s);
	assert_int_equal(s.faults, before);
	assert_int_equal(fault_tracker_preprotect(f->t, 3, &e), 0);
	f->c.ram[5 * VMSTATE_BLOCK_BYTES] = 5;
	fault_tracker_stats(f->t, &s);
	assert_int_equal(s.faults, before + 1);
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 4);
	memcpy(f->before, f->c.ram, RAM_BYTES);
	fault_tracker_save_begin(f->t, &f->all);
	f->c.ram[5 * VMSTATE_BLOCK_BYTES] = 6;
	f->c.ram[6 * VMSTATE_BLOCK_BYTES] = 7;
	tracker_save_and_compare(f, &f->all, 0);
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 2);
}

/* A vCPU is stopped while its fault waits for an answer, which comes after the reset of the dirty bits. */
static void test_fault_answered_after_reset_counts(void **state)
{
	struct tracker_fixture *f = *state;
	struct err e = { 0 };
	uint64_t block;

	tracker_begin(f);
	memset(f->c.ram, 5, VMSTATE_BLOCK_BYTES);
	assert_int_equal(fault_tracker_preprotect(f->t, 0, &e), 0);
	tracker_reset_dirty(f);
	assert_true(bitmap_test(&f->dirty, 0));
	/* The effect of the answer: no change, but possibly a write. */
	__atomic_fetch_or(f->c.ram, 0, __ATOMIC_SEQ_CST);
	fault_tracker_save_begin(f->t, &f->dirty);
	memset(f->c.ram, 6, VMSTATE_BLOCK_BYTES);
	assert_int_equal(fault_tracker_save_next(f->t, &block, f->buf), 1);
	assert_int_equal(block, 0);
	assert_int_equal(f->buf[0], 5);
	fault_tracker_save_end(f->t);
	tracker_reset_dirty(f);
	assert_true(bitmap_test(&f->dirty, 0));
}

/* A buffer for a block's content that stops the thread that writes to it, until the test lets it. */
struct trap {
	struct uffd uffd;
	uint8_t *buf;
};

static void trap_init(struct trap *t)
{
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	t->buf = mmap(NULL, VMSTATE_BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(t->buf != MAP_FAILED);
	assert_int_equal(uffd_open(&t->uffd), 0);
	reg.range = (struct uffdio_range){ (uintptr_t)t->buf, VMSTATE_BLOCK_BYTES };
	assert_int_equal(ioctl(t->uffd.fd, UFFDIO_REGISTER, &reg), 0);
}

/* Wait until a thread is stopped. */
static void trap_wait(const struct trap *t)
{
	struct pollfd fault = { .fd = t->uffd.fd, .events = POLLIN };

	assert_int_equal(poll(&fault, 1, -1), 1);
}

static void trap_open(struct trap *t)
{
	uffd_close(&t->uffd); /* unregisters the buffer and wakes the thread */
}

struct taking {
	struct fault_tracker *t;
	uint8_t *buf;
	uint64_t block;
	int r;
};

static void *take_one(void *opaque)
{
	struct taking *x = opaque;

	x->r = fault_tracker_save_next(x->t, &x->block, x->buf);
	return NULL;
}

/* While a block is copied, a write to it and one to another block go on, and both are saved as of the reset. */
static void test_copying_holds_up_no_writer(void **state)
{
	struct tracker_fixture *f = *state;
	struct taking x;
	struct trap trap;
	pthread_t thread;
	uint64_t block;

	tracker_begin(f);
	trap_init(&trap);
	memset(f->c.ram, 1, 2 * VMSTATE_BLOCK_BYTES);
	tracker_reset_dirty(f);
	fault_tracker_save_begin(f->t, &f->dirty);
	x = (struct taking){ .t = f->t, .buf = trap.buf };
	assert_int_equal(pthread_create(&thread, NULL, take_one, &x), 0);
	trap_wait(&trap);
	f->c.ram[VMSTATE_BLOCK_BYTES] = 2;
	f->c.ram[100] = 3;
	trap_open(&trap);
	pthread_join(thread, NULL);
	assert_int_equal(x.r, 1);
	assert_int_equal(x.buf[x.block ? 0 : 100], 1);
	assert_int_equal(fault_tracker_save_next(f->t, &block, f->buf), 1);
	assert_int_equal(block, !x.block);
	assert_int_equal(f->buf[block ? 0 : 100], 1);
	assert_int_equal(fault_tracker_save_next(f->t, &block, f->buf), 0);
	fault_tracker_save_end(f->t);
	munmap(trap.buf, VMSTATE_BLOCK_BYTES);
}

/* An incremental save: the blocks written since, plus the previous save, equal all of memory. */
static void test_incremental_saves_add_up(void **state)
{
	struct tracker_fixture *f = *state;
	uint8_t *copy = malloc(RAM_BYTES);

	tracker_begin(f);
	writers_start(f);
	save_round(f, &f->all, 0);
	memcpy(copy, f->before, RAM_BYTES);
	for (int i = 0; i < 10; i++) {
		if (i % 2)
			assert_int_equal(fault_tracker_preprotect(f->t, 0, NULL), 0);
		save_round(f, NULL, 100);
		for (size_t b = 0; b < BLOCKS; b++)
			if (bitmap_test(&f->dirty, b))
				memcpy(copy + b * VMSTATE_BLOCK_BYTES, f->before + b * VMSTATE_BLOCK_BYTES,
					MIN(VMSTATE_BLOCK_BYTES, RAM_BYTES - b * VMSTATE_BLOCK_BYTES));
		assert_memory_equal(copy, f->before, RAM_BYTES);
	}
	writers_stop();
	free(copy);
}

/* With little room for old content, writers block, nothing is lost, and they continue. */
static void test_writers_wait_when_buffer_is_full(void **state)
{
	struct tracker_fixture *f = *state;
	struct fault_tracker_stats s;

	f->c.aside_max_bytes = 2 * VMSTATE_BLOCK_BYTES;
	f->c.may_wait = everybody_waits;
	tracker_begin(f);
	writers_start(f);
	for (int i = 0; i < 5; i++)
		save_round(f, &f->all, 200);
	fault_tracker_stats(f->t, &s);
	assert_true(s.waits > 0);
	writers_hold(); /* all of them are still running */
	writers_release();
	writers_stop();
}

static void test_cancelled_save_releases_writers(void **state)
{
	struct tracker_fixture *f = *state;
	struct fault_tracker_stats s;
	uint64_t block;

	f->c.aside_max_bytes = VMSTATE_BLOCK_BYTES;
	f->c.may_wait = everybody_waits;
	memset(f->c.ram, 1, RAM_BYTES); /* a save skips holes, and writers that have not run yet leave some */
	tracker_begin(f);
	writers_start(f);
	writers_hold();
	tracker_reset_dirty(f);
	fault_tracker_save_begin(f->t, &f->all);
	writers_release();
	do /* the writers fill the buffer and wait */
		fault_tracker_stats(f->t, &s);
	while (s.waits < WRITERS);
	assert_int_equal(fault_tracker_save_next(f->t, &block, f->buf), 1);
	fault_tracker_save_end(f->t);
	writers_hold();
	writers_release();
	writers_stop();
}

static bool signalled(int fd)
{
	uint64_t n;

	return read(fd, &n, sizeof(n)) == sizeof(n);
}

/* A device asks before it writes: the copies stay within the limit, the device is told to try again, and the save has
 * the old content. */
static void test_device_waits_for_room(void **state)
{
	struct tracker_fixture *f = *state;
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	struct iovec iov[2] = { { f->c.ram + 100, 10 }, { f->c.ram + VMSTATE_BLOCK_BYTES + 1, 9 * VMSTATE_BLOCK_BYTES } };
	struct fault_tracker_stats s;
	unsigned waits = 0;
	uint64_t block, n = 0;

	f->c.aside_max_bytes = 2 * VMSTATE_BLOCK_BYTES;
	tracker_begin(f);
	memset(f->c.ram, 1, RAM_BYTES);
	tracker_reset_dirty(f);
	assert_true(fault_tracker_make_room(f->t, iov, 2, fd)); /* nothing is being saved */
	fault_tracker_save_begin(f->t, &f->all);
	while (!fault_tracker_make_room(f->t, iov, 2, fd)) {
		fault_tracker_stats(f->t, &s);
		assert_in_range(s.copied_aside - n, 1, 2);
		while (!signalled(fd)) {
			assert_int_equal(fault_tracker_save_next(f->t, &block, f->buf), 1);
			assert_in_range(block, 0, 10);
			assert_int_equal(f->buf[0] + f->buf[VMSTATE_BLOCK_BYTES - 1], 2);
			n++;
		}
		waits++;
	}
	assert_in_range(waits, 4, 11);
	for (unsigned i = 0; i < 2; i++)
		memset(iov[i].iov_base, 2, iov[i].iov_len);
	fault_tracker_stats(f->t, &s);
	assert_int_equal(s.copied_aside, 11);
	while (fault_tracker_save_next(f->t, &block, f->buf) > 0) {
		assert_int_equal(f->buf[0] + f->buf[4095], 2);
		n++;
	}
	assert_int_equal(n, BLOCKS);
	fault_tracker_save_end(f->t);
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 11);
	close(fd);
}

/* Writers that fault all the time do not keep a device from its room. */
static void test_writers_leave_room_to_device(void **state)
{
	struct tracker_fixture *f = *state;
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	struct iovec iov = { f->c.ram + RAM_BYTES - VMSTATE_BLOCK_BYTES, 1 };
	uint64_t block, saved = 0;

	f->c.aside_max_bytes = 4 * VMSTATE_BLOCK_BYTES;
	f->c.may_wait = everybody_waits;
	tracker_begin(f);
	writers_start(f);
	writers_hold();
	tracker_reset_dirty(f);
	fault_tracker_save_begin(f->t, &f->all);
	writers_release();
	usleep(20000); /* the writers fill the buffer and wait */
	if (!fault_tracker_make_room(f->t, &iov, 1, fd)) {
		while (!signalled(fd) && saved < BLOCKS / 2) {
			assert_int_equal(fault_tracker_save_next(f->t, &block, f->buf), 1);
			saved++;
			usleep(2000); /* so that the writers take what becomes free, if they may */
		}
		assert_in_range(saved, 1, 8);
	}
	fault_tracker_save_end(f->t);
	writers_hold();
	writers_release();
	writers_stop();
	close(fd);
}

/* A device that waits is woken by the end of the save, too. */
static void test_end_of_save_wakes_device(void **state)
{
	struct tracker_fixture *f = *state;
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	struct iovec iov = { f->c.ram, 5 * VMSTATE_BLOCK_BYTES };

	f->c.aside_max_bytes = VMSTATE_BLOCK_BYTES;
	tracker_begin(f);
	tracker_reset_dirty(f);
	fault_tracker_save_begin(f->t, &f->all);
	assert_false(fault_tracker_make_room(f->t, &iov, 1, fd));
	assert_false(fault_tracker_make_room(f->t, &iov, 1, fd));
	assert_false(signalled(fd));
	fault_tracker_save_end(f->t);
	assert_true(signalled(fd));
	assert_true(fault_tracker_make_room(f->t, &iov, 1, fd));
	close(fd);
}

/* Threads that do not wait void the save at the second limit, and go on. */
static void test_save_fails_at_hard_limit(void **state)
{
	struct tracker_fixture *f = *state;
	struct fault_tracker_stats s;
	uint64_t block;

	f->c.aside_max_bytes = VMSTATE_BLOCK_BYTES;
	f->c.aside_hard_bytes = 3 * VMSTATE_BLOCK_BYTES;
	tracker_begin(f);
	memset(f->c.ram, 1, RAM_BYTES);
	tracker_reset_dirty(f);
	fault_tracker_save_begin(f->t, &f->all);
	memset(f->c.ram, 2, RAM_BYTES);
	fault_tracker_stats(f->t, &s);
	assert_int_equal(s.copied_aside, 3);
	assert_int_equal(fault_tracker_save_next(f->t, &block, f->buf), -ENOBUFS);
	fault_tracker_save_end(f->t);
}

/* Untouched memory is neither reported nor allocated. */
static void test_untouched_memory_costs_nothing(void **state)
{
	struct tracker_fixture *f = *state;
	uint64_t block, n = 0;
	struct stat st;

	f->c.ram[20 * VMSTATE_BLOCK_BYTES] = 1;
	f->c.ram[RAM_BYTES - 1] = 1;
	tracker_begin(f);
	tracker_reset_dirty(f);
	fault_tracker_save_begin(f->t, &f->all);
	while (fault_tracker_save_next(f->t, &block, f->buf) > 0) {
		assert_true(block == 20 || block == BLOCKS - 1);
		n++;
	}
	fault_tracker_save_end(f->t);
	assert_int_equal(n, 2);
	assert_int_equal(fstat(f->c.ram_fd, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 <= 2 * VMSTATE_BLOCK_BYTES);
}

/* Single pages that existed before tracking began, and neighbours that are created later. */
static void test_partly_present_blocks_are_tracked(void **state)
{
	struct tracker_fixture *f = *state;
	uint64_t block;
	unsigned n = 0;

	f->c.ram[8192] = 1;
	f->c.ram[5 * VMSTATE_BLOCK_BYTES + 20480] = 2;
	tracker_begin(f);
	tracker_reset_dirty(f);
	assert_int_equal(f->c.ram[4096], 0); /* read */
	f->c.ram[5 * VMSTATE_BLOCK_BYTES] = 3; /* written */
	assert_int_equal(f->c.ram[8192], 1);
	assert_int_equal(f->c.ram[5 * VMSTATE_BLOCK_BYTES + 20480], 2);
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 1);
	assert_true(bitmap_test(&f->dirty, 5));
	f->c.ram[4097] = 4;
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 1);
	assert_true(bitmap_test(&f->dirty, 0));
	fault_tracker_save_begin(f->t, &f->all);
	f->c.ram[4097] = 5;
	f->c.ram[5 * VMSTATE_BLOCK_BYTES + 20480] = 6;
	while (fault_tracker_save_next(f->t, &block, f->buf) > 0) {
		n++;
		assert_true(block == 0 || block == 5);
		assert_int_equal(f->buf[block ? 20480 : 4097], block ? 2 : 4);
	}
	fault_tracker_save_end(f->t);
	assert_int_equal(n, 2);
}

/* Each step protects one stretch of present memory. */
static void test_memory_is_armed_in_steps(void **state)
{
	static const size_t at[] = { 2, 5, 9 };
	struct tracker_fixture *f = *state;
	struct err e = { 0 };
	unsigned steps = 0;

	for (size_t i = 0; i < ARRAY_SIZE(at); i++)
		f->c.ram[at[i] * VMSTATE_BLOCK_BYTES] = 1;
	tracker_begin_unarmed(f);
	assert_false(fault_tracker_is_arming(f->t));
	fault_tracker_arm_begin(f->t);
	assert_int_equal(fault_tracker_arm_step(f->t, &e), 1);
	for (size_t i = 0; i < ARRAY_SIZE(at); i++)
		f->c.ram[at[i] * VMSTATE_BLOCK_BYTES] = 2;
	fault_tracker_dirty(f->t, &f->dirty);
	assert_int_equal(bitmap_count(&f->dirty), 1); /* the others are not protected yet */
	assert_true(bitmap_test(&f->dirty, at[0]));
	while (fault_tracker_arm_step(f->t, &e) == 1)
		assert_true(++steps < 10);
	assert_false(fault_tracker_is_arming(f->t));
	for (size_t i = 0; i < ARRAY_SIZE(at); i++)
		f->c.ram[at[i] * VMSTATE_BLOCK_BYTES] = 3;
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), ARRAY_SIZE(at));
}

static void test_worker_completes_steps(void **state)
{
	struct tracker_fixture *f = *state;
	struct err e = { 0 };

	f->c.ram[2 * VMSTATE_BLOCK_BYTES] = f->c.ram[5 * VMSTATE_BLOCK_BYTES] = 1;
	tracker_begin_unarmed(f);
	fault_tracker_arm_begin(f->t);
	assert_int_equal(fault_tracker_arm_step(f->t, &e), 1);
	assert_true(fault_tracker_is_arming(f->t));
	assert_int_equal(fault_tracker_arm(f->t, &e), 0);
	assert_false(fault_tracker_is_arming(f->t));
	assert_int_equal(fault_tracker_arm_step(f->t, &e), 0);
	f->c.ram[5 * VMSTATE_BLOCK_BYTES] = 2;
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 1);
	assert_true(bitmap_test(&f->dirty, 5));
}

static void *write_one(void *p)
{
	*(uint8_t *)p = 77;
	return NULL;
}

/* A fault after the tracker's stop waits only until the tracker is freed. */
static void test_fault_after_stop_waits_for_free_only(void **state)
{
	struct tracker_fixture *f = *state;
	struct pollfd fault = { .events = POLLIN };
	pthread_t t;

	tracker_begin(f);
	f->c.ram[0] = 1;
	tracker_reset_dirty(f); /* protected again */
	fault_tracker_stop(f->t);
	fault_tracker_stop(f->t);
	fault.fd = f->uffd.fd;
	assert_int_equal(pthread_create(&t, NULL, write_one, f->c.ram), 0);
	assert_int_equal(poll(&fault, 1, -1), 1);
	fault_tracker_free(f->t);
	f->t = NULL;
	pthread_join(t, NULL);
	assert_int_equal(f->c.ram[0], 77);
}

static void test_later_mapping_is_not_touched(void **state)
{
	struct tracker_fixture *f = *state;
	void *other;

	tracker_begin(f);
	tracker_reset_dirty(f);
	fault_tracker_stop(f->t);
	munmap(f->c.ram, RAM_BYTES);
	/* A later mapping at the same address is not touched. */
	other = mmap(f->c.ram, RAM_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_equal(other, f->c.ram);
	f->c.ram[5] = 5;
	fault_tracker_free(f->t);
	f->t = NULL;
	assert_int_equal(f->c.ram[5], 5);
}

/* ---- a clone's private view ---- */

/* Return the bytes of the mapping at `at` that are the process's own copies. */
static uint64_t own_bytes(const void *at)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	uint64_t begin, end, kib = 0, found = UINT64_MAX;
	bool here = false;
	char line[256];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &begin, &end) == 2)
			here = begin <= (uintptr_t)at && (uintptr_t)at < end;
		else if (here && sscanf(line, "Anonymous: %" SCNu64, &kib) == 1)
			found = kib * 1024;
	}
	fclose(f);
	return found;
}

static uint64_t base_bytes(const struct tracker_fixture *f)
{
	struct stat st;

	assert_int_equal(fstat(f->view.base_fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void test_this_kernel_can_watch_a_view(void **state)
{
	struct tracker_fixture *f = *state;
	struct ram_view broken = f->view;

	tracker_begin(f);
	assert_true(fault_tracker_can_watch(&f->uffd, &f->view));
	broken.base_fd = -1;
	assert_false(fault_tracker_can_watch(&f->uffd, &broken));
	broken = f->view;
	broken.pagemap_fd = -1;
	assert_false(fault_tracker_can_watch(&f->uffd, &broken));
}

/* A save copies no page of the base file into the clone, and allocates none in the file. */
static void test_save_of_view_costs_nothing(void **state)
{
	struct tracker_fixture *f = *state;
	uint64_t before;

	f->c.ram[MIB] = 1;
	f->c.ram[VIEW_DATA + MIB] = 2;
	before = base_bytes(f);
	tracker_begin(f);
	tracker_reset_dirty(f);
	fault_tracker_save_begin(f->t, &f->all);
	f->c.ram[MIB + 1] = 3;
	f->c.ram[VIEW_DATA + 2 * MIB] = 4;
	for (uint64_t block, n = 0; fault_tracker_save_next(f->t, &block, f->buf) > 0; n++)
		assert_true(n < BLOCKS);
	fault_tracker_save_end(f->t);
	assert_int_equal(base_bytes(f), before);
	assert_int_equal(own_bytes(f->c.ram), 3 * 4096);
}

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

/* The kernel may swap out the clone's own pages and the base file's at any time. On a host without swap, only the base
 * file's pages are unmapped. */
static void test_pages_that_the_kernel_evicts_are_saved(void **state)
{
	struct tracker_fixture *f = *state;

	for (uint64_t at = 0; at < RAM_BYTES; at += 3 * 4096)
		f->c.ram[at] = (uint8_t)(at / 4096 + 1);
	tracker_begin(f);
	tracker_reset_dirty(f);
	memcpy(f->before, f->c.ram, RAM_BYTES);
	madvise(f->c.ram, RAM_BYTES, MADV_PAGEOUT);
	fault_tracker_save_begin(f->t, &f->all);
	tracker_save_and_compare(f, &f->all, 0);
	madvise(f->c.ram, RAM_BYTES, MADV_PAGEOUT);
	memset(f->c.ram + 3 * VMSTATE_BLOCK_BYTES, 9, VMSTATE_BLOCK_BYTES);
	f->c.ram[VIEW_DATA + 5] = 9;
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 2);
	memcpy(f->before, f->c.ram, RAM_BYTES);
	madvise(f->c.ram, RAM_BYTES, MADV_PAGEOUT);
	fault_tracker_save_begin(f->t, &f->all);
	tracker_save_and_compare(f, &f->all, 0);
}

/* A clone that reads a hole allocates a page in the base file. The other clones' writes there still count. */
static void test_page_that_another_clone_allocates_is_tracked(void **state)
{
	struct tracker_fixture *f = *state;
	volatile uint8_t *other = mmap(NULL, RAM_BYTES, PROT_READ, MAP_PRIVATE, f->view.base_fd, VIEW_OFFSET);
	uint64_t before = base_bytes(f);

	assert_true(other != MAP_FAILED);
	assert_int_equal(other[3 * VMSTATE_BLOCK_BYTES], 0);
	tracker_begin(f);
	tracker_reset_dirty(f);
	assert_int_equal(other[5 * VMSTATE_BLOCK_BYTES], 0);
	assert_int_equal(base_bytes(f), before + 2 * 4096);
	f->c.ram[3 * VMSTATE_BLOCK_BYTES] = 3;
	f->c.ram[5 * VMSTATE_BLOCK_BYTES] = 5;
	tracker_reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 2);
	assert_true(bitmap_test(&f->dirty, 3) && bitmap_test(&f->dirty, 5));
	memcpy(f->before, f->c.ram, RAM_BYTES);
	fault_tracker_save_begin(f->t, &f->all);
	tracker_save_and_compare(f, &f->all, 0);
	munmap((void *)(uintptr_t)other, RAM_BYTES);
}

#define VIEW_TEST(fn) { #fn " (view)", fn, tracker_setup_view, tracker_teardown, NULL }

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_written_blocks_are_dirty, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_save_has_memory_as_of_reset_while_writers_run, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_copying_holds_up_no_writer, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_hold_keeps_dirty_blocks, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_preprotected_block_stays_dirty, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_fault_answered_after_reset_counts, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_incremental_saves_add_up, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_writers_wait_when_buffer_is_full, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_cancelled_save_releases_writers, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_device_waits_for_room, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_writers_leave_room_to_device, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_end_of_save_wakes_device, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_save_fails_at_hard_limit, tracker_setup, tracker_teardown),
		VIEW_TEST(test_device_waits_for_room),
		VIEW_TEST(test_save_fails_at_hard_limit),
		cmocka_unit_test_setup_teardown(test_untouched_memory_costs_nothing, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_partly_present_blocks_are_tracked, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_memory_is_armed_in_steps, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_worker_completes_steps, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_fault_after_stop_waits_for_free_only, tracker_setup, tracker_teardown),
		cmocka_unit_test_setup_teardown(test_later_mapping_is_not_touched, tracker_setup, tracker_teardown),
		VIEW_TEST(test_written_blocks_are_dirty),
		VIEW_TEST(test_save_has_memory_as_of_reset_while_writers_run),
		VIEW_TEST(test_copying_holds_up_no_writer),
		VIEW_TEST(test_hold_keeps_dirty_blocks),
		VIEW_TEST(test_preprotected_block_stays_dirty),
		VIEW_TEST(test_fault_answered_after_reset_counts),
		VIEW_TEST(test_incremental_saves_add_up),
		VIEW_TEST(test_writers_wait_when_buffer_is_full),
		VIEW_TEST(test_cancelled_save_releases_writers),
		VIEW_TEST(test_fault_after_stop_waits_for_free_only),
		VIEW_TEST(test_later_mapping_is_not_touched),
		VIEW_TEST(test_this_kernel_can_watch_a_view),
		VIEW_TEST(test_save_of_view_costs_nothing),
		VIEW_TEST(test_page_that_another_clone_allocates_is_tracked),
		VIEW_TEST(test_pages_that_the_kernel_evicts_are_saved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
