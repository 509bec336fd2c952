/* Parses JSON into struct definition: the top-level keys. */
#include "api/definition/definition_key.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/cpu_model.h"
#include "base/err.h"
#include "base/machine_version.h"
#include "base/utf8.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct choice assists[] = { { "auto", VM_ASSIST_AUTO }, { "on", VM_ASSIST_ON },
	{ "off", VM_ASSIST_OFF }, { NULL, 0 } };
static const struct choice clocks[] = { { "utc", DEFINITION_UTC },
	{ "localtime", DEFINITION_LOCALTIME }, { NULL, 0 } };
static const struct choice actions[] = { { "destroy", VM_ACTION_DESTROY },
	{ "restart", VM_ACTION_RESTART }, { "preserve", VM_ACTION_PRESERVE }, { NULL, 0 } };

static const struct choice crash_actions[] = { { "destroy", VM_ACTION_DESTROY },
	{ "restart", VM_ACTION_RESTART }, { "preserve", VM_ACTION_PRESERVE },
	{ "coredump-destroy", VM_ACTION_COREDUMP_DESTROY },
	{ "coredump-restart", VM_ACTION_COREDUMP_RESTART }, { NULL, 0 } };
static const struct choice watchdog_models[] = { { "i6300esb", VM_WATCHDOG_I6300ESB }, { NULL, 0 } };
static const struct choice watchdog_actions[] = { { "reset", VM_WATCHDOG_RESET },
	{ "shutdown", VM_WATCHDOG_SHUTDOWN }, { "poweroff", VM_WATCHDOG_POWEROFF },
	{ "pause", VM_WATCHDOG_PAUSE }, { "dump", VM_WATCHDOG_DUMP }, { "none", VM_WATCHDOG_NONE },
	{ "inject-nmi", VM_WATCHDOG_NMI }, { NULL, 0 } };

/* ---- parsers of single keys ---- */

static int parse_version(struct parse *p, struct json_object *v, void *into)
{
	(void)into;
	if (!json_object_is_type(v, json_type_int))
		return key_error(p, "must be the number %d, not %s", DEFINITION_VERSION,
			js_type_words(v));
	if (json_object_get_int64(v) != DEFINITION_VERSION)
		return key_error(p, "%lld is unknown; this Cairn reads and writes version %d",
			(long long)json_object_get_int64(v), DEFINITION_VERSION);
	return 0;
}

/* Check all of a name but its characters, of which stored names may have others. */
static int name_check_form(const char *name, struct err *e)
{
	size_t len = strlen(name);

	if (!len)
		return err_set(e, -EINVAL, ERR_INVALID, "is empty; give 1 to %d bytes", VM_NAME_MAX);
	if (len > VM_NAME_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "is %zu bytes long; at most %d", len,
			VM_NAME_MAX);
	if (strchr(name, '/'))
		return err_set(e, -EINVAL, ERR_INVALID, "must not have a \"/\"");
	if (name[0] == '.' || name[0] == '-')
		return err_set(e, -EINVAL, ERR_INVALID, "must not begin with \"%c\"", name[0]);
	return 0;
}

static int name_check(const char *name, struct err *e)
{
	int r = name_check_form(name, e);

	if (!r && !utf8_is_clean(name))
		r = err_set(e, -EINVAL, ERR_INVALID, "must not have control characters");
	if (!r && !utf8_is_plain_name(name))
		r = err_set(e, -EINVAL, ERR_INVALID, "must not have invisible characters, or begin or end with a space");
	return r;
}

int definition_check_name(const char *name, struct err *e)
{
	int r = name_check(name, e);
	uint8_t uuid[16];

	if (!r && uuid_parse(name, uuid) == 0)
		r = err_set(e, -EINVAL, ERR_INVALID, "must not be a UUID, because a UUID may be another VM's");
	return r;
}

static int parse_name(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 64 * 1024);
	struct err why;

	if (!s)
		return -EINVAL;
	if ((p->stored ? name_check_form(s, &why) : name_check(s, &why)) < 0)
		return key_error(p, "%s", why.msg);
	snprintf(into, VM_NAME_MAX + 1, "%s", s);
	return 0;
}

