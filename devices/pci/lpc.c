#include "devices/pci/lpc.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/acpi_pm.h"
#include "devices/device.h"
#include "devices/pci/pci.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define REG_PMBASE 0x40 /* bit 0: I/O space */
#define REG_ACPI_CNTL 0x44
#define ACPI_CNTL_ENABLED 0x80
#define REG_PIRQ_A 0x60 /* to D; E to H from 0x68 */
#define REG_PIRQ_E 0x68
#define PIRQ_OFF 0x80
#define REG_RCBA 0xf0

struct lpc {
	struct device dev;
	struct pci_function f;
};

static const struct pci_function_ops lpc_function_ops = { 0 };
static const struct pci_ids lpc_ids = { .vendor = 0x8086, .device = 0x2918, .subsystem_vendor = 0x1af4,
	.subsystem = 0x1100, .revision = 2, .class_code = 0x060100 };

static void lpc_reset(struct device *d)
{
	pci_function_reset(&container_of(d, struct lpc, dev)->f);
}

static void lpc_save(struct device *d, struct state_writer *w)
{
	pci_function_save(&container_of(d, struct lpc, dev)->f, w);
}

static int lpc_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	int ret = pci_function_load(&container_of(d, struct lpc, dev)->f, r, e);

	(void)version;
	return !ret && !state_reader_complete(r) ? err_set(e, -EINVAL, ERR_CORRUPT, "lpc: malformed state") : ret;
}

static void lpc_free(struct device *d)
{
	struct lpc *l = container_of(d, struct lpc, dev);

	pci_host_remove(&l->f);
	free(l);
}

static const struct device_ops lpc_ops = {
	.type = "lpc",
	.state_version = 1,
	.reset = lpc_reset,
	.save = lpc_save,
	.load = lpc_load,
	.free = lpc_free,
};

static void lpc_init(struct pci_function *f)
{
	pci_function_init(f, &lpc_ids, &lpc_function_ops);
	store_le32(f->initial + REG_PMBASE, ACPI_PM1_EVT_PORT | 1);
	f->initial[REG_ACPI_CNTL] = ACPI_CNTL_ENABLED;
	for (unsigned i = 0; i < 4; i++) {
		f->initial[REG_PIRQ_A + i] = f->initial[REG_PIRQ_E + i] = PIRQ_OFF;
		f->writable[REG_PIRQ_A + i] = f->writable[REG_PIRQ_E + i] = 0x8f;
	}
	store_le32(f->writable + REG_RCBA, 0xffffc001);
}

int lpc_new(struct pci_host *p, struct device **ret_dev, struct err *e)
{
	struct lpc *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return err_set_errno(e, -ENOMEM, "lpc");
	l->dev.ops = &lpc_ops;
	snprintf(l->dev.name, sizeof(l->dev.name), "lpc");
	lpc_init(&l->f);
	r = pci_host_add(p, &l->f, LPC_SLOT, e);
	if (r < 0) {
		free(l);
		return r;
	}
	*ret_dev = &l->dev;
	return 0;
}
