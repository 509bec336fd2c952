/* QMP handlers that attach and detach devices: QEMU's commands as the daemon's own ones, with QEMU's errors. Images and
 * networks are opened by device_add, not before. */
#include "api/qmp/qmp_device.h"
#include "api/commands/command.h"
#include "api/net/interface_plug.h"
#include "api/qmp/qmp.h"
#include "api/qmp/qmp_cpu.h"
#include "api/qmp/qmp_handler.h"
#include "api/vm/vm.h"
#include "api/vm/vm_plug.h"
#include "api/vm/vm_vcpus.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the list ---- */

static void backend_free(struct qmp_backend *b)
{
	json_object_put(b->part);
	free(b);
}

void qmp_backends_free(struct qmp_backend *list)
{
	while (list) {
		struct qmp_backend *b = list;

		list = b->next;
		backend_free(b);
	}
}

/* Nodes and files share one name space, as in QEMU. */
static bool is_of_kind(const struct qmp_backend *b, enum qmp_backend_kind kind)
{
	return b->kind == kind || (b->kind == QMP_FILE && kind == QMP_NODE);
}

/* Find a backend. NULL: there is none. */
static struct qmp_backend *backend_find(const struct vm *vm, enum qmp_backend_kind kind, const char *id)
{
	struct qmp_backend **list = qmp_backends(vm), *b = list ? *list : NULL;

	while (b && !(is_of_kind(b, kind) && id && !strcmp(b->id, id)))
		b = b->next;
	return b;
}

/* QEMU's rule for ids. */
static bool id_is_well_formed(const char *id)
{
	const char *c = id;

	if (!isalpha((unsigned char)*c))
		return false;
	while (isalnum((unsigned char)*c) || (*c && strchr("-._", *c)))
		c++;
	return !*c && c - id < (int)sizeof(((struct qmp_backend *)0)->id);
}

/* Add a backend. part: taken. */
static int backend_add(struct call *c, enum qmp_backend_kind kind, const char *id, struct json_object *part, struct err *e)
{
	struct qmp_backend **list = qmp_backends(c->vm), *b;
	unsigned n = 0;

	for (b = list ? *list : NULL; b; b = b->next)
		n++;
	if (!list || n >= QMP_BACKENDS_MAX) {
		json_object_put(part);
		return err_set(e, -ENOSPC, ERR_BUSY, "%d nodes, netdevs and objects were added, the maximum; remove some first",
			QMP_BACKENDS_MAX);
	}
	b = must_alloc(calloc(1, sizeof(*b)));
	*b = (struct qmp_backend){ .next = *list, .kind = kind, .part = part };
	snprintf(b->id, sizeof(b->id), "%s", id);
	*list = b;
	return 0;
}

static void backend_remove(struct call *c, struct qmp_backend *b)
{
	struct qmp_backend **at = qmp_backends(c->vm);

	while (*at != b)
		at = &(*at)->next;
	*at = b->next;
	backend_free(b);
	call_return(c, NULL);
}

static void fail_not_found(struct call *c, const char *id)
{
	struct err e;

	err_set(&e, -ENOENT, ERR_NOT_FOUND, "Device '%.60s' not found", id);
	call_fail_class(c, "DeviceNotFound", e.msg);
}

/* ---- nodes ---- */

static bool disk_has_path(const struct definition_disk *d, const char *path)
{
	for (unsigned i = 0; path && i < d->nlayers; i++)
		if (!strcmp(d->layers[i].path, path))
			return true;
	return false;
}

/* Find the disk that uses the image of a node. NULL: none does. */
static const struct definition_disk *node_user(const struct vm *vm, const struct qmp_backend *b)
{
	const struct definition *d = vm_live(vm);

	for (unsigned i = 0; i < d->ndisks; i++)
		if (disk_has_path(&d->disks[i], js_get_str(b->part, "path")))
			return &d->disks[i];
	return NULL;
}

static bool is_node_of(const struct qmp_backend *b, const struct definition_disk *disk)
{
	return b->kind == QMP_NODE && disk->nlayers && !strcmp(js_get_str_or(b->part, "path", ""), disk->layers[0].path);
}