static int parse_cpu(struct parse *p, struct json_object *v, void *into)
{
	const char *text = key_text(p, v, CPU_MODEL_TEXT_MAX);
	char **to = into;
	struct err e;

	if (!text)
		return -EINVAL;
	if (cpu_model_check(text, &e) < 0)
		return key_error(p, "%s", e.msg);
	*to = strdup(text);
	return *to ? 0 : err_set_errno(p->e, -ENOMEM, "definition");
}

#define DEF(field) offsetof(struct definition, field)
static int prepare_topology(struct parse *p, struct json_object *v, void *into)
{
	(void)v;
	(void)into;
	p->d->sockets = p->d->cores = p->d->threads = 1;
	return 0;
}

static const struct key topology_rows[] = {
	{ "sockets", KEY_NUMBER, .offset = DEF(sockets), .min = 1, .max = VM_VCPUS_MAX,
		.initial = "1" },
	{ "cores", KEY_NUMBER, .offset = DEF(cores), .min = 1, .max = VM_VCPUS_MAX,
		.initial = "1" },
	{ "threads", KEY_NUMBER, .offset = DEF(threads), .min = 1, .max = 2,
		.initial = "1" },
};
KEYS(topology_keys, topology_rows);

static const struct choice firmwares[] = { { "auto", VM_FIRMWARE_NONE }, { "bios", VM_FIRMWARE_BIOS },
	{ "uefi", VM_FIRMWARE_UEFI }, { NULL, 0 } };

static const struct key boot_rows[] = {
	{ "kernel", KEY_PATH, .offset = DEF(kernel),
		.about = "bzImage, ELF vmlinux, Multiboot kernel, or a bare-metal ELF" },
	{ "firmware", KEY_CHOICE, .offset = DEF(firmware), .choices = firmwares,
		.about = "bios: start SeaBIOS, which boots from a disk or the network; uefi: start OVMF; auto: bios if there is no kernel",
		.initial = "\"auto\"" },
	{ "loader", KEY_PATH, .offset = DEF(loader), .about = "file of the firmware [" DEFINITION_BIOS_PATH ", " DEFINITION_UEFI_PATH "]" },
	{ "nvram_template", KEY_PATH, .offset = DEF(nvram_template),
		.about = "with uefi: file that the VM's UEFI variables begin with [" DEFINITION_NVRAM_PATH "]" },
	{ "menu", KEY_BOOL, .offset = DEF(boot_menu), .about = "the firmware offers its boot menu", .initial = "false" },
	{ "menu_timeout", KEY_NUMBER, .offset = DEF(boot_menu_ms), .min = 1, .max = 65535,
		.about = "milliseconds that the firmware waits for the key of its boot menu [2500]" },
	{ "initrd", KEY_PATH, .offset = DEF(initrd),
		.about = "initial file system (initramfs) for the kernel" },
	{ "cmdline", KEY_TEXT, .offset = DEF(cmdline), .max = VM_CMDLINE_MAX,
		.about = "kernel command line" },
};
KEYS(boot_keys, boot_rows);

static const struct key console_rows[] = {
	{ "virtio", KEY_BOOL, .offset = DEF(virtio_console),
		.about = "add a virtio console", .initial = "false" },
};
KEYS(console_keys, console_rows);

static int prepare_watchdog(struct parse *p, struct json_object *v, void *into)
{
	(void)v;
	(void)into;
	p->d->watchdog = VM_WATCHDOG_I6300ESB;
	return 0;
}

static const struct key watchdog_rows[] = {
	{ "model", KEY_CHOICE, .offset = DEF(watchdog), .choices = watchdog_models,
		.about = "i6300esb: Intel's 6300ESB, for which Linux has a driver", .initial = "\"i6300esb\"" },
	{ "action", KEY_CHOICE, .offset = DEF(watchdog_action), .choices = watchdog_actions,
		.about = "action when the guest does not reset the watchdog in time", .initial = "\"reset\"" },
};
KEYS(watchdog_keys, watchdog_rows);

