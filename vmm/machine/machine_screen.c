#include "vmm/machine/machine_screen.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "devices/legacy/bochs_display.h"
#include "devices/legacy/i8042.h"
#include "devices/virtio/virtio_input.h"
#include "vmm/machine/display_link.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_firmware.h"
#include "vmm/machine/machine_plug.h"
#include "vmm/machine/screen_image.h"

#include <errno.h>
#include <unistd.h>

int machine_screen_new(struct machine *m, struct err *e)
{
	CLEANUP_FREE uint8_t *rom = NULL;
	size_t rom_bytes = 0;
	int r;

	if (!m->cfg.screen)
		return 0;
	m->kvm.has_screen = true;
	if (m->cfg.firmware == VM_FIRMWARE_BIOS) {
		r = machine_read_rom(m->screen_rom_fd, BOCHS_DISPLAY_ROM_BYTES, "the ROM for the screen", "seabios", &rom, &rom_bytes, e);
		if (r < 0)
			return r;
		if (!rom)
			log_warn("screen0", "the BIOS writes nothing to the screen, because the host lacks vgabios-bochs-display.bin; "
				"install the package seabios");
		r = bochs_display_new_with_rom(&m->host, m->pci, rom, rom_bytes, &m->screen, e);
	} else {
		r = bochs_display_new(&m->host, m->pci, &m->screen, e);
	}
	r = machine_device_insert(m, m->ndevices, r, m->screen);
	if (r || !m->cfg.tablet)
		return r;
	r = virtio_input_new(&m->host, m->pci, "tablet0", -1, &m->tablet, e);
	return machine_device_insert(m, m->ndevices, r, m->tablet);
}

int machine_keyboard_new(struct machine *m, struct err *e)
{
	int r = m->cfg.screen ? i8042_new_with_keyboard(&m->host, m->pio, &m->keyboard, e) :
		i8042_new(&m->host, m->pio, &m->keyboard, e);

	r = machine_device_insert(m, m->ndevices, r, m->keyboard);
	if (!r && m->cfg.firmware == VM_FIRMWARE_UEFI && !m->cfg.screen)
		i8042_hide(m->keyboard);
	return r;
}

int machine_display_open(struct machine *m, int *fds, struct err *e)
{
	int fd, r;

	if (!m->cfg.display)
		return 0;
	fd = steal_fd(&fds[m->cfg.display_fd]);
	r = display_link_new(m, fd, &m->display, e);
	if (r < 0)
		close(fd);
	return r;
}

/* Scale a pixel to the tablet's coordinates: the middle of the pixel, of all `pixels`. */
static int32_t axis_of(int32_t at, uint32_t pixels)
{
	return (int32_t)(((int64_t)at * 2 + 1) * VIRTIO_INPUT_AXIS / (2 * (int64_t)pixels));
}

_Static_assert(VM_INPUT_AXIS == VIRTIO_INPUT_AXIS, "the tablet's coordinates");

bool machine_has_tablet(struct machine *m)
{
	return m->tablet && virtio_input_takes(m->tablet);
}

void machine_input(struct machine *m, const struct input_event *ev)
{
	struct input_event scaled = *ev;
	struct display_mode mode;

	if (ev->kind == INPUT_KEY || !machine_has_tablet(m)) {
		i8042_input(m->keyboard, ev);
		return;
	}
	if (ev->kind == INPUT_POINT) {
		if (!bochs_display_mode(m->screen, &mode))
			return;
		scaled.x = axis_of(ev->x, mode.width);
		scaled.y = axis_of(ev->y, mode.height);
	}
	virtio_input_event(m->tablet, &scaled);
}

void machine_point(struct machine *m, int32_t x, int32_t y)
{
	struct input_event ev = { .kind = INPUT_POINT, .x = x, .y = y };
	struct display_mode mode;

	if (machine_has_tablet(m)) {
		virtio_input_event(m->tablet, &ev);
	} else if (bochs_display_mode(m->screen, &mode)) {
		ev.x = (int32_t)((int64_t)x * mode.width / VM_INPUT_AXIS);
		ev.y = (int32_t)((int64_t)y * mode.height / VM_INPUT_AXIS);
		i8042_input(m->keyboard, &ev);
	}
}

void machine_input_release(struct machine *m)
{
	i8042_release(m->keyboard);
	if (m->tablet)
		virtio_input_release(m->tablet);
}

void machine_key(struct machine *m, uint16_t code, bool down)
{
	struct input_event ev = { .kind = INPUT_KEY, .code = code, .down = down };

	i8042_input(m->keyboard, &ev);
}

int machine_screenshot(struct machine *m, unsigned format, int fd, struct err *e)
{
	struct display_mode mode;

	if (!m->screen)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the VM has no screen");
	if (!bochs_display_mode(m->screen, &mode))
		return err_set(e, -EAGAIN, ERR_WRONG_STATE, "the screen is off: the guest has set no mode that fits its %u MiB",
			BOCHS_DISPLAY_BYTES >> 20);
	return screen_image_write(fd, (enum vm_image_format)format, bochs_display_memory(m->screen), &mode, e);
}