const char *qmp_node_name(const struct vm *vm, const struct definition_disk *disk)
{
	struct qmp_backend **list = qmp_backends(vm);

	for (const struct qmp_backend *b = list ? *list : NULL; b; b = b->next)
		if (is_node_of(b, disk))
			return b->id;
	return disk->id;
}

const struct definition_disk *qmp_disk_find(const struct vm *vm, const char *name)
{
	const struct qmp_backend *b = backend_find(vm, QMP_NODE, name);
	const struct definition *d = vm_live(vm);
	uint32_t at;

	for (unsigned i = 0; b && i < d->ndisks; i++)
		if (is_node_of(b, &d->disks[i]))
			return &d->disks[i];
	return name && qmp_device_find(vm, name, &at) == QMP_IS_DISK ? &d->disks[at] : NULL;
}

const char *qmp_node_path(const struct vm *vm, const char *name)
{
	const struct qmp_backend *b = backend_find(vm, QMP_NODE, name);
	const struct definition_disk *disk = b ? NULL : qmp_disk_find(vm, name);

	return b ? js_get_str(b->part, "path") : disk && disk->nlayers ? disk->layers[0].path : NULL;
}

/* Get the path of the file below a node: the name of a file that was added, or its description. */
static const char *file_path(struct call *c, struct err *e)
{
	struct json_object *file = js_get(c->args, "file");
	const char *name = js_plain_string(file), *driver = js_get_str(file, "driver");
	const struct qmp_backend *b = name ? backend_find(c->vm, QMP_FILE, name) : NULL;

	if (b)
		return js_get_str(b->part, "path");
	if (!file)
		err_set(e, -EINVAL, ERR_GENERIC, "Parameter 'file' is missing");
	else if (name)
		err_set(e, -ENOENT, ERR_GENERIC, "Cannot find device='%.40s' nor node-name='%.40s'", name, name);
	else if (!driver || (strcmp(driver, "file") && strcmp(driver, "host_device")))
		err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "file: must be the name of a node, or an object with the driver file or host_device "
			"and a filename");
	else if (!js_get_str(file, "filename"))
		err_set(e, -EINVAL, ERR_GENERIC, "Parameter 'file.filename' is missing");
	else
		return js_get_str(file, "filename");
	return NULL;
}

/* Put the layers below a qcow2 image: the node that `backing` names, and those below that. */
static int backing_put(struct call *c, struct json_object *disk, struct err *e)
{
	struct json_object *name = js_get(c->args, "backing"), *list, *layer, *below;
	const struct qmp_backend *b = backend_find(c->vm, QMP_NODE, js_plain_string(name));

	if (!name)
		return 0;
	if (!b || b->kind != QMP_NODE)
		return err_set(e, -ENOENT, ERR_GENERIC, "backing: must be the name of a node with the driver raw or qcow2, or null");
	list = json_object_new_array();
	layer = json_object_new_object();
	js_put_str(layer, "path", js_get_str(b->part, "path"));
	js_put_str(layer, "format", js_get_str(b->part, "format"));
	json_object_array_add(list, layer);
	below = js_get_array(b->part, "backing");
	for (size_t i = 0; below && i < json_object_array_length(below); i++)
		json_object_array_add(list, json_object_get(json_object_array_get_idx(below, i)));
	js_put(disk, "backing", list);
	return 0;
}

