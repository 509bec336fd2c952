/* RAM that is loaded on demand and in the background. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/fault_tracker.h"
#include "snapshot/ram_reader.h"
#include "snapshot/uffd_open.h"
#include "snapshot/working_set.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define RAM_BYTES (16 * MIB + 8192)
#define SCRIBBLERS 3
#define BLOCKS DIV_ROUND_UP(RAM_BYTES, VMSTATE_BLOCK_BYTES)

struct fixture {
	struct vmstate_file file;
	struct ram_reader_config c;
	struct ram_reader *rd;
	struct fault_tracker_config tc;
	uint64_t written_at; /* of tc */
	struct fault_tracker *t;
	struct uffd uffd;
	uint8_t *ram, *expect;
	struct bitmap dirty;
	atomic_int failures, completions;
	char sentence[ERR_SENTENCE_MAX];
	atomic_bool slow; /* the store is slow */
	atomic_uint delay_us;
	atomic_bool stop, hold;
	atomic_uint holding;
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

static void completed(void *opaque)
{
	atomic_fetch_add(&((struct fixture *)opaque)->completions, 1);
}

static int slow_read(struct vmstate_store *s, uint64_t off, void *buf, size_t len)
{
	atomic_fetch_add(&fx->reads, 1);
	if (atomic_load(&fx->slow))
		usleep(atomic_load(&fx->delay_us));
	return fx->real_read(s, off, buf, len);
}

static void state_write(struct fixture *f)
{
	struct vmstate_header h = { .realtime_ns = 1 };
	struct vmstate_source src = { .sections = (const uint8_t *)"x", .sections_bytes = 1,
		.ram = f->expect, .ram_bytes = RAM_BYTES, .ram_fd = -1 };
	struct vmstate_result result;

	assert_int_equal(vmstate_write(&f->file.store, &h, &src, NULL, &result, NULL), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	fx = f;
	f->uffd.fd = -1;
	atomic_store(&f->delay_us, 20000);
	*state = f;
	f->expect = calloc(1, RAM_BYTES);
	for (size_t i = 0; i < RAM_BYTES; i += 512) /* every third block is zero */
		if (i / VMSTATE_BLOCK_BYTES % 3)
			memset(f->expect + i, (int)(i / 512 * 7 + 1), 512);
	vmstate_file_init(&f->file, memfd_create("state", MFD_CLOEXEC));
	state_write(f);
	assert_int_equal(vmstate_read_header(&f->file.store, &f->c.header, NULL), 0);
	f->real_read = f->file.store.read;
	f->file.store.read = slow_read;
	f->c.store = &f->file.store;
	f->c.failed = failed;
	f->c.complete = completed;
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
	f->tc = (struct fault_tracker_config){ .uffd = &f->uffd, .ram_bytes = RAM_BYTES,
		.ram_fd = memfd_create("ram", MFD_CLOEXEC), .aside_max_bytes = 64 * MIB, .written_at = f->written_at };
	assert_int_equal(ftruncate(f->tc.ram_fd, RAM_BYTES), 0);
	f->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, f->tc.ram_fd, 0);
	assert_true(f->ram != MAP_FAILED);
	f->tc.ram = f->ram;
	assert_int_equal(bitmap_init(&f->dirty, BLOCKS), 0);
	if (ram_reader_new(&f->c, &f->rd, &e) < 0)
		fail_msg("%s", e.msg);
	f->tc.ram_reader = f->rd;
	if (fault_tracker_new(&f->tc, &f->t, &e) < 0 || fault_tracker_start(f->t, &e) < 0)
		fail_msg("%s", e.msg);
}

static void need_protection(struct fixture *f)
{
	if (!f->uffd.can_protect) {
		print_message("skipped: no write protection by userfaultfd on this host\n");
		skip();
	}
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fault_tracker_free(f->t);
	ram_reader_free(f->rd);
	uffd_close(&f->uffd);
	bitmap_done(&f->dirty);
	if (f->ram) {
		munmap(f->ram, RAM_BYTES);
		close(f->tc.ram_fd);
	}
	close(f->file.fd);
	free(f->expect);
	free(f);
	return 0;
}

