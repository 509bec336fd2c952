/* QMP handlers of qom-list and qom-get: the part of QEMU's tree of objects that clients look at. /machine has the
 * vCPUs, /machine/peripheral the disks, the interfaces and the balloon. */
#include "api/qmp/qmp.h"
#include "api/qmp/qmp_cpu.h"
#include "api/qmp/qmp_device.h"
#include "api/qmp/qmp_handler.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/vm/vm_vcpus.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PERIPHERAL "/machine/peripheral"
#define BALLOON "balloon0"

enum qom_kind { QOM_NONE, QOM_ROOT, QOM_MACHINE, QOM_PERIPHERAL, QOM_CONTAINER, QOM_DISK, QOM_INTERFACE, QOM_BALLOON, QOM_VCPU };

/* An object of the tree. */
struct qom_object {
	enum qom_kind kind;
	char type[QMP_CPU_DRIVER];
	const struct definition_disk *disk;
	const struct definition_interface *face;
};

static void machine_type(const struct vm *vm, char type[QMP_CPU_DRIVER])
{
	snprintf(type, QMP_CPU_DRIVER, "cairn-%u-machine", vm_live(vm)->machine);
}

static const char *disk_type(const struct definition_disk *d)
{
	return d->bus != VM_BUS_SCSI ? "virtio-blk-pci" : d->device == DEFINITION_CDROM ? "scsi-cd" : "scsi-hd";
}

/* Find a device by its id, and set the object. */
static void device_find(const struct vm *vm, const char *id, struct qom_object *o)
{
	const struct definition *d = vm_live(vm);
	enum qmp_device_kind kind;
	uint32_t i;

	kind = qmp_device_find(vm, id, &i);
	if (kind == QMP_IS_DISK) {
		o->kind = QOM_DISK;
		o->disk = &d->disks[i];
		snprintf(o->type, sizeof(o->type), "%s", disk_type(o->disk));
	} else if (kind == QMP_IS_INTERFACE) {
		o->kind = QOM_INTERFACE;
		o->face = &d->interfaces[i];
		snprintf(o->type, sizeof(o->type), "virtio-net-pci");
	} else if (d->balloon && !strcmp(id, BALLOON)) {
		o->kind = QOM_BALLOON;
		snprintf(o->type, sizeof(o->type), "virtio-balloon-pci");
	}
}

static bool vcpu_is_there(const struct vm *vm, unsigned i)
{
	return i < definition_vcpus_max(vm_live(vm)) && !(vm_vcpus_absent(vm) >> i & 1);
}

/* Find the object of a path. As in QEMU, a word without a slash is the last part of a path. */
static struct qom_object object_find(const struct vm *vm, const char *path)
{
	struct qom_object o = { .type = "container" };
	size_t len = strlen(PERIPHERAL);
	unsigned vcpu;
	int end = 0;

	if (!strcmp(path, "/") || !*path) {
		o.kind = QOM_ROOT;
	} else if (!strcmp(path, "/machine") || !strcmp(path, "machine")) {
		o.kind = QOM_MACHINE;
		machine_type(vm, o.type);
	} else if (!strcmp(path, PERIPHERAL) || !strcmp(path, "peripheral")) {
		o.kind = QOM_PERIPHERAL;
	} else if (!strcmp(path, "/objects") || !strcmp(path, "/chardevs")) {
		o.kind = QOM_CONTAINER;
	} else if (sscanf(path, "/machine/vcpu[%3u]%n", &vcpu, &end) == 1 && end && !path[end] && vcpu_is_there(vm, vcpu)) {
		o.kind = QOM_VCPU;
		qmp_cpu_driver(vm_live(vm), o.type);
	} else if (!strncmp(path, PERIPHERAL "/", len + 1)) {
		device_find(vm, path + len + 1, &o);
	} else if (!strchr(path, '/')) {
		device_find(vm, path, &o);
	}
	return o;
}

static bool object_of(struct call *c, struct qom_object *ret)
{
	const char *path = js_get_str(c->args, "path");
	char text[112];

	*ret = object_find(c->vm, path);
	if (ret->kind != QOM_NONE)
		return true;
	snprintf(text, sizeof(text), "Device '%.80s' not found", path);
	call_fail_class(c, "DeviceNotFound", text);
	return false;
}

/* ---- qom-list ---- */

static void property_add(struct json_object *list, const char *name, const char *type)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "name", name);
	js_put_str(o, "type", type);
	json_object_array_add(list, o);
}

static void child_add(struct json_object *list, const char *name, const char *type)
{
	char text[80];

	snprintf(text, sizeof(text), "child<%.64s>", type);
	property_add(list, name, text);
}

