/* Convert the elements of a domain, except devices, to a definition. */
#include "tools/xml/domain.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/cpu_model.h"
#include "base/cpuid.h"
#include "base/util.h"
#include "tools/xml/elements.h"
#include "tools/xml/extra.h"
#include "tools/xml/reading.h"

#include <errno.h>
#include <libxml/tree.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* ---- elements with a text ---- */

static int out_of_memory(struct reading *r)
{
	return err_set_errno(r->e, -ENOMEM, "domain XML");
}

/* Read the text of an element into a key. origin: name of the key in the daemon's messages. */
static int text_read(struct reading *r, struct _xmlNode *n, struct json_object *into,
	const char *key, const char *origin)
{
	CLEANUP_FREE char *text = n ? node_text(n) : NULL;

	if (!n)
		return 0;
	if (!text)
		return out_of_memory(r);
	js_put_str(into, key, text);
	reading_origin(r, n, "%s", origin);
	return 0;
}

/* Join lines: a definition's description has one line. */
static void lines_join(char *text, bool *ret_joined)
{
	char *to = text;

	*ret_joined = false;
	for (const char *from = text; *from;) {
		size_t white = strspn(from, " \t\r\n");

		if (memchr(from, '\n', white)) {
			*ret_joined = true;
			*to++ = ' ';
			from += white;
		} else if (white) {
			memmove(to, from, white);
			to += white;
			from += white;
		} else {
			*to++ = *from++;
		}
	}
	*to = 0;
}

static int description_read(struct reading *r, struct _xmlNode *domain)
{
	struct _xmlNode *n = node_child(domain, "description");
	CLEANUP_FREE char *text = n ? node_text(n) : NULL;
	bool joined;

	if (!n)
		return 0;
	if (!text)
		return out_of_memory(r);
	lines_join(text, &joined);
	if (joined)
		reading_warn(r, n, NULL, "its lines are joined into one");
	js_put_str(r->definition, "description", text);
	reading_origin(r, n, "description");
	return 0;
}

static int texts_read(struct reading *r, struct _xmlNode *domain)
{
	static const char *const names[] = { "name", "uuid", "title" };
	int ret = 0;

	for (size_t i = 0; !ret && i < ARRAY_SIZE(names); i++)
		ret = text_read(r, node_child(domain, names[i]), r->definition, names[i], names[i]);
	if (!ret && !js_get(r->definition, "name"))
		ret = reading_error(r, domain, NULL, ERR_INVALID, "has no <name>; give the VM one");
	return ret ? ret : description_read(r, domain);
}

static int type_check(struct reading *r, struct _xmlNode *domain)
{
	CLEANUP_FREE char *type = node_attr(domain, "type");

	if (!type || !strcmp(type, "kvm"))
		return 0;
	if (strcmp(type, "qemu"))
		return reading_error(r, domain, "type", ERR_UNSUPPORTED,
			"\"%.40s\" is for another hypervisor; Cairn runs type='kvm' (virt-install: --virt-type kvm; with --connect test:///default: "
			"--xml ./@type=kvm)", type);
	reading_warn(r, domain, "type", "\"qemu\" also runs on KVM");
	return 0;
}

/* ---- memory and vCPUs ---- */

static int memory_value(struct reading *r, struct _xmlNode *n, uint64_t *ret_kib)
{
	CLEANUP_FREE char *text = node_text(n), *unit = node_attr(n, "unit");

	if (!text)
		return out_of_memory(r);
	switch (memory_parse(text, unit, ret_kib)) {
	case -EINVAL:
		return reading_error(r, n, "unit", ERR_INVALID,
			"\"%.40s\" is not a unit; use b, KB, KiB, MB, MiB, GB, GiB, TB or TiB", unit);
	case -ERANGE:
		return reading_error(r, n, NULL, ERR_INVALID,
			"\"%.40s\" is not a whole number, or is too large", text);
	}
	return 0;
}

#define UNLIMITED_KIB 9007199254740988ULL /* libvirt's word for no limit */

