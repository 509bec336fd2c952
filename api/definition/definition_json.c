/* Prints struct definition as JSON, and checks a definition's files on the host. */
#include "api/definition/definition.h"
#include "api/definition/definition_key.h"
#include "api/wire/json.h"
#include "base/cpu_model.h"
#include "base/util.h"
#include "base/uuid.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const char *definition_format_name(enum definition_format f)
{
	return f == DEFINITION_FORMAT_QCOW2 ? "qcow2" : "raw";
}

static const char *action_name(uint8_t a)
{
	static const char *const names[] = { "destroy", "restart", "preserve",
		"coredump-destroy", "coredump-restart" };

	return names[MIN(a, 4)];
}

static void put_layer(struct json_object *o, const struct definition_layer *l)
{
	js_put_str(o, "path", l->path);
	js_put_str(o, "format", definition_format_name(l->format));
	js_put_str(o, "data_file", l->data_file);
}

/* Put the keys of a disk's block sizes and cache; keys with their default are left out. */
static void put_blocks(struct json_object *o, const struct definition_disk *d)
{
	static const char *const zeroes[] = { "off", "on", "unmap" }, *const caches[] = { "none", "writeback", "unsafe" };
	char wwn[17];

	snprintf(wwn, sizeof(wwn), "%016" PRIx64, d->wwn);
	if (d->wwn)
		js_put_str(o, "wwn", wwn);
	if (d->logical_block_bytes)
		js_put_uint(o, "logical_block_size", d->logical_block_bytes);
	if (d->physical_block_bytes)
		js_put_uint(o, "physical_block_size", d->physical_block_bytes);
	if (d->no_discard)
		js_put_str(o, "discard", "ignore");
	if (d->detect_zeroes)
		js_put_str(o, "detect_zeroes", zeroes[MIN(d->detect_zeroes, 2)]);
	if (d->cache)
		js_put_str(o, "cache", caches[MIN(d->cache, 2)]);
	if (d->poll_max_us)
		js_put_uint(o, "poll_max_ns", d->poll_max_us == VM_POLL_OFF ? 0 : d->poll_max_us * 1000u);
}

static struct json_object *disk_to_json(const struct definition_disk *d)
{
	static const char *const policies[] = { "report", "stop", "ignore" };
	struct json_object *o = json_object_new_object();

	js_put_str(o, "id", d->id);
	js_put_str(o, "device", d->device == DEFINITION_CDROM ? "cdrom" : "disk");
	if (d->bus == VM_BUS_SCSI)
		js_put_str(o, "bus", "scsi");
	if (d->nlayers)
		put_layer(o, &d->layers[0]);
	js_put_bool(o, "readonly", d->read_only);
	if (d->serial[0])
		js_put_str(o, "serial", d->serial);
	put_blocks(o, d);
	if (d->queues)
		js_put_uint(o, "queues", d->queues);
	if (d->queue_size)
		js_put_uint(o, "queue_size", d->queue_size);
	js_put_str(o, "errors", policies[MIN(d->error_policy, 2)]);
	if (d->boot_order)
		js_put_uint(o, "boot_order", d->boot_order);
	definition_put_tune(o, &d->tune);
	if (d->nlayers > 1) {
		struct json_object *backing = json_object_new_array();

		for (unsigned i = 1; i < d->nlayers; i++) {
			struct json_object *l = json_object_new_object();

			put_layer(l, &d->layers[i]);
			json_object_array_add(backing, l);
		}
		js_put(o, "backing", backing);
	}
	return o;
}

static const char *network_name(uint8_t type)
{
	static const char *const names[] = { "network", "bridge", "user" };

	return names[MIN(type, 2)];
}

static struct json_object *interface_to_json(const struct definition_interface *i)
{
	struct json_object *o = json_object_new_object();
	char mac[DEFINITION_MAC_TEXT];

	js_put_str(o, "id", i->id);
	js_put_str(o, "type", network_name(i->type));
	if (i->source[0])
		js_put_str(o, "source", i->source);
	mac_print(i->mac, mac);
	if (definition_has_mac(i))
		js_put_str(o, "mac", mac);
	js_put_str(o, "model", "virtio");
	js_put_str(o, "link", i->link ? "down" : "up");
	if (i->queues > 1)
		js_put_uint(o, "queues", i->queues);
	if (i->vhost)
		js_put_bool(o, "vhost", true);
	if (i->boot_order)
		js_put_uint(o, "boot_order", i->boot_order);
	if (i->slot)
		js_put_uint(o, "slot", i->slot);
	if (i->clean_traffic)
		js_put_str(o, "filter", "clean-traffic");
	if (i->isolated)
		js_put_bool(o, "isolated", true);
	definition_put_bandwidth(o, &i->bandwidth);
	if (i->type == DEFINITION_USER)
		definition_put_user(o, &i->user);
	else
		definition_put_published(o, &i->user);
	if (i->egress)
		definition_put_egress(o, i->egress);
	return o;
}