/* Put the cache mode. QEMU's default of both members is false. A node on a file takes the mode of its file. */
static int cache_put(struct call *c, struct json_object *disk, struct err *e)
{
	struct json_object *cache = js_get(c->args, "cache"), *file = js_get(c->args, "file");
	const struct qmp_backend *b = backend_find(c->vm, QMP_FILE, js_plain_string(file));
	bool known, direct, no_flush;

	if (!cache && b)
		js_put_str(disk, "cache", js_get_str(b->part, "cache"));
	if (!cache && !js_plain_string(file))
		cache = js_get(file, "cache");
	if (!cache)
		return 0;
	known = json_object_is_type(cache, json_type_object);
	if (known) {
		json_object_object_foreach(cache, key, value)
			known &= (!strcmp(key, "direct") || !strcmp(key, "no-flush")) && json_object_is_type(value, json_type_boolean);
	}
	if (!known)
		return err_set(e, -EINVAL, ERR_GENERIC, "cache: must be an object with the members direct and no-flush, true or false");
	direct = js_get_bool(cache, "direct", false);
	no_flush = js_get_bool(cache, "no-flush", false);
	if (direct && no_flush)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "cache: direct with no-flush is not supported; use one of them");
	js_put_str(disk, "cache", direct ? "none" : no_flush ? "unsafe" : "writeback");
	return 0;
}

/* Put the options that a disk of a definition has as well. */
static int node_options_put(struct call *c, struct json_object *disk, struct err *e)
{
	const char *discard = js_get_str(c->args, "discard"), *zeroes = js_get_str(c->args, "detect-zeroes");

	if (discard && strcmp(discard, "ignore") && strcmp(discard, "unmap"))
		return err_set(e, -EINVAL, ERR_GENERIC, "Parameter 'discard' does not accept value '%.40s'", discard);
	if (zeroes && strcmp(zeroes, "off") && strcmp(zeroes, "on") && strcmp(zeroes, "unmap"))
		return err_set(e, -EINVAL, ERR_GENERIC, "Parameter 'detect-zeroes' does not accept value '%.40s'", zeroes);
	js_put_bool(disk, "readonly", js_get_bool(c->args, "read-only", false));
	js_put_str(disk, "discard", discard);
	js_put_str(disk, "detect_zeroes", zeroes);
	return cache_put(c, disk, e);
}

static int node_add(struct call *c, const char *name, const char *driver, struct err *e)
{
	bool is_file = !strcmp(driver, "file") || !strcmp(driver, "host_device");
	CLEANUP_JS struct json_object *disk = json_object_new_object();
	const char *path = is_file ? js_get_str(c->args, "filename") : NULL;
	int r;

	if (is_file && !path)
		return err_set(e, -EINVAL, ERR_GENERIC, "Parameter 'filename' is missing");
	if (!is_file && strcmp(driver, "raw") && strcmp(driver, "qcow2"))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "Parameter 'driver' does not accept value '%.40s'; Cairn has raw, qcow2, file "
			"and host_device", driver);
	if (!is_file && js_get(c->args, "filename"))
		return err_set(e, -EINVAL, ERR_GENERIC, "Parameter 'filename' is unexpected");
	if (is_file ? js_get(c->args, "file") || js_get(c->args, "backing") : js_get(c->args, "backing") && strcmp(driver, "qcow2"))
		return err_set(e, -EINVAL, ERR_GENERIC, "Parameter '%s' is unexpected", js_get(c->args, "backing") ? "backing" : "file");
	path = is_file ? path : file_path(c, e);
	if (!path)
		return -EINVAL;
	if (*path != '/')
		return err_set(e, -EINVAL, ERR_INVALID, "filename: must be an absolute path");
	js_put_str(disk, "path", path);
	js_put_str(disk, "format", is_file ? "raw" : driver);
	r = node_options_put(c, disk, e);
	if (!r)
		r = backing_put(c, disk, e);
	return r ? r : backend_add(c, is_file ? QMP_FILE : QMP_NODE, name, STEAL_PTR(disk), e);
}

void qmp_blockdev_add(struct call *c)
{
	const char *name = js_get_str(c->args, "node-name");
	struct err e;
	int r = 0;

	if (!name)
		r = err_set(&e, -EINVAL, ERR_GENERIC, "'node-name' must be specified for the root node");
	else if (!id_is_well_formed(name))
		r = err_set(&e, -EINVAL, ERR_GENERIC, "Invalid node-name: '%.60s'", name);
	else if (backend_find(c->vm, QMP_NODE, name) || qmp_disk_find(c->vm, name))
		r = err_set(&e, -EEXIST, ERR_GENERIC, "Duplicate nodes with node-name='%s'", name);
	if (!r)
		r = node_add(c, name, js_get_str(c->args, "driver"), &e);
	call_done(c, r, &e);
}

