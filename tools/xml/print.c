#include "tools/xml/print.h"
#include "api/definition/definition.h"
#include "api/schema/disk_tune.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/cpu_model.h"
#include "base/cpuid.h"
#include "base/size.h"
#include "base/util.h"
#include "tools/xml/domain.h"
#include "tools/xml/extra.h"
#include "tools/xml/round_trip.h"
#include "tools/xml/writer.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define DISK_TARGET_BYTES 16 /* of an id */

/* ---- texts, and properties of the whole domain ---- */

/* Can the text be an element's text? Readers strip white space around it, and libvirt's schema requires a non-blank
 * character. Other texts go to <metadata>. */
static bool text_survives(const char *s)
{
	return *s && !strchr(" \t\r\n", *s) && !strchr(" \t\r\n", s[strlen(s) - 1]);
}

/* Does libvirt's schema accept this serial number? */
static bool serial_survives(const char *s)
{
	static const char marks[] = "_.+- ";

	for (const char *p = s; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr(marks, *p))
			return false;
	return text_survives(s);
}

static void print_text(struct writer *w, struct json_object *o, const char *key)
{
	const char *s = js_get_str(o, key);

	if (s && text_survives(s))
		writer_text(w, key, s, NULL);
}

/* Returns a number of the definition as text in buf; NULL: missing. */
static const char *number_text(struct json_object *o, const char *key, char buf[24])
{
	if (!js_get(o, key))
		return NULL;
	snprintf(buf, 24, "%lld", (long long)js_get_int(o, key, 0));
	return buf;
}

static void print_memory(struct writer *w, struct json_object *o)
{
	uint64_t bytes = 0;
	char kib[24];

	size_parse(js_get_str_or(o, "memory", ""), MIB, &bytes);
	snprintf(kib, sizeof(kib), "%llu", (unsigned long long)(bytes / 1024));
	writer_text(w, "memory", kib, "unit", "KiB", NULL);
	if (js_get_str(o, "current_memory") && !size_parse(js_get_str(o, "current_memory"), MIB, &bytes))
		snprintf(kib, sizeof(kib), "%llu", (unsigned long long)(bytes / 1024));
	writer_text(w, "currentMemory", kib, "unit", "KiB", NULL);
	if (!js_get_bool(o, "hugepages", false))
		return;
	writer_open(w, "memoryBacking", NULL);
	writer_leaf(w, "hugepages", NULL);
	writer_close(w, "memoryBacking");
}

static void print_memtune(struct writer *w, struct json_object *o)
{
	char kib[24];
	uint64_t bytes;

	if (!js_get_str(o, "memory_max") || size_parse(js_get_str(o, "memory_max"), MIB, &bytes) < 0)
		return;
	snprintf(kib, sizeof(kib), "%llu", (unsigned long long)(bytes / 1024));
	writer_open(w, "memtune", NULL);
	writer_text(w, "hard_limit", kib, "unit", "KiB", NULL);
	writer_close(w, "memtune");
}

static void print_os(struct writer *w, struct json_object *o)
{
	static const char *const keys[] = { "kernel", "initrd", "cmdline" };
	struct json_object *boot = js_get(o, "boot");
	const char *loader = js_get_str(boot, "loader");
	const char *firmware = js_get_str(boot, "firmware"), *nvram = js_get_str(boot, "nvram_template");
	bool uefi = firmware && !strcmp(firmware, "uefi"), bios = firmware && !uefi;
	char ms[24], number[24], machine[32] = "";

	if (js_get(o, "machine"))
		snprintf(machine, sizeof(machine), MACHINE_PREFIX "%s", number_text(o, "machine", number));
	/* libvirt refuses a loader beside the attribute. */
	if (firmware && !loader)
		writer_open(w, "os", "firmware", uefi ? "efi" : "bios", NULL);
	else
		writer_open(w, "os", NULL);
	writer_text(w, "type", "hvm", "arch", "x86_64", "machine", machine[0] ? machine : NULL, NULL);
	if (loader && uefi)
		writer_text(w, "loader", loader, "readonly", "yes", "type", "pflash", NULL);
	else if (loader)
		writer_text(w, "loader", loader, "type", "rom", NULL);
	if (nvram)
		writer_leaf(w, "nvram", "template", nvram, NULL);
	if (js_get_bool(boot, "menu", false))
		writer_leaf(w, "bootmenu", "enable", "yes", "timeout", number_text(boot, "menu_timeout", ms), NULL);
	if (bios)
		writer_leaf(w, "bios", "useserial", "yes", NULL);
	if (js_get(o, "sysinfo"))
		writer_leaf(w, "smbios", "mode", "sysinfo", NULL);
	for (size_t i = 0; i < 3; i++)
		print_text(w, js_get(o, "boot"), keys[i]);
	writer_close(w, "os");
	writer_open(w, "features", NULL);
	writer_leaf(w, "acpi", NULL);
	writer_leaf(w, "apic", NULL);
	writer_leaf(w, "pae", NULL);
	writer_close(w, "features");
}

