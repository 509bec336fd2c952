/* query-pci: the VM's PCI bus. */
#include "api/qmp/qmp_handler.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#define PCI_TIMEOUT_NS (10 * 1000000000ULL)

/* QEMU's words, of those in its hw/pci/pci.c that a device of Cairn has. */
static const char *class_word(unsigned class)
{
	static const struct {
		unsigned class;
		const char *word;
	} words[] = { { 0x0100, "SCSI controller" }, { 0x0200, "Ethernet controller" }, { 0x0300, "VGA controller" },
		{ 0x0600, "Host bridge" }, { 0x0601, "ISA bridge" } };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (words[i].class == class)
			return words[i].word;
	return NULL;
}

static struct json_object *region_to_json(const struct vm_pci_region *r)
{
	struct json_object *o = json_object_new_object();

	js_put_int(o, "bar", r->bar);
	js_put_bool(o, "prefetch", false);
	js_put_bool(o, "mem_type_64", r->is64);
	js_put_uint(o, "size", r->bytes);
	/* As QEMU: -1 is an address that is not mapped. */
	js_put_int(o, "address", r->address == VM_PCI_UNMAPPED ? -1 : (int64_t)r->address);
	js_put_str(o, "type", "memory");
	return o;
}

static struct json_object *device_to_json(const struct vm_pci_device *d)
{
	struct json_object *o = json_object_new_object(), *class = json_object_new_object(), *id = json_object_new_object(),
			   *regions = json_object_new_array();

	js_put_int(o, "bus", 0);
	js_put_int(o, "slot", d->slot);
	js_put_int(o, "function", 0);
	js_put_int(class, "class", d->class);
	if (class_word(d->class))
		js_put_str(class, "desc", class_word(d->class));
	js_put(o, "class_info", class);
	js_put_int(id, "device", d->device);
	js_put_int(id, "vendor", d->vendor);
	js_put_int(id, "subsystem", d->subsystem);
	js_put_int(id, "subsystem-vendor", d->subsystem_vendor);
	js_put(o, "id", id);
	js_put_str(o, "qdev_id", d->id);
	js_put_int(o, "irq_pin", d->irq_pin);
	if (d->irq_pin)
		js_put_int(o, "irq", d->irq);
	for (unsigned i = 0; i < d->nregions; i++)
		json_object_array_add(regions, region_to_json(&d->regions[i]));
	js_put(o, "regions", regions);
	return o;
}

static void listed(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct call *c = opaque;
	struct json_object *buses, *bus, *devices;

	if (r < 0) {
		call_fail(c, e);
		return;
	}
	buses = json_object_new_array();
	bus = json_object_new_object();
	devices = json_object_new_array();
	for (unsigned i = 0; i < a->pci->n; i++)
		json_object_array_add(devices, device_to_json(&a->pci->devices[i]));
	js_put_int(bus, "bus", 0);
	js_put(bus, "devices", devices);
	json_object_array_add(buses, bus);
	call_return(c, buses);
}

void qmp_query_pci(struct call *c)
{
	struct err e;

	if (vm_compat_check_live(c->vm, VM_KNOWS_PCI, &e) < 0)
		call_fail(c, &e);
	else
		vm_process_request(c->vm->proc, VM_MSG_PCI, NULL, 0, -1, PCI_TIMEOUT_NS, listed, c);
}
