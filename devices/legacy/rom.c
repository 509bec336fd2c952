#include "devices/legacy/rom.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/device.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct rom {
	struct device dev;
	uint8_t *rom; /* borrowed */
	size_t bytes;
};

static void rom_save(struct device *d, struct state_writer *w)
{
	const struct rom *m = container_of(d, struct rom, dev);

	state_put_bytes(w, m->rom, m->bytes);
}

static int rom_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct rom *m = container_of(d, struct rom, dev);
	size_t bytes = r->len - r->pos;

	(void)version;
	if (r->failed)
		return err_set(e, -EINVAL, ERR_CORRUPT, "rom: malformed state");
	if (bytes != m->bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "VM state: saved with a BIOS of %zu KiB; this VM's has %zu KiB; give a "
			"file of the first size as boot.loader", bytes / 1024, m->bytes / 1024);
	state_bytes(r, m->rom, m->bytes);
	return 0;
}

static void rom_free(struct device *d)
{
	free(container_of(d, struct rom, dev));
}

static const struct device_ops rom_ops = {
	.type = "rom",
	.state_version = 1,
	.save = rom_save,
	.load = rom_load,
	.free = rom_free,
};

int rom_new(uint8_t *rom, size_t bytes, struct device **ret_dev, struct err *e)
{
	struct rom *m = calloc(1, sizeof(*m));

	if (!m)
		return err_set_errno(e, -ENOMEM, "rom");
	m->dev.ops = &rom_ops;
	snprintf(m->dev.name, sizeof(m->dev.name), "rom");
	m->rom = rom;
	m->bytes = bytes;
	*ret_dev = &m->dev;
	return 0;
}