/* Can all texts of an array be elements' texts? */
static bool texts_survive(struct json_object *list)
{
	for (size_t i = 0; i < json_object_array_length(list); i++)
		if (!text_survives(json_object_get_string(json_object_array_get_idx(list, i))))
			return false;
	return true;
}

static void print_sysinfo_part(struct writer *w, struct json_object *from, const char *element, const char *const *keys)
{
	bool any = false;

	for (size_t i = 0; from && keys[i]; i++)
		any |= js_get_str(from, keys[i]) && text_survives(js_get_str(from, keys[i]));
	if (!any)
		return;
	writer_open(w, element, NULL);
	for (size_t i = 0; keys[i]; i++) {
		const char *s = js_get_str(from, keys[i]);

		if (s && text_survives(s))
			writer_text(w, "entry", s, "name", keys[i], NULL);
	}
	writer_close(w, element);
}

static void print_sysinfo(struct writer *w, struct json_object *info)
{
	static const char *const system[] = { "manufacturer", "product", "version", "serial", "sku", "family", NULL };
	static const char *const bios[] = { "vendor", "version", "date", NULL };
	static const char *const board[] = { "manufacturer", "product", "version", "serial", "asset", "location", NULL };
	static const char *const chassis[] = { "manufacturer", "version", "serial", "asset", "sku", NULL };
	struct json_object *oem = js_get_array(info, "oem_strings");

	if (!info)
		return;
	writer_open(w, "sysinfo", "type", "smbios", NULL);
	print_sysinfo_part(w, js_get(info, "bios"), "bios", bios);
	print_sysinfo_part(w, info, "system", system);
	print_sysinfo_part(w, js_get(info, "board"), "baseBoard", board);
	print_sysinfo_part(w, js_get(info, "chassis"), "chassis", chassis);
	if (oem && texts_survive(oem)) {
		writer_open(w, "oemStrings", NULL);
		for (size_t i = 0; i < json_object_array_length(oem); i++)
			writer_text(w, "entry", json_object_get_string(json_object_array_get_idx(oem, i)), NULL);
		writer_close(w, "oemStrings");
	}
	writer_close(w, "sysinfo");
}

static void print_topology(struct writer *w, struct json_object *t)
{
	char sockets[24], cores[24], threads[24];

	if (t)
		writer_leaf(w, "topology", "sockets", number_text(t, "sockets", sockets), "dies", "1", "cores",
			number_text(t, "cores", cores), "threads", number_text(t, "threads", threads), NULL);
}

static void print_features(struct writer *w, const char *cpu)
{
	for (const char *at = strchr(cpu, ','); at; at = strchr(at, ',')) {
		char name[64];
		const char *theirs;

		at++;
		snprintf(name, sizeof(name), "%.*s", (int)MIN(strcspn(at + 1, ","), sizeof(name) - 1), at + 1);
		theirs = cpuid_libvirt_name(name, strlen(name));
		writer_leaf(w, "feature", "policy", *at == '-' ? "disable" : "require", "name", theirs ? theirs : name, NULL);
	}
}

static void print_cpu(struct writer *w, struct json_object *o)
{
	const char *cpu = js_get_str_or(o, "cpu", CPU_MODEL_HOST);
	struct json_object *t = js_get(o, "topology");
	size_t len = strcspn(cpu, ",");
	bool host = len == strlen(CPU_MODEL_HOST) && !memcmp(cpu, CPU_MODEL_HOST, len);
	char model[32];

	if (!t && cpu_model_is_host(cpu)) {
		writer_leaf(w, "cpu", "mode", "host-passthrough", "check", "none", NULL);
		return;
	}
	if (host) {
		writer_open(w, "cpu", "mode", "host-passthrough", "check", "none", NULL);
	} else {
		snprintf(model, sizeof(model), "%.*s", (int)MIN(len, sizeof(model) - 1), cpu);
		writer_open(w, "cpu", "mode", "custom", "match", "exact", "check", "none", NULL);
		writer_text(w, "model", model, "fallback", "forbid", NULL);
	}
	print_topology(w, t);
	print_features(w, cpu);
	writer_close(w, "cpu");
}

