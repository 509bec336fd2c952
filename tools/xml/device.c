/* Convert devices other than disks to a definition. */
#include "tools/xml/domain.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/machine_version.h"
#include "base/util.h"
#include "tools/xml/reading.h"

#include <errno.h>
#include <libxml/tree.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- interfaces ---- */

static void user_only_warn(struct reading *r, struct _xmlNode *interface)
{
	static const char *const names[] = { "ip", "portForward" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		for (struct _xmlNode *n = node_child(interface, names[i]); n; n = node_next(n))
			reading_warn(r, n, NULL, "has no effect: only an interface of type user has one");
}

static int interface_source(struct reading *r, struct _xmlNode *n, struct json_object *into)
{
	CLEANUP_FREE char *type = node_attr(n, "type"), *source = NULL;

	if (!type)
		return reading_error(r, n, NULL, ERR_INVALID,
			"has no type; use network, bridge or user");
	if (strcmp(type, "network") && strcmp(type, "bridge") && strcmp(type, "user"))
		return reading_error(r, n, "type", ERR_UNSUPPORTED,
			"\"%.40s\" is not supported; use network, bridge or user", type);
	js_put_str(into, "type", type);
	if (!strcmp(type, "user"))
		return usernet_read(r, n, into);
	user_only_warn(r, n);
	source = node_attr(node_child(n, "source"), type);
	if (!source || !*source)
		return reading_error(r, n, NULL, ERR_INVALID, "has no <source %s='...'/>", type);
	js_put_str(into, "source", source);
	return 0;
}

/* Read the limits of one direction of <bandwidth>. */
static int limit_read(struct reading *r, struct _xmlNode *bandwidth, const char *direction, struct json_object *into)
{
	static const char *const keys[] = { "average", "peak", "burst" };
	CLEANUP_FREE char *floor = NULL;
	struct _xmlNode *n = node_child(bandwidth, direction);
	struct json_object *limit;
	uint64_t value;

	if (!n)
		return 0;
	limit = json_object_new_object();
	js_put(into, direction, limit);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		value = 0;
		if (node_attr_number(r, n, keys[i], UINT32_MAX, &value) < 0)
			return -EINVAL;
		if (value)
			js_put_uint(limit, keys[i], value);
	}
	floor = node_attr(n, "floor");
	if (floor)
		reading_warn(r, n, "floor", "has no effect: Cairn guarantees no rate");
	return 0;
}

static int bandwidth_read(struct reading *r, struct _xmlNode *interface, struct json_object *into)
{
	struct _xmlNode *n = node_child(interface, "bandwidth");
	struct json_object *o;
	int ret;

	if (!n)
		return 0;
	o = json_object_new_object();
	js_put(into, "bandwidth", o);
	ret = limit_read(r, n, "inbound", o);
	return ret < 0 ? ret : limit_read(r, n, "outbound", o);
}

/* <filterref> and <port>. */
static int filter_read(struct reading *r, struct _xmlNode *interface, struct json_object *into)
{
	struct _xmlNode *n = node_child(interface, "filterref");
	CLEANUP_FREE char *filter = n ? node_attr(n, "filter") : NULL;

	if (n && (!filter || strcmp(filter, "clean-traffic")))
		return reading_error(r, n, "filter", ERR_UNSUPPORTED, "\"%.40s\" is not supported; without the filter, blocked traffic would "
			"pass; use clean-traffic", filter ? filter : "");
	js_put_str(into, "filter", filter);
	if ((n = node_child(interface, "port")) && node_attr_is(n, "isolated", "yes"))
		js_put_bool(into, "isolated", true);
	return 0;
}

/* <driver name='vhost'>; name='qemu' is the VM's process. */
static void vhost_read(struct _xmlNode *interface, struct json_object *into)
{
	struct _xmlNode *n = node_child(interface, "driver");

	if (n && node_attr_is(n, "name", "vhost") && !node_attr_is(interface, "type", "user"))
		js_put_bool(into, "vhost", true);
}