static struct json_object *boot_to_json(const struct definition *d)
{
	struct json_object *o = json_object_new_object();

	if (d->firmware) {
		js_put_str(o, "firmware", d->firmware == VM_FIRMWARE_UEFI ? "uefi" : "bios");
		js_put_str(o, "loader", d->loader);
		js_put_str(o, "nvram_template", d->nvram_template);
		if (d->boot_menu)
			js_put_bool(o, "menu", true);
		if (d->boot_menu_ms)
			js_put_uint(o, "menu_timeout", d->boot_menu_ms);
	}
	js_put_str(o, "kernel", d->kernel);
	js_put_str(o, "initrd", d->initrd);
	js_put_str(o, "cmdline", d->cmdline);
	return o;
}

/* Put the texts into the object `name` of s, or into s if it is NULL. */
static void put_texts(struct json_object *s, const char *name, const struct definition *d, const char *const *names, unsigned first,
	unsigned n)
{
	struct json_object *into = name ? json_object_new_object() : s;

	for (unsigned i = 0; i < n; i++)
		js_put_str(into, names[i], d->sysinfo[first + i]);
	if (name && json_object_object_length(into))
		js_put(s, name, into);
	else if (name)
		json_object_put(into);
}

static void put_sysinfo(struct json_object *o, const struct definition *d)
{
	/* in the order of enum vm_sysinfo_key */
	static const char *const system[] = { "manufacturer", "product", "version", "serial", "sku", "family" };
	static const char *const bios[] = { "vendor", "version", "date" };
	static const char *const board[] = { "manufacturer", "product", "version", "serial", "asset", "location" };
	static const char *const chassis[] = { "manufacturer", "version", "serial", "asset", "sku" };
	struct json_object *s = json_object_new_object(), *oem = json_object_new_array();

	put_texts(s, NULL, d, system, VM_SYSINFO_MANUFACTURER, ARRAY_SIZE(system));
	put_texts(s, "bios", d, bios, VM_SYSINFO_BIOS_VENDOR, ARRAY_SIZE(bios));
	put_texts(s, "board", d, board, VM_SYSINFO_BOARD_MANUFACTURER, ARRAY_SIZE(board));
	put_texts(s, "chassis", d, chassis, VM_SYSINFO_CHASSIS_MANUFACTURER, ARRAY_SIZE(chassis));
	for (unsigned i = 0; i < d->noem_strings; i++)
		json_object_array_add(oem, json_object_new_string(d->oem_strings[i]));
	if (d->noem_strings)
		js_put(s, "oem_strings", oem);
	else
		json_object_put(oem);
	if (json_object_object_length(s))
		js_put(o, "sysinfo", s);
	else
		json_object_put(s);
}

static void put_cpus(struct json_object *o, const struct definition *d)
{
	struct json_object *t;

	js_put_uint(o, "vcpus", d->vcpus);
	if (d->max_vcpus)
		js_put_uint(o, "max_vcpus", d->max_vcpus);
	if (!d->sockets)
		return;
	t = json_object_new_object();
	js_put_uint(t, "sockets", d->sockets);
	js_put_uint(t, "cores", d->cores);
	js_put_uint(t, "threads", d->threads);
	js_put(o, "topology", t);
}

const char *definition_watchdog_action(unsigned action)
{
	static const char *const names[VM_WATCHDOG_ACTION_COUNT] = { "reset", "shutdown", "poweroff", "pause",
		"dump", "none", "inject-nmi" };

	return names[MIN(action, VM_WATCHDOG_ACTION_COUNT - 1u)];
}

static void put_watchdog(struct json_object *o, const struct definition *d)
{
	struct json_object *w;

	if (d->watchdog == VM_WATCHDOG_NO_DEVICE)
		return;
	w = json_object_new_object();
	js_put_str(w, "model", "i6300esb");
	js_put_str(w, "action", definition_watchdog_action(d->watchdog_action));
	js_put(o, "watchdog", w);
}

static void put_vsock(struct json_object *o, const struct definition *d)
{
	struct json_object *v;

	if (!d->vsock_cid)
		return;
	v = json_object_new_object();
	js_put_uint(v, "cid", d->vsock_cid);
	js_put_str(v, "path", d->vsock_path);
	js_put(o, "vsock", v);
}

