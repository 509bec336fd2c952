/* fw_cfg: items and the directory by port and by DMA, and every field that a guest can get wrong. */
#include "fixture.h"

#include "base/bytes.h"
#include "devices/legacy/fw_cfg.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DATA_PORT (FW_CFG_PORT + 1)
#define DMA_HIGH_PORT (FW_CFG_PORT + 4)
#define DMA_LOW_PORT (FW_CFG_PORT + 8)

enum { ERROR = 1, READ = 2, SKIP = 4, SELECT = 8, WRITE = 16 };

static const char content[] = "content of a file";

struct state {
	struct fixture f;
	struct device *d;
	uint64_t access, buf; /* guest memory of a descriptor, and 64 bytes */
};

static int setup(void **state)
{
	struct state *s = calloc(1, sizeof(*s));

	fx_init(&s->f);
	assert_int_equal(fw_cfg_new(&s->f.host, s->f.pio, &s->d, NULL), 0);
	assert_int_equal(fw_cfg_add_file(s->d, "etc/one", content, sizeof(content), NULL), 0);
	assert_int_equal(fw_cfg_add_file(s->d, "etc/empty", NULL, 0, NULL), 0);
	s->access = fx_alloc(&s->f, 16, 16);
	s->buf = fx_alloc(&s->f, 64, 16);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct state *s = *state;

	s->d->ops->free(s->d);
	fx_done(&s->f);
	free(s);
	return 0;
}

static uint32_t bswap(uint32_t v)
{
	return htobe32(v);
}

/* Start a transfer by a descriptor at `at`, and return its control word afterwards. */
static uint32_t dma_at(struct state *s, uint64_t at, uint32_t control, uint32_t length, uint64_t gpa)
{
	uint8_t *p = fx_ram(&s->f, at);

	store_be32(p, control);
	store_be32(p + 4, length);
	store_be64(p + 8, gpa);
	if (at >> 32)
		fx_out(&s->f, DMA_HIGH_PORT, 4, bswap((uint32_t)(at >> 32)));
	fx_out(&s->f, DMA_LOW_PORT, 4, bswap((uint32_t)at));
	return load_be32(p);
}

static uint32_t dma(struct state *s, uint32_t control, uint32_t length, uint64_t gpa)
{
	return dma_at(s, s->access, control, length, gpa);
}

static void read_port(struct state *s, uint16_t key, void *to, size_t n)
{
	fx_out(&s->f, FW_CFG_PORT, 2, key);
	for (size_t i = 0; i < n; i++)
		((uint8_t *)to)[i] = (uint8_t)fx_in(&s->f, DATA_PORT, 1);
}

static void test_firmware_finds_the_device(void **state)
{
	struct state *s = *state;
	char sig[6];

	read_port(s, FW_CFG_SIGNATURE, sig, 6);
	assert_memory_equal(sig, "QEMU\0\0", 6); /* zeros behind the item's end */
	read_port(s, FW_CFG_ID, sig, 4);
	assert_int_equal(load_le32(sig), 3);
	assert_int_equal(fx_in(&s->f, DMA_HIGH_PORT, 4), bswap(0x51454d55)); /* "QEMU" */
	assert_int_equal(fx_in(&s->f, DMA_LOW_PORT, 4), bswap(0x20434647)); /* " CFG" */
	read_port(s, 0x7777, sig, 1); /* there is no such item */
	assert_int_equal(sig[0], 0);
}

static void test_directory_names_the_files(void **state)
{
	struct state *s = *state;
	uint8_t dir[4 + 2 * 64], text[sizeof(content)];

	read_port(s, FW_CFG_FILE_DIR, dir, sizeof(dir));
	assert_int_equal(load_be32(dir), 2);
	assert_int_equal(load_be32(dir + 4), sizeof(content));
	assert_string_equal((char *)dir + 12, "etc/one");
	assert_int_equal(load_be32(dir + 68), 0);
	assert_string_equal((char *)dir + 76, "etc/empty");
	read_port(s, load_be16(dir + 8), text, sizeof(text));
	assert_memory_equal(text, content, sizeof(content));
}

static void test_dma_reads_skips_and_selects(void **state)
{
	struct state *s = *state;
	char *buf = fx_ram(&s->f, s->buf);
	uint32_t select = FW_CFG_FILE_FIRST << 16 | SELECT;

	memset(buf, 'x', 64);
	s->f.dirty_bytes = 0;
	assert_int_equal(dma(s, select | READ, 32, s->buf), 0);
	assert_memory_equal(buf, content, sizeof(content));
	assert_true(bytes_are_zero((uint8_t *)buf + sizeof(content), 32 - sizeof(content)));
	assert_int_equal(buf[32], 'x');
	assert_true(s->f.dirty_bytes >= 32 + 4); /* a snapshot sees what was written */
	assert_int_equal(dma(s, select | SKIP, 13, 0), 0);
	assert_int_equal(dma(s, READ, 4, s->buf), 0);
	assert_memory_equal(buf, "file", 4);
	assert_int_equal(dma(s, select, 0, 0), 0);
	assert_int_equal(dma(s, READ, 7, s->buf), 0);
	assert_memory_equal(buf, "content", 7);
	/* Behind 4 GiB: the high half of the address counts, and only once. */
	assert_int_equal(dma_at(s, FX_HIGH_GPA + 64, select | READ, 7, FX_HIGH_GPA + 128), 0);
	assert_memory_equal(fx_ram(&s->f, FX_HIGH_GPA + 128), "content", 7);
	assert_int_equal(dma(s, select | READ, 7, s->buf), 0);
}