void qmp_blockdev_del(struct call *c)
{
	const char *name = js_get_str(c->args, "node-name");
	struct qmp_backend *b = backend_find(c->vm, QMP_NODE, name);
	struct err e;

	if (b && !node_user(c->vm, b)) {
		backend_remove(c, b);
		return;
	}
	err_set(&e, -EBUSY, ERR_GENERIC, b ? "Node %.60s is in use" : "Failed to find node with node-name='%.60s'", name);
	call_fail(c, &e);
}

/* ---- netdevs ---- */

/* Return whether the interface that was attached with a netdev is there. */
static bool netdev_is_used(const struct vm *vm, const struct qmp_backend *b)
{
	return qmp_device_find(vm, b->device, NULL) == QMP_IS_INTERFACE;
}

static int netdev_add(struct call *c, const char *id, const char *type, struct err *e)
{
	static const char *const theirs[] = { "tap", "socket", "stream", "dgram", "vde", "l2tpv3", "hubport", "netmap", "vhost-user",
		"vhost-vdpa", "nic" };
	bool user = !strcmp(type, "user"), bridge = !strcmp(type, "bridge");
	CLEANUP_JS struct json_object *o = json_object_new_object();

	for (size_t i = 0; i < ARRAY_SIZE(theirs); i++)
		if (!strcmp(type, theirs[i]))
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "netdevs of type %s are not supported; use user, or bridge with br", type);
	if (!user && !bridge)
		return err_set(e, -EINVAL, ERR_GENERIC, "Parameter 'type' does not accept value '%.40s'", type);
	if ((!user && (js_get(c->args, "net") || js_get(c->args, "restrict"))) || (!bridge && js_get(c->args, "br")))
		return err_set(e, -EINVAL, ERR_GENERIC, "Parameter '%s' is unexpected", user ? "br" : js_get(c->args, "net") ? "net" : "restrict");
	js_put_str(o, "type", type);
	if (bridge)
		js_put_str(o, "source", js_get_str_or(c->args, "br", "br0"));
	js_put_str(o, "network", js_get_str(c->args, "net"));
	if (js_get_bool(c->args, "restrict", false))
		js_put_bool(o, "restrict", true);
	return backend_add(c, QMP_NETDEV, id, STEAL_PTR(o), e);
}

void qmp_netdev_add(struct call *c)
{
	const char *id = js_get_str(c->args, "id");
	struct err e;
	int r;

	if (!id_is_well_formed(id))
		r = err_set(&e, -EINVAL, ERR_GENERIC, "Parameter 'id' expects an identifier");
	else if (backend_find(c->vm, QMP_NETDEV, id))
		r = err_set(&e, -EEXIST, ERR_GENERIC, "Duplicate ID '%s'", id);
	else
		r = netdev_add(c, id, js_get_str(c->args, "type"), &e);
	call_done(c, r, &e);
}

void qmp_netdev_del(struct call *c)
{
	const char *id = js_get_str(c->args, "id");
	struct qmp_backend *b = backend_find(c->vm, QMP_NETDEV, id);
	struct err e;

	if (!b) {
		fail_not_found(c, id);
	} else if (netdev_is_used(c->vm, b)) {
		err_set(&e, -EBUSY, ERR_BUSY, "Device '%s' is in use by '%s'; detach that with device_del first", id, b->device);
		call_fail(c, &e);
	} else {
		backend_remove(c, b);
	}
}

/* ---- objects ---- */