/* <driver queues=>, pairs of queues. */
#define PAIRS_MAX 8
static int queues_read(struct reading *r, struct _xmlNode *interface, struct json_object *into)
{
	struct _xmlNode *n = node_child(interface, "driver");
	bool user = node_attr_is(interface, "type", "user");
	uint64_t v = 0, most = user ? 1 : PAIRS_MAX;

	if (n && node_attr_number(r, n, "queues", UINT32_MAX, &v) < 0)
		return -EINVAL;
	if (v > most)
		reading_warn(r, n, "queues", "there %s at most %llu%s", user ? "is" : "are", (unsigned long long)most,
			user ? " with type user" : "");
	if (v > 1 && most > 1)
		js_put_uint(into, "queues", MIN(v, most));
	return 0;
}

/* <boot order=> */
static int interface_boot_read(struct reading *r, struct _xmlNode *interface, struct json_object *into)
{
	struct _xmlNode *n = node_child(interface, "boot");
	uint64_t order;
	int ret = n ? node_attr_number(r, n, "order", UINT32_MAX, &order) : 1;

	if (!ret)
		js_put_uint(into, "boot_order", order);
	return MIN(ret, 0);
}

/* Return a number of <address>, which libvirt writes in hexadecimal; without the attribute 0; -1: it is no number. */
static long address_number(struct _xmlNode *n, const char *name)
{
	CLEANUP_FREE char *text = node_attr(n, name);
	char *end = text;
	long v = text ? strtol(text, &end, 0) : 0;

	return text && (end == text || *end) ? -1 : v;
}

/* <address type='pci'>: keep the slot, by which Linux names the interface. QEMU's slots have names of their own, so
 * that a guest of QEMU calls an interface ens3 that it calls enp0s3 here. */
static void slot_read(struct reading *r, struct _xmlNode *interface, struct json_object *into)
{
	struct _xmlNode *n = node_child(interface, "address");
	long slot = n && node_attr_is(n, "type", "pci") && !address_number(n, "domain") && !address_number(n, "bus") &&
		!address_number(n, "function") ? address_number(n, "slot") : 0;

	if (slot >= MACHINE_SLOT_MIN && slot <= MACHINE_SLOT_MAX)
		js_put_int(into, "slot", slot);
	else
		slot = 0;
	if (n && slot && !js_get(r->definition, "machine"))
		reading_warn(r, n, NULL, "Linux may give the interface another name, such as enp0s%ld for ens%ld", slot, slot);
	else if (n && !slot)
		reading_warn(r, n, NULL, "the guest finds the interface at another PCI address, so Linux may give it another name");
}

/* <boot dev='network'/> of <os> is the boot order of the first interface. */
static int boot_network_read(struct reading *r, struct _xmlNode *domain, struct json_object *list)
{
	struct _xmlNode *n = node_child(node_child(domain, "os"), "boot");
	unsigned order = 0;

	for (size_t i = 0; n && i < json_object_array_length(list); i++)
		if (js_get(json_object_array_get_idx(list, i), "boot_order"))
			return reading_error(r, n, NULL, ERR_INVALID,
				"cannot be together with <boot order='...'/> in an interface; keep one of them");
	for (; n; n = node_next(n)) {
		order++;
		if (node_attr_is(n, "dev", "network")) {
			js_put_uint(json_object_array_get_idx(list, 0), "boot_order", order);
			return 0;
		}
	}
	return 0;
}

static int interface_read(struct reading *r, struct _xmlNode *n, struct json_object *into)
{
	CLEANUP_FREE char *mac = node_attr(node_child(n, "mac"), "address");
	CLEANUP_FREE char *model = node_attr(node_child(n, "model"), "type");
	CLEANUP_FREE char *target = node_attr(node_child(n, "target"), "dev");
	CLEANUP_FREE char *link = node_attr(node_child(n, "link"), "state");
	CLEANUP_FREE char *id = node_user_alias(n);

	js_put_str(into, "id", id);
	js_put_str(into, "mac", mac);
	if (model && strncmp(model, "virtio", 6))
		reading_warn(r, node_child(n, "model"), "type",
			"\"%.40s\" becomes virtio: the guest needs a virtio driver, and may rename "
			"the interface", model);
	/* Do not warn about "vnet" names, which libvirt generates: the XML of a running VM has them. */
	if (target && strncmp(target, "vnet", 4))
		reading_warn(r, node_child(n, "target"), "dev",
			"has no effect: Cairn names the tap itself");
	js_put_str(into, "link", link);
	vhost_read(n, into);
	slot_read(r, n, into);
	if (queues_read(r, n, into) < 0 || bandwidth_read(r, n, into) < 0 || filter_read(r, n, into) < 0 ||
		interface_boot_read(r, n, into) < 0)
		return -EINVAL;
	return interface_source(r, n, into);
}

