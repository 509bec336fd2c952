/* screen_image: writes the content of a screen as an image file. Sources: the Netpbm project's ppm(5); PNG (W3C, second
 * edition). */
#ifndef CAIRN_VMM_MACHINE_SCREEN_IMAGE_H
#define CAIRN_VMM_MACHINE_SCREEN_IMAGE_H

#include "vmm/vm_screen.h"

#include <stdint.h>

struct display_mode;
struct err;

/* Write the image to an empty file. memory: the framebuffer, which may change meanwhile.
 * Returns 0 or -errno. Any thread. */
int screen_image_write(int fd, enum vm_image_format format, const uint8_t *memory, const struct display_mode *mode, struct err *e);

#endif