void qmp_object_add(struct call *c)
{
	const char *id = js_get_str(c->args, "id"), *type = js_get_str(c->args, "qom-type");
	struct err e;
	int r;

	if (!strncmp(type, "secret", 6))
		r = err_set(&e, -ENOTSUP, ERR_UNSUPPORTED, "objects of type %.40s are not supported: Cairn reads no encrypted images", type);
	else if (!strncmp(type, "rng-", 4))
		r = err_set(&e, -ENOTSUP, ERR_UNSUPPORTED, "objects of type %.40s are not supported: a VM whose definition has rng has the "
			"host's random numbers", type);
	else if (!strncmp(type, "memory-backend-", 15))
		r = err_set(&e, -ENOTSUP, ERR_UNSUPPORTED, "objects of type %.40s are not supported: the memory of a VM does not grow while it "
			"runs", type);
	else if (strcmp(type, "iothread"))
		r = err_set(&e, -EINVAL, ERR_GENERIC, "Parameter 'qom-type' does not accept value '%.40s'", type);
	else if (!id_is_well_formed(id))
		r = err_set(&e, -EINVAL, ERR_GENERIC, "Parameter 'id' expects an identifier");
	else if (backend_find(c->vm, QMP_IOTHREAD, id))
		r = err_set(&e, -EEXIST, ERR_GENERIC, "attempt to add duplicate property '%s' to object (type 'container')", id);
	else
		r = backend_add(c, QMP_IOTHREAD, id, NULL, &e);
	call_done(c, r, &e);
}

void qmp_object_del(struct call *c)
{
	const char *id = js_get_str(c->args, "id");
	struct qmp_backend *b = backend_find(c->vm, QMP_IOTHREAD, id);
	struct err e;

	if (b) {
		backend_remove(c, b);
		return;
	}
	err_set(&e, -ENOENT, ERR_GENERIC, "object '%.60s' not found", id);
	call_fail(c, &e);
}

/* ---- devices ---- */

enum qmp_device_kind qmp_device_find(const struct vm *vm, const char *id, uint32_t *ret_index)
{
	const struct definition *d = vm_live(vm);
	uint32_t ignored, *i = ret_index ? ret_index : &ignored;

	for (*i = 0; *i < d->ndisks; ++*i)
		if (!strcmp(d->disks[*i].id, id))
			return QMP_IS_DISK;
	for (*i = 0; *i < d->ninterfaces; ++*i)
		if (!strcmp(d->interfaces[*i].id, id))
			return QMP_IS_INTERFACE;
	return QMP_IS_ABSENT;
}

/* Let the daemon's command run with these arguments. o: taken. */
static void args_replace(struct call *c, const char *key, struct json_object *o)
{
	json_object_put(c->args);
	c->args = json_object_new_object();
	js_put(c->args, key, o);
}

struct property {
	const char *theirs, *ours;
};

static int bus_check(struct call *c, const char *const *buses, struct err *e)
{
	const char *bus = js_get_str(c->args, "bus");

	for (; bus && *buses; buses++)
		if (!strcmp(*buses, bus))
			return 0;
	return bus ? err_set(e, -ENOENT, ERR_GENERIC, "Bus '%.40s' not found", bus) : 0;
}

/* Copy the properties p, which a definition has as well; refuse any other property. */
static int properties_put(struct call *c, const struct property *p, size_t n, struct json_object *o, struct err *e)
{
	static const char *const common[] = { "driver", "id", "bus" };

	json_object_object_foreach(c->args, key, value)
	{
		size_t i = 0, k = 0;

		while (k < ARRAY_SIZE(common) && strcmp(common[k], key))
			k++;
		while (i < n && strcmp(p[i].theirs, key))
			i++;
		if (k == ARRAY_SIZE(common) && i == n)
			return err_set(e, -EINVAL, ERR_GENERIC, "Property '%.40s.%.40s' not found", js_get_str(c->args, "driver"), key);
		if (i < n && p[i].ours)
			js_put(o, p[i].ours, json_object_get(value));
	}
	return 0;
}

/* Make the object to attach, from the backend that the property `by` names. */
static struct json_object *device_begin(struct call *c, enum qmp_backend_kind kind, const char *by, struct qmp_backend **ret_b,
	struct err *e)
{
	const char *name = js_get_str(c->args, by), *id = js_get_str(c->args, "id");
	struct qmp_backend *b = backend_find(c->vm, kind, name);
	struct json_object *o = NULL;

