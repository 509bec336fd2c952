/* display: the data that a VM's process shares with a process that shows its screen: the mode, in a page behind the
 * framebuffer, and input for the guest. */
#ifndef CAIRN_BASE_DISPLAY_H
#define CAIRN_BASE_DISPLAY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* The guest's picture: `height` lines, `stride` bytes apart, of which the first begins at `offset` of the
 * framebuffer. */
struct display_mode {
	uint32_t width, height;
	uint32_t bits; /* a pixel: 32 (blue, green, red, unused) or 16 (5 bits red, 6 green, 5 blue), little-endian */
	uint32_t stride, offset;
};

/* The page behind the framebuffer. One thread at a time writes it; the sequence is odd meanwhile. */
struct display_page {
	_Atomic uint32_t sequence;
	uint32_t on; /* 0: the guest shows no picture, and the other fields are unset */
	struct display_mode mode;
};

#define DISPLAY_PAGE_BYTES 4096u

/* The VM's process sends this with the file of a framebuffer and its page: first, and again if another process has
 * taken the VM over. In the other direction go input events. */
struct display_hello {
	uint32_t version;
	uint32_t bytes; /* of the framebuffer */
};
#define DISPLAY_HELLO_VERSION 1

enum input_kind {
	INPUT_KEY = 1, /* code: as in linux/input-event-codes.h, 1 to INPUT_KEY_MAX */
	INPUT_BUTTON,  /* code: enum input_button */
	INPUT_POINT,   /* the pointer is at pixel x, y */
	INPUT_WHEEL,   /* x: steps up; negative: down */
};
enum input_button { INPUT_LEFT = 0, INPUT_RIGHT = 1, INPUT_MIDDLE = 2, INPUT_BUTTONS };
#define INPUT_KEY_MAX 255
#define INPUT_PLACE_MAX 65535

/* One message of a SOCK_SEQPACKET socket. */
struct input_event {
	uint8_t kind; /* enum input_kind */
	uint8_t down; /* INPUT_KEY and INPUT_BUTTON: 1: pressed, 0: released */
	uint16_t code;
	int32_t x, y;
};

static inline bool input_event_ok(const struct input_event *ev)
{
	switch (ev->kind) {
	case INPUT_KEY:
		return ev->code && ev->code <= INPUT_KEY_MAX && ev->down <= 1;
	case INPUT_BUTTON:
		return ev->code < INPUT_BUTTONS && ev->down <= 1;
	case INPUT_POINT:
		return ev->x >= 0 && ev->y >= 0 && ev->x <= INPUT_PLACE_MAX && ev->y <= INPUT_PLACE_MAX;
	case INPUT_WHEEL:
		return ev->x > -128 && ev->x < 128;
	default:
		return false;
	}
}

#endif
