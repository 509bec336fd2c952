/* The screen: identity, EDID, modes that do not fit, state, and where KVM shows the framebuffer. */
#include "fixture.h"

#include "base/bytes.h"
#include "devices/legacy/bochs_display.h"
#include "devices/legacy/edid.h"
#include "snapshot/state.h"

#include <stdlib.h>
#include <string.h>

#define SLOT 1
#define VBE 0x500

enum { ID, XRES, YRES, BPP, ENABLE, BANK, VIRT_WIDTH, VIRT_HEIGHT, X_OFFSET, Y_OFFSET, MEMORY_64K };

struct bench {
	struct fixture f;
	struct device *d;
	uint64_t memory, registers;
};

static struct dev_host_ops ops;
static uint64_t shown_at;
static uint64_t refused_at;

static int show(struct dev_host *h, uint64_t gpa, uint64_t bytes, void *memory)
{
	(void)h;
	assert_true(bytes ? memory != NULL && !shown_at : gpa == shown_at);
	if (bytes && gpa == refused_at)
		return -17;
	shown_at = bytes ? gpa : 0;
	return 0;
}

static void begin(struct bench *b)
{
	fx_init(&b->f);
	ops = *b->f.host.ops;
	ops.show = show;
	b->f.host.ops = &ops;
	shown_at = refused_at = 0;
	assert_int_equal(bochs_display_new(&b->f.host, b->f.pci, &b->d, NULL), 0);
	b->memory = fx_cfg_read(&b->f, SLOT, 0x10, 4) & ~0xfu;
	b->registers = fx_cfg_read(&b->f, SLOT, 0x18, 4) & ~0xfu;
}

static void end(struct bench *b)
{
	b->d->ops->free(b->d);
	assert_int_equal(shown_at, 0);
	fx_done(&b->f);
}

static void vbe(struct bench *b, unsigned i, uint64_t v)
{
	fx_write(&b->f, b->registers + VBE + 2 * i, 2, v);
}

static void mode_set(struct bench *b, unsigned w, unsigned h, unsigned bits)
{
	vbe(b, XRES, w);
	vbe(b, YRES, h);
	vbe(b, BPP, bits);
	vbe(b, ENABLE, 0x41);
}

static void identifies_as_bochs_display(void **state)
{
	uint8_t sum = 0;
	struct bench b;

	(void)state;
	begin(&b);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, 0, 4), 0x11111234);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, 8, 4), 0x03800002);
	assert_int_equal(fx_read(&b.f, b.registers + VBE, 2), 0xb0c5);
	assert_int_equal(fx_read(&b.f, b.registers + VBE + 2 * MEMORY_64K, 2), BOCHS_DISPLAY_BYTES >> 16);
	vbe(&b, ID, 0);
	vbe(&b, MEMORY_64K, 0xffff);
	assert_int_equal(fx_read(&b.f, b.registers + VBE, 2), 0xb0c5);
	assert_int_equal(fx_read(&b.f, b.registers + VBE + 2 * MEMORY_64K, 2), BOCHS_DISPLAY_BYTES >> 16);
	assert_int_equal(fx_read(&b.f, b.registers, 8), 0x00ffffffffffff00ULL);
	for (unsigned i = 0; i < EDID_BYTES; i++)
		sum = (uint8_t)(sum + fx_read(&b.f, b.registers + i, 1));
	assert_int_equal(sum, 0);
	/* Beyond the registers. */
	for (unsigned off = VBE + 2 * (MEMORY_64K + 1); off < 4096; off += 2)
		if (off < 0x600 || off >= 0x608)
			assert_int_equal(fx_read(&b.f, b.registers + off, 2), 0);
	assert_int_equal(fx_read(&b.f, b.registers + 0x600, 4), 8);
	assert_int_equal(fx_read(&b.f, b.registers + 0x604, 4), 0x1e1e1e1e);
	end(&b);
}

static void modes_stay_in_the_framebuffer(void **state)
{
	struct display_mode m;
	struct bench b;
	uint64_t seed = 1;

	(void)state;
	begin(&b);
	assert_false(bochs_display_mode(b.d, &m));
	mode_set(&b, 1920, 1080, 32);
	assert_true(bochs_display_mode(b.d, &m));
	assert_int_equal(m.stride, 1920 * 4);
	mode_set(&b, 2048, 1025, 32);
	assert_false(bochs_display_mode(b.d, &m));
	for (unsigned i = 0; i < 200000; i++) {
		for (unsigned k = XRES; k <= Y_OFFSET; k++) {
			seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
			if (k != BPP && k != ENABLE)
				vbe(&b, k, seed >> 40 & (seed >> 60 < 3 ? 0xffff : 0x7ff));
		}
		vbe(&b, BPP, seed >> 33 & 1 ? 16 : 32);
		if (bochs_display_mode(b.d, &m))
			assert_true((uint64_t)m.offset + (uint64_t)(m.height - 1) * m.stride + (uint64_t)m.width * m.bits / 8 <=
				BOCHS_DISPLAY_BYTES);
	}
	end(&b);
}

static void framebuffer_follows_its_bar(void **state)
{
	struct bench b;

	(void)state;
	begin(&b);
	assert_int_equal(shown_at, b.memory);
	fx_write(&b.f, b.memory + BOCHS_DISPLAY_BYTES - 4, 4, 0x12345678);
	fx_cfg_write(&b.f, SLOT, 4, 2, 0);
	assert_int_equal(shown_at, 0);
	fx_cfg_write(&b.f, SLOT, 0x10, 4, 0xd0000000);
	fx_cfg_write(&b.f, SLOT, 4, 2, 2);
	assert_int_equal(shown_at, 0xd0000000);
	/* Where KVM refuses it, the bus has it. */
	refused_at = 0xd1000000;
	fx_cfg_write(&b.f, SLOT, 0x10, 4, 0xd1000000);
	assert_int_equal(shown_at, 0);
	assert_int_equal(fx_read(&b.f, 0xd1000000 + BOCHS_DISPLAY_BYTES - 4, 4), 0x12345678);
	end(&b);
}