static int memtune_read(struct reading *r, struct _xmlNode *domain)
{
	struct _xmlNode *n = node_child(node_child(domain, "memtune"), "hard_limit");
	char text[32];
	uint64_t kib;
	int ret = n ? memory_value(r, n, &kib) : 0;

	if (!n || ret < 0 || kib >= UNLIMITED_KIB)
		return ret;
	snprintf(text, sizeof(text), "%lluK", (unsigned long long)ROUND_UP(kib, 4));
	js_put_str(r->definition, "memory_max", text);
	reading_origin(r, n, "memory_max");
	return 0;
}

static bool has_balloon(struct _xmlNode *domain)
{
	struct _xmlNode *n = node_child(node_child(domain, "devices"), "memballoon");
	CLEANUP_FREE char *model = node_attr(n, "model");

	return n && (!model || !strncmp(model, "virtio", 6)) && !node_child(node_child(domain, "memoryBacking"), "hugepages");
}

static int memory_read(struct reading *r, struct _xmlNode *domain)
{
	struct _xmlNode *n = node_child(domain, "memory"), *now = node_child(domain, "currentMemory");
	uint64_t kib, now_kib = 0;
	char text[32];
	int ret = 0;

	if (!n)
		n = now; /* as in libvirt, <currentMemory> replaces a missing <memory> */
	if (!n)
		return reading_error(r, domain, NULL, ERR_INVALID,
			"has no <memory>; give a size such as <memory unit='MiB'>512</memory>");
	ret = memory_value(r, n, &kib);
	if (!ret && now)
		ret = memory_value(r, now, &now_kib);
	if (ret < 0)
		return ret;
	if (kib % 4 && kib < UINT64_MAX - 4) {
		kib = ROUND_UP(kib, 4);
		reading_warn(r, n, NULL, "is rounded up to whole pages: %llu KiB",
			(unsigned long long)kib);
	}
	if (now && ROUND_UP(now_kib, 4) < kib && has_balloon(domain)) {
		snprintf(text, sizeof(text), "%lluK", (unsigned long long)ROUND_UP(now_kib, 4));
		js_put_str(r->definition, "current_memory", text);
		reading_origin(r, now, "current_memory");
	} else if (now && ROUND_UP(now_kib, 4) != kib) {
		reading_warn(r, now, NULL, has_balloon(domain) ? "has no effect: it is more than <memory>" :
			"has no effect: there is no balloon, the VM has all of <memory>");
	}
	snprintf(text, sizeof(text), "%lluK", (unsigned long long)kib);
	js_put_str(r->definition, "memory", text);
	reading_origin(r, n, "memory");
	if (node_child(node_child(domain, "memoryBacking"), "hugepages"))
		js_put_bool(r->definition, "hugepages", true);
	return 0;
}

/* Read the most vCPUs, and their number at the start: all, or current='...'. */
static int vcpus_read(struct reading *r, struct _xmlNode *domain, uint64_t *ret_all,
	uint64_t *ret_n)
{
	struct _xmlNode *n = node_child(domain, "vcpu");
	CLEANUP_FREE char *text = n ? node_text(n) : NULL;
	int ret;

	*ret_all = *ret_n = 1;
	if (!n)
		return 0;
	if (!text)
		return out_of_memory(r);
	if (number_parse(text, UINT32_MAX, ret_all) < 0)
		return reading_error(r, n, NULL, ERR_INVALID, "\"%.40s\" is not a number of vCPUs",
			text);
	*ret_n = *ret_all;
	ret = node_attr_number(r, n, "current", UINT32_MAX, ret_n);
	if (ret < 0)
		return ret;
	if (*ret_n > *ret_all)
		return reading_error(r, n, "current", ERR_INVALID, "is more than the %llu vCPUs",
			(unsigned long long)*ret_all);
	reading_origin(r, n, "vcpus");
	return 0;
}