static uint64_t resident_bytes(struct fixture *f)
{
	struct stat st;

	assert_int_equal(fstat(f->tc.ram_fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void reset_dirty(struct fixture *f)
{
	struct err e = { 0 };

	if (fault_tracker_reset_dirty(f->t, &f->dirty, &e) < 0)
		fail_msg("%s", e.msg);
}

static void test_touched_pages_load_first(void **state)
{
	struct fixture *f = *state;
	size_t last = RAM_BYTES - 1;
	struct ram_reader_stats s;

	atomic_store(&f->slow, true); /* loading everything would take seconds */
	begin(f);
	assert_int_equal(f->ram[last], f->expect[last]);
	assert_int_equal(f->ram[9 * MIB], f->expect[9 * MIB]);
	ram_reader_stats(f->rd, &s);
	assert_false(s.complete);
	assert_in_range(s.blocks_faulted, 1, 2);
	atomic_store(&f->slow, false);
	assert_true(ram_reader_wait(f->rd));
	assert_memory_equal(f->ram, f->expect, RAM_BYTES);
}

static void test_all_memory_loads_in_background(void **state)
{
	struct fixture *f = *state;
	struct ram_reader_stats s;

	begin(f);
	assert_true(ram_reader_wait(f->rd));
	ram_reader_stats(f->rd, &s);
	assert_true(s.complete);
	assert_int_equal(atomic_load(&f->completions), 1);
	assert_int_equal(s.blocks_prefetched + s.blocks_faulted, BLOCKS - DIV_ROUND_UP(BLOCKS, 3));
	assert_memory_equal(f->ram, f->expect, RAM_BYTES);
	assert_int_equal(atomic_load(&f->failures), 0);
}

/* The background does not overwrite what the guest has written. */
static void test_guest_writes_are_not_overwritten(void **state)
{
	struct fixture *f = *state;

	atomic_store(&f->slow, true);
	begin(f);
	for (size_t off = 12 * MIB; off < 13 * MIB; off += VMSTATE_BLOCK_BYTES)
		f->ram[off + 5] = f->expect[off + 5] = 0x5a;
	atomic_store(&f->slow, false);
	assert_true(ram_reader_wait(f->rd));
	assert_memory_equal(f->ram, f->expect, RAM_BYTES);
}

static void *toucher(void *opaque)
{
	struct fixture *f = fx;
	unsigned seed = (unsigned)(uintptr_t)opaque;

	for (int i = 0; i < 3000; i++) {
		size_t off = ((size_t)rand_r(&seed) * 4099) % RAM_BYTES;

		if (f->ram[off] != f->expect[off])
			return (void *)1;
	}
	return NULL;
}

static void test_parallel_faults_are_served(void **state)
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
	assert_true(ram_reader_wait(f->rd));
}

static void test_a_damaged_block_is_reported_before_it_is_given(void **state)
{
	struct fixture *f = *state;
	uint8_t b = 0;
	uint64_t block = 100; /* a block that is not zero */

	assert_int_equal(pwrite(f->file.fd, &b, 1,
				 (off_t)(f->c.header.layout.ram_offset + block * VMSTATE_BLOCK_BYTES)), 1);
	begin(f);
	assert_false(ram_reader_wait(f->rd));
	assert_int_equal(atomic_load(&f->failures), 1);
	assert_non_null(strstr(f->sentence, "block 100"));
	/* A thread waiting for it gets zeros, so that it can be stopped. */
	assert_int_equal(f->ram[block * VMSTATE_BLOCK_BYTES], 0);
}

/* Two pieces of checksums and one bit: a piece of the table is read only when it is needed. */
#define MANY_BLOCKS (2 * VMSTATE_CRC_PIECE_BLOCKS + 3)

static int many_read(struct vmstate_store *s, uint64_t off, void *buf, size_t len)
{
	const struct vmstate_layout *l = &fx->c.header.layout;
	uint64_t piece = (off - l->crc_offset) / 4096;

	(void)s;
	assert_in_range(off, l->crc_offset, l->ram_offset - 1);
	assert_int_equal(len, 4096);
	atomic_fetch_add(&fx->reads, 1);
	if (piece == 1) /* an unreadable piece */
		return -EIO;
	for (size_t i = 0; i < VMSTATE_CRC_PIECE_BLOCKS; i++)
		((uint32_t *)buf)[i] = vmstate_zero_crc(l, piece * VMSTATE_CRC_PIECE_BLOCKS + i);
	return 0;
}

static void test_checksum_pieces_load_on_demand(void **state)
{
	struct fixture *f = *state;
	const uint8_t *data;
	uint64_t block, n;

	vmstate_layout_of(MANY_BLOCKS * (uint64_t)VMSTATE_BLOCK_BYTES - 4096, &f->c.header.layout);
	f->file.store.read = many_read;
	assert_int_equal(ram_reader_new(&f->c, &f->rd, NULL), 0);
	assert_int_equal(atomic_load(&f->reads), 0);
	assert_non_null(ram_reader_read(f->rd, MANY_BLOCKS - 1, &n));
	assert_non_null(ram_reader_read(f->rd, MANY_BLOCKS - 2, &n));
	assert_int_equal(atomic_load(&f->reads), 1);
	assert_int_equal(atomic_load(&f->failures), 0);
	/* The background skips blocks without checksums. */
	for (unsigned i = 0; (data = ram_reader_next(f->rd, &block, &n)); i++) {
		assert_int_equal(n, 0);
		assert_in_range(i, 0, 2);
	}
	assert_int_equal(atomic_load(&f->reads), 3);
	assert_int_equal(atomic_load(&f->failures), 1);
	/* A fault on such a block is reported, and gets zeros. */
	data = ram_reader_read(f->rd, VMSTATE_CRC_PIECE_BLOCKS + 7, &n);
	assert_int_equal(data[0], 0);
	assert_int_equal(n, 1);
	ram_reader_complete(f->rd);
	assert_false(ram_reader_wait(f->rd));
}

/* The working set of the last time is loaded first, in that order, together with adjacent blocks;
 * missing, zero and duplicate entries do no harm. */
static void test_working_set_loads_first(void **state)
{
	struct fixture *f = *state;
	uint32_t order[] = { 200, 201, 0xffffffff, 3, 199, 200, 100, BLOCKS };
	struct working_set w = { .key = 1, .n = ARRAY_SIZE(order), .blocks = order };
	const uint32_t *touched;
	uint64_t block, n, key;
	uint32_t ntouched;

	f->c.first = &w;
	assert_int_equal(ram_reader_new(&f->c, &f->rd, NULL), 0);
	assert_non_null(ram_reader_next(f->rd, &block, &n)); /* checksums */
	assert_int_equal(n, 0);
	assert_non_null(ram_reader_next(f->rd, &block, &n));
	assert_int_equal(block, 100);
	assert_int_equal(n, 1);
	assert_non_null(ram_reader_next(f->rd, &block, &n)); /* 201 is zero */
	assert_int_equal(block, 199);
	assert_int_equal(n, 2);
	/* A fault meanwhile is recorded for the next time. */
	assert_memory_equal(ram_reader_read(f->rd, 220, &n), f->expect + 220 * VMSTATE_BLOCK_BYTES, VMSTATE_BLOCK_BYTES);
	assert_int_equal(n, 2);
	assert_non_null(ram_reader_next(f->rd, &block, &n));
	assert_int_equal(block, 1); /* then the rest from the start */
	touched = ram_reader_working_set(f->rd, &key, &ntouched);
	assert_int_equal(key, f->c.header.realtime_ns);
	assert_int_equal(ntouched, 7);
	assert_int_equal(touched[5], 220);
	assert_int_equal(touched[6], 221);
}

static void test_stop_leaves_zeros_and_no_waiters(void **state)
{
	struct fixture *f = *state;

	atomic_store(&f->slow, true);
	begin(f);
	assert_int_equal(f->ram[MIB], f->expect[MIB]);
	fault_tracker_free(f->t);
	f->t = NULL;
	assert_true(atomic_load(&f->reads) < 50);
	assert_true(ram_reader_wait(f->rd)); /* the wait ends although a block will never be loaded */
	assert_int_equal(atomic_load(&f->completions), 1);
	/* The rest is zero, and no thread waits forever. */
	assert_int_equal(f->ram[RAM_BYTES - 1], 0);
}

/* A zero block is created at its first access, however late, and costs nothing before. */
static void test_zero_blocks_are_created_on_access(void **state)
{
	struct fixture *f = *state;
	uint64_t before;

	begin(f);
	assert_true(ram_reader_wait(f->rd));
	before = resident_bytes(f);
	assert_true(before < RAM_BYTES * 3 / 4);
	assert_int_equal(f->ram[3 * VMSTATE_BLOCK_BYTES], 0);
	f->ram[6 * VMSTATE_BLOCK_BYTES] = 1;
	assert_int_equal(f->ram[6 * VMSTATE_BLOCK_BYTES + 1], 0);
	assert_int_equal(resident_bytes(f), before + 2 * VMSTATE_BLOCK_BYTES);
}

/* Write tracking from the start: loaded, read or not yet loaded blocks are not dirty. */
static void test_only_written_blocks_are_dirty(void **state)
{
	struct fixture *f = *state;

	atomic_store(&f->slow, true);
	begin(f);
	need_protection(f);
	f->ram[100 * VMSTATE_BLOCK_BYTES] = 1; /* not loaded yet: loaded for the write */
	assert_int_equal(f->ram[101 * VMSTATE_BLOCK_BYTES], f->expect[101 * VMSTATE_BLOCK_BYTES]);
	f->ram[102 * VMSTATE_BLOCK_BYTES] = 2; /* a zero block */
	reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 2);
	assert_true(bitmap_test(&f->dirty, 100) && bitmap_test(&f->dirty, 102));
	atomic_store(&f->slow, false);
	assert_true(ram_reader_wait(f->rd));
	reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 0);
	f->ram[100 * VMSTATE_BLOCK_BYTES] = 3; /* protected again */
	f->ram[104 * VMSTATE_BLOCK_BYTES] = 4; /* loaded by the background */
	f->ram[RAM_BYTES - 1] = 5;
	reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 3);
	assert_true(bitmap_test(&f->dirty, 100) && bitmap_test(&f->dirty, 104) &&
		bitmap_test(&f->dirty, BLOCKS - 1));
}