	if (!name)
		err_set(e, -EINVAL, ERR_GENERIC, "%s property not set", by);
	else if (!b)
		err_set(e, -ENOENT, ERR_GENERIC, "Property '%.40s.%s' can't find value '%.60s'", js_get_str(c->args, "driver"), by, name);
	else if (qmp_device_find(c->vm, id ? id : b->id, NULL) != QMP_IS_ABSENT)
		err_set(e, -EEXIST, ERR_GENERIC, "Duplicate device ID '%.60s'", id ? id : b->id);
	else if (json_object_deep_copy(b->part, &o, NULL) < 0)
		err_set_errno(e, -ENOMEM, "device_add");
	if (!o)
		return NULL;
	js_put_str(o, "id", id ? id : b->id);
	*ret_b = b;
	return o;
}

static const char *const pci_buses[] = { "pci.0", "pcie.0", NULL };

/* Attach a disk with the properties `known` and the keys that the caller has put into o. o: taken. */
static int disk_add(struct call *c, const struct property *known, size_t n, const char *const *buses, struct json_object *o,
	struct qmp_backend *b, struct err *e)
{
	int r = o ? bus_check(c, buses, e) : -EINVAL;

	if (!r)
		r = properties_put(c, known, n, o, e);
	if (!r && node_user(c->vm, b) && !js_get_bool(b->part, "readonly", false))
		r = err_set(e, -EBUSY, ERR_BUSY, "Node '%s' is in use by '%s'", b->id, node_user(c->vm, b)->id);
	if (r < 0) {
		json_object_put(o);
		return r;
	}
	args_replace(c, "disk", o);
	vm_plug_attach(c);
	return 0;
}

static int blk_add(struct call *c, struct err *e)
{
	static const struct property known[] = { { "drive", NULL }, { "serial", "serial" }, { "logical_block_size", "logical_block_size" },
		{ "physical_block_size", "physical_block_size" }, { "num-queues", "queues" }, { "queue-size", "queue_size" },
		{ "iothread", NULL } };
	const char *thread = js_get_str(c->args, "iothread");
	struct qmp_backend *b;
	struct json_object *o = device_begin(c, QMP_NODE, "drive", &b, e);

	if (o && thread && !backend_find(c->vm, QMP_IOTHREAD, thread)) {
		json_object_put(o);
		return err_set(e, -ENOENT, ERR_GENERIC, "Property '%.40s.iothread' can't find value '%.60s'", js_get_str(c->args, "driver"), thread);
	}
	return disk_add(c, known, ARRAY_SIZE(known), pci_buses, o, b, e);
}

/* Read a world wide name as QEMU does. Returns false if it is no number or has more than 64 bits. */
static bool wwn_read(struct json_object *wwn, uint64_t *ret)
{
	const char *text = js_plain_string(wwn);
	char *end = NULL;

	if (!text) {
		*ret = json_object_get_uint64(wwn);
		/* json-c turns a larger number into UINT64_MAX. */
		return json_object_is_type(wwn, json_type_int) && *ret != UINT64_MAX;
	}
	errno = 0;
	*ret = strtoull(text, &end, 0);
	return text[0] >= '0' && text[0] <= '9' && !*end && !errno;
}

/* A definition has a world wide name as 16 digits, QEMU as a number. */
static void wwn_put(struct call *c, struct json_object *o)
{
	struct json_object *wwn = js_get(c->args, "wwn");
	char digits[17];
	uint64_t n;

	if (wwn_read(wwn, &n)) {
		snprintf(digits, sizeof(digits), "%016" PRIx64, n);
		js_put_str(o, "wwn", digits);
	} else if (wwn) {
		json_object_object_add(o, "wwn", json_object_get(wwn)); /* refused as part of the disk */
	}
}