static void state_has_registers_and_content(void **state)
{
	struct fx_state s;
	struct display_mode m;
	struct bench b;

	(void)state;
	begin(&b);
	mode_set(&b, 640, 480, 32);
	fx_write(&b.f, b.memory + 8192, 4, 0x11223344);
	fx_write(&b.f, b.memory + BOCHS_DISPLAY_BYTES - 4096, 4, 0x55667788);
	fx_save(b.d, &s);
	assert_true(s.len > 2 * 4096 && s.len < 3 * 4096); /* two pages */
	mode_set(&b, 800, 600, 16);
	fx_write(&b.f, b.memory + 8192, 4, 0);
	fx_write(&b.f, b.memory, 4, 1);
	assert_int_equal(fx_load(b.d, &s), 0);
	assert_true(bochs_display_mode(b.d, &m));
	assert_int_equal(m.width, 640);
	assert_int_equal(fx_read(&b.f, b.memory, 4), 0);
	assert_int_equal(fx_read(&b.f, b.memory + 8192, 4), 0x11223344);
	assert_int_equal(fx_read(&b.f, b.memory + BOCHS_DISPLAY_BYTES - 4096, 4), 0x55667788);
	free(s.buf);
	fx_state_test(&b.f, b.d, 300);
	b.d->ops->reset(b.d);
	assert_false(bochs_display_mode(b.d, &m));
	assert_int_equal(fx_read(&b.f, b.memory + 8192, 4), 0);
	end(&b);
}

static const uint8_t rom[] = { 0x55, 0xaa, 1, 0xcb };

static void begin_with_rom(struct bench *b)
{
	fx_init(&b->f);
	assert_int_equal(bochs_display_new_with_rom(&b->f.host, b->f.pci, rom, sizeof(rom), &b->d, NULL), 0);
}

/* A firmware asks for the ROM's size, places the ROM, and turns its decoding on. */
static void rom_is_read_where_the_firmware_places_it(void **state)
{
	struct bench b;

	(void)state;
	begin_with_rom(&b);
	fx_cfg_write(&b.f, SLOT, 0x30, 4, 0xfffffffe);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, 0x30, 4), ~(BOCHS_DISPLAY_ROM_BYTES - 1));
	fx_cfg_write(&b.f, SLOT, 0x30, 4, 0xd2000000);
	assert_int_equal(fx_read(&b.f, 0xd2000000, 4), UINT64_MAX);
	fx_cfg_write(&b.f, SLOT, 0x30, 4, 0xd2000001);
	assert_int_equal(fx_read(&b.f, 0xd2000000, 4), 0xcb01aa55);
	fx_write(&b.f, 0xd2000000, 4, 0);
	assert_int_equal(fx_read(&b.f, 0xd2000000, 4), 0xcb01aa55);
	assert_int_equal(fx_read(&b.f, 0xd2000000 + BOCHS_DISPLAY_ROM_BYTES - 4, 4), 0);
	assert_int_equal(fx_read(&b.f, 0xd2000000 + BOCHS_DISPLAY_ROM_BYTES, 4), UINT64_MAX);
	fx_state_test(&b.f, b.d, 300);
	fx_cfg_write(&b.f, SLOT, 0x30, 4, 0xd3000001);
	assert_int_equal(fx_read(&b.f, 0xd2000000, 4), UINT64_MAX);
	assert_int_equal(fx_read(&b.f, 0xd3000000, 4), 0xcb01aa55);
	b.d->ops->reset(b.d);
	assert_int_equal(fx_read(&b.f, 0xd3000000, 4), UINT64_MAX);
	end(&b);
}

/* The guest of such a state sees the hardware that it began with until its next reset. */
static void state_from_before_the_rom_hides_it(void **state)
{
	struct fx_state old, now;
	struct bench b;

	(void)state;
	begin(&b);
	fx_save(b.d, &old);
	assert_int_equal(b.d->ops->state_version, 1);
	end(&b);
	begin_with_rom(&b);
	assert_int_equal(b.d->ops->state_version, 2);
	fx_save(b.d, &now);
	b.d->ops->reset(b.d);
	assert_int_equal(b.d->ops->load(b.d, &(struct state_reader){ .buf = old.buf, .len = old.len }, 1, NULL), 0);
	assert_int_equal(b.d->ops->state_version, 1);
	fx_cfg_write(&b.f, SLOT, 0x30, 4, 0xd2000001);
	assert_int_equal(fx_cfg_read(&b.f, SLOT, 0x30, 4), 0);
	b.d->ops->reset(b.d);
	assert_int_equal(b.d->ops->state_version, 2);
	fx_cfg_write(&b.f, SLOT, 0x30, 4, 0xd2000001);
	assert_int_equal(fx_read(&b.f, 0xd2000000, 4), 0xcb01aa55);
	assert_int_equal(fx_load(b.d, &now), 0);
	assert_int_equal(b.d->ops->state_version, 2);
	free(old.buf);
	free(now.buf);
	end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identifies_as_bochs_display),
		cmocka_unit_test(modes_stay_in_the_framebuffer),
		cmocka_unit_test(framebuffer_follows_its_bar),
		cmocka_unit_test(state_has_registers_and_content),
		cmocka_unit_test(rom_is_read_where_the_firmware_places_it),
		cmocka_unit_test(state_from_before_the_rom_hides_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