/* ---- vsock ---- */

static const struct key vsock_rows[] = {
	{ "cid", KEY_NUMBER, .offset = DEF(vsock_cid), .min = 3, .max = UINT32_MAX - 1,
		.about = "the guest's address in its own eyes; VMs may have the same", .initial = "3" },
	{ "path", KEY_PATH, .offset = DEF(vsock_path),
		.about = "Unix socket to make, for connections to the guest; connections from the guest go to PATH_PORT" },
};
KEYS(vsock_keys, vsock_rows);

/* true stands for {}. */
static int parse_vsock(struct parse *p, struct json_object *v, void *into)
{
	(void)into;
	p->d->vsock_cid = DEFINITION_VSOCK_CID;
	if (json_object_is_type(v, json_type_boolean)) {
		if (!json_object_get_boolean(v))
			p->d->vsock_cid = 0;
		return 0;
	}
	if (!json_object_is_type(v, json_type_object))
		return key_error(p, "must be true, false or an object in braces, not %s", js_type_words(v));
	if (keys_parse(p, v, &vsock_keys, p->d) < 0)
		return -EINVAL;
	if (p->d->vsock_path && strlen(p->d->vsock_path) > DEFINITION_VSOCK_PATH_MAX)
		return key_error(p, "path: is %zu bytes long; the path of a socket has at most %d", strlen(p->d->vsock_path),
			DEFINITION_VSOCK_PATH_MAX);
	return 0;
}

/* ---- parsing and freeing a whole definition ---- */

