/* A saved state in a sparse file: write, read back, and refuse invalid headers and sections. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/vmstate.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAM_BYTES (4 * MIB + 4096) /* the last block is short */
#define SECTIONS "not looked into here"

struct fixture {
	struct vmstate_file file, ram_file;
	uint8_t *ram;
	bool unmap;
	struct vmstate_header h;
	struct vmstate_result result;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	vmstate_file_init(&f->file, memfd_create("state", MFD_CLOEXEC));
	f->ram_file.fd = memfd_create("ram", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->ram_file.fd, RAM_BYTES), 0);
	f->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, f->ram_file.fd, 0);
	assert_true(f->ram != MAP_FAILED);
	/* Data in block 3, in blocks 10 to 12, and in the short last one. */
	f->ram[3 * VMSTATE_BLOCK_BYTES + 17] = 1;
	memset(f->ram + 10 * VMSTATE_BLOCK_BYTES, 0xa5, 2 * VMSTATE_BLOCK_BYTES + 1);
	f->ram[RAM_BYTES - 1] = 7;
	/* Block 20 was touched and is zero again. */
	f->ram[20 * VMSTATE_BLOCK_BYTES] = 0;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	munmap(f->ram, RAM_BYTES);
	close(f->ram_file.fd);
	close(f->file.fd);
	free(f);
	return 0;
}

static int save(struct fixture *f, const struct vmstate_progress *p, struct err *e)
{
	struct vmstate_source src = { .sections = (const uint8_t *)SECTIONS,
		.sections_bytes = sizeof(SECTIONS), .definition = "{\"name\":\"x\"}", .ram = f->ram,
		.ram_bytes = RAM_BYTES, .ram_fd = f->ram_file.fd, .unmap = f->unmap };

	memset(f->h.uuid, 0x42, sizeof(f->h.uuid));
	f->h.realtime_ns = 123456789;
	f->h.vm_clock_ns = 20 * 1000000000ULL;
	f->h.paused = true;
	return vmstate_write(&f->file.store, &f->h, &src, p, &f->result, e);
}

static void test_saved_state_reads_back(void **state)
{
	struct fixture *f = *state;
	struct vmstate_header h;
	uint8_t *sections, block[VMSTATE_BLOCK_BYTES];
	char *definition;
	uint32_t *crcs;
	struct err e = { 0 };

	assert_int_equal(save(f, NULL, &e), 0);
	assert_int_equal(vmstate_read_header(&f->file.store, &h, &e), 0);
	assert_int_equal(h.layout.ram_bytes, RAM_BYTES);
	assert_int_equal(h.realtime_ns, 123456789);
	assert_int_equal(h.vm_clock_ns, 20 * 1000000000ULL);
	assert_true(h.paused);
	assert_int_equal(h.uuid[15], 0x42);
	assert_int_equal(vmstate_read_sections(&f->file.store, &h, &sections, &e), 0);
	assert_string_equal((char *)sections, SECTIONS);
	assert_int_equal(vmstate_read_definition(&f->file.store, &h, &definition, &e), 0);
	assert_string_equal(definition, "{\"name\":\"x\"}");
	assert_int_equal(vmstate_read_crcs(&f->file.store, &h, &crcs, &e), 0);
	for (uint64_t b = 0; b < h.layout.blocks; b++) {
		const uint8_t *want = f->ram + b * VMSTATE_BLOCK_BYTES;
		size_t len = vmstate_block_len(&h.layout, b);
		bool zero = vmstate_block_is_zero(&h.layout, crcs, b);

		assert_int_equal(zero, b != 3 && (b < 10 || b > 12) && b + 1 != h.layout.blocks);
		if (zero)
			continue;
		assert_int_equal(vmstate_read_blocks(&f->file.store, &h, crcs, b, 1, block, &e), 0);
		assert_memory_equal(block, want, len);
	}
	free(sections);
	free(definition);
	free(crcs);
}