static int interfaces_read(struct reading *r, struct _xmlNode *devices)
{
	struct json_object *list = json_object_new_array();
	int ret = 0;

	for (struct _xmlNode *n = node_child(devices, "interface"); n && !ret; n = node_next(n)) {
		struct json_object *one = json_object_new_object();

		reading_origin(r, n, "interfaces[%zu]", json_object_array_length(list));
		json_object_array_add(list, one);
		ret = reading_continue(r, interface_read(r, n, one));
	}
	if (!ret && json_object_array_length(list))
		ret = boot_network_read(r, devices->parent, list);
	if (ret < 0 || !json_object_array_length(list))
		json_object_put(list);
	else
		js_put(r->definition, "interfaces", list);
	return ret;
}

/* ---- serial port, consoles, channels ---- */

static void chardev_warn(struct reading *r, struct _xmlNode *n)
{
	CLEANUP_FREE char *type = node_attr(n, "type");

	if (type && strcmp(type, "pty"))
		reading_warn(r, n, "type", "\"%.40s\" has no effect: cairn console connects to it",
			type);
}

static int serials_read(struct reading *r, struct _xmlNode *devices)
{
	struct _xmlNode *n = node_child(devices, "serial");

	if (n)
		chardev_warn(r, n);
	for (n = n ? node_next(n) : NULL; n; n = node_next(n))
		reading_warn(r, n, NULL, "has no effect: there is one serial port");
	return 0;
}

static int consoles_read(struct reading *r, struct _xmlNode *devices)
{
	bool have = false;

	for (struct _xmlNode *n = node_child(devices, "console"); n; n = node_next(n)) {
		CLEANUP_FREE char *type = node_attr(node_child(n, "target"), "type");

		if (!type || !strcmp(type, "serial")) {
			chardev_warn(r, n); /* this console is the serial port under another name */
		} else if (strcmp(type, "virtio") || have) {
			reading_warn(r, n, NULL,
				"has no effect: there is one serial port and one virtio console");
		} else {
			chardev_warn(r, n);
			have = true;
		}
	}
	if (have) {
		struct json_object *o = json_object_new_object();

		js_put_bool(o, "virtio", true);
		js_put(r->definition, "console", o);
	}
	return 0;
}

static int channels_read(struct reading *r, struct _xmlNode *devices)
{
	for (struct _xmlNode *n = node_child(devices, "channel"); n; n = node_next(n)) {
		CLEANUP_FREE char *name = node_attr(node_child(n, "target"), "name");

		if (name && !strcmp(name, "org.qemu.guest_agent.0") && node_attr_is(n, "type", "unix"))
			js_put_bool(r->definition, "guest_agent", true);
		else
			reading_warn(r, n, NULL,
				"has no effect: the only supported channel is type='unix' with target "
				"org.qemu.guest_agent.0");
	}
	return 0;
}

/* ---- other devices ---- */

static int rngs_read(struct reading *r, struct _xmlNode *devices)
{
	struct _xmlNode *n = node_child(devices, "rng");

	if (!n)
		return 0;
	js_put_bool(r->definition, "rng", true);
	if (node_attr_is(node_child(n, "backend"), "model", "egd"))
		reading_warn(r, node_child(n, "backend"), NULL,
			"has no effect: random numbers come from the host");
	for (n = node_next(n); n; n = node_next(n))
		reading_warn(r, n, NULL, "has no effect: a VM has at most one virtio-rng device");
	return 0;
}

static int memballoon_read(struct reading *r, struct _xmlNode *devices)
{
	struct _xmlNode *n = node_child(devices, "memballoon");
	CLEANUP_FREE char *model = node_attr(n, "model");

	if (!n || node_attr_is(n, "model", "none"))
		return 0;
	if (model && strncmp(model, "virtio", 6)) {
		reading_warn(r, n, "model", "\"%.40s\" has no effect: the only balloon is virtio", model);
		return 0;
	}
	if (js_get_bool(r->definition, "hugepages", false)) {
		reading_warn(r, n, NULL, "has no effect: memory in huge pages cannot be given back");
		return 0;
	}
	js_put_bool(r->definition, "balloon", true);
	reading_origin(r, n, "balloon");
	return 0;
}

