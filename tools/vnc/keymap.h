/* keymap: from the keysyms of X, which VNC clients send, to the keys of a keyboard with the US layout. */
#ifndef CAIRN_TOOLS_VNC_KEYMAP_H
#define CAIRN_TOOLS_VNC_KEYMAP_H

#include <stdint.h>

enum keymap_shift { KEYMAP_EITHER, KEYMAP_WITHOUT, KEYMAP_WITH };

struct keymap_key {
	uint16_t code; /* as in linux/input-event-codes.h; 0: the keyboard lacks the key */
	enum keymap_shift shift; /* whether Shift has to be held */
};

struct keymap_key keymap_find(uint32_t keysym);

#endif
