#include "devices/legacy/ps2_internal.h"
#include "snapshot/state.h"

#include <string.h>

#define SCAN_CODE_SET 2

static bool bit(const uint8_t *map, unsigned i)
{
	return map[i / 8] >> (i % 8) & 1;
}

static void bit_set(uint8_t *map, unsigned i, bool v)
{
	map[i / 8] = (uint8_t)((map[i / 8] & ~(1u << (i % 8))) | (unsigned)v << (i % 8));
}

static void keyboard_defaults(struct ps2_keyboard *k, bool scanning)
{
	k->queue.n = 0;
	k->scanning = scanning;
	memset(k->down, 0, sizeof(k->down));
}

void ps2_keyboard_reset(struct ps2_keyboard *k)
{
	memset(k, 0, sizeof(*k));
	keyboard_defaults(k, true);
}

static void keyboard_argument(struct ps2_keyboard *k, uint8_t v)
{
	bool asks = k->command == 0xf0 && !v;

	k->command = 0;
	ps2_queue_answer(&k->queue, PS2_ACK);
	if (asks)
		ps2_queue_answer(&k->queue, SCAN_CODE_SET);
}

static void keyboard_command(struct ps2_keyboard *k, uint8_t v)
{
	if (v == 0xff || (v >= 0xf4 && v <= 0xf6))
		keyboard_defaults(k, v != 0xf5);
	if (v == 0xee || v == 0xfe) { /* echo; resend */
		ps2_queue_answer(&k->queue, v == 0xee ? v : k->last);
		return;
	}
	if (v < 0xed || v == 0xef || v == 0xf1) {
		ps2_queue_answer(&k->queue, PS2_RESEND);
		return;
	}
	ps2_queue_answer(&k->queue, PS2_ACK);
	if (v == 0xed || v == 0xf0 || v == 0xf3) { /* LEDs; scan code set; repeat rate: an argument follows */
		k->command = v;
	} else if (v == 0xf2) { /* identify */
		ps2_queue_answer(&k->queue, 0xab);
		ps2_queue_answer(&k->queue, 0x83);
	} else if (v == 0xff) {
		ps2_queue_answer(&k->queue, PS2_SELF_TEST_PASSED);
	}
}

void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t v)
{
	if (k->command && v < 0xed)
		keyboard_argument(k, v);
	else {
		k->command = 0;
		keyboard_command(k, v);
	}
}

/* Send a key if there is room. */
static void key_send(struct ps2_keyboard *k, uint16_t code, bool down)
{
	uint8_t bytes[PS2_KEY_BYTES];
	unsigned n = ps2_key_bytes(code, down, bytes);

	if (!k->scanning || ps2_queue_put(&k->queue, bytes, n))
		bit_set(k->down, code, k->scanning && n && down);
}

void ps2_keyboard_key(struct ps2_keyboard *k, uint16_t code, bool down)
{
	bit_set(k->held, code, down);
	if (down)
		key_send(k, code, true);
	ps2_keyboard_send_releases(k);
}

void ps2_keyboard_send_releases(struct ps2_keyboard *k)
{
	for (unsigned code = 0; code <= INPUT_KEY_MAX; code++)
		if (bit(k->down, code) && !bit(k->held, code))
			key_send(k, (uint16_t)code, false);
}

void ps2_keyboard_save(const struct ps2_keyboard *k, struct state_writer *w)
{
	ps2_queue_save(&k->queue, w);
	state_put_u8(w, k->scanning);
	state_put_u8(w, k->command);
	state_put_u8(w, k->last);
	state_put_bytes(w, k->down, sizeof(k->down));
}

bool ps2_keyboard_load(struct ps2_keyboard *k, struct state_reader *r)
{
	bool ok;

	memset(k, 0, sizeof(*k));
	ok = ps2_queue_load(&k->queue, r) && ps2_state_flag(r, &k->scanning);
	k->command = state_u8(r);
	k->last = state_u8(r);
	state_bytes(r, k->down, sizeof(k->down));
	return ok && !r->failed && (!k->command || k->command == 0xed || k->command == 0xf0 || k->command == 0xf3);
}