static const struct key top_rows[] = {
	{ "version", KEY_CUSTOM, .parse = parse_version,
		.about = "version of the format of a definition", .initial = "1", .form = "{\"const\":1}" },
	{ "name", KEY_CUSTOM, .offset = DEF(name), .parse = parse_name,
		.needed = true, .about = "name of the VM; at most 255 bytes",
		.form = "{\"type\":\"string\",\"maxLength\":255,"
			"\"pattern\":\"^[^-./\\\\u0000-\\\\u001f\\\\u007f-\\\\u009f][^/\\\\u0000-\\\\u001f\\\\u007f-\\\\u009f]*$\"}" },
	{ "uuid", KEY_CUSTOM, .offset = DEF(uuid), .parse = key_parse_uuid,
		.about = "UUID, unique in the daemon [the existing VM's UUID, or a new one]",
		.form = KEY_UUID_FORM },
	{ "title", KEY_TEXT, .offset = DEF(title), .max = 255,
		.about = "one-line title of the VM" },
	{ "description", KEY_TEXT, .offset = DEF(description), .max = 4096,
		.about = "one line of text about the VM" },
	{ "memory", KEY_CUSTOM, .offset = DEF(ram_bytes), .parse = key_parse_memory, .needed = true,
		.about = "a size such as 512M, or a number of MiB; 1 MiB to 1 TiB, a multiple of 4 KiB",
		.form = KEY_MEMORY_FORM },
	{ "current_memory", KEY_CUSTOM, .offset = DEF(balloon_bytes), .parse = key_parse_memory,
		.about = "memory that the balloon leaves to the guest at the start [memory]",
		.form = KEY_MEMORY_FORM },
	{ "memory_max", KEY_CUSTOM, .offset = DEF(memory_max_bytes), .parse = key_parse_memory,
		.about = "most memory that the VM's process may take, as memory; beyond it, the kernel kills the process [a budget for memory]",
		.form = KEY_MEMORY_FORM },
	{ "balloon", KEY_BOOL, .offset = DEF(balloon),
		.about = "add a virtio-balloon device, by which the guest gives memory back; not with hugepages", .initial = "false" },
	{ "hugepages", KEY_BOOL, .offset = DEF(huge_pages),
		.about = "back guest memory with huge pages", .initial = "false" },
	{ "small_pages", KEY_BOOL, .offset = DEF(small_pages), .initial = "false",
		.about = "keep guest memory in pages of 4 KiB also where transparent huge pages would make the guest faster; not with hugepages" },
	{ "reclaim_on_pressure", KEY_BOOL, .offset = DEF(reclaim_on_pressure), .initial = "false",
		.about = "under memory pressure, free memory that was not written since the last snapshot or revert; not with hugepages" },
	{ "vcpus", KEY_NUMBER, .offset = DEF(vcpus), .min = 1, .max = VM_VCPUS_MAX,
		.about = "number of virtual CPUs; with max_vcpus: at the start", .initial = "1" },
	{ "max_vcpus", KEY_NUMBER, .offset = DEF(max_vcpus), .min = 1, .max = VM_VCPUS_MAX,
		.about = "the most vCPUs that the VM can have; vCPUs come and go while it runs [they do not]" },
	{ "topology", KEY_OBJECT, .of = &topology_keys, .parse = prepare_topology,
		.about = "sockets x cores x threads must equal vcpus or, if given, max_vcpus [one socket with that many cores]" },
	{ "cpu", KEY_CUSTOM, .offset = DEF(cpu), .parse = parse_cpu,
		.about = "processor that the guest sees: a model, then features to add or remove, as in baseline,+aes,-rdrand",
		.initial = "\"host\"",
		.form = "{\"type\":\"string\",\"maxLength\":511,"
			"\"pattern\":\"^[A-Za-z0-9_-]+(,[-+][A-Za-z0-9_.-]+)*$\"}" },
	{ "cpu_shares", KEY_NUMBER, .offset = DEF(cpu_shares), .min = 2, .max = 262144,
		.about = "processor time, against other VMs that want it at the same time; a VM without this key has 1024" },
	{ "cpu_quota", KEY_NUMBER, .offset = DEF(cpu_quota), .min = 1, .max = DEFINITION_CPU_QUOTA_MAX,
		.about = "most processor time, in percent of one processor: 150 is one and a half" },
	{ "balance", KEY_OBJECT, .of = &definition_balance_keys,
		.about = "bounds in which the daemon shifts processor time and memory between VMs by their load" },
	{ "systemd_scope", KEY_BOOL, .offset = DEF(systemd_scope), .initial = "false",
		.about = "a scope of systemd of its own, and a machine of systemd-machined" },
	{ "machine", KEY_NUMBER16, .offset = DEF(machine), .min = 1, .max = UINT8_MAX,
		.about = "machine version that the VM boots as: 1, 3, 6 or 7 if it boots a kernel, 4 or 8 with a BIOS, "
			"5 or 9 with UEFI [the existing VM's, or the newest]" },
	{ "boot", KEY_OBJECT, .of = &boot_keys,
		.about = "kernel, initrd and command line that the VM boots, or a firmware; without it, a BIOS boots from a disk" },
	{ "sysinfo", KEY_OBJECT, .of = &definition_sysinfo_keys,
		.about = "texts of the guest's SMBIOS tables" },
	{ "disks", KEY_ARRAY, .max = VM_DISKS_MAX, .of = &definition_disk_keys,
		.parse = definition_parse_disks,
		.about = "disks, in the order in which the guest sees them" },
	{ "interfaces", KEY_ARRAY, .max = DEFINITION_INTERFACES_MAX, .of = &definition_interface_keys,
		.parse = definition_parse_interfaces,
		.about = "network interfaces" },
	{ "shares", KEY_ARRAY, .max = VM_SHARES_MAX, .of = &definition_share_keys, .parse = definition_parse_shares,
		.about = "folders of the host that the guest can mount" },
	{ "console", KEY_OBJECT, .of = &console_keys,
		.about = "consoles besides the serial port, which always exists" },
	{ "guest_agent", KEY_BOOL, .offset = DEF(guest_agent),
		.about = "add a virtio port for QEMU's guest agent",
		.initial = "false" },
	{ "rng", KEY_BOOL, .offset = DEF(rng),
		.about = "add a virtio-rng device", .initial = "false" },
	{ "vsock", KEY_CUSTOM, .parse = parse_vsock,
		.about = "add a virtio-vsock device: cid [3], path [none]; true stands for {}", .initial = "false",
		.form = "{\"anyOf\":[{\"type\":\"boolean\"},{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
			"\"cid\":{\"type\":\"integer\",\"minimum\":3,\"maximum\":4294967294},"
			"\"path\":{\"type\":\"string\",\"pattern\":\"^[^\\u0000-\\u001f\\u007f-\\u009f]+$\",\"maxLength\":4095}}}]}" },
	{ "screen", KEY_BOOL, .offset = DEF(screen),
		.about = "add a screen: a framebuffer, which cairn screenshot shows", .initial = "false" },
	{ "tablet", KEY_BOOL, .offset = DEF(tablet),
		.about = "add a tablet, by which the pointer of a VNC client is right; needs screen", .initial = "false" },
	{ "vnc", KEY_CUSTOM, .parse = definition_parse_vnc,
		.about = "show the screen to VNC clients: path [NAME.vnc], port, address, password_file; true stands for {}", .initial = "false",
		.form = "{\"anyOf\":[{\"type\":\"boolean\"},{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
			"\"path\":{\"type\":\"string\",\"pattern\":\"^[^\\u0000-\\u001f\\u007f-\\u009f]+$\",\"maxLength\":4095},"
			"\"port\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":65535},"
			"\"address\":{\"type\":\"string\",\"maxLength\":45},"
			"\"password_file\":{\"type\":\"string\",\"pattern\":\"^[^\\u0000-\\u001f\\u007f-\\u009f]+$\",\"maxLength\":4095}}}]}" },
	{ "watchdog", KEY_OBJECT, .of = &watchdog_keys, .parse = prepare_watchdog,
		.about = "watchdog device, which acts if the guest does not reset it in time" },
	{ "clock", KEY_CHOICE, .offset = DEF(clock), .choices = clocks,
		.about = "time in the guest's hardware clock at the start of the VM", .initial = "\"utc\"" },
	{ "debug_exit", KEY_BOOL, .offset = DEF(debug_exit),
		.about = "add the test device at port 0xf4",
		.initial = "false" },
	{ "assist", KEY_CHOICE, .offset = DEF(assist), .choices = assists,
		.about = "complete the instructions that a KVM leaves undone when it emulates kernel mode",
		.initial = "\"auto\"" },
	{ "on_poweroff", KEY_CHOICE, .offset = DEF(on_poweroff), .choices = actions,
		.about = "action when the guest powers off", .initial = "\"destroy\"" },
	{ "on_reboot", KEY_CHOICE, .offset = DEF(on_reboot), .choices = actions,
		.about = "action when the guest resets", .initial = "\"restart\"" },
	{ "on_crash", KEY_CHOICE, .offset = DEF(on_crash), .choices = crash_actions,
		.about = "action when the guest crashes", .initial = "\"destroy\"" },
	{ "restart", KEY_OBJECT, .offset = DEF(restart), .of = &definition_restart_keys,
		.about = "limits of automatic restarts" },
	{ "shutdown", KEY_OBJECT, .of = &definition_shutdown_keys,
		.about = "deadline of a shutdown, and the action when the guest misses it" },
	{ "idle", KEY_OBJECT, .of = &definition_idle_keys, .parse = definition_prepare_idle,
		.about = "suspend or save the VM when it was idle for long" },
	{ "order", KEY_NUMBER, .offset = DEF(order), .max = 65535,
		.about = "autostart starts VMs with lower numbers first; daemon-stop stops them last", .initial = "0" },
	{ "start_delay", KEY_NUMBER, .offset = DEF(start_delay_s), .max = 86400,
		.about = "seconds that autostart waits after the start of this VM before the next one",
		.initial = "0" },
	{ "stop_action", KEY_CHOICE, .offset = DEF(stop_action), .choices = definition_stop_actions,
		.about = "action of daemon-stop, and of the host's shutdown, on this VM; at the latter, leave is shutdown", .initial = "\"leave\"" },
	{ "shutdown_deadline", KEY_NUMBER, .offset = DEF(shutdown_deadline_s), .min = 1, .max = 86400,
		.about = "older name of shutdown.deadline" },
};
const struct keys definition_keys = { top_rows, ARRAY_SIZE(top_rows), NULL };

