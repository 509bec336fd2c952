#include "vmm/machine/machine_screen.h"
#include "base/err.h"
#include "devices/legacy/bochs_display.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_plug.h"
#include "vmm/machine/screen_image.h"

#include <errno.h>

int machine_screen_new(struct machine *m, struct err *e)
{
	int r;

	if (!m->cfg.screen)
		return 0;
	m->kvm.has_screen = true;
	r = bochs_display_new(&m->host, m->pci, &m->screen, e);
	return machine_device_insert(m, m->ndevices, r, m->screen);
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