static void print_cputune(struct writer *w, struct json_object *o)
{
	int64_t shares = js_get_int(o, "cpu_shares", 0), percent = js_get_int(o, "cpu_quota", 0);
	char text[24];

	if (!shares && !percent)
		return;
	writer_open(w, "cputune", NULL);
	if (shares)
		writer_text(w, "shares", number_text(o, "cpu_shares", text), NULL);
	if (percent) {
		snprintf(text, sizeof(text), "%lld", (long long)percent * 1000);
		writer_text(w, "global_period", "100000", NULL);
		writer_text(w, "global_quota", text, NULL);
	}
	writer_close(w, "cputune");
}

static void print_policies(struct writer *w, struct json_object *o)
{
	const char *clock = js_get_str(o, "clock");

	writer_leaf(w, "clock", "offset", clock ? clock : "utc", NULL);
	print_text(w, o, "on_poweroff");
	print_text(w, o, "on_reboot");
	print_text(w, o, "on_crash");
}

/* ---- disks ---- */

static bool is_block(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? S_ISBLK(st.st_mode) : !strncmp(path, "/dev/", 5);
}

static void print_source(struct writer *w, const char *path, bool block)
{
	if (path)
		writer_leaf(w, "source", block ? "dev" : "file", path, NULL);
}

/* Print each backing file inside the one above; an empty element ends the chain. If a backing file has an external
 * data file, prints nothing: then <metadata> holds the whole chain. */
static void print_backing(struct writer *w, struct json_object *list)
{
	size_t n = list ? json_object_array_length(list) : 0;

	for (size_t i = 0; i < n; i++)
		if (js_get(json_object_array_get_idx(list, i), "data_file"))
			return;
	for (size_t i = 0; i < n; i++) {
		struct json_object *l = json_object_array_get_idx(list, i);
		const char *path = js_get_str(l, "path");

		writer_open(w, "backingStore", "type", is_block(path) ? "block" : "file", NULL);
		writer_leaf(w, "format", "type", js_get_str(l, "format"), NULL);
		print_source(w, path, is_block(path));
	}
	writer_leaf(w, "backingStore", NULL);
	for (size_t i = 0; i < n; i++)
		writer_close(w, "backingStore");
}

static void print_driver(struct writer *w, struct json_object *o)
{
	const char *format = js_get_str(o, "format"), *errors = js_get_str(o, "errors"),
		   *cache = js_get_str(o, "cache");
	char queues[24], size[24];

	writer_leaf(w, "driver", "name", "qemu", "type", format ? format : "raw", "cache", cache ? cache : "none", "error_policy", errors,
		"discard", js_get_str(o, "discard"), "detect_zeroes", js_get_str(o, "detect_zeroes"), "queues", number_text(o, "queues", queues), "queue_size",
		number_text(o, "queue_size", size), NULL);
}

/* Print an id as a user alias, unless the reader takes by_default as the id. */
static void print_alias(struct writer *w, const char *id, const char *by_default)
{
	char alias[64];

	if (!id || !strcmp(id, by_default))
		return;
	snprintf(alias, sizeof(alias), "ua-%s", id);
	writer_leaf(w, "alias", "name", alias, NULL);
}

/* Print a number of the disk as an element, unless it is 0. */
static void print_number(struct writer *w, struct json_object *o, const char *key, const char *element)
{
	char text[24];

	if (number_text(o, key, text))
		writer_text(w, element, text, NULL);
}

static void print_iotune(struct writer *w, struct json_object *o)
{
	char element[DISK_TUNE_WORD_MAX];
	size_t i = 0;

	while (i < DISK_TUNE_KEYS && !js_get(o, disk_tune_names[i]))
		i++;
	if (i == DISK_TUNE_KEYS)
		return;
	writer_open(w, "iotune", NULL);
	for (i = 0; i < DISK_TUNE_KEYS; i++)
		print_number(w, o, disk_tune_names[i], disk_tune_word(&disk_tune_keys[i], element));
	writer_close(w, "iotune");
}

static bool is_scsi(struct json_object *disk)
{
	const char *bus = js_get_str(disk, "bus");

	return bus && !strcmp(bus, "scsi");
}