static bool boots_network(const struct definition *d)
{
	for (unsigned i = 0; i < d->ninterfaces; i++)
		if (d->interfaces[i].boot_order)
			return true;
	return false;
}

static int check_boot(struct parse *p)
{
	struct definition *d = p->d;

	if (!d->kernel && !d->firmware) {
		if (d->initrd || d->cmdline)
			return key_error(p, "boot: initrd and cmdline are for a kernel; give boot.kernel, or remove them");
		if (!d->ndisks && !boots_network(d))
			return key_error(p, "boot: nothing to start; give boot.kernel, or a disk that boot.firmware \"bios\" boots from, or "
				"an interface with boot_order");
		d->firmware = VM_FIRMWARE_BIOS;
	}
	if (d->firmware && (d->kernel || d->initrd || d->cmdline))
		return key_error(p, "boot: a firmware boots from a disk; give either boot.firmware, or boot.kernel with boot.initrd "
			"and boot.cmdline");
	if (d->firmware != VM_FIRMWARE_UEFI && d->nvram_template)
		return key_error(p, "boot.nvram_template: only UEFI has variables; set boot.firmware to \"uefi\"");
	if (d->firmware == VM_FIRMWARE_UEFI && d->loader && !d->nvram_template)
		return key_error(p, "boot.nvram_template: is missing; name the template of UEFI variables that belongs to boot.loader");
	if (!d->firmware && (d->loader || d->boot_menu || d->boot_menu_ms))
		return key_error(p, "boot: loader, menu and menu_timeout are for a VM with a firmware; give no boot.kernel");
	if (d->boot_menu_ms && !d->boot_menu)
		return key_error(p, "boot.menu_timeout: has no effect without a menu; set boot.menu to true");
	if (d->firmware == VM_FIRMWARE_UEFI && !d->loader && d->ram_bytes < DEFINITION_UEFI_RAM)
		return key_error(p, "memory: a VM with UEFI needs at least 64 MiB");
	if (d->firmware && d->ram_bytes < DEFINITION_FIRMWARE_RAM)
		return key_error(p, "memory: a VM with a firmware needs at least 16 MiB");
	return 0;
}