static int panics_read(struct reading *r, struct _xmlNode *devices)
{
	for (struct _xmlNode *n = node_child(devices, "panic"); n; n = node_next(n)) {
		CLEANUP_FREE char *model = node_attr(n, "model");

		if (model && strcmp(model, "isa"))
			reading_warn(r, n, "model",
				"\"%.40s\" has no effect: every VM has the device for model='isa'", model);
	}
	return 0;
}

static int watchdog_read(struct reading *r, struct _xmlNode *devices)
{
	struct _xmlNode *n = NULL;
	CLEANUP_FREE char *model = NULL, *action = NULL;
	struct json_object *o;

	for (struct _xmlNode *c = node_child(devices, "watchdog"); c; c = node_next(c)) {
		if (node_attr_is(c, "model", "itco"))
			reading_warn(r, c, NULL, "has no effect: the only model is i6300esb");
		else if (n)
			return reading_error(r, c, NULL, ERR_INVALID, "is there twice; the first is in line %ld", xmlGetLineNo(n));
		else
			n = c;
	}
	if (!n)
		return 0;
	model = node_attr(n, "model");
	action = node_attr(n, "action");
	o = json_object_new_object();
	js_put_str(o, "model", model ? model : "i6300esb");
	js_put_str(o, "action", action ? action : "reset");
	js_put(r->definition, "watchdog", o);
	reading_origin(r, n, "watchdog");
	return 0;
}

static int vsock_read(struct reading *r, struct _xmlNode *devices)
{
	struct _xmlNode *n = node_child(devices, "vsock"), *cid = node_child(n, "cid");
	struct json_object *o;
	uint64_t address = 3;

	if (!n)
		return 0;
	if (cid && !node_attr_is(cid, "auto", "yes") && node_attr_number(r, cid, "address", UINT32_MAX - 1, &address) < 0)
		return -EINVAL;
	o = json_object_new_object();
	js_put_uint(o, "cid", address);
	js_put(r->definition, "vsock", o);
	reading_origin(r, n, "vsock");
	return 0;
}

/* libvirt adds a video to a VM that has graphics and no video. */
static int videos_read(struct reading *r, struct _xmlNode *devices)
{
	struct _xmlNode *n = node_child(devices, "video"), *graphics = node_child(devices, "graphics");

	if (!n && graphics) {
		js_put_bool(r->definition, "screen", true);
		reading_origin(r, graphics, "screen");
	}
	for (; n; n = node_next(n)) {
		struct _xmlNode *model = node_child(n, "model");
		CLEANUP_FREE char *type = node_attr(model, "type");

		if (type && !strcmp(type, "none"))
			continue;
		if (js_get_bool(r->definition, "screen", false)) {
			reading_warn(r, n, NULL, "has no effect: a VM has at most one screen");
			continue;
		}
		if (type && strcmp(type, "bochs"))
			reading_warn(r, model, "type", "\"%.40s\" becomes bochs: the guest needs a driver for it, as Linux (bochs-drm) and UEFI have", type);
		js_put_bool(r->definition, "screen", true);
		reading_origin(r, n, "screen");
	}
	return 0;
}

/* After the videos. A VM with a screen has a PS/2 keyboard and mouse anyway. */
static int inputs_read(struct reading *r, struct _xmlNode *devices)
{
	for (struct _xmlNode *n = node_child(devices, "input"); n; n = node_next(n)) {
		bool screen = js_get_bool(r->definition, "screen", false);

		if (screen && node_attr_is(n, "bus", "ps2"))
			continue;
		if (!screen || !node_attr_is(n, "type", "tablet")) {
			reading_warn(r, n, NULL, "has no effect: a VM with a screen has a PS/2 keyboard and mouse, and can have a tablet");
			continue;
		}
		if (node_attr_is(n, "bus", "usb"))
			reading_warn(r, n, "bus", "\"usb\" becomes virtio: the guest needs a driver for virtio-input, or uses the PS/2 mouse");
		js_put_bool(r->definition, "tablet", true);
		reading_origin(r, n, "tablet");
	}
	return 0;
}