static void print_blockio(struct writer *w, struct json_object *o)
{
	char logical[24], physical[24];
	const char *l = number_text(o, "logical_block_size", logical), *p = number_text(o, "physical_block_size", physical);

	if (l || p)
		writer_leaf(w, "blockio", "logical_block_size", l, "physical_block_size", p, NULL);
}

/* The controller of the disks with bus scsi; without it, libvirt would choose one of another model. */
static void print_controller(struct writer *w, struct json_object *disks)
{
	size_t n = disks ? json_object_array_length(disks) : 0, i = 0;

	while (i < n && !is_scsi(json_object_array_get_idx(disks, i)))
		i++;
	if (i < n)
		writer_leaf(w, "controller", "type", "scsi", "index", "0", "model", "virtio-scsi", NULL);
}

/* Does libvirt give a disk of this bus such a name? */
static bool id_is_target(struct json_object *disk)
{
	const char *id = js_get_str_or(disk, "id", "");

	return !strncmp(id, is_scsi(disk) ? "sd" : "vd", 2) && id[2] && !id[2 + strspn(id + 2, "abcdefghijklmnopqrstuvwxyz")];
}

static bool is_id_of_any(struct json_object *disks, const char *name)
{
	size_t i = 0, n = json_object_array_length(disks);

	while (i < n && strcmp(js_get_str_or(json_object_array_get_idx(disks, i), "id", ""), name))
		i++;
	return i < n;
}

/* Choose the target of a disk: its id if libvirt accepts this, or else the next name that is no disk's id.
 * ids: the reader keeps the order of the text, so an id can be a target.
 * *letters: how many letters from a to z the disks before it have used or skipped; at most one for each disk. */
static void target_choose(struct json_object *disks, size_t at, bool ids, unsigned *letters, char target[DISK_TARGET_BYTES])
{
	struct json_object *o = json_object_array_get_idx(disks, at);

	if (ids && id_is_target(o)) {
		snprintf(target, DISK_TARGET_BYTES, "%s", js_get_str(o, "id"));
		return;
	}
	do
		snprintf(target, DISK_TARGET_BYTES, "%cd%c", is_scsi(o) ? 's' : 'v', (char)('a' + (*letters)++));
	while (ids && is_id_of_any(disks, target));
}

static void print_disk(struct writer *w, struct json_object *o, const char *target)
{
	const char *device = js_get_str(o, "device"), *path = js_get_str(o, "path");
	const char *serial = js_get_str(o, "serial");
	bool block = path && is_block(path);
	char order[24];

	writer_open(w, "disk", "type", block ? "block" : "file", "device", device ? device : "disk", NULL);
	print_driver(w, o);
	print_source(w, path, block);
	if (path)
		print_backing(w, js_get_array(o, "backing"));
	writer_leaf(w, "target", "dev", target, "bus", is_scsi(o) ? "scsi" : "virtio", NULL);
	print_blockio(w, o);
	if (js_get_bool(o, "readonly", false))
		writer_leaf(w, "readonly", NULL);
	print_iotune(w, o);
	if (serial && serial_survives(serial))
		writer_text(w, "serial", serial, NULL);
	if (js_get_str(o, "wwn"))
		writer_text(w, "wwn", js_get_str(o, "wwn"), NULL);
	if (number_text(o, "boot_order", order))
		writer_leaf(w, "boot", "order", order, NULL);
	print_alias(w, js_get_str(o, "id"), target);
	writer_close(w, "disk");
}

static void print_disks(struct writer *w, struct json_object *o)
{
	struct json_object *disks = js_get_array(o, "disks");
	char target[DISK_TARGET_BYTES];
	unsigned letters = 0;

	for (size_t i = 0; disks && i < json_object_array_length(disks); i++) {
		target_choose(disks, i, js_get(o, "machine"), &letters, target);
		print_disk(w, json_object_array_get_idx(disks, i), target);
	}
}

/* ---- devices other than disks ---- */

static void print_limit(struct writer *w, struct json_object *bandwidth, const char *direction)
{
	static const char *const keys[] = { "average", "peak", "burst" };
	struct json_object *limit = js_get(bandwidth, direction);
	char text[3][24];
	const char *values[3];

	/* <bandwidth> has no limit of packets; <metadata> then holds it. */
	if (!js_get(limit, "average"))
		return;
	for (size_t i = 0; i < 3; i++) {
		snprintf(text[i], sizeof(text[i]), "%lld", (long long)js_get_int(limit, keys[i], 0));
		values[i] = js_get(limit, keys[i]) ? text[i] : NULL;
	}
	writer_leaf(w, direction, "average", values[0], "peak", values[1], "burst", values[2], NULL);
}