/* Check the machine version, after check_boot(). */
static int check_machine(struct parse *p)
{
	struct definition *d = p->d;

	if (!d->machine && p->stored)
		d->machine = (uint16_t)machine_version_unnamed(d->firmware);
	if (!d->machine || machine_version_boots(d->firmware, d->machine))
		return 0;
	return key_newer_error(p, key_error(p, "machine: a VM %s does not boot as version %u; the newest that this Cairn has for it is %u",
		d->firmware == VM_FIRMWARE_UEFI ? "with UEFI" : d->firmware ? "with a BIOS" : "that boots a kernel", d->machine,
		machine_version_newest(d->firmware)));
}

unsigned definition_vcpus_max(const struct definition *d)
{
	return d->max_vcpus ? d->max_vcpus : d->vcpus;
}

uint64_t definition_vcpus_absent(const struct definition *d)
{
	uint64_t all = definition_vcpus_max(d) < VM_VCPUS_MAX ? (1ULL << definition_vcpus_max(d)) - 1 : UINT64_MAX;

	return d->vcpus < VM_VCPUS_MAX ? all & ~((1ULL << d->vcpus) - 1) : 0;
}

static int check_whole(struct parse *p)
{
	const struct definition *d = p->d;
	int r;

	if (!d->name[0])
		return key_error(p, "name: is missing; give the VM a name");
	if (!d->ram_bytes)
		return key_error(p, "memory: is missing; give a size such as \"512M\"");
	if (d->small_pages && d->huge_pages)
		return key_error(p, "small_pages: contradicts hugepages; set one of them to false");
	if (d->reclaim_on_pressure && d->huge_pages)
		return key_error(p, "reclaim_on_pressure: memory in huge pages cannot be reclaimed; set either this key or hugepages to false");
	if (d->balloon && d->huge_pages)
		return key_error(p, "balloon: memory in huge pages cannot be given back; set either balloon or hugepages to false");
	if (d->balloon_bytes && !d->balloon)
		return key_error(p, "current_memory: has no effect without a balloon; set balloon to true");
	if (d->balloon_bytes > d->ram_bytes)
		return key_error(p, "current_memory: is more than memory; a balloon cannot give the guest more");
	if (d->tablet && !d->screen)
		return key_error(p, "tablet: there is no screen to point at; set screen to true");
	r = definition_check_balance(p);
	if (!r)
		r = check_boot(p);
	if (!r)
		r = check_machine(p);
	if (!r)
		r = definition_check_sysinfo(p);
	if (r < 0)
		return r;
	if (d->max_vcpus && d->vcpus > d->max_vcpus)
		return key_error(p, "vcpus: %u is more than max_vcpus, which is %u", d->vcpus, d->max_vcpus);
	if (d->sockets && d->sockets * d->cores * d->threads != definition_vcpus_max(d))
		return key_error(p, "topology: %u sockets x %u cores x %u threads is %u, but %s is %u",
			d->sockets, d->cores, d->threads, d->sockets * d->cores * d->threads,
			d->max_vcpus ? "max_vcpus" : "vcpus", definition_vcpus_max(d));
	r = definition_check_disks(p);
	if (!r)
		r = definition_check_interfaces(p);
	if (!r)
		r = definition_check_vnc(p);
	return r < 0 ? r : definition_check_policy(p);
}