static void test_block_that_the_owner_writes_to_is_not_protected(void **state)
{
	struct fixture *f = *state;
	struct fault_tracker_stats s;

	f->written_at = 105 * VMSTATE_BLOCK_BYTES + 4096;
	begin(f);
	need_protection(f);
	assert_true(ram_reader_wait(f->rd));
	fault_tracker_stats(f->t, &s);
	assert_int_equal(s.faults, 0);
	f->ram[f->written_at] = 1;
	fault_tracker_stats(f->t, &s);
	assert_int_equal(s.faults, 0);
	f->ram[106 * VMSTATE_BLOCK_BYTES] = 1;
	fault_tracker_stats(f->t, &s);
	assert_int_equal(s.faults, 1);
	reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 2);
	assert_true(bitmap_test(&f->dirty, 105) && bitmap_test(&f->dirty, 106));
}

static void *scribbler(void *opaque)
{
	struct fixture *f = fx;
	size_t own = (size_t)(uintptr_t)opaque; /* this thread's byte of each eight */
	unsigned seed = (unsigned)own;

	while (!atomic_load(&f->stop)) {
		size_t off = ROUND_DOWN(((size_t)rand_r(&seed) * 4099) % RAM_BYTES, 8) + own;

		while (atomic_load(&f->hold)) {
			atomic_fetch_add(&f->holding, 1);
			while (atomic_load(&f->hold))
				usleep(100);
			atomic_fetch_sub(&f->holding, 1);
		}
		f->ram[off] = (uint8_t)(f->ram[off] * 5 + 1);
		if (rand_r(&seed) % 16 == 0)
			usleep(50);
	}
	return NULL;
}