static void print_bandwidth(struct writer *w, struct json_object *bandwidth)
{
	if (!js_get(js_get(bandwidth, "inbound"), "average") && !js_get(js_get(bandwidth, "outbound"), "average"))
		return;
	writer_open(w, "bandwidth", NULL);
	print_limit(w, bandwidth, "inbound");
	print_limit(w, bandwidth, "outbound");
	writer_close(w, "bandwidth");
}

static void print_interface_driver(struct writer *w, struct json_object *o)
{
	char queues[24];
	const char *n = number_text(o, "queues", queues);

	if (js_get_bool(o, "vhost", false))
		writer_leaf(w, "driver", "name", "vhost", "queues", n, NULL);
	else if (n)
		writer_leaf(w, "driver", "queues", n, NULL);
}

static void print_interface(struct writer *w, struct json_object *o, size_t at)
{
	const char *type = js_get_str(o, "type"), *model = js_get_str(o, "model");
	const char *link = js_get_str(o, "link");
	char id[24], order[24], slot[24];

	snprintf(id, sizeof(id), "net%zu", at);
	writer_open(w, "interface", "type", type, NULL);
	writer_leaf(w, "mac", "address", js_get_str(o, "mac"), NULL);
	if (js_get_str(o, "source"))
		writer_leaf(w, "source", type, js_get_str(o, "source"), NULL);
	writer_leaf(w, "model", "type", model ? model : "virtio", NULL);
	print_interface_driver(w, o);
	if (js_get_str(o, "filter"))
		writer_leaf(w, "filterref", "filter", js_get_str(o, "filter"), NULL);
	print_bandwidth(w, js_get(o, "bandwidth"));
	if (js_get_bool(o, "isolated", false))
		writer_leaf(w, "port", "isolated", "yes", NULL);
	if (link)
		writer_leaf(w, "link", "state", link, NULL);
	if (number_text(o, "boot_order", order))
		writer_leaf(w, "boot", "order", order, NULL);
	if (js_get(o, "slot")) {
		snprintf(slot, sizeof(slot), "0x%02llx", (long long)js_get_int(o, "slot", 0));
		writer_leaf(w, "address", "type", "pci", "domain", "0x0000", "bus", "0x00", "slot", slot, "function", "0x0", NULL);
	}
	if (type && !strcmp(type, "user"))
		usernet_print(w, o);
	print_alias(w, js_get_str(o, "id"), id);
	writer_close(w, "interface");
}

static void print_consoles(struct writer *w, struct json_object *o)
{
	writer_open(w, "serial", "type", "pty", NULL);
	writer_leaf(w, "target", "type", "isa-serial", "port", "0", NULL);
	writer_close(w, "serial");
	writer_open(w, "console", "type", "pty", NULL);
	writer_leaf(w, "target", "type", "serial", "port", "0", NULL);
	writer_close(w, "console");
	if (js_get_bool(js_get(o, "console"), "virtio", false)) {
		writer_open(w, "console", "type", "pty", NULL);
		writer_leaf(w, "target", "type", "virtio", "port", "1", NULL);
		writer_close(w, "console");
	}
	if (!js_get_bool(o, "guest_agent", false))
		return;
	writer_open(w, "channel", "type", "unix", NULL);
	writer_leaf(w, "target", "type", "virtio", "name", "org.qemu.guest_agent.0", NULL);
	writer_close(w, "channel");
}

static void print_each(struct writer *w, struct json_object *list,
	void (*print)(struct writer *, struct json_object *, size_t))
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++)
		print(w, json_object_array_get_idx(list, i), i);
}

static void print_vsock(struct writer *w, struct json_object *vsock)
{
	char cid[24];

	if (!json_object_is_type(vsock, json_type_object))
		return;
	snprintf(cid, sizeof(cid), "%lld", (long long)js_get_int(vsock, "cid", 0));
	writer_open(w, "vsock", "model", "virtio", NULL);
	writer_leaf(w, "cid", "auto", "no", "address", cid, NULL);
	writer_close(w, "vsock");
}

static void print_share(struct writer *w, struct json_object *o, size_t i)
{
	(void)i;
	writer_open(w, "filesystem", "type", "mount", "accessmode", "passthrough", NULL);
	writer_leaf(w, "driver", "type", "virtiofs", NULL);
	writer_leaf(w, "source", "dir", js_get_str(o, "path"), NULL);
	writer_leaf(w, "target", "dir", js_get_str(o, "tag"), NULL);
	if (js_get_bool(o, "readonly", true))
		writer_leaf(w, "readonly", NULL);
	writer_close(w, "filesystem");
}