void definition_free_p(struct definition **d)
{
	definition_free(*d);
}

static int check_length(struct parse *p)
{
	CLEANUP_JS struct json_object *o = definition_to_json(p->d);
	size_t bytes = js_line_bytes(o);

	if (bytes <= DEFINITION_TEXT_MAX)
		return 0;
	return key_error(p, "the definition has %zu bytes as JSON, but may have %d; shorten its paths or lists", bytes, DEFINITION_TEXT_MAX);
}

static int parse_any(struct json_object *o, const char *folder, bool stored, struct definition **ret_d, struct err *e)
{
	struct definition *d CLEANUP(definition_free_p) = calloc(1, sizeof(*d));
	struct parse p = { .d = d, .folder = folder && folder[0] == '/' ? folder : NULL, .e = e, .stored = stored };
	int r;

	if (!d)
		return err_set_errno(e, -ENOMEM, "definition");
	d->vcpus = 1;
	d->on_reboot = VM_ACTION_RESTART;
	definition_policy_default(d);
	r = keys_parse(&p, o, &definition_keys, d);
	if (r < 0)
		return r;
	p.path[0] = 0;
	r = check_whole(&p);
	if (!r && !stored)
		r = check_length(&p);
	if (r < 0)
		return r;
	*ret_d = STEAL_PTR(d);
	return 0;
}

int definition_parse(struct json_object *o, const char *folder, struct definition **ret_d, struct err *e)
{
	return parse_any(o, folder, false, ret_d, e);
}

int definition_parse_stored(struct json_object *o, struct definition **ret_d, struct err *e)
{
	return parse_any(o, NULL, true, ret_d, e);
}

void definition_free(struct definition *d)
{
	if (!d)
		return;
	definition_disks_free(d);
	for (uint32_t i = 0; i < d->ninterfaces; i++)
		free(d->interfaces[i].egress);
	free(d->interfaces);
	free(d->title);
	free(d->cpu);
	free(d->vsock_path);
	definition_free_vnc(&d->vnc);
	definition_free_shares(d);
	free(d->description);
	free(d->kernel);
	free(d->loader);
	free(d->nvram_template);
	definition_free_sysinfo(d);
	free(d->initrd);
	free(d->cmdline);
	free(d->rights);
	while (d->nauthors) {
		d->nauthors--;
		free(d->authors[d->nauthors].key);
		free(d->authors[d->nauthors].rights);
	}
	free(d->authors);
	free(d);
}
