#include "tools/vnc/picture.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BAND_LINES 16u
#define TILE_PIXELS 64u
#define LINE_PIXELS_MAX 8192u

int picture_resize(struct picture *p, uint32_t width, uint32_t height)
{
	uint32_t *pixels = calloc((size_t)width * height, sizeof(*pixels));

	if (!pixels)
		return -ENOMEM;
	free(p->pixels);
	*p = (struct picture){ width, height, pixels };
	return 0;
}

/* 5 bits red, 6 green, 5 blue. */
static uint32_t from_16(uint16_t v)
{
	uint32_t r = v >> 11, g = v >> 5 & 0x3f, b = v & 0x1f;

	return (r << 3 | r >> 2) << 16 | (g << 2 | g >> 4) << 8 | b << 3 | b >> 2;
}

static void line_read(uint32_t *to, const uint8_t *from, const struct display_mode *mode)
{
	uint16_t pixel;

	if (mode->bits == 32) {
		memcpy(to, from, mode->width * sizeof(*to));
		return;
	}
	for (uint32_t x = 0; x < mode->width; x++) {
		memcpy(&pixel, from + 2 * x, sizeof(pixel));
		to[x] = from_16(pixel);
	}
}

/* Copy the tiles of a line that differ. Widens *left and *right, the range of pixels that differ. */
static void line_update(uint32_t *own, const uint32_t *now, uint32_t width, uint32_t *left, uint32_t *right)
{
	for (uint32_t x = 0; x < width; x += TILE_PIXELS) {
		uint32_t n = MIN(TILE_PIXELS, width - x);

		if (!memcmp(own + x, now + x, n * sizeof(*own)))
			continue;
		memcpy(own + x, now + x, n * sizeof(*own));
		*left = MIN(*left, x);
		*right = MAX(*right, x + n);
	}
}

bool picture_update(struct picture *p, const uint8_t *memory, const struct display_mode *mode,
	void (*changed)(void *opaque, uint32_t x1, uint32_t y1, uint32_t x2, uint32_t y2), void *opaque)
{
	static uint32_t line[LINE_PIXELS_MAX];
	bool any = false;

	for (uint32_t y = 0; y < p->height; y += BAND_LINES) {
		uint32_t end = MIN(y + BAND_LINES, p->height), left = p->width, right = 0;

		for (uint32_t i = y; i < end; i++) {
			line_read(line, memory + mode->offset + (size_t)i * mode->stride, mode);
			line_update(p->pixels + (size_t)i * p->width, line, p->width, &left, &right);
		}
		if (right)
			changed(opaque, left, y, right, end);
		any |= right != 0;
	}
	return any;
}