/* The saved state plus the blocks that a reset of the dirty bits reports as written equal memory at that reset,
 * whether it was loaded or not. */
static void saves_add_up(struct fixture *f)
{
	uint8_t *copy = malloc(RAM_BYTES), *now = malloc(RAM_BYTES), *buf = malloc(VMSTATE_BLOCK_BYTES);
	uint64_t block;

	memcpy(copy, f->expect, RAM_BYTES);
	for (int i = 0; i < 12; i++) {
		atomic_store(&f->hold, true);
		while (atomic_load(&f->holding) < SCRIBBLERS)
			usleep(50);
		reset_dirty(f);
		fault_tracker_save_begin(f->t, &f->dirty);
		/* Compare only dirty blocks: reading others would load them. */
		for (size_t b = 0; b < BLOCKS; b++)
			if (bitmap_test(&f->dirty, b))
				memcpy(now + b * VMSTATE_BLOCK_BYTES, f->ram + b * VMSTATE_BLOCK_BYTES,
					MIN(VMSTATE_BLOCK_BYTES, RAM_BYTES - b * VMSTATE_BLOCK_BYTES));
		atomic_store(&f->hold, false);
		while (atomic_load(&f->holding))
			usleep(50);
		while (fault_tracker_save_next(f->t, &block, buf) > 0) {
			size_t at = block * VMSTATE_BLOCK_BYTES, len = MIN(VMSTATE_BLOCK_BYTES, RAM_BYTES - at);

			assert_true(bitmap_test(&f->dirty, block));
			assert_memory_equal(buf, now + at, len);
			memcpy(copy + at, buf, len);
			bitmap_clear(&f->dirty, block);
		}
		fault_tracker_save_end(f->t);
		assert_int_equal(bitmap_count(&f->dirty), 0);
	}
	atomic_store(&f->hold, true);
	while (atomic_load(&f->holding) < SCRIBBLERS)
		usleep(50);
	reset_dirty(f);
	for (size_t b = 0; b < BLOCKS; b++)
		if (!bitmap_test(&f->dirty, b))
			assert_memory_equal(f->ram + b * VMSTATE_BLOCK_BYTES, copy + b * VMSTATE_BLOCK_BYTES,
				MIN(VMSTATE_BLOCK_BYTES, RAM_BYTES - b * VMSTATE_BLOCK_BYTES));
	free(copy);
	free(now);
	free(buf);
}

