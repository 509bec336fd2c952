#include "devices/legacy/edid.h"
#include "base/bytes.h"

#include <string.h>

#define VENDOR 0x0e4e /* "CRN", five bits a letter */
#define PRODUCT 0x1111
#define YEAR (2026 - 1990)
#define PIXELS_PER_CM 38 /* 96 dots an inch */
/* Blanking, front porch and sync pulse of CVT with reduced blanking. */
#define H_BLANK 160u
#define H_FRONT 48u
#define H_SYNC 32u
#define V_BLANK 23u
#define V_FRONT 3u
#define V_SYNC 6u
#define TIMING_AT 54
#define NAME_AT 72
#define UNUSED_AT 90
#define DESCRIPTOR_BYTES 18

static void timing_fill(uint8_t *t, unsigned w, unsigned h)
{
	unsigned mm_w = w * 10 / PIXELS_PER_CM, mm_h = h * 10 / PIXELS_PER_CM;

	store_le16(t, (uint16_t)((uint64_t)(w + H_BLANK) * (h + V_BLANK) * 60 / 10000)); /* pixel clock, in 10 kHz */
	t[2] = (uint8_t)w;
	t[3] = H_BLANK;
	t[4] = (uint8_t)(w >> 8 << 4);
	t[5] = (uint8_t)h;
	t[6] = V_BLANK;
	t[7] = (uint8_t)(h >> 8 << 4);
	t[8] = H_FRONT;
	t[9] = H_SYNC;
	t[10] = V_FRONT << 4 | V_SYNC;
	t[12] = (uint8_t)mm_w;
	t[13] = (uint8_t)mm_h;
	t[14] = (uint8_t)(mm_w >> 8 << 4 | mm_h >> 8);
	t[17] = 0x18; /* digital, separate sync pulses */
}

void edid_fill(uint8_t edid[EDID_BYTES], unsigned width, unsigned height)
{
	static const uint8_t header[] = { 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0 };
	static const uint8_t srgb[] = { 0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54 };
	static const uint8_t name[DESCRIPTOR_BYTES] = { 0, 0, 0, 0xfc, 0, 'C', 'a', 'i', 'r', 'n', '\n', ' ', ' ', ' ', ' ', ' ', ' ', ' ' };
	uint8_t sum = 0;

	memset(edid, 0, EDID_BYTES);
	memcpy(edid, header, sizeof(header));
	store_be16(edid + 8, VENDOR);
	store_le16(edid + 10, PRODUCT);
	edid[17] = YEAR;
	edid[18] = 1;
	edid[19] = 4;
	edid[20] = 0xa5; /* digital, 8 bits a colour, DisplayPort */
	edid[21] = (uint8_t)(width / PIXELS_PER_CM);
	edid[22] = (uint8_t)(height / PIXELS_PER_CM);
	edid[23] = 120; /* gamma 2.2 */
	edid[24] = 0x06; /* sRGB; the first timing is the preferred one */
	memcpy(edid + 25, srgb, sizeof(srgb));
	edid[35] = 0x21; /* 640x480 and 800x600 at 60 Hz */
	edid[36] = 0x08; /* 1024x768 at 60 Hz */
	memset(edid + 38, 0x01, 16); /* no standard timings */
	timing_fill(edid + TIMING_AT, width, height);
	memcpy(edid + NAME_AT, name, sizeof(name));
	edid[UNUSED_AT + 3] = edid[UNUSED_AT + DESCRIPTOR_BYTES + 3] = 0x10;
	for (unsigned i = 0; i < EDID_BYTES - 1; i++)
		sum = (uint8_t)(sum + edid[i]);
	edid[EDID_BYTES - 1] = (uint8_t)-sum;
}
