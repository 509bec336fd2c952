/* ps2: a PS/2 keyboard and mouse, as their controller (i8042.h) sees them: bytes in both directions. Sources: IBM PS/2
 * Hardware Interface Technical Reference (1990), "Keyboard and Auxiliary Device Controller"; the mouse with a wheel:
 * Microsoft's IntelliMouse.
 * Threading: the caller's lock. */
#ifndef CAIRN_DEVICES_LEGACY_PS2_H
#define CAIRN_DEVICES_LEGACY_PS2_H

#include "base/display.h"

#include <stdbool.h>
#include <stdint.h>

struct state_reader;
struct state_writer;

#define PS2_QUEUE_BYTES 128u
#define PS2_KEY_BYTES 8u

struct ps2_queue {
	uint8_t bytes[PS2_QUEUE_BYTES];
	uint8_t at, n;
};

struct ps2_keyboard {
	struct ps2_queue queue; /* for the controller */
	bool scanning;		/* report keys */
	uint8_t command;	/* command that waits for its argument; 0: none */
	uint8_t last;		/* byte that the controller took last, for a resend */
	/* Keys by code: the keys that are pressed in the guest's view, and the keys that are held. */
	uint8_t down[(INPUT_KEY_MAX + 1) / 8], held[(INPUT_KEY_MAX + 1) / 8];
};

struct ps2_mouse {
	struct ps2_queue queue;
	bool reporting, wraps, remote;
	uint8_t command;
	uint8_t rates[3]; /* the last three, the latest first: a driver finds a wheel by setting 200, 100, 80 */
	uint8_t resolution, scaling;
	uint8_t id; /* 0; 3: packets have the wheel */
	uint8_t buttons, told; /* bit n: enum input_button; told: the buttons in the last packet */
	int32_t dx, dy, wheel; /* since the last packet */
	int32_t x, y;	       /* of the last INPUT_POINT; -1: none yet */
};

/* Return the next byte for the controller; -1: none. */
int ps2_queue_take(struct ps2_queue *q);

void ps2_keyboard_reset(struct ps2_keyboard *k);
/* Take a byte from the controller. */
void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t v);
/* Press or release a key. A key that is pressed again repeats. */
void ps2_keyboard_key(struct ps2_keyboard *k, uint16_t code, bool down);
/* Tell the guest of keys that were released while the queue had no room, or after a load. */
void ps2_keyboard_send_releases(struct ps2_keyboard *k);
void ps2_keyboard_save(const struct ps2_keyboard *k, struct state_writer *w);
/* Returns false if the state is malformed. Nobody holds a key then. */
bool ps2_keyboard_load(struct ps2_keyboard *k, struct state_reader *r);

void ps2_mouse_reset(struct ps2_mouse *m);
void ps2_mouse_write(struct ps2_mouse *m, uint8_t v);
/* Take an INPUT_BUTTON, INPUT_POINT or INPUT_WHEEL. */
void ps2_mouse_input(struct ps2_mouse *m, const struct input_event *ev);
/* Report movements for which the queue had no room. */
void ps2_mouse_send_movement(struct ps2_mouse *m);
void ps2_mouse_save(const struct ps2_mouse *m, struct state_writer *w);
bool ps2_mouse_load(struct ps2_mouse *m, struct state_reader *r);

/* Write the bytes that a keyboard sends for a key (scan code set 2). Returns the number of bytes; 0: the keyboard
 * lacks the key. */
unsigned ps2_key_bytes(uint16_t code, bool down, uint8_t ret[PS2_KEY_BYTES]);
/* Translate a byte of set 2 to set 1, as the controller does. */
uint8_t ps2_translate(uint8_t v);

#endif
