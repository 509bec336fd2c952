#include "devices/vmgenid.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "devices/acpi_pm.h"
#include "devices/dev_host.h"
#include "devices/device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct vmgenid {
	struct device dev;
	struct dev_host *host;
	struct device *acpi_pm;
	uint64_t gpa;
};

static void number_write(struct vmgenid *v)
{
	uint8_t number[VMGENID_BYTES];
	void *p = dev_ram_for_write(v->host, v->gpa, sizeof(number));

	if (!p)
		return; /* RAM ends below the id's address, so no guest reads it */
	if (getrandom(number, sizeof(number), 0) != sizeof(number))
		log_error("vmgenid", "getrandom: %s", strerror(errno));
	else
		memcpy(p, number, sizeof(number));
}

static void vmgenid_free(struct device *d)
{
	free(container_of(d, struct vmgenid, dev));
}

void vmgenid_renew(struct device *d, bool tell)
{
	struct vmgenid *v = container_of(d, struct vmgenid, dev);

	number_write(v);
	if (tell)
		acpi_pm_raise_gpe(v->acpi_pm, VMGENID_GPE);
}

/* The id is in guest memory; the device has no other state. */
static const struct device_ops ops = { .type = "vmgenid", .state_version = 1, .free = vmgenid_free };

int vmgenid_new(struct dev_host *h, struct device *acpi_pm, uint64_t gpa, struct device **ret_dev, struct err *e)
{
	struct vmgenid *v = calloc(1, sizeof(*v));

	if (!v)
		return err_set_errno(e, -ENOMEM, "vmgenid");
	v->dev.ops = &ops;
	snprintf(v->dev.name, sizeof(v->dev.name), "vmgenid");
	v->host = h;
	v->acpi_pm = acpi_pm;
	v->gpa = gpa;
	*ret_dev = &v->dev;
	return 0;
}