/* Read the topology. Only one cluster and one die are accepted, because a definition has neither. */
static int topology_read(struct reading *r, struct _xmlNode *n, uint64_t all)
{
	static const char *const names[] = { "sockets", "cores", "threads", "dies", "clusters" };
	CLEANUP_JS struct json_object *o = json_object_new_object();
	uint64_t product = 1, v;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		v = 1;
		if (node_attr_number(r, n, names[i], 1024, &v) < 0)
			return -EINVAL;
		if (i >= 3 && v != 1)
			return reading_error(r, n, names[i], ERR_UNSUPPORTED,
				"is not supported above 1; give more sockets or cores");
		product *= v;
		if (i < 3)
			js_put_uint(o, names[i], v);
	}
	if (product != all)
		return reading_error(r, n, NULL, ERR_INVALID,
			"sockets times cores times threads is %llu, <vcpu> is %llu",
			(unsigned long long)product, (unsigned long long)all);
	js_put(r->definition, "topology", STEAL_PTR(o));
	reading_origin(r, n, "topology");
	return 0;
}

/* Add the feature to the processor's text, by the name of /proc/cpuinfo. name: libvirt's; NULL: no name.
 * Returns false if Cairn does not know the feature, or has no room for it. */
static bool feature_add(char *text, size_t size, char sign, const char *name)
{
	size_t len = strlen(text);
	struct cpuid_feature f;
	char ours[CPUID_NAME_BYTES];
	int n;

	if (name && !strcmp(name, "stibp"))
		name = "intel_stibp"; /* libvirt's stibp is Intel's bit; the name stibp in /proc/cpuinfo is AMD's */
	if (!name || !cpuid_find_feature(name, strlen(name), &f))
		return false;
	n = snprintf(text + len, size - len, ",%c%s", sign, cpuid_feature_name(&f, ours));
	if (n > 0 && (size_t)n < size - len)
		return true;
	text[len] = 0;
	return false;
}

/* known: the model is; beside another one, the features that the guest is to have say nothing about the host's. */
static void features_read(struct reading *r, struct _xmlNode *cpu, bool known, char *text, size_t size)
{
	for (struct _xmlNode *n = node_child(cpu, "feature"); n; n = node_next(n)) {
		CLEANUP_FREE char *name = node_attr(n, "name");
		bool on = node_attr_is(n, "policy", "require") || node_attr_is(n, "policy", "force");

		if (!on && !node_attr_is(n, "policy", "disable") && !node_attr_is(n, "policy", "forbid"))
			continue; /* policy `optional`: the model decides whether the guest has the feature */
		if (on && !known)
			continue;
		if (!feature_add(text, size, on ? '+' : '-', name))
			reading_warn(r, n, NULL, "has no effect: Cairn does not know the feature");
	}
}

/* Read the processor. An unknown model gives the host's processor, with a warning. */
static void processor_read(struct reading *r, struct _xmlNode *n)
{
	struct _xmlNode *named = node_child(n, "model");
	CLEANUP_FREE char *model = named ? node_text(named) : NULL, *mode = node_attr(n, "mode");
	char text[CPU_MODEL_TEXT_MAX + 1] = CPU_MODEL_HOST;
	struct err e = { .msg = "there is no <model> with the name of one model" };
	bool known = true;

	if (node_attr_is(n, "mode", "custom") || (model && !mode)) {
		if (!model || strchr(model, ',') || cpu_model_check(model, &e) < 0) {
			reading_warn(r, mode ? n : named, mode ? "mode" : NULL,
				"has no effect, and the guest sees the host's processor: %s", e.msg);
			known = false;
		} else {
			snprintf(text, sizeof(text), "%s", model);
		}
	}
	features_read(r, n, known, text, sizeof(text));
	if (!cpu_model_is_host(text))
		js_put_str(r->definition, "cpu", text);
	reading_origin(r, n, "cpu");
}

static int cpu_read(struct reading *r, struct _xmlNode *domain)
{
	struct _xmlNode *n = node_child(domain, "cpu"), *topology = node_child(n, "topology");
	CLEANUP_FREE char *current = node_attr(node_child(domain, "vcpu"), "current");
	uint64_t all, now;
	int ret = vcpus_read(r, domain, &all, &now);

	if (ret < 0)
		return ret;
	js_put_uint(r->definition, "vcpus", now);
	if (current)
		js_put_uint(r->definition, "max_vcpus", all);
	if (n)
		processor_read(r, n);
	return topology ? topology_read(r, topology, all) : 0;
}

