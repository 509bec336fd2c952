/* picture: a copy of the guest's screen with 32 bits a pixel, from which the clients' updates are made, because the
 * guest changes its own memory at any time. */
#ifndef CAIRN_TOOLS_VNC_PICTURE_H
#define CAIRN_TOOLS_VNC_PICTURE_H

#include "base/display.h"

#include <stdbool.h>
#include <stdint.h>

struct picture {
	uint32_t width, height;
	uint32_t *pixels; /* blue, green, red, unused; owned */
};

/* Give the picture another size, all black. Returns 0 or -ENOMEM; then the picture is unchanged. */
int picture_resize(struct picture *p, uint32_t width, uint32_t height);
/* Copy the changed pixels.
 * memory: the framebuffer, in which the mode lies. mode: of the picture's size.
 * changed: called for each rectangle, with its first and behind its last pixel.
 * Returns whether anything has changed. */
bool picture_update(struct picture *p, const uint8_t *memory, const struct display_mode *mode,
	void (*changed)(void *opaque, uint32_t x1, uint32_t y1, uint32_t x2, uint32_t y2), void *opaque);

#endif