static void test_incremental_save_while_loading(void **state)
{
	struct fixture *f = *state;
	pthread_t t[SCRIBBLERS];
	struct ram_reader_stats s;

	atomic_store(&f->delay_us, 2000);
	atomic_store(&f->slow, true);
	begin(f);
	need_protection(f);
	for (uintptr_t i = 0; i < SCRIBBLERS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, scribbler, (void *)(i + 1)), 0);
	ram_reader_stats(f->rd, &s);
	assert_false(s.complete);
	saves_add_up(f);
	atomic_store(&f->stop, true);
	atomic_store(&f->hold, false);
	for (int i = 0; i < SCRIBBLERS; i++)
		pthread_join(t[i], NULL);
	atomic_store(&f->slow, false);
	assert_true(ram_reader_wait(f->rd));
}

/* A full save omits untouched zero blocks, and writes during the save do not get into it. */
static void test_full_save_omits_untouched_zeros(void **state)
{
	struct fixture *f = *state;
	uint8_t *buf = malloc(VMSTATE_BLOCK_BYTES);
	struct bitmap all;
	uint64_t block, n = 0;

	begin(f);
	need_protection(f);
	assert_true(ram_reader_wait(f->rd));
	reset_dirty(f);
	assert_int_equal(bitmap_init(&all, BLOCKS), 0);
	for (size_t b = 0; b < BLOCKS; b++)
		bitmap_set(&all, b);
	fault_tracker_save_begin(f->t, &all);
	f->ram[12 * VMSTATE_BLOCK_BYTES + 7] = 9; /* zero until now */
	f->ram[13 * VMSTATE_BLOCK_BYTES + 7] ^= 9;
	while (fault_tracker_save_next(f->t, &block, buf) > 0) {
		assert_memory_equal(buf, f->expect + block * VMSTATE_BLOCK_BYTES,
			MIN(VMSTATE_BLOCK_BYTES, RAM_BYTES - block * VMSTATE_BLOCK_BYTES));
		bitmap_clear(&all, block);
		n++;
	}
	fault_tracker_save_end(f->t);
	for (size_t b = bitmap_next_set(&all, 0); b < BLOCKS; b = bitmap_next_set(&all, b + 1))
		assert_int_equal(b % 3, 0);
	assert_in_range(n, BLOCKS * 2 / 3, BLOCKS * 2 / 3 + 2);
	assert_int_equal(f->ram[12 * VMSTATE_BLOCK_BYTES + 7], 9);
	bitmap_done(&all);
	free(buf);
}