/* Attach a disk or a CD drive to the SCSI controller. The first one brings the controller. */
static int scsi_add(struct call *c, struct err *e)
{
	static const struct property known[] = { { "drive", NULL }, { "serial", "serial" }, { "wwn", NULL },
		{ "logical_block_size", "logical_block_size" }, { "physical_block_size", "physical_block_size" } };
	static const char *const buses[] = { "scsi0.0", NULL };
	struct qmp_backend *b;
	struct json_object *o = device_begin(c, QMP_NODE, "drive", &b, e);

	if (o) {
		js_put_str(o, "bus", "scsi");
		if (!strcmp(js_get_str(c->args, "driver"), "scsi-cd"))
			js_put_str(o, "device", "cdrom");
		wwn_put(c, o);
	}
	return disk_add(c, known, ARRAY_SIZE(known), buses, o, b, e);
}

static int interface_add(struct call *c, struct err *e)
{
	static const struct property known[] = { { "netdev", NULL }, { "mac", "mac" } };
	struct qmp_backend *b;
	struct json_object *o = device_begin(c, QMP_NETDEV, "netdev", &b, e);
	int r = o ? bus_check(c, pci_buses, e) : -EINVAL;

	if (!r)
		r = properties_put(c, known, ARRAY_SIZE(known), o, e);
	if (!r && netdev_is_used(c->vm, b))
		r = err_set(e, -EBUSY, ERR_BUSY, "Property '%.40s.netdev' can't take value '%s', it's in use", js_get_str(c->args, "driver"), b->id);
	if (r < 0) {
		json_object_put(o);
		return r;
	}
	snprintf(b->device, sizeof(b->device), "%s", js_get_str(o, "id"));
	args_replace(c, "interface", o);
	interface_plug(c);
	return 0;
}

void qmp_device_add(struct call *c)
{
	static const struct {
		const char *driver;
		int (*add)(struct call *c, struct err *e);
	} drivers[] = { { "virtio-blk-pci", blk_add }, { "virtio-blk", blk_add }, { "scsi-hd", scsi_add }, { "scsi-cd", scsi_add },
		{ "virtio-net-pci", interface_add }, { "virtio-net", interface_add } };
	const char *driver = js_get_str(c->args, "driver");
	struct err e;
	size_t i = 0;

	if (qmp_cpu_is_driver(driver)) {
		if (qmp_cpu_add(c, &e) < 0)
			call_fail(c, &e);
		return;
	}
	while (i < ARRAY_SIZE(drivers) && strcmp(drivers[i].driver, driver))
		i++;
	if (i == ARRAY_SIZE(drivers))
		err_set(&e, -ENOTSUP, ERR_UNSUPPORTED, "'%.40s' is not a valid device model name; virtio-blk-pci, scsi-hd, scsi-cd, virtio-net-pci "
			"and processors can be added while the VM runs", driver);
	else if (!drivers[i].add(c, &e))
		return;
	call_fail(c, &e);
}

void qmp_device_del(struct call *c)
{
	const char *id = js_get_str(c->args, "id");

	if (qmp_device_find(c->vm, id, NULL) != QMP_IS_ABSENT)
		vm_plug_ask(c, id);
	else if (qmp_cpu_find(c->vm, id) >= 0)
		vm_vcpus_ask(c, (unsigned)qmp_cpu_find(c->vm, id));
	else
		fail_not_found(c, id);
}

void qmp_set_link(struct call *c)
{
	const char *name = js_get_str(c->args, "name");
	const struct qmp_backend *b = backend_find(c->vm, QMP_NETDEV, name);
	bool up = js_get_bool(c->args, "up", false);
	char id[16] = "";

	snprintf(id, sizeof(id), "%s", b ? b->device : strlen(name) < sizeof(id) ? name : "");
	if (qmp_device_find(c->vm, id, NULL) != QMP_IS_INTERFACE) {
		fail_not_found(c, name);
		return;
	}
	args_replace(c, "interface", json_object_new_string(id));
	js_put_str(c->args, "link", up ? "up" : "down");
	command_vm_set_interface(c);
}

void qmp_query_memory_devices(struct call *c)
{
	call_return(c, json_object_new_array()); /* memory cannot be attached to a running VM */
}