/* ---- cputune ---- */

/* Read a number of <cputune>; a negative one, which libvirt takes for "no limit", and a missing one leave *ret_v. */
static int tune_read(struct reading *r, struct _xmlNode *tune, const char *name, uint64_t *ret_v)
{
	struct _xmlNode *n = node_child(tune, name);
	CLEANUP_FREE char *text = n ? node_text(n) : NULL;

	if (!n)
		return 0;
	if (!text)
		return out_of_memory(r);
	if (text[0] == '-' || !number_parse(text, UINT32_MAX, ret_v))
		return 0;
	return reading_error(r, n, NULL, ERR_INVALID, "\"%.40s\" is not a number", text);
}

/* Read a quota in percent of one processor, for so many vCPUs. *ret_percent stays without a quota. */
static int quota_read(struct reading *r, struct _xmlNode *tune, const char *quota, const char *period, uint64_t vcpus,
	uint64_t *ret_percent)
{
	uint64_t us = 0, of = 100000;
	int ret = tune_read(r, tune, quota, &us);

	if (!ret)
		ret = tune_read(r, tune, period, &of);
	if (!ret && us && of)
		*ret_percent = DIV_ROUND_UP(us * 100 * vcpus, of);
	return ret;
}

static int cputune_read(struct reading *r, struct _xmlNode *domain)
{
	struct _xmlNode *n = node_child(domain, "cputune");
	uint64_t shares = 0, percent = 0, vcpus = (uint64_t)js_get_int(r->definition, "vcpus", 1);
	int ret = n ? tune_read(r, n, "shares", &shares) : 0;

	if (n && !ret)
		ret = quota_read(r, n, "quota", "period", vcpus, &percent);
	if (n && !ret)
		ret = quota_read(r, n, "global_quota", "global_period", 1, &percent);
	if (ret < 0)
		return ret;
	if (shares) {
		js_put_uint(r->definition, "cpu_shares", shares);
		reading_origin(r, node_child(n, "shares"), "cpu_shares");
	}
	if (percent) {
		js_put_uint(r->definition, "cpu_quota", percent);
		reading_origin(r, n, "cpu_quota");
	}
	return 0;
}

/* ---- os, clock, lifecycle actions ---- */

/* Other machine types, such as libvirt's pc-q35-7.2, stay without effect. */
static void machine_read(struct reading *r, struct _xmlNode *type)
{
	CLEANUP_FREE char *machine = node_attr(type, "machine");
	uint64_t version;

	if (!machine)
		return;
	if (strncmp(machine, MACHINE_PREFIX, strlen(MACHINE_PREFIX)) ||
		number_parse(machine + strlen(MACHINE_PREFIX), UINT16_MAX, &version) < 0) {
		reading_warn(r, type, "machine", "\"%.40s\" has no effect: it is a machine of another hypervisor", machine);
		return;
	}
	js_put_uint(r->definition, "machine", version);
	reading_origin(r, type, "machine");
}

static int os_type_check(struct reading *r, struct _xmlNode *os)
{
	struct _xmlNode *n = node_child(os, "type");
	CLEANUP_FREE char *type = n ? node_text(n) : NULL, *arch = node_attr(n, "arch");

	if (!n)
		return reading_error(r, os, NULL, ERR_INVALID, "has no <type>; give <type>hvm</type>");
	if (!type || strcmp(type, "hvm"))
		return reading_error(r, n, NULL, ERR_UNSUPPORTED,
			"\"%.40s\" is not run by KVM; give <type>hvm</type>", type ? type : "");
	machine_read(r, n);
	if (!arch || !strcmp(arch, "x86_64"))
		return 0;
	if (strcmp(arch, "i686"))
		return reading_error(r, n, "arch", ERR_UNSUPPORTED,
			"\"%.40s\" is not supported; Cairn runs x86_64 guests", arch);
	reading_warn(r, n, "arch", "\"i686\": the VM has an x86_64 processor, which also runs 32-bit guests");
	return 0;
}

