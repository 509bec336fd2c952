/* Keyboard and mouse behind the i8042: bytes, interrupts, and keys that are held over a pause or a load. */
#include "fixture.h"

#include "base/display.h"
#include "base/key_codes.h"
#include "base/util.h"
#include "devices/legacy/i8042.h"
#include "devices/legacy/ps2.h"
#include "snapshot/state.h"

#include <linux/input-event-codes.h>
#include <stdlib.h>
#include <string.h>

struct bench {
	struct fixture f;
	struct device *d;
};

static void begin(struct bench *b)
{
	fx_init(&b->f);
	assert_int_equal(i8042_new_with_keyboard(&b->f.host, b->f.pio, &b->d, NULL), 0);
}

static void end(struct bench *b)
{
	b->d->ops->free(b->d);
	fx_done(&b->f);
}

static void key(struct bench *b, uint16_t code, bool down)
{
	i8042_input(b->d, &(struct input_event){ .kind = INPUT_KEY, .code = code, .down = down });
}

static void mouse(struct bench *b, enum input_kind kind, uint16_t code, bool down, int x, int y)
{
	i8042_input(b->d, &(struct input_event){ .kind = kind, .code = code, .down = down, .x = x, .y = y });
}

/* Expect these bytes, of the keyboard or of the mouse, and no more. */
static void expect(struct bench *b, bool from_mouse, const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(fx_in(&b->f, 0x64, 1) & 0x21, from_mouse ? 0x21 : 0x01);
		assert_int_equal(fx_in(&b->f, 0x60, 1), bytes[i]);
	}
	assert_int_equal(fx_in(&b->f, 0x64, 1) & 1, 0);
}

#define EXPECT(b, ...) expect(b, false, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))
#define EXPECT_MOUSE(b, ...) expect(b, true, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static void command_byte(struct bench *b, uint8_t v)
{
	fx_out(&b->f, 0x64, 1, 0x60);
	fx_out(&b->f, 0x60, 1, v);
}

static void to_mouse(struct bench *b, uint8_t v)
{
	fx_out(&b->f, 0x64, 1, 0xd4);
	fx_out(&b->f, 0x60, 1, v);
	EXPECT_MOUSE(b, 0xfa);
}

static void keys_come_in_the_set_of_the_guest(void **state)
{
	struct bench b;

	(void)state;
	begin(&b);
	key(&b, KEY_A, true);
	key(&b, KEY_A, false);
	key(&b, KEY_RIGHT, true);
	key(&b, KEY_RIGHT, false);
	key(&b, KEY_F7, true);
	key(&b, KEY_F7, false);
	key(&b, KEY_PAUSE, true);
	key(&b, KEY_PAUSE, false);
	EXPECT(&b, 0x1e, 0x9e, 0xe0, 0x4d, 0xe0, 0xcd, 0x41, 0xc1, 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5);
	command_byte(&b, 0x05);
	key(&b, KEY_A, true);
	key(&b, KEY_A, false);
	key(&b, KEY_DELETE, true);
	key(&b, KEY_DELETE, false);
	key(&b, KEY_F7, true);
	key(&b, KEY_F7, false);
	EXPECT(&b, 0x1c, 0xf0, 0x1c, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0x83, 0xf0, 0x83);
	end(&b);
}

/* Each key that has a code of set 1 gets there by set 2 and the controller's translation. */
static void every_key_is_translated(void **state)
{
	unsigned n = 0;

	(void)state;
	for (uint16_t code = 1; code <= INPUT_KEY_MAX; code++) {
		uint8_t bytes[PS2_KEY_BYTES];
		unsigned set_1 = key_set_1(code), len = ps2_key_bytes(code, true, bytes);

		if (!set_1 || code == KEY_PAUSE)
			continue;
		assert_int_equal(len, set_1 >> 8 ? 2 : 1);
		assert_int_equal(ps2_translate(bytes[len - 1]), set_1 & 0xff);
		assert_int_equal(len == 2 ? bytes[0] : 0, set_1 >> 8);
		n++;
	}
	assert_in_range(n, 130, 160);
}