/* Rewind in place: only written blocks are loaded again, and blocks not loaded yet still load
 * later. */
static void rewind_now(struct fixture *f, const struct bitmap *changed)
{
	struct ram_reader *rd;
	struct err e = { 0 };

	if (ram_reader_new(&f->c, &rd, &e) < 0 || fault_tracker_rewind(f->t, rd, changed, &e) < 0)
		fail_msg("%s", e.msg);
	ram_reader_free(f->rd);
	f->rd = rd;
}

static void test_rewind_reloads_written_blocks_only(void **state)
{
	struct fixture *f = *state;
	struct ram_reader_stats s;

	begin(f);
	need_protection(f);
	assert_true(ram_reader_wait(f->rd));
	memset(f->ram + 40 * VMSTATE_BLOCK_BYTES, 0x77, 3 * VMSTATE_BLOCK_BYTES);
	reset_dirty(f);
	rewind_now(f, NULL); /* rewinds to the last reset: earlier writes stay */
	assert_true(ram_reader_wait(f->rd));
	assert_int_equal(f->ram[40 * VMSTATE_BLOCK_BYTES], 0x77);
	memset(f->ram + 40 * VMSTATE_BLOCK_BYTES, 0x78, 3 * VMSTATE_BLOCK_BYTES);
	f->ram[RAM_BYTES - 1] ^= 1;
	f->ram[60 * VMSTATE_BLOCK_BYTES] = 1; /* a zero block */
	rewind_now(f, NULL);
	assert_true(ram_reader_wait(f->rd));
	assert_memory_equal(f->ram, f->expect, RAM_BYTES);
	ram_reader_stats(f->rd, &s);
	assert_int_equal(s.blocks_faulted + s.blocks_prefetched, 3);
	/* A block that differs between the two states. */
	memset(f->expect + 43 * VMSTATE_BLOCK_BYTES, 0x43, VMSTATE_BLOCK_BYTES);
	state_write(f);
	bitmap_set(&f->dirty, 43);
	rewind_now(f, &f->dirty);
	assert_true(ram_reader_wait(f->rd));
	assert_memory_equal(f->ram, f->expect, RAM_BYTES);
	f->ram[41 * VMSTATE_BLOCK_BYTES] = 1; /* still tracked */
	reset_dirty(f);
	assert_int_equal(bitmap_count(&f->dirty), 1);
	assert_true(bitmap_test(&f->dirty, 41));
}