static void put_vnc(struct json_object *o, const struct definition_vnc *v)
{
	struct json_object *vnc;

	if (!v->on)
		return;
	vnc = json_object_new_object();
	js_put_str(vnc, "path", v->path);
	if (v->port) {
		js_put_str(vnc, "address", v->address);
		js_put_uint(vnc, "port", v->port);
	}
	js_put_str(vnc, "password_file", v->password_file);
	js_put(o, "vnc", vnc);
}

static void put_shares(struct json_object *o, const struct definition *d)
{
	struct json_object *list;

	if (!d->nshares)
		return;
	list = json_object_new_array();
	for (unsigned i = 0; i < d->nshares; i++) {
		struct json_object *share = json_object_new_object();

		js_put_str(share, "path", d->shares[i].path);
		js_put_str(share, "tag", d->shares[i].tag);
		js_put_bool(share, "readonly", d->shares[i].read_only);
		json_object_array_add(list, share);
	}
	js_put(o, "shares", list);
}

static void put_policies(struct json_object *o, const struct definition *d)
{
	static const char *const assists[] = { "auto", "on", "off" };

	js_put_str(o, "assist", assists[MIN(d->assist, 2)]);
	js_put_str(o, "on_poweroff", action_name(d->on_poweroff));
	js_put_str(o, "on_reboot", action_name(d->on_reboot));
	js_put_str(o, "on_crash", action_name(d->on_crash));
	definition_put_policies(o, d);
}

struct json_object *definition_to_json(const struct definition *d)
{
	struct json_object *o = json_object_new_object(), *disks = json_object_new_array(),
			   *interfaces = json_object_new_array(), *console = json_object_new_object();

	js_put_int(o, "version", DEFINITION_VERSION);
	js_put_str(o, "name", d->name);
	if (uuid_is_set(d->uuid))
		js_put_uuid(o, "uuid", d->uuid);
	js_put_str(o, "title", d->title);
	js_put_str(o, "description", d->description);
	key_put_memory(o, "memory", d->ram_bytes);
	if (d->balloon)
		js_put_bool(o, "balloon", true);
	if (d->balloon_bytes)
		key_put_memory(o, "current_memory", d->balloon_bytes);
	if (d->memory_max_bytes)
		key_put_memory(o, "memory_max", d->memory_max_bytes);
	js_put_bool(o, "hugepages", d->huge_pages);
	if (d->small_pages)
		js_put_bool(o, "small_pages", true);
	if (d->reclaim_on_pressure)
		js_put_bool(o, "reclaim_on_pressure", true);
	put_cpus(o, d);
	js_put_str(o, "cpu", d->cpu ? d->cpu : CPU_MODEL_HOST);
	if (d->cpu_shares)
		js_put_uint(o, "cpu_shares", d->cpu_shares);
	if (d->cpu_quota)
		js_put_uint(o, "cpu_quota", d->cpu_quota);
	definition_put_balance(o, d);
	if (d->systemd_scope)
		js_put_bool(o, "systemd_scope", true);
	if (d->machine)
		js_put_uint(o, "machine", d->machine);
	js_put(o, "boot", boot_to_json(d));
	put_sysinfo(o, d);
	for (unsigned i = 0; i < d->ndisks; i++)
		json_object_array_add(disks, disk_to_json(&d->disks[i]));
	js_put(o, "disks", disks);
	for (unsigned i = 0; i < d->ninterfaces; i++)
		json_object_array_add(interfaces, interface_to_json(&d->interfaces[i]));
	js_put(o, "interfaces", interfaces);
	js_put_bool(console, "virtio", d->virtio_console);
	js_put(o, "console", console);
	js_put_bool(o, "rng", d->rng);
	js_put_bool(o, "guest_agent", d->guest_agent);
	js_put_str(o, "clock", d->clock == DEFINITION_LOCALTIME ? "localtime" : "utc");
	js_put_bool(o, "debug_exit", d->debug_exit);
	put_vsock(o, d);
	if (d->screen)
		js_put_bool(o, "screen", true);
	if (d->tablet)
		js_put_bool(o, "tablet", true);
	put_vnc(o, &d->vnc);
	put_shares(o, d);
	put_watchdog(o, d);
	put_policies(o, d);
	return o;
}

void definition_layer_key(unsigned disk, unsigned layer, const char *what, char *ret, size_t cap)
{
	if (layer)
		snprintf(ret, cap, "disks[%u].backing[%u].%s", disk, layer - 1, what);
	else
		snprintf(ret, cap, "disks[%u].%s", disk, what);
}