/* A state large enough for several threads. */
#define MUCH_BYTES (64 * MIB + 4096)

static uint8_t *much_ram(void)
{
	uint8_t *ram = mmap(NULL, MUCH_BYTES + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(ram != MAP_FAILED);
	for (uint64_t b = 0; b * VMSTATE_BLOCK_BYTES < MUCH_BYTES; b++)
		if (b % 7 != 3) /* some blocks are zero */
			memset(ram + b * VMSTATE_BLOCK_BYTES, (int)(b % 251 + 1),
				MIN(VMSTATE_BLOCK_BYTES, MUCH_BYTES - b * VMSTATE_BLOCK_BYTES));
	return ram;
}

static struct vmstate_source much_source(const uint8_t *ram)
{
	return (struct vmstate_source){ .sections = (const uint8_t *)SECTIONS, .sections_bytes = sizeof(SECTIONS),
		.ram = ram, .ram_bytes = MUCH_BYTES, .ram_fd = -1 };
}

static void check_much(struct vmstate_store *s, const uint8_t *ram)
{
	struct vmstate_header h;
	uint8_t block[VMSTATE_BLOCK_BYTES];
	uint32_t *crcs;

	assert_int_equal(vmstate_read_header(s, &h, NULL), 0);
	assert_int_equal(vmstate_read_crcs(s, &h, &crcs, NULL), 0);
	for (uint64_t b = 0; b < h.layout.blocks; b++) {
		assert_int_equal(vmstate_block_is_zero(&h.layout, crcs, b), b % 7 == 3);
		if (b % 7 == 3)
			continue;
		assert_int_equal(vmstate_read_blocks(s, &h, crcs, b, 1, block, NULL), 0);
		assert_memory_equal(block, ram + b * VMSTATE_BLOCK_BYTES, vmstate_block_len(&h.layout, b));
	}
	free(crcs);
}

/* Direct I/O, from aligned and unaligned memory; the flag is cleared afterwards. */
static void direct_saved_and_checked(unsigned shift)
{
	char path[96];
	int fd;
	uint8_t *ram = much_ram();
	struct vmstate_source src = much_source(ram + shift);
	struct vmstate_header h = { 0 };
	struct vmstate_result result;
	struct vmstate_file f;

	snprintf(path, sizeof(path), "%s/cairn-vmstate-XXXXXX", tmp_folder());
	fd = mkstemp(path);
	assert_true(fd >= 0);
	unlink(path);
	memmove(ram + shift, ram, MUCH_BYTES);
	vmstate_file_init(&f, fd);
	vmstate_file_direct(&f, true);
	assert_int_equal(vmstate_write(&f.store, &h, &src, NULL, &result, NULL), 0);
	vmstate_file_direct(&f, false);
	assert_false(fcntl(fd, F_GETFL) & O_DIRECT);
	check_much(&f.store, ram + shift);
	munmap(ram, MUCH_BYTES + 4096);
	close(fd);
}

static void test_direct_io_is_used_when_aligned(void **state)
{
	(void)state;
	direct_saved_and_checked(0);
}

static void test_unaligned_memory_uses_buffered_io(void **state)
{
	(void)state;
	direct_saved_and_checked(1);
}

/* A disk without space. */
struct full_store {
	struct vmstate_file file;
	struct vmstate_store store;
	uint64_t room_to;
};

static int full_write(struct vmstate_store *s, uint64_t off, const void *buf, size_t len)
{
	struct full_store *f = container_of(s, struct full_store, store);

	return off + len > f->room_to ? -ENOSPC : f->file.store.write(&f->file.store, off, buf, len);
}

static int full_sync(struct vmstate_store *s)
{
	(void)s;
	return 0;
}

static void test_full_disk_leaves_no_state(void **state)
{
	struct fixture *f = *state;
	struct full_store full = { .file = f->file,
		.store = { .write = full_write, .sync = full_sync, .concurrent = true }, .room_to = 40 * MIB };
	uint8_t *ram = much_ram();
	struct vmstate_source src = much_source(ram);
	struct vmstate_header h = { 0 };
	struct vmstate_result result;
	struct err e = { 0 };

	assert_int_equal(vmstate_write(&full.store, &h, &src, NULL, &result, &e), -ENOSPC);
	assert_true(result.ram_bytes_written < MUCH_BYTES);
	assert_int_not_equal(vmstate_read_header(&f->file.store, &h, NULL), 0);
	munmap(ram, MUCH_BYTES + 4096);
}

/* Records the order of operations on the file. */
struct watched_store {
	struct vmstate_file file;
	struct vmstate_store store;
	char last[4]; /* 'w': write, 'h': write of the header, 's': sync */
};

static void watched(struct watched_store *f, char what)
{
	memmove(f->last, f->last + 1, 3);
	f->last[3] = what;
	if (what == 'w')
		assert_null(memchr(f->last, 'h', sizeof(f->last)));
}

static int watched_write(struct vmstate_store *s, uint64_t off, const void *buf, size_t len)
{
	struct watched_store *f = container_of(s, struct watched_store, store);

	watched(f, off ? 'w' : 'h');
	return f->file.store.write(&f->file.store, off, buf, len);
}

static int watched_sync(struct vmstate_store *s)
{
	watched(container_of(s, struct watched_store, store), 's');
	return 0;
}

/* A state with a header is complete, whenever the power fails. */
static void test_header_is_written_last(void **state)
{
	struct fixture *f = *state;
	struct watched_store w = { .file = f->file, .store = { .write = watched_write, .sync = watched_sync } };
	uint8_t *ram = much_ram();
	struct vmstate_source src = much_source(ram);
	struct vmstate_header h = { 0 };
	struct vmstate_result result;

	assert_int_equal(vmstate_write(&w.store, &h, &src, NULL, &result, NULL), 0);
	assert_memory_equal(w.last, "wshs", 4);
	munmap(ram, MUCH_BYTES + 4096);
}

static void test_zero_blocks_take_no_space(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	assert_int_equal(save(f, NULL, NULL), 0);
	assert_int_equal(f->result.ram_bytes_written, 4 * VMSTATE_BLOCK_BYTES + 4096);
	assert_int_equal(fstat(f->file.fd, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 < 6 * VMSTATE_BLOCK_BYTES);
	/* Saving allocates no memory for holes, except the rest of a block that has a page: 3, 10
	 * to 12, 20, and the last page. */
	assert_int_equal(fstat(f->ram_file.fd, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 <= 5 * VMSTATE_BLOCK_BYTES + 4096);
}

static void test_every_bit_of_the_header_counts(void **state)
{
	struct fixture *f = *state;
	struct vmstate_header h;
	uint8_t b;

	assert_int_equal(save(f, NULL, NULL), 0);
	for (off_t i = 0; i < VMSTATE_HEADER_BYTES; i++) {
		assert_int_equal(pread(f->file.fd, &b, 1, i), 1);
		b ^= 1;
		assert_int_equal(pwrite(f->file.fd, &b, 1, i), 1);
		assert_int_equal(vmstate_read_header(&f->file.store, &h, NULL), -EINVAL);
		b ^= 1;
		assert_int_equal(pwrite(f->file.fd, &b, 1, i), 1);
	}
	assert_int_equal(vmstate_read_header(&f->file.store, &h, NULL), 0);
}

/* Change a field and recompute the checksum. */
static void header_poke(struct fixture *f, size_t off, uint64_t v, unsigned size)
{
	uint8_t b[VMSTATE_HEADER_BYTES];

	assert_int_equal(pread(f->file.fd, b, sizeof(b), 0), sizeof(b));
	store_le(b + off, size, v);
	store_le32(b + sizeof(b) - 4, crc32c(0, b, sizeof(b) - 4));
	assert_int_equal(pwrite(f->file.fd, b, sizeof(b), 0), sizeof(b));
}

static void test_impossible_headers(void **state)
{
	static const struct {
		size_t off;
		uint64_t value;
		unsigned size;
		int want;
	} pokes[] = { { 8, VMSTATE_VERSION + 1, 4, -ENOTSUP }, { 8, 0, 4, -ENOTSUP }, { 12, 4096, 4, -EINVAL },
		{ 16, 0, 8, -EINVAL }, { 24, 0, 8, -EINVAL }, { 24, 1ULL << 40, 8, -EINVAL },
		{ 32, 0, 8, -EINVAL }, { 40, 1, 8, -EINVAL }, { 48, 0, 8, -EINVAL },
		{ 48, 4097, 8, -EINVAL }, { 48, 1ULL << 63, 8, -EINVAL }, { 88, 1ULL << 32, 8, -EINVAL } };
	struct fixture *f = *state;
	struct vmstate_header h;

	for (size_t i = 0; i < ARRAY_SIZE(pokes); i++) {
		assert_int_equal(save(f, NULL, NULL), 0);
		header_poke(f, pokes[i].off, pokes[i].value, pokes[i].size);
		assert_int_equal(vmstate_read_header(&f->file.store, &h, NULL), pokes[i].want);
	}
}

static void test_truncated_state_is_refused(void **state)
{
	struct fixture *f = *state;
	struct vmstate_header h;
	struct err e = { 0 };

	assert_int_equal(save(f, NULL, NULL), 0);
	assert_int_equal(vmstate_read_header(&f->file.store, &h, NULL), 0);
	assert_int_equal(vmstate_check_whole(&f->file.store, &h, NULL), 0);
	assert_int_equal(ftruncate(f->file.fd, (off_t)h.layout.crc_offset + 4095), 0);
	assert_int_equal(vmstate_check_whole(&f->file.store, &h, &e), -EIO);
	assert_non_null(strstr(e.msg, "checksums"));
}

static void test_a_damaged_block_is_named(void **state)
{
	struct fixture *f = *state;
	uint8_t block[VMSTATE_BLOCK_BYTES], b = 0xff;
	struct vmstate_header h;
	uint32_t *crcs;
	struct err e = { 0 };

	assert_int_equal(save(f, NULL, NULL), 0);
	assert_int_equal(vmstate_read_header(&f->file.store, &h, NULL), 0);
	assert_int_equal(vmstate_read_crcs(&f->file.store, &h, &crcs, NULL), 0);
	assert_int_equal(
		pwrite(f->file.fd, &b, 1, (off_t)(h.layout.ram_offset + 11 * VMSTATE_BLOCK_BYTES + 5)), 1);
	assert_int_equal(vmstate_read_blocks(&f->file.store, &h, crcs, 10, 1, block, &e), 0);
	assert_int_equal(vmstate_read_blocks(&f->file.store, &h, crcs, 11, 1, block, &e), -EIO);
	assert_non_null(strstr(e.msg, "block 11"));
	free(crcs);
}

static void test_a_damaged_definition_is_refused(void **state)
{
	struct fixture *f = *state;
	struct vmstate_header h;
	char *definition;
	struct err e = { 0 };

	assert_int_equal(save(f, NULL, NULL), 0);
	assert_int_equal(vmstate_read_header(&f->file.store, &h, NULL), 0);
	assert_int_equal(pwrite(f->file.fd, "y", 1, (off_t)(h.layout.definition_offset + 9)), 1);
	assert_int_equal(vmstate_read_definition(&f->file.store, &h, &definition, &e), -EINVAL);
	assert_int_equal(e.cls, ERR_CORRUPT);
	/* A state from before the definition had a checksum is accepted. */
	header_poke(f, 96, 0, 4);
	assert_int_equal(vmstate_read_header(&f->file.store, &h, NULL), 0);
	assert_int_equal(vmstate_read_definition(&f->file.store, &h, &definition, NULL), 0);
	assert_string_equal(definition, "{\"name\":\"y\"}");
	free(definition);
}

static int stop_at_once(void *opaque, uint64_t done, uint64_t total)
{
	(void)opaque;
	assert_true(done <= ROUND_UP(total, VMSTATE_BLOCK_BYTES));
	return 1;
}

static void test_cancelled_save_leaves_no_state(void **state)
{
	struct vmstate_progress p = { .step = stop_at_once };
	struct fixture *f = *state;
	struct vmstate_header h;
	struct err e = { 0 };

	assert_int_equal(save(f, &p, &e), -ECANCELED);
	assert_int_equal(e.cls, ERR_CANCELLED);
	assert_true(vmstate_read_header(&f->file.store, &h, NULL) < 0);
}

static unsigned mapped_pages(const uint8_t *p, size_t len)
{
	static uint64_t entries[RAM_BYTES / 4096];
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	unsigned n = 0;

	assert_true(fd >= 0 && len <= RAM_BYTES);
	assert_int_equal(pread(fd, entries, len / 512, (off_t)((uintptr_t)p / 512)), len / 512);
	for (size_t i = 0; i < len / 4096; i++)
		n += (unsigned)(entries[i] >> 63);
	close(fd);
	return n;
}

/* Memory is unchanged whether the save succeeds or not: a VM whose save failed continues with
 * it. */
static void test_memory_unmapped_by_save_keeps_content(void **state)
{
	struct fixture *f = *state;
	struct vmstate_progress p = { .step = stop_at_once };
	uint8_t *want = malloc(RAM_BYTES);
	struct err e = { 0 };

	memcpy(want, f->ram, RAM_BYTES);
	assert_int_equal(save(f, NULL, &e), 0);
	assert_int_equal(mapped_pages(f->ram, RAM_BYTES), RAM_BYTES / 4096);
	f->unmap = true;
	for (int stopped = 0; stopped < 2; stopped++) {
		assert_int_equal(save(f, stopped ? &p : NULL, &e), stopped ? -ECANCELED : 0);
		assert_int_equal(mapped_pages(f->ram + 3 * VMSTATE_BLOCK_BYTES, VMSTATE_BLOCK_BYTES), 0);
		/* Faults of the other thread map neighbouring pages as well. */
		if (!stopped)
			assert_true(mapped_pages(f->ram, RAM_BYTES) <= 64);
		assert_memory_equal(f->ram, want, RAM_BYTES);
	}
	free(want);
}

/* Each block, including the short last one, has the checksum of zeros of its length. */
static void test_untouched_blocks_have_zero_checksums(void **state)
{
	struct fixture *f = *state;
	struct vmstate_header h;
	uint32_t *crcs;
	struct err e = { 0 };

	for (uint64_t from = RAM_BYTES - 4096;; from = 0) {
		assert_int_equal(fallocate(f->ram_file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
					 (off_t)(RAM_BYTES - from)), 0);
		assert_int_equal(save(f, NULL, &e), 0);
		assert_int_equal(vmstate_read_header(&f->file.store, &h, &e), 0);
		assert_int_equal(vmstate_read_crcs(&f->file.store, &h, &crcs, &e), 0);
		for (uint64_t b = from / VMSTATE_BLOCK_BYTES; b < h.layout.blocks; b++)
			assert_true(vmstate_block_is_zero(&h.layout, crcs, b));
		free(crcs);
		if (!from)
			break;
	}
	assert_int_equal(f->result.ram_bytes_written, 0);
}

/* CRC32C's polynomial, with 33 bits, in the order in which the checksum takes bits: adding it anywhere to a block
 * leaves the block's CRC32C as it is. */
#define POLYNOMIAL 0x105ec76f1ULL

static void test_blocks_with_the_crc_of_zeros_survive(void **state)
{
	struct fixture *f = *state;
	struct vmstate_layout l;
	uint8_t block[VMSTATE_BLOCK_BYTES];
	struct vmstate_header h;
	uint32_t *crcs;
	struct err e = { 0 };

	vmstate_layout_of(RAM_BYTES, &l);
	srand(20261121);
	memset(f->ram, 0, RAM_BYTES);
	for (uint64_t b = 0; b < l.blocks; b++) {
		uint8_t *p = f->ram + b * VMSTATE_BLOCK_BYTES;
		size_t len = vmstate_block_len(&l, b);
		uint64_t word = POLYNOMIAL << (rand() % 32);

		memcpy(p + (size_t)rand() % (len - 8), &word, 8);
		assert_int_equal(crc32c(0, p, len), vmstate_zero_crc(&l, b));
	}
	assert_int_equal(save(f, NULL, &e), 0);
	assert_int_equal(f->result.ram_bytes_written, RAM_BYTES);
	assert_int_equal(vmstate_read_header(&f->file.store, &h, &e), 0);
	assert_int_equal(vmstate_read_crcs(&f->file.store, &h, &crcs, &e), 0);
	for (uint64_t b = 0; b < l.blocks; b++) {
		assert_false(vmstate_block_is_zero(&l, crcs, b));
		assert_int_equal(vmstate_read_blocks(&f->file.store, &h, crcs, b, 1, block, &e), 0);
		assert_memory_equal(block, f->ram + b * VMSTATE_BLOCK_BYTES, vmstate_block_len(&l, b));
	}
	free(crcs);
}

static void test_checksums_of_zeros(void **state)
{
	static const uint8_t zeros[VMSTATE_BLOCK_BYTES];
	struct vmstate_layout l;

	(void)state;
	for (size_t last = 4096; last <= VMSTATE_BLOCK_BYTES; last += 4096) {
		vmstate_layout_of(VMSTATE_BLOCK_BYTES + last, &l);
		assert_int_equal(l.blocks, 2);
		assert_int_equal(vmstate_zero_crc(&l, 0), crc32c(0, zeros, VMSTATE_BLOCK_BYTES));
		assert_int_equal(vmstate_zero_crc(&l, 1), crc32c(0, zeros, last));
	}
}

/* The size of an address space tells its RAM; no other size does. */
static void test_ram_of_an_address_space(void **state)
{
	static const uint64_t sizes[] = { MIB, 4 * MIB + 4096, 64 * MIB, 128 * MIB, 511 * MIB, 512 * MIB, 513 * MIB,
		8192 * MIB, 1ULL << 40 };
	struct vmstate_layout l;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		vmstate_layout_of(sizes[i], &l);
		assert_int_equal(vmstate_ram_bytes(l.total_bytes), sizes[i]);
	}
	assert_int_equal(vmstate_ram_bytes(0), 0);
	assert_int_equal(vmstate_ram_bytes(4096), 0);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_saved_state_reads_back, setup, teardown),
		cmocka_unit_test(test_direct_io_is_used_when_aligned),
		cmocka_unit_test(test_unaligned_memory_uses_buffered_io),
		cmocka_unit_test_setup_teardown(test_full_disk_leaves_no_state, setup, teardown),
		cmocka_unit_test_setup_teardown(test_header_is_written_last, setup, teardown),
		cmocka_unit_test_setup_teardown(test_zero_blocks_take_no_space, setup, teardown),
		cmocka_unit_test_setup_teardown(test_every_bit_of_the_header_counts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_impossible_headers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_truncated_state_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_damaged_block_is_named, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_damaged_definition_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancelled_save_leaves_no_state, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory_unmapped_by_save_keeps_content, setup, teardown),
		cmocka_unit_test_setup_teardown(test_untouched_blocks_have_zero_checksums, setup, teardown),
		cmocka_unit_test_setup_teardown(test_blocks_with_the_crc_of_zeros_survive, setup, teardown),
		cmocka_unit_test(test_checksums_of_zeros),
		cmocka_unit_test(test_ram_of_an_address_space),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