/* A controller without a model, or with `auto`, is the hypervisor's choice. */
static int controllers_read(struct reading *r, struct _xmlNode *devices)
{
	for (struct _xmlNode *n = node_child(devices, "controller"); n; n = node_next(n)) {
		CLEANUP_FREE char *model = node_attr_is(n, "type", "scsi") ? node_attr(n, "model") : NULL;

		if (model && strcmp(model, "virtio-scsi") && strcmp(model, "auto"))
			reading_warn(r, n, "model", "\"%.40s\" becomes virtio-scsi: the guest needs a driver for it", model);
	}
	return 0;
}

/* Set the port unless libvirt would choose one. Returns 0; -EINVAL. */
static int graphics_port(struct reading *r, struct _xmlNode *n, struct json_object *vnc)
{
	CLEANUP_FREE char *listen = node_attr(n, "listen"), *address = node_attr(node_child(n, "listen"), "address");
	bool chosen = node_attr_is(n, "autoport", "yes") || node_attr_is(n, "port", "-1");
	uint64_t port;
	int ret = chosen ? 1 : node_attr_number(r, n, "port", 65535, &port);

	if (ret < 0)
		return ret;
	if (ret || !port) {
		if (chosen)
			reading_warn(r, n, chosen && node_attr_is(n, "autoport", "yes") ? "autoport" : "port", "has no effect: a port needs a password; "
				"the display is a Unix socket");
		return 0;
	}
	js_put_uint(vnc, "port", port);
	js_put_str(vnc, "address", address ? address : listen);
	return 0;
}

static int graphics_take(struct reading *r, struct _xmlNode *n)
{
	struct _xmlNode *listen = node_child(n, "listen");
	CLEANUP_FREE char *socket = node_attr(n, "socket"), *inner = node_attr_is(listen, "type", "socket") ? node_attr(listen, "socket") : NULL;
	CLEANUP_FREE char *password = node_attr(n, "passwd");
	CLEANUP_JS struct json_object *vnc = json_object_new_object();
	int ret = 0;

	if (node_attr_is(n, "type", "spice"))
		reading_warn(r, n, "type", "\"spice\" becomes vnc on a Unix socket, whose path cairn vncdisplay prints");
	else if (socket || inner)
		js_put_str(vnc, "path", inner ? inner : socket);
	else
		ret = graphics_port(r, n, vnc);
	if (ret < 0)
		return ret;
	if (password)
		reading_warn(r, n, "passwd", "has no effect: write the password to a file, and name the file in vnc.password_file");
	js_put(r->definition, "vnc", STEAL_PTR(vnc));
	reading_origin(r, n, "vnc");
	return 0;
}

/* After the videos. A display of type vnc is preferred. */
static int graphics_read(struct reading *r, struct _xmlNode *devices)
{
	static const char *const types[] = { "vnc", "spice" };
	int ret = 0;

	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		for (struct _xmlNode *n = node_child(devices, "graphics"); n && !ret; n = node_next(n)) {
			if (!node_attr_is(n, "type", types[i]))
				continue;
			if (!js_get_bool(r->definition, "screen", false))
				reading_warn(r, n, NULL, "has no effect: there is nothing to show without a video; the console is a serial port");
			else if (js_get(r->definition, "vnc"))
				reading_warn(r, n, NULL, "has no effect: a VM has at most one display");
			else
				ret = graphics_take(r, n);
		}
	for (struct _xmlNode *n = node_child(devices, "graphics"); n; n = node_next(n))
		if (!node_attr_is(n, "type", "vnc") && !node_attr_is(n, "type", "spice"))
			reading_warn(r, n, NULL, "has no effect: the only type is vnc");
	return ret;
}

int devices_read(struct reading *r, struct _xmlNode *domain)
{
	static int (*const parts[])(struct reading *, struct _xmlNode *) = { interfaces_read,
		serials_read, consoles_read, channels_read, rngs_read, memballoon_read, panics_read,
		watchdog_read, vsock_read, controllers_read, videos_read, inputs_read, graphics_read };
	struct _xmlNode *devices = node_child(domain, "devices");
	int ret = 0;

	for (size_t i = 0; devices && !ret && i < ARRAY_SIZE(parts); i++)
		ret = reading_continue(r, parts[i](r, devices));
	return ret;
}