static void each_byte_raises_its_interrupt(void **state)
{
	struct bench b;

	(void)state;
	begin(&b);
	key(&b, KEY_A, true);
	assert_true(b.f.level[1]);
	key(&b, KEY_A, false);
	assert_int_equal(b.f.raises[1], 1);
	fx_in(&b.f, 0x60, 1);
	assert_int_equal(b.f.raises[1], 2);
	fx_in(&b.f, 0x60, 1);
	assert_false(b.f.level[1]);
	command_byte(&b, 0x44); /* without interrupts */
	key(&b, KEY_A, true);
	assert_int_equal(b.f.raises[1], 2);
	command_byte(&b, 0x47);
	assert_int_equal(b.f.raises[1], 3);
	fx_in(&b.f, 0x60, 1);
	fx_out(&b.f, 0x64, 1, 0xd4);
	fx_out(&b.f, 0x60, 1, 0xf4);
	assert_true(b.f.level[12] && !b.f.level[1]);
	EXPECT_MOUSE(&b, 0xfa);
	assert_false(b.f.level[12]);
	end(&b);
}

static void keyboard_answers_its_driver(void **state)
{
	struct bench b;

	(void)state;
	begin(&b);
	command_byte(&b, 0x04);
	fx_out(&b.f, 0x60, 1, 0xff);
	EXPECT(&b, 0xfa, 0xaa);
	fx_out(&b.f, 0x60, 1, 0xf2);
	EXPECT(&b, 0xfa, 0xab, 0x83);
	fx_out(&b.f, 0x60, 1, 0xed);
	EXPECT(&b, 0xfa);
	fx_out(&b.f, 0x60, 1, 0x02);
	EXPECT(&b, 0xfa);
	fx_out(&b.f, 0x60, 1, 0xf0);
	fx_out(&b.f, 0x60, 1, 0x00);
	EXPECT(&b, 0xfa, 0xfa, 0x02);
	fx_out(&b.f, 0x60, 1, 0xee);
	EXPECT(&b, 0xee);
	fx_out(&b.f, 0x60, 1, 0xf5);
	key(&b, KEY_A, true);
	key(&b, KEY_A, false);
	EXPECT(&b, 0xfa);
	fx_out(&b.f, 0x60, 1, 0xf4);
	fx_out(&b.f, 0x60, 1, 0x12);
	EXPECT(&b, 0xfa, 0xfe);
	end(&b);
}

static void mouse_moves_and_has_a_wheel(void **state)
{
	static const uint8_t knock[] = { 200, 100, 80 };
	struct bench b;

	(void)state;
	begin(&b);
	mouse(&b, INPUT_POINT, 0, false, 100, 100);
	to_mouse(&b, 0xf4);
	mouse(&b, INPUT_POINT, 0, false, 105, 98);
	EXPECT_MOUSE(&b, 0x08, 5, 2);
	mouse(&b, INPUT_POINT, 0, false, 105, 398);
	EXPECT_MOUSE(&b, 0x28, 0, 1, 0x28, 0, 0xd3); /* -255, then -45 */
	mouse(&b, INPUT_BUTTON, INPUT_RIGHT, true, 0, 0);
	mouse(&b, INPUT_BUTTON, INPUT_RIGHT, false, 0, 0);
	EXPECT_MOUSE(&b, 0x0a, 0, 0, 0x08, 0, 0);
	for (unsigned i = 0; i < 3; i++) {
		to_mouse(&b, 0xf3);
		to_mouse(&b, knock[i]);
	}
	fx_out(&b.f, 0x64, 1, 0xd4);
	fx_out(&b.f, 0x60, 1, 0xf2);
	EXPECT_MOUSE(&b, 0xfa, 3);
	mouse(&b, INPUT_WHEEL, 0, false, 1, 0);
	EXPECT_MOUSE(&b, 0x08, 0, 0, 0xff);
	end(&b);
}

static void full_queue_loses_keys_but_no_release(void **state)
{
	unsigned n = 0;
	int last = 0;
	struct bench b;

	(void)state;
	begin(&b);
	key(&b, KEY_B, true);
	for (unsigned i = 0; i < 200; i++) {
		key(&b, KEY_A, true);
		key(&b, KEY_A, false);
	}
	key(&b, KEY_B, false);
	while (fx_in(&b.f, 0x64, 1) & 1) {
		last = (int)fx_in(&b.f, 0x60, 1);
		n++;
	}
	assert_in_range(n, 64, PS2_QUEUE_BYTES + 4);
	assert_int_equal(last, 0xb0);
	end(&b);
}