/* A port without its password, which has no element, is no definition: it is printed only beside <metadata>. */
static void print_vnc(struct writer *w, struct json_object *vnc, bool has_metadata)
{
	char port[24];

	if (!json_object_is_type(vnc, json_type_object) || (js_get(vnc, "port") && !has_metadata))
		return;
	snprintf(port, sizeof(port), "%lld", (long long)js_get_int(vnc, "port", 0));
	if (js_get(vnc, "path"))
		writer_leaf(w, "graphics", "type", "vnc", "socket", js_get_str(vnc, "path"), NULL);
	else
		writer_leaf(w, "graphics", "type", "vnc", "port", port, "autoport", "no", "listen", js_get_str(vnc, "address"), NULL);
}

static void print_devices(struct writer *w, struct json_object *o, bool has_metadata)
{
	struct json_object *watchdog = js_get(o, "watchdog");

	writer_open(w, "devices", NULL);
	print_disks(w, o);
	print_controller(w, js_get_array(o, "disks"));
	print_each(w, js_get_array(o, "shares"), print_share);
	print_each(w, js_get_array(o, "interfaces"), print_interface);
	print_consoles(w, o);
	if (json_object_is_type(watchdog, json_type_object))
		writer_leaf(w, "watchdog", "model", js_get_str(watchdog, "model"), "action",
			js_get_str(watchdog, "action"), NULL);
	writer_leaf(w, "memballoon", "model", js_get_bool(o, "balloon", false) ? "virtio" : "none", NULL);
	if (js_get_bool(o, "rng", false)) {
		writer_open(w, "rng", "model", "virtio", NULL);
		writer_text(w, "backend", "/dev/urandom", "model", "random", NULL);
		writer_close(w, "rng");
	}
	print_vsock(w, js_get(o, "vsock"));
	if (js_get_bool(o, "screen", false)) {
		writer_open(w, "video", NULL);
		writer_leaf(w, "model", "type", "bochs", NULL);
		writer_close(w, "video");
	}
	if (js_get_bool(o, "tablet", false))
		writer_leaf(w, "input", "type", "tablet", "bus", "virtio", NULL);
	print_vnc(w, js_get(o, "vnc"), has_metadata);
	writer_leaf(w, "panic", "model", "isa", NULL);
	writer_close(w, "devices");
}

/* ---- printing the whole domain ---- */

static void print_vcpus(struct writer *w, struct json_object *o)
{
	char now[24], max[24];

	number_text(o, "vcpus", now);
	if (js_get(o, "max_vcpus"))
		writer_text(w, "vcpu", number_text(o, "max_vcpus", max), "placement", "static", "current", now, NULL);
	else
		writer_text(w, "vcpu", now, "placement", "static", NULL);
}

static char *domain_write(struct json_object *o, const char *id, struct json_object *extra)
{
	struct writer w;

	if (writer_init(&w) < 0)
		return NULL;
	writer_open(&w, "domain", "type", "kvm", "id", id, NULL);
	print_text(&w, o, "name");
	print_text(&w, o, "uuid");
	print_text(&w, o, "title");
	print_text(&w, o, "description");
	extra_print(&w, extra);
	print_memory(&w, o);
	print_memtune(&w, o);
	print_vcpus(&w, o);
	print_cputune(&w, o);
	print_os(&w, o);
	print_sysinfo(&w, js_get(o, "sysinfo"));
	print_cpu(&w, o);
	print_policies(&w, o);
	print_devices(&w, o, extra != NULL);
	writer_close(&w, "domain");
	return writer_finish(&w);
}

static int text_canonical(struct json_object *o, struct json_object **ret_o, struct err *e)
{
	struct definition *d CLEANUP(definition_free_p) = NULL;
	int r = definition_parse(o, NULL, &d, e);

	if (!r)
		*ret_o = definition_to_json(d);
	return r;
}

static const struct round_trip kind = { domain_write, domain_read, text_canonical };

int domain_extra(struct json_object *definition, struct json_object **ret_extra, struct err *e)
{
	return round_trip_extra(&kind, definition, ret_extra, e);
}

int domain_print(struct json_object *definition, const char *id, char **ret_xml, struct err *e)
{
	return round_trip_print(&kind, definition, id, ret_xml, e);
}