#define NO_SMM "Secure Boot needs system management mode, which Cairn does not have"
#define NO_FIRMWARE "has no effect: Cairn boots the kernel directly, without firmware"

/* Warn of all that concerns a firmware in an <os> with <kernel>. */
static void firmware_warn(struct reading *r, struct _xmlNode *os)
{
	static const char *const names[] = { "loader", "nvram", "firmware", "bootmenu" };
	CLEANUP_FREE char *firmware = node_attr(os, "firmware");

	if (firmware)
		reading_warn(r, os, "firmware", NO_FIRMWARE);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (node_child(os, names[i]))
			reading_warn(r, node_child(os, names[i]), NULL, NO_FIRMWARE);
}

static int kernel_read(struct reading *r, struct _xmlNode *os, struct json_object *boot)
{
	int ret = text_read(r, node_child(os, "kernel"), boot, "kernel", "boot.kernel");

	firmware_warn(r, os);
	if (!ret)
		ret = text_read(r, node_child(os, "initrd"), boot, "initrd", "boot.initrd");
	return ret ? ret : text_read(r, node_child(os, "cmdline"), boot, "cmdline", "boot.cmdline");
}

static int bootmenu_read(struct reading *r, struct _xmlNode *n, struct json_object *boot)
{
	uint64_t ms;
	int ret;

	if (!n || !node_attr_is(n, "enable", "yes"))
		return 0;
	js_put_bool(boot, "menu", true);
	ret = node_attr_number(r, n, "timeout", UINT16_MAX, &ms);
	if (!ret && ms)
		js_put_uint(boot, "menu_timeout", ms);
	return MIN(ret, 0);
}

static int loader_read(struct reading *r, struct _xmlNode *n, struct json_object *boot)
{
	CLEANUP_FREE char *type = n ? node_attr(n, "type") : NULL;
	CLEANUP_FREE char *text = n ? node_text(n) : NULL;
	int ret = 0;

	if (type && strcmp(type, "rom") && strcmp(type, "pflash"))
		ret = reading_continue(r, reading_error(r, n, "type", ERR_UNSUPPORTED, "\"%.40s\" is not supported: give type='rom' with a BIOS, "
			"type='pflash' with a UEFI, or <kernel>", type));
	if (!ret && n && node_attr_is(n, "secure", "yes"))
		ret = reading_continue(r, reading_error(r, n, "secure", ERR_UNSUPPORTED, "\"yes\" is not supported, since " NO_SMM ": leave it out"));
	if (!ret && n && node_attr_is(n, "format", "qcow2"))
		ret = reading_continue(r, reading_error(r, n, "format", ERR_UNSUPPORTED, "\"qcow2\" is not supported: give a raw file"));
	return !ret && text && *text ? text_read(r, n, boot, "loader", "boot.loader") : ret;
}

/* libvirt enrols keys, or wants Secure Boot, by <firmware><feature enabled='yes' name='secure-boot'/>. */
static int features_check(struct reading *r, struct _xmlNode *firmware)
{
	int ret = 0;

	for (struct _xmlNode *n = firmware ? firmware->children : NULL; n && !ret; n = n->next)
		if (node_attr_is(n, "enabled", "yes"))
			ret = reading_continue(r, reading_error(r, n, "enabled", ERR_UNSUPPORTED,
				"\"yes\" is not supported, since " NO_SMM ": give enabled='no'"));
	return ret;
}

/* The variables begin with the file that libvirt has for the VM, or else with the template. A loader without
 * either has a template with its own name and VARS in place of CODE, as in libvirt's configuration. */
