/* bochs_display: a screen without acceleration, as QEMU's bochs-display: PCI 1234:1111, a linear
 * framebuffer in BAR 0, the Bochs VBE registers and an EDID in BAR 2. Drivers: Linux (bochs-drm), OVMF (QemuVideoDxe),
 * SeaBIOS' VGA BIOS for it. The guest writes to the framebuffer without exits: KVM maps its memory where BAR 0 is.
 * Sources: QEMU, docs/specs/standard-vga.rst and hw/display/bochs-display.c.
 *
 * Each mode is checked against the size of the framebuffer when it is used; the guest may set any values.
 * The state has the content of the framebuffer.
 *
 * Threading: registers on vCPU threads; bochs_display_mode() and bochs_display_memory() on any thread; all other
 * functions on the main thread. */
#ifndef CAIRN_DEVICES_LEGACY_BOCHS_DISPLAY_H
#define CAIRN_DEVICES_LEGACY_BOCHS_DISPLAY_H

#include "base/display.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dev_host;
struct device;
struct err;
struct pci_host;

/* Size of the framebuffer: 1920 x 1080 with 32 bits a pixel. With the other sections, it fits a VM state. */
#define BOCHS_DISPLAY_BYTES (8u << 20)
#define BOCHS_DISPLAY_ROM_BYTES (64u << 10)

/* Create the device "screen0". Free it through its ops. Returns 0 or -errno. */
int bochs_display_new(struct dev_host *h, struct pci_host *p, struct device **ret_dev, struct err *e);
/* The same with an expansion ROM, from which a BIOS takes the code that writes to the screen. rom: its content, at most
 * BOCHS_DISPLAY_ROM_BYTES, which is copied; NULL: a ROM of zeros, which a BIOS ignores. */
int bochs_display_new_with_rom(struct dev_host *h, struct pci_host *p, const uint8_t *rom, size_t bytes, struct device **ret_dev,
	struct err *e);
/* Get the mode. All that it shows lies in the framebuffer. Returns false if the guest has set none, or one that the
 * framebuffer is too small for. */
bool bochs_display_mode(struct device *d, struct display_mode *ret);
/* Return the framebuffer, to which the guest may write at any time. */
const uint8_t *bochs_display_memory(const struct device *d);
/* Return the file of the framebuffer, behind which lies a struct display_page. Others can only read it.
 * Borrowed. */
int bochs_display_fd(const struct device *d);

#endif