static void test_wrong_transfers_are_refused(void **state)
{
	struct state *s = *state;
	uint32_t select = FW_CFG_FILE_FIRST << 16 | SELECT;
	char *buf = fx_ram(&s->f, s->buf);

	memset(buf, 'x', 64);
	assert_int_equal(dma(s, select | READ, 32, FX_LOW_BYTES - 31), ERROR);
	assert_int_equal(dma(s, select | READ, 32, UINT64_MAX - 15), ERROR);
	assert_int_equal(dma(s, select | READ, UINT32_MAX, 0), ERROR);
	assert_int_equal(dma(s, select | SKIP, UINT32_MAX, 0), ERROR);
	assert_int_equal(dma(s, select | WRITE, 4, s->buf), ERROR);
	assert_int_equal(dma(s, 0, 4, s->buf), 0);
	assert_int_equal(buf[0], 'x');
	/* Descriptors outside of memory do nothing. */
	fx_out(&s->f, DMA_LOW_PORT, 4, bswap(FX_LOW_BYTES - 15));
	fx_out(&s->f, DMA_HIGH_PORT, 4, UINT32_MAX);
	fx_out(&s->f, DMA_LOW_PORT, 4, UINT32_MAX);
	/* Accesses of other widths do nothing, either. */
	fx_out(&s->f, FW_CFG_PORT, 4, 1);
	fx_out(&s->f, DMA_LOW_PORT, 2, 0);
	assert_int_equal(fx_in(&s->f, DATA_PORT, 2), 0);
	/* The offset does not wrap around: far behind the end there are only zeros. */
	fx_out(&s->f, FW_CFG_PORT, 2, FW_CFG_FILE_FIRST);
	for (unsigned i = 0; i < 257; i++)
		assert_int_equal(dma(s, SKIP, 16 << 20, 0), 0);
	assert_int_equal(fx_in(&s->f, DATA_PORT, 1), 0);
}

static void test_state_keeps_the_place(void **state)
{
	struct state *s = *state;
	struct fx_state saved;

	fx_out(&s->f, FW_CFG_PORT, 2, FW_CFG_FILE_FIRST);
	assert_int_equal(dma(s, SKIP, 13, 0), 0);
	fx_out(&s->f, DMA_HIGH_PORT, 4, bswap(1)); /* half of a transfer's address */
	fx_save(s->d, &saved);
	s->d->ops->reset(s->d);
	assert_int_equal(fx_in(&s->f, DATA_PORT, 1), 'Q');
	assert_int_equal(fx_load(s->d, &saved), 0);
	assert_int_equal(fx_in(&s->f, DATA_PORT, 1), 'f');
	assert_int_equal(fx_load(s->d, &saved), 0);
	memcpy(fx_ram(&s->f, FX_HIGH_GPA + 64), fx_ram(&s->f, s->access), 16);
	fx_out(&s->f, DMA_LOW_PORT, 4, bswap(64)); /* 4 GiB + 64 */
	assert_int_equal(fx_in(&s->f, DATA_PORT, 1), 'f');
	free(saved.buf);
	fx_state_test(&s->f, s->d, 50);
}

static void test_items_have_limits(void **state)
{
	struct state *s = *state;
	char name[FW_CFG_NAME_MAX + 2];
	int r = 0;

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	assert_int_equal(fw_cfg_add_file(s->d, name, "", 0, NULL), -E2BIG);
	assert_int_equal(fw_cfg_add_file(s->d, "big", name, FW_CFG_ITEM_MAX_BYTES + 1, NULL), -E2BIG);
	assert_int_equal(fw_cfg_add_item(s->d, FW_CFG_ID, "", 0, NULL), -EEXIST);
	for (unsigned i = 0; !r; i++) {
		snprintf(name, sizeof(name), "file%u", i);
		r = fw_cfg_add_file(s->d, name, "", 0, NULL);
	}
	assert_int_equal(r, -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_firmware_finds_the_device, setup, teardown),
		cmocka_unit_test_setup_teardown(test_directory_names_the_files, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dma_reads_skips_and_selects, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_transfers_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state_keeps_the_place, setup, teardown),
		cmocka_unit_test_setup_teardown(test_items_have_limits, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