static void test_rewind_while_loading(void **state)
{
	struct fixture *f = *state;
	struct ram_reader_stats s;

	atomic_store(&f->delay_us, 1000);
	atomic_store(&f->slow, true);
	begin(f);
	need_protection(f);
	for (unsigned i = 0; i < 20; i++) {
		for (size_t b = i; b < BLOCKS; b += 60)
			f->ram[b * VMSTATE_BLOCK_BYTES + 5] = (uint8_t)(i + 1);
		assert_int_equal(f->ram[(200 + i) * VMSTATE_BLOCK_BYTES], f->expect[(200 + i) * VMSTATE_BLOCK_BYTES]);
		rewind_now(f, NULL);
	}
	atomic_store(&f->slow, false);
	assert_true(ram_reader_wait(f->rd));
	assert_memory_equal(f->ram, f->expect, RAM_BYTES);
	ram_reader_stats(f->rd, &s);
	assert_false(s.failed);
}

/* ---- memory in huge pages ---- */

/* Return a file of a tmpfs with huge pages, as vmm/kvm/host_files.c makes it. Skips the test where there is none. */
static int huge_file(void)
{
	int fs = fsopen("tmpfs", FSOPEN_CLOEXEC), mount = -1, fd = -1;

	if (fs >= 0 && !fsconfig(fs, FSCONFIG_SET_STRING, "huge", "always", 0) && !fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		mount = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	if (mount >= 0)
		fd = openat(mount, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fs >= 0)
		close(fs);
	if (mount >= 0)
		close(mount);
	if (fd < 0) {
		print_message("skipped: no tmpfs with huge pages for this user\n");
		skip();
	}
	return fd;
}

/* Begin with RAM that has the saved content, in huge pages, and is tracked. */
static void begin_huge(struct fixture *f)
{
	struct err e = { 0 };
	int fd = huge_file();

	begin(f);
	need_protection(f);
	fault_tracker_free(f->t);
	f->t = NULL;
	ram_reader_free(f->rd);
	f->rd = NULL;
	munmap(f->ram, RAM_BYTES);
	close(f->tc.ram_fd);
	f->tc.ram_fd = fd;
	f->tc.huge_pages = true;
	f->tc.ram_reader = NULL;
	assert_int_equal(ftruncate(fd, RAM_BYTES), 0);
	f->ram = f->tc.ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(f->ram != MAP_FAILED);
	f->ram[0] = 1;
	if (resident_bytes(f) < 2 * MIB) {
		print_message("skipped: this kernel has no huge pages\n");
		skip();
	}
	memcpy(f->ram, f->expect, RAM_BYTES);
	if (fault_tracker_new(&f->tc, &f->t, &e) < 0 || fault_tracker_start(f->t, &e) < 0 || fault_tracker_arm(f->t, &e) < 0)
		fail_msg("%s", e.msg);
	reset_dirty(f);
	if (ram_reader_new(&f->c, &f->rd, &e) < 0)
		fail_msg("%s", e.msg);
}

/* Use a page, as a device does, until the pipe is closed. */
static void page_hold(struct fixture *f, uint64_t block, int pair[2])
{
	struct iovec v = { f->ram + block * VMSTATE_BLOCK_BYTES, 4096 };

	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	assert_int_equal(vmsplice(pair[1], &v, 1, 0), 4096);
}

static void page_let_go(int pair[2])
{
	close(pair[0]);
	close(pair[1]);
}

#define HUGE_BLOCKS (2 * MIB / VMSTATE_BLOCK_BYTES)

/* The kernel cannot split a huge page while a device uses a part of it. */
static void test_reclaim_keeps_the_content_of_huge_pages(void **state)
{
	struct fixture *f = *state;
	struct err e = { 0 };
	uint64_t bytes;
	int pair[2];

	begin_huge(f);
	f->ram[(HUGE_BLOCKS + 4) * VMSTATE_BLOCK_BYTES] ^= 1;
	f->expect[(HUGE_BLOCKS + 4) * VMSTATE_BLOCK_BYTES] ^= 1;
	page_hold(f, HUGE_BLOCKS + 9, pair);
	if (fault_tracker_reclaim_begin(f->t, f->rd, &e) < 0 || fault_tracker_reclaim(f->t, &bytes, &e) < 0)
		fail_msg("%s", e.msg);
	assert_memory_equal(f->ram, f->expect, RAM_BYTES);
	assert_int_equal(bytes, 7 * 2 * MIB); /* not those of the page that was written to, and of the end */
	page_let_go(pair);
}

/* The kernel has the image locked while it writes from this memory; the reader would wait for the lock. */
static void test_reclaim_leaves_memory_that_a_device_uses(void **state)
{
	struct fixture *f = *state;
	struct iovec iov[2];
	struct err e = { 0 };
	uint64_t bytes;

	begin_huge(f);
	iov[0] = (struct iovec){ f->ram + 3 * VMSTATE_BLOCK_BYTES, 512 };
	iov[1] = (struct iovec){ f->ram + 5 * 2 * MIB - 1, 2 }; /* in two huge pages */
	fault_tracker_use(f->t, iov, 2); /* before the reclaim: it ends before memory is freed */
	if (fault_tracker_reclaim_begin(f->t, f->rd, &e) < 0)
		fail_msg("%s", e.msg);
	fault_tracker_use(f->t, iov + 1, 1);
	if (fault_tracker_reclaim(f->t, &bytes, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(bytes, 6 * 2 * MIB);
	assert_memory_equal(f->ram, f->expect, RAM_BYTES);
	fault_tracker_use(f->t, iov, 2);
}

static void test_rewind_tells_that_a_huge_page_cannot_be_split(void **state)
{
	struct fixture *f = *state;
	struct err e = { 0 };
	int pair[2];

	begin_huge(f);
	f->ram[(HUGE_BLOCKS + 4) * VMSTATE_BLOCK_BYTES] ^= 1;
	page_hold(f, HUGE_BLOCKS + 9, pair);
	assert_int_equal(fault_tracker_rewind(f->t, f->rd, NULL, &e), -EBUSY);
	page_let_go(pair);
	if (fault_tracker_rewind(f->t, f->rd, NULL, &e) < 0)
		fail_msg("%s", e.msg);
	assert_memory_equal(f->ram, f->expect, RAM_BYTES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_touched_pages_load_first, setup, teardown),
		cmocka_unit_test_setup_teardown(test_all_memory_loads_in_background, setup, teardown),
		cmocka_unit_test_setup_teardown(test_guest_writes_are_not_overwritten, setup, teardown),
		cmocka_unit_test_setup_teardown(test_parallel_faults_are_served, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_damaged_block_is_reported_before_it_is_given, setup,
			teardown),
		cmocka_unit_test_setup_teardown(test_checksum_pieces_load_on_demand, setup, teardown),
		cmocka_unit_test_setup_teardown(test_working_set_loads_first, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_leaves_zeros_and_no_waiters, setup, teardown),
		cmocka_unit_test_setup_teardown(test_zero_blocks_are_created_on_access, setup, teardown),
		cmocka_unit_test_setup_teardown(test_only_written_blocks_are_dirty, setup, teardown),
		cmocka_unit_test_setup_teardown(test_block_that_the_owner_writes_to_is_not_protected, setup, teardown),
		cmocka_unit_test_setup_teardown(test_incremental_save_while_loading, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_save_omits_untouched_zeros, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rewind_reloads_written_blocks_only, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rewind_while_loading, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reclaim_leaves_memory_that_a_device_uses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reclaim_keeps_the_content_of_huge_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rewind_tells_that_a_huge_page_cannot_be_split, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