static int nvram_read(struct reading *r, struct _xmlNode *n, struct json_object *boot)
{
	CLEANUP_FREE char *template = n ? node_attr(n, "template") : NULL;
	CLEANUP_FREE char *text = n ? node_text(n) : NULL;
	const char *loader = js_get_str(boot, "loader"), *code = loader ? strstr(loader, "CODE") : NULL;
	char path[PATH_MAX];
	struct stat st;
	/* libvirt uses the template only if the file is missing. */
	bool own = text && *text && (!template || stat(text, &st) == 0);

	if (n && (node_attr_is(n, "format", "qcow2") || (!own && node_attr_is(n, "templateFormat", "qcow2"))))
		return reading_error(r, n, "format", ERR_UNSUPPORTED, "\"qcow2\" is not supported: give a raw file");
	if (template && text && *text && !own)
		reading_warn(r, n, NULL, "has no effect (%s). The variables, among them the boot entries, are in the VM's folder, and begin with the "
			"template", strerror(errno));
	else if (template && own)
		reading_warn(r, n, "template", "has no effect: the variables begin with the file %s, which has to stay where it is", text);
	if (own || template) {
		js_put_str(boot, "nvram_template", own ? text : template);
		reading_origin(r, n, "boot.nvram_template");
	} else if (code && snprintf(path, sizeof(path), "%.*sVARS%s", (int)(code - loader), loader, code + 4) < (int)sizeof(path)) {
		js_put_str(boot, "nvram_template", path);
	}
	return 0;
}

static void smbios_check(struct reading *r, struct _xmlNode *os)
{
	struct _xmlNode *n = node_child(os, "smbios");
	CLEANUP_FREE char *mode = n ? node_attr(n, "mode") : NULL;

	if (mode && strcmp(mode, "sysinfo") && strcmp(mode, "emulate"))
		reading_warn(r, n, "mode", "\"%.40s\" has no effect: Cairn copies nothing of the host's SMBIOS", mode);
}

static int firmware_read(struct reading *r, struct _xmlNode *os, struct json_object *boot)
{
	CLEANUP_FREE char *firmware = node_attr(os, "firmware");
	struct _xmlNode *loader = node_child(os, "loader");
	bool uefi;
	int ret;

	smbios_check(r, os);
	if (firmware && strcmp(firmware, "bios") && strcmp(firmware, "efi"))
		return reading_error(r, os, "firmware", ERR_UNSUPPORTED,
			"\"%.40s\" is not supported: give firmware='bios' or 'efi' if the disk boots so, or <kernel>", firmware);
	uefi = (firmware && !strcmp(firmware, "efi")) || (loader && node_attr_is(loader, "type", "pflash"));
	js_put_str(boot, "firmware", uefi ? "uefi" : "bios");
	ret = loader_read(r, loader, boot);
	if (!ret && uefi)
		ret = features_check(r, node_child(os, "firmware"));
	if (!ret && uefi)
		ret = reading_continue(r, nvram_read(r, node_child(os, "nvram"), boot));
	else if (!ret && node_child(os, "nvram"))
		reading_warn(r, node_child(os, "nvram"), NULL, "has no effect: only UEFI has variables");
	return ret ? ret : bootmenu_read(r, node_child(os, "bootmenu"), boot);
}

static int os_read(struct reading *r, struct _xmlNode *domain)
{
	struct _xmlNode *os = node_child(domain, "os");
	struct json_object *boot;
	int ret;

	if (!os)
		return reading_error(r, domain, NULL, ERR_INVALID,
			"has no <os>; give one with <type>hvm</type>, and <kernel> if no disk boots");
	ret = reading_continue(r, os_type_check(r, os));
	if (ret < 0)
		return ret;
	boot = json_object_new_object();
	js_put(r->definition, "boot", boot);
	return node_child(os, "kernel") ? kernel_read(r, os, boot) : firmware_read(r, os, boot);
}

/* ---- sysinfo ---- */

/* A part of <sysinfo>, and the key of `sysinfo` with its texts. */
struct sysinfo_part {
	const char *element, *key; /* NULL: `sysinfo` itself */
	const char *names[8];
};
static const struct sysinfo_part sysinfo_parts[] = {
	{ "bios", "bios", { "vendor", "version", "date" } },
	{ "system", NULL, { "manufacturer", "product", "version", "serial", "sku", "family" } },
	{ "baseBoard", "board", { "manufacturer", "product", "version", "serial", "asset", "location" } },
	{ "chassis", "chassis", { "manufacturer", "version", "serial", "asset", "sku" } },
};