static void key_is_released_after_a_pause_or_a_load(void **state)
{
	struct fx_state s;
	struct bench b;

	(void)state;
	begin(&b);
	key(&b, KEY_A, true);
	EXPECT(&b, 0x1e);
	b.d->ops->pause(b.d);
	key(&b, KEY_A, false);
	key(&b, KEY_B, true);
	fx_save(b.d, &s);
	assert_int_equal(fx_in(&b.f, 0x64, 1) & 1, 0);
	b.d->ops->resume(b.d);
	EXPECT(&b, 0x9e);
	key(&b, KEY_C, true);
	EXPECT(&b, 0x2e);
	b.d->ops->pause(b.d);
	assert_int_equal(fx_load(b.d, &s), 0); /* A is down there, and nobody holds it */
	b.d->ops->resume(b.d);
	EXPECT(&b, 0x9e);
	i8042_release(b.d);
	EXPECT(&b, );
	key(&b, KEY_D, true);
	i8042_release(b.d);
	EXPECT(&b, 0x20, 0xa0);
	free(s.buf);
	end(&b);
}

static void state_is_kept_and_checked(void **state)
{
	struct bench b;

	(void)state;
	begin(&b);
	to_mouse(&b, 0xf4);
	key(&b, KEY_A, true);
	key(&b, KEY_RIGHT, true);
	mouse(&b, INPUT_BUTTON, INPUT_LEFT, true, 0, 0);
	fx_out(&b.f, 0x64, 1, 0x20);
	fx_state_test(&b.f, b.d, 300);
	end(&b);
}

/* A state of before screens had keyboards: the guest gets the keyboard at its next reset. */
static void state_without_a_keyboard_stays_so(void **state)
{
	struct state_reader r;
	struct fx_state s;
	struct device *old;
	uint16_t old_version;
	struct bench b, other;

	(void)state;
	fx_init(&other.f);
	assert_int_equal(i8042_new(&other.f.host, other.f.pio, &old, NULL), 0);
	fx_save(old, &s);
	old_version = old->ops->state_version;
	assert_int_equal(old_version, 1);
	old->ops->free(old);
	fx_done(&other.f);
	begin(&b);
	b.d->ops->pause(b.d);
	r = (struct state_reader){ .buf = s.buf, .len = s.len };
	assert_int_equal(b.d->ops->load(b.d, &r, old_version, NULL), 0);
	b.d->ops->resume(b.d);
	key(&b, KEY_A, true);
	assert_int_equal(fx_in(&b.f, 0x64, 1) & 1, 0);
	fx_out(&b.f, 0x60, 1, 0xf2);
	assert_int_equal(fx_in(&b.f, 0x60, 1), 0xfe);
	fx_state_test(&b.f, b.d, 100);
	b.d->ops->reset(b.d);
	key(&b, KEY_A, true);
	EXPECT(&b, 0x1e);
	free(s.buf);
	end(&b);
}

static void words_name_keys(void **state)
{
	static const struct {
		const char *codeset, *word;
		uint16_t code;
	} good[] = { { "linux", "KEY_ENTER", KEY_ENTER }, { "linux", "28", 28 }, { "linux", "0x1c", 28 }, { "linux", "KEY_F24", KEY_F24 },
		{ "atset1", "0xe053", KEY_DELETE }, { "xt", "30", KEY_A }, { "qnum", "0xd3", KEY_DELETE }, { "rfb", "0x1d", KEY_LEFTCTRL },
		{ "linux", "KEY_HANGUEL", KEY_HANGEUL } };
	static const char *const bad[][2] = { { "linux", "KEY_" }, { "linux", "ENTER" }, { "linux", "KEY_ENTERS" }, { "linux", "0" },
		{ "linux", "256" }, { "linux", "28x" }, { "linux", "" }, { "xt", "KEY_A" }, { "xt", "0xe0ff" }, { "qnum", "0x1d3" },
		{ "linux", "-1" }, { "xt", "99999999999999999999" } };
	uint16_t code;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(key_code(good[i].codeset, good[i].word, &code, NULL), 0);
		assert_int_equal(code, good[i].code);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_true(key_code(bad[i][0], bad[i][1], &code, NULL) < 0);
	assert_int_equal(key_codeset_check("rfb", NULL), 0);
	assert_true(key_codeset_check("win32", NULL) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keys_come_in_the_set_of_the_guest),
		cmocka_unit_test(every_key_is_translated),
		cmocka_unit_test(each_byte_raises_its_interrupt),
		cmocka_unit_test(keyboard_answers_its_driver),
		cmocka_unit_test(mouse_moves_and_has_a_wheel),
		cmocka_unit_test(full_queue_loses_keys_but_no_release),
		cmocka_unit_test(key_is_released_after_a_pause_or_a_load),
		cmocka_unit_test(state_is_kept_and_checked),
		cmocka_unit_test(state_without_a_keyboard_stays_so),
		cmocka_unit_test(words_name_keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
