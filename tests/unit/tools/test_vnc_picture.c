/* cairn-vnc's picture: it checks the mode from the VM's process, finds changes, and translates keysyms into keys. */
#include "tools/vnc/keymap.h"
#include "tools/vnc/link.h"
#include "tools/vnc/picture.h"

#include "base/util.h"

#include <linux/input-event-codes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BYTES (8u << 20)

static struct {
	unsigned n;
	uint32_t rect[8][4];
} seen;

static void changed(void *opaque, uint32_t x1, uint32_t y1, uint32_t x2, uint32_t y2)
{
	(void)opaque;
	assert_in_range(seen.n, 0, 7);
	memcpy(seen.rect[seen.n++], (uint32_t[]){ x1, y1, x2, y2 }, sizeof(seen.rect[0]));
}

static void mode_is_checked(void **state)
{
	static const struct display_mode bad[] = {
		{ 63, 480, 32, 1920, 0 }, { 640, 8193, 16, 1280, 0 }, { 640, 480, 24, 1920, 0 }, { 640, 480, 32, 2556, 0 },
		{ 640, 480, 32, 2560, BYTES }, { 640, 480, 32, 2560, BYTES - 480 * 2560 + 4 }, { 640, 480, 32, UINT32_MAX, 0 },
		{ 640, 480, 32, 2560, UINT32_MAX }, { 4294967295u, 480, 32, 2560, 0 }, { 1920, 1100, 32, 7680, 0 } };
	uint8_t *memory = calloc(1, BYTES + DISPLAY_PAGE_BYTES);
	struct display_page *page = (struct display_page *)(memory + BYTES);
	struct link l = { .fd = -1, .memory = memory, .bytes = BYTES };
	struct display_mode mode;

	(void)state;
	assert_false(link_mode(&l, &mode));
	page->on = 1;
	page->mode = (struct display_mode){ 640, 480, 32, 2560, BYTES - 480 * 2560 };
	assert_true(link_mode(&l, &mode));
	assert_int_equal(mode.offset, BYTES - 480 * 2560);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		page->mode = bad[i];
		assert_false(link_mode(&l, &mode));
	}
	l.memory = NULL;
	assert_false(link_mode(&l, &mode));
	free(memory);
}

static void changes_are_found_once(void **state)
{
	struct display_mode mode = { 200, 100, 32, 1024, 4096 };
	uint8_t *memory = calloc(1, 1 << 20);
	struct picture p = { 0 };
	uint32_t value = 0x00aabbcc;

	(void)state;
	assert_int_equal(picture_resize(&p, 200, 100), 0);
	memset(&seen, 0, sizeof(seen));
	assert_false(picture_update(&p, memory, &mode, changed, NULL));
	memcpy(memory + 4096 + 20 * 1024 + 70 * 4, &value, 4);
	memcpy(memory + 4096 + 99 * 1024 + 199 * 4, &value, 4);
	assert_true(picture_update(&p, memory, &mode, changed, NULL));
	assert_int_equal(seen.n, 2);
	assert_memory_equal(seen.rect[0], ((uint32_t[]){ 64, 16, 128, 32 }), sizeof(seen.rect[0]));
	assert_memory_equal(seen.rect[1], ((uint32_t[]){ 192, 96, 200, 100 }), sizeof(seen.rect[0]));
	assert_int_equal(p.pixels[20 * 200 + 70], value);
	assert_int_equal(p.pixels[99 * 200 + 199], value);
	assert_false(picture_update(&p, memory, &mode, changed, NULL));
	free(p.pixels);
	free(memory);
}

static void pixels_of_16_bits_are_widened(void **state)
{
	static const uint16_t from[] = { 0xf800, 0x07e0, 0x001f, 0xffff, 0x8410 };
	static const uint32_t to[] = { 0xff0000, 0x00ff00, 0x0000ff, 0xffffff, 0x848284 };
	struct display_mode mode = { 64, 64, 16, 128, 0 };
	uint8_t *memory = calloc(1, 64 * 128);
	struct picture p = { 0 };

	(void)state;
	memset(&seen, 0, sizeof(seen));
	memcpy(memory, from, sizeof(from));
	assert_int_equal(picture_resize(&p, 64, 64), 0);
	assert_true(picture_update(&p, memory, &mode, changed, NULL));
	assert_memory_equal(p.pixels, to, sizeof(to));
	free(p.pixels);
	free(memory);
}

static void keysyms_are_keys_of_the_us_layout(void **state)
{
	static const struct {
		uint32_t keysym;
		uint16_t code;
		enum keymap_shift shift;
	} keys[] = { { 'a', KEY_A, KEYMAP_WITHOUT }, { 'A', KEY_A, KEYMAP_WITH }, { '1', KEY_1, KEYMAP_WITHOUT }, { '!', KEY_1, KEYMAP_WITH },
		{ '|', KEY_BACKSLASH, KEYMAP_WITH }, { '~', KEY_GRAVE, KEYMAP_WITH }, { '/', KEY_SLASH, KEYMAP_WITHOUT },
		{ '?', KEY_SLASH, KEYMAP_WITH }, { '"', KEY_APOSTROPHE, KEYMAP_WITH }, { ' ', KEY_SPACE, KEYMAP_EITHER },
		{ 0xff0d, KEY_ENTER, KEYMAP_EITHER }, { 0xffe3, KEY_LEFTCTRL, KEYMAP_EITHER }, { 0xffc9, KEY_F12, KEYMAP_EITHER },
		{ 0xe4, 0, KEYMAP_EITHER }, { 0x7f, 0, KEYMAP_EITHER }, { 0, 0, KEYMAP_EITHER }, { UINT32_MAX, 0, KEYMAP_EITHER } };
	unsigned printing = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		struct keymap_key key = keymap_find(keys[i].keysym);

		assert_int_equal(key.code, keys[i].code);
		assert_int_equal(key.shift, keys[i].shift);
	}
	for (uint32_t sym = ' '; sym <= '~'; sym++)
		printing += keymap_find(sym).code != 0;
	assert_int_equal(printing, 95);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mode_is_checked),
		cmocka_unit_test(changes_are_found_once),
		cmocka_unit_test(pixels_of_16_bits_are_widened),
		cmocka_unit_test(keysyms_are_keys_of_the_us_layout),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