/* Put the text of an <entry> into a key of `into`. */
static int entry_read(struct reading *r, struct _xmlNode *n, const struct sysinfo_part *part, struct json_object *into)
{
	CLEANUP_FREE char *name = node_attr(n, "name");

	for (size_t i = 0; name && part->names[i]; i++)
		if (!strcmp(name, part->names[i]))
			return text_read(r, n, into, part->names[i], "sysinfo");
	if (!name || strcmp(name, "uuid")) /* libvirt demands that it is the domain's */
		reading_warn(r, n, NULL, "has no effect: SMBIOS has no such text here");
	return 0;
}

static int part_read(struct reading *r, struct _xmlNode *info, const struct sysinfo_part *part, struct json_object *sysinfo)
{
	struct _xmlNode *element = node_child(info, part->element);
	struct json_object *into = part->key ? json_object_new_object() : sysinfo;
	int ret = 0;

	for (struct _xmlNode *n = node_child(element, "entry"); n && !ret; n = node_next(n))
		ret = entry_read(r, n, part, into);
	if (part->key && json_object_object_length(into))
		js_put(sysinfo, part->key, into);
	else if (part->key)
		json_object_put(into);
	return ret;
}

static int oem_read(struct reading *r, struct _xmlNode *oem, struct json_object *into)
{
	struct json_object *list = json_object_new_array();

	for (struct _xmlNode *n = node_child(oem, "entry"); n; n = node_next(n)) {
		CLEANUP_FREE char *text = node_text(n);

		if (text)
			json_object_array_add(list, json_object_new_string(text));
	}
	reading_origin(r, oem, "sysinfo.oem_strings");
	if (json_object_array_length(list))
		js_put(into, "oem_strings", list);
	else
		json_object_put(list);
	return 0;
}

/* libvirt uses <sysinfo> only with <smbios mode='sysinfo'/>, and so does Cairn. */
static int sysinfo_read(struct reading *r, struct _xmlNode *domain)
{
	struct _xmlNode *info = node_child(domain, "sysinfo"), *os = node_child(domain, "os");
	struct json_object *into;
	int ret = 0;

	if (!info || !node_attr_is(node_child(os, "smbios"), "mode", "sysinfo") || !node_attr_is(info, "type", "smbios")) {
		if (info)
			reading_warn(r, info, NULL, "has no effect without type='smbios' and <os><smbios mode='sysinfo'/>");
		return 0;
	}
	into = json_object_new_object();
	js_put(r->definition, "sysinfo", into);
	for (size_t i = 0; i < ARRAY_SIZE(sysinfo_parts) && !ret; i++)
		ret = part_read(r, info, &sysinfo_parts[i], into);
	return ret ? ret : oem_read(r, node_child(info, "oemStrings"), into);
}

static int timer_read(struct reading *r, struct _xmlNode *n)
{
	static const char *const there[] = { "rtc", "pit", "tsc", "kvmclock" };
	CLEANUP_FREE char *name = node_attr(n, "name");
	bool absent = node_attr_is(n, "present", "no"), have = false;

	if (!name)
		return reading_error(r, n, NULL, ERR_INVALID, "has no name, such as 'kvmclock'");
	for (size_t i = 0; i < ARRAY_SIZE(there); i++)
		have |= !strcmp(name, there[i]);
	if (have && absent)
		reading_warn(r, n, NULL, "has no effect: every VM has a %.40s", name);
	else if (!have && !absent)
		reading_warn(r, n, NULL, "has no effect: no VM has a %.40s", name);
	return 0;
}

