/* edid: the description of a display that a screen gives to the guest. Source: VESA E-EDID standard, release A, rev. 2
 * (EDID 1.4). */
#ifndef CAIRN_DEVICES_LEGACY_EDID_H
#define CAIRN_DEVICES_LEGACY_EDID_H

#include <stdint.h>

#define EDID_BYTES 128

/* Describe a digital display that prefers width x height at 60 Hz. width, height: 64 to 4095. */
void edid_fill(uint8_t edid[EDID_BYTES], unsigned width, unsigned height);

#endif