static void devices_add(const struct vm *vm, struct json_object *list)
{
	const struct definition *d = vm_live(vm);

	for (uint32_t i = 0; i < d->ndisks; i++)
		child_add(list, d->disks[i].id, disk_type(&d->disks[i]));
	for (uint32_t i = 0; i < d->ninterfaces; i++)
		child_add(list, d->interfaces[i].id, "virtio-net-pci");
	if (d->balloon)
		child_add(list, BALLOON, "virtio-balloon-pci");
}

static void machine_parts_add(const struct vm *vm, struct json_object *list)
{
	char name[16], type[QMP_CPU_DRIVER];

	child_add(list, "peripheral", "container");
	qmp_cpu_driver(vm_live(vm), type);
	for (unsigned i = 0; i < definition_vcpus_max(vm_live(vm)); i++) {
		if (!vcpu_is_there(vm, i))
			continue;
		snprintf(name, sizeof(name), "vcpu[%u]", i);
		child_add(list, name, type);
	}
}

static void root_parts_add(const struct vm *vm, struct json_object *list)
{
	char type[QMP_CPU_DRIVER];

	machine_type(vm, type);
	child_add(list, "machine", type);
	child_add(list, "objects", "container");
	child_add(list, "chardevs", "container");
}

void qmp_qom_list(struct call *c)
{
	struct json_object *list;
	struct qom_object o;

	if (!object_of(c, &o))
		return;
	list = json_object_new_array();
	property_add(list, "type", "string");
	if (o.kind >= QOM_DISK)
		property_add(list, "realized", "bool");
	if (o.kind == QOM_ROOT) {
		root_parts_add(c->vm, list);
	} else if (o.kind == QOM_MACHINE) {
		machine_parts_add(c->vm, list);
	} else if (o.kind == QOM_PERIPHERAL) {
		devices_add(c->vm, list);
	} else if (o.kind == QOM_DISK) {
		property_add(list, "drive", "str");
		property_add(list, "serial", "str");
	} else if (o.kind == QOM_INTERFACE) {
		property_add(list, "mac", "str");
	} else if (o.kind == QOM_BALLOON) {
		property_add(list, "guest-stats", "guest statistics");
		property_add(list, "guest-stats-polling-interval", "int");
	}
	call_return(c, list);
}

/* ---- qom-get ---- */

/* QEMU gives the largest number for a value that the guest has not reported. */
static void statistics_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	static const char *const names[VM_BALLOON_STATS] = { "stat-swap-in", "stat-swap-out", "stat-major-faults", "stat-minor-faults",
		"stat-free-memory", "stat-total-memory", "stat-available-memory", "stat-disk-caches", "stat-htlb-pgalloc", "stat-htlb-pgfail" };
	struct json_object *o, *stats;

	if (r < 0) {
		call_done(opaque, r, e);
		return;
	}
	o = json_object_new_object();
	stats = json_object_new_object();
	for (unsigned i = 0; i < VM_BALLOON_STATS; i++)
		js_put_uint(stats, names[i], a->info->balloon.known >> i & 1 ? a->info->balloon.stats[i] : UINT64_MAX);
	js_put(o, "stats", stats);
	js_put_uint(o, "last-update", a->info->balloon.stats_s);
	call_return(opaque, o);
}

static void interval_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	if (r < 0)
		call_done(opaque, r, e);
	else
		call_return(opaque, json_object_new_int64(a->info->balloon.period_s));
}

static struct json_object *mac_to_json(const struct definition_interface *f)
{
	char mac[DEFINITION_MAC_TEXT];

	mac_print(f->mac, mac);
	return json_object_new_string(mac);
}

void qmp_qom_get(struct call *c)
{
	const char *name = js_get_str(c->args, "property");
	struct qom_object o;
	struct err e;

	if (!object_of(c, &o))
		return;
	if (!strcmp(name, "type")) {
		call_return(c, json_object_new_string(o.type));
	} else if (!strcmp(name, "realized") && o.kind >= QOM_DISK) {
		call_return(c, json_object_new_boolean(true));
	} else if (!strcmp(name, "drive") && o.kind == QOM_DISK) {
		call_return(c, json_object_new_string(qmp_node_name(c->vm, o.disk)));
	} else if (!strcmp(name, "serial") && o.kind == QOM_DISK) {
		call_return(c, json_object_new_string(o.disk->serial));
	} else if (!strcmp(name, "mac") && o.kind == QOM_INTERFACE) {
		call_return(c, mac_to_json(o.face));
	} else if (!strcmp(name, "guest-stats") && o.kind == QOM_BALLOON) {
		qmp_ask(c, statistics_answered);
	} else if (!strcmp(name, "guest-stats-polling-interval") && o.kind == QOM_BALLOON) {
		qmp_ask(c, interval_answered);
	} else {
		err_set(&e, -ENOENT, ERR_GENERIC, "Property '%.64s.%.40s' not found", o.type, name);
		call_fail(c, &e);
	}
}