static int clock_read(struct reading *r, struct _xmlNode *domain)
{
	struct _xmlNode *n = node_child(domain, "clock");
	CLEANUP_FREE char *offset = node_attr(n, "offset"), *by = node_attr(n, "adjustment");
	CLEANUP_FREE char *basis = node_attr(n, "basis");
	const char *word = offset ? offset : "utc";
	bool moved = by && strcmp(by, "0") && strcmp(by, "reset");
	int ret = 0;

	if (moved)
		return reading_error(r, n, "adjustment", ERR_UNSUPPORTED, "\"%.40s\" is not supported, and the guest would see another time; leave it "
			"out, and let the guest set its clock", by);
	if (!strcmp(word, "variable"))
		word = basis ? basis : "utc";
	if (strcmp(word, "utc") && strcmp(word, "localtime"))
		return reading_error(r, n, "offset", ERR_UNSUPPORTED,
			"\"%.40s\" is not supported, and the guest would see another time; use utc or "
			"localtime", word);
	if (!strcmp(word, "localtime"))
		js_put_str(r->definition, "clock", word);
	reading_origin(r, n ? n : domain, "clock");
	for (n = node_child(n, "timer"); n && !ret; n = node_next(n))
		ret = timer_read(r, n);
	return ret;
}

static int action_read(struct reading *r, struct _xmlNode *domain, const char *name)
{
	static const char *const known[] = { "destroy", "restart", "preserve" };
	static const char *const crash[] = { "coredump-destroy", "coredump-restart" };
	struct _xmlNode *n = node_child(domain, name);
	CLEANUP_FREE char *text = n ? node_text(n) : NULL;
	const char *word = text;
	bool ok = false;

	if (!n)
		return 0;
	if (!text)
		return out_of_memory(r);
	if (!strcmp(text, "rename-restart")) {
		reading_warn(r, n, NULL, "\"rename-restart\" is \"restart\": the VM keeps its name");
		word = "restart";
	}
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		ok |= !strcmp(word, known[i]);
	for (size_t i = 0; !strcmp(name, "on_crash") && i < ARRAY_SIZE(crash); i++)
		ok |= !strcmp(word, crash[i]);
	if (!ok)
		return reading_error(r, n, NULL, ERR_INVALID,
			"\"%.40s\" is not one of the choices; use destroy, restart%s", word,
			strcmp(name, "on_crash") ? " or preserve" :
						   ", preserve, coredump-destroy or coredump-restart");
	js_put_str(r->definition, name, word);
	reading_origin(r, n, "%s", name);
	return 0;
}

/* ---- converting the whole domain ---- */

static int root_check(struct reading *r, struct _xmlNode *root)
{
	if (!root)
		return err_set(r->e, -EINVAL, ERR_INVALID, "there is no element in it");
	if (strcmp((const char *)root->name, "domain") || root->ns)
		return reading_error(r, root, NULL, ERR_INVALID,
			"is not a <domain>%s; give a domain's XML, as virsh dumpxml prints it",
			root->ns ? " without a namespace" : "");
	return 0;
}

static int domain_check(struct reading *r, struct _xmlNode *domain)
{
	return elements_check(r, domain, elements);
}

int domain_read(struct reading *r, struct _xmlDoc *doc)
{
	static int (*const parts[])(struct reading *, struct _xmlNode *) = { domain_check, texts_read, memory_read, memtune_read,
		cpu_read, cputune_read, os_read, sysinfo_read, clock_read, disks_read, devices_read, shares_read };
	static const char *const actions[] = { "on_poweroff", "on_reboot", "on_crash" };
	struct _xmlNode *domain = xmlDocGetRootElement(doc);
	int ret = root_check(r, domain);

	if (!ret)
		ret = type_check(r, domain);
	for (size_t i = 0; !ret && i < ARRAY_SIZE(parts); i++)
		ret = reading_continue(r, parts[i](r, domain));
	for (size_t i = 0; !ret && i < ARRAY_SIZE(actions); i++)
		ret = reading_continue(r, action_read(r, domain, actions[i]));
	if (!ret)
		ret = reading_continue(r, extra_read(r, domain));
	if (!ret)
		ret = reading_refused(r);
	if (!ret)
		reading_finish(r);
	return ret;
}
