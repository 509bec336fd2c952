/* The table of verbs, and the help that comes from it. */
#include "tools/cairn/change.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/fan.h"
#include "tools/cairn/job.h"
#include "api/schedule.h"
#include "base/util.h"

#include <stdio.h>
#include <string.h>

#define MANY CLI_POSITIONALS_MAX
#define END { NULL, NULL, NULL }

static const struct verb_option start_options[] = {
	{ "console", NULL, "attach this terminal to its console" },
	{ "paused", NULL, "vCPUs stand still until resume" },
	{ "force-boot", NULL, "drop a managed save instead of going on from it" },
	{ "eager", NULL, "with a managed save: read all memory before it runs" }, FAN_OPTIONS, END };
static const struct verb_option undefine_options[] = {
	{ "managed-save", NULL, "drop its managed save too" },
	{ "snapshots-metadata", NULL, "although there are snapshots in its images" },
	{ "remove-all-storage", NULL, "remove the images that it writes to" },
	{ "storage", "DISK,...", "remove only these: vda,vdb or paths" },
	{ "nvram", NULL, "accepted: a VM has no such file" },
	{ "keep-nvram", NULL, "the same" }, FAN_OPTIONS, END };
static const struct verb_option fan_options[] = { FAN_OPTIONS, END };
static const struct verb_option dump_memory_options[] = {
	{ "live", NULL, "let it run meanwhile: it always does, unless one of these is given" },
	{ "crash", NULL, "stop it at once when its memory is written" },
	{ "reset", NULL, "reset it when its memory is written" },
	{ "memory-only", NULL, "accepted: a dump has memory and registers only" },
	{ "format", "elf", "the only one" }, JOB_OPTIONS, END };
static const struct verb_option save_options[] = { JOB_OPTIONS, END };
#define SNAPSHOTNAME { "snapshotname", "NAME", "the snapshot, as an option" }
#define CURRENT { "current", NULL, "the current snapshot" }
static const struct verb_option snapshot_create_options[] = {
	{ "tag", "TAG", "mark it; may come again; \"keep\" protects it" },
	{ "disk-only", NULL, "without memory" },
	{ "halt", NULL, "end the VM once it is taken" },
	{ "quiesce", NULL, "the guest agent freezes file systems for that moment" },
	{ "rate", "SIZE", "write at most that much memory a second, such as 100M" },
	JOB_OPTIONS, FAN_OPTIONS, END };
static const struct verb_option snapshot_create_as_options[] = {
	{ "name", "NAME", "the same as the positional" }, SNAPSHOTNAME,
	{ "description", "TEXT", "the same as the positional" },
	{ "tag", "TAG", "mark it; may come again; \"keep\" protects it" },
	{ "disk-only", NULL, "without memory" },
	{ "halt", NULL, "end the VM once it is taken" },
	{ "quiesce", NULL, "the guest agent freezes file systems for that moment" },
	{ "rate", "SIZE", "write at most that much memory a second, such as 100M" },
	JOB_OPTIONS, FAN_OPTIONS, END };
static const struct verb_option snapshot_list_options[] = {
	{ "tree", NULL, "as a tree" },
	{ "parent", NULL, "with parents" },
	{ "roots", NULL, "only those without a parent" },
	{ "leaves", NULL, "only those without children" },
	{ "no-leaves", NULL, "only those with children" },
	{ "name", NULL, "names only" },
	{ "from", "NAME", "only children of that one; with --tree, it and all below" },
	{ "current", NULL, "the same, of the current one" },
	{ "descendants", NULL, "with --from or --current: all below" }, END };
static const struct verb_option snapshot_one_options[] = { SNAPSHOTNAME, CURRENT, END };
static const struct verb_option snapshot_current_options[] = {
	{ "name", NULL, "its name only" }, END };
static const struct verb_option snapshot_revert_options[] = { SNAPSHOTNAME, CURRENT,
	{ "running", NULL, "let it run, however it was" },
	{ "paused", NULL, "let it stand still, however it was" },
	{ "disks-only", NULL, "leave its memory: the VM is off then" },
	{ "disk", "ID", "with --disks-only: that disk alone" },
	{ "eager", NULL, "read all memory before it runs" },
	{ "verify", NULL, "check all memory before anything is changed" }, JOB_OPTIONS, END };
static const struct verb_option snapshot_delete_options[] = { SNAPSHOTNAME, CURRENT,
	{ "children", NULL, "and all below it" },
	{ "children-only", NULL, "all below it, and not itself" }, JOB_OPTIONS, END };
static const struct verb_option snapshot_rename_options[] = { SNAPSHOTNAME, END };
static const struct verb_option snapshot_tag_options[] = { SNAPSHOTNAME,
	{ "remove", NULL, "take these tags away" }, END };
static const struct verb_option snapshot_schedule_options[] = {
	{ "every", "TIME", "one every 15m, 1h, 1d, ...; in UTC" },
	{ "keep", "RULES", "which stay: at first " SCHEDULE_KEEP_DEFAULT },
	{ "min-free", "SIZE", "none while less is free: 5G, or at first " SCHEDULE_MIN_FREE_DEFAULT },
	{ "remove", NULL, "take no more; those that are there stay" }, END };
static const struct verb_option restore_options[] = {
	{ "paused", NULL, "vCPUs stand still until resume" },
	{ "eager", NULL, "read all memory before it runs" }, END };
static const struct verb_option managedsave_options[] = {
	{ "running", NULL, "the next start has it running" },
	{ "paused", NULL, "the next start has it paused" }, JOB_OPTIONS, FAN_OPTIONS, END };
static const struct verb_option export_options[] = {
	{ "snapshotname", "NAME", "the disks as this snapshot has them; needed while the VM is not off" },
	{ "compress", "HOW", "zstd, gzip or none; else as the file's name ends, or zstd" },
	{ "level", "N", "of compression: 1 to 19, with gzip to 9" }, JOB_OPTIONS, END };
static const struct verb_option import_options[] = {
	{ "name", "NAME", "another name than it had" },
	{ "folder", "DIR", "where its folder will be; else here" },
	{ "dry-run", NULL, "check all of it, show what is in it, and change nothing" }, JOB_OPTIONS, END };
static const struct verb_option clone_options[] = {
	{ "full", NULL, "of one that is off: with disks of its own (the default)" },
	{ "linked", NULL, "of one that is off: with disks that stand on its" },
	{ "live", NULL, "of a running VM: the copies go on from where it is" },
	{ "snapshotname", "NAME", "with --live: from where this snapshot was; the VM may be off" },
	{ "no-hostname", NULL, "with --live: their agents are not asked to set the host name" },
	{ "count", "N", "so many, named NAME-1, NAME-2, ..." },
	{ "name-pattern", "PATTERN", "or named so: web-%02d" },
	{ "snapshots", NULL, "--full: and the snapshots in its images" },
	{ "file", "PATH", "where the copy of a disk goes; once for each" },
	{ "mac", "ADDRESS", "of an interface; once for each; else made" },
	{ "uuid", "UUID", "else made" },
	{ "reset-identity", NULL, "other machine-id, SSH host keys, host name; by virt-sysprep" },
	{ "dry-run", NULL, "say what would be made" },
	{ "paused", NULL, "--live: their vCPUs stand still until resume" }, JOB_OPTIONS, END };
static const struct verb_option template_options[] = {
	{ "disable", NULL, "make it an ordinary VM again" }, END };
#define WHEN_OPTIONS                                                                               \
	{ "mode", "MODE", "how: acpi (the power button) or agent" },                              \
	{ "at", "TIME", "then, and not now: HH:MM or YYYY-MM-DD HH:MM" },                         \
	{ "in", "TIME", "the same: 90s, 10m, 2h from now" },                                      \
	{ "message", "TEXT", "what the guest is told before, by its agent" },                     \
	{ "cancel", NULL, "what is planned, and a deadline" }
static const struct verb_option shutdown_options[] = { WHEN_OPTIONS,
	{ "wait", NULL, "return when it is off" },
	{ "then", "ACTION", "leave, destroy or save it when it is not off in time" },
	{ "timeout", "SECONDS", "that time; with --wait alone: give up waiting after that" }, FAN_OPTIONS, END };
static const struct verb_option reboot_options[] = { WHEN_OPTIONS, FAN_OPTIONS, END };
static const struct verb_option daemon_stop_options[] = {
	{ "leave", NULL, "leave them all running" },
	{ "shutdown", NULL, "shut them all down" },
	{ "save", NULL, "save them all" },
	{ "vms-only", NULL, "the daemon goes on" }, END };
static const struct verb_option autostart_options[] = {
	{ "disable", NULL, "not any more" }, FAN_OPTIONS, END };
static const struct verb_option dumpxml_options[] = {
	{ "inactive", NULL, "of a running VM: what its next start uses" },
	{ "security-info", NULL, "nothing more: there are no secrets in it" },
	{ "migratable", NULL, "nothing less" },
	{ "update-cpu", NULL, "nothing else: the guest has the host's processor" }, END };
static const struct verb_option define_options[] = {
	{ "validate", NULL, "check the file and change nothing" }, END };
static const struct verb_option validate_options[] = {
	{ "schema", NULL, "print the JSON Schema of a definition instead" }, END };
static const struct verb_option dump_options[] = {
	{ "inactive", NULL, "of a running VM: what its next start uses" }, END };
static const struct verb_option list_options[] = {
	{ "all", NULL, "those that are off too" },
	{ "inactive", NULL, "only those that are off" },
	{ "name", NULL, "names only" },
	{ "uuid", NULL, "uuids only" },
	{ "id", NULL, "ids only" },
	{ "title", NULL, "with titles" },
	{ "autostart", NULL, "only those started when the host has booted" },
	{ "no-autostart", NULL, "only the others" },
	{ "with-managed-save", NULL, "only those with a saved state" },
	{ "template", NULL, "only templates" },
	{ "state-running", NULL, "only those in that state" },
	{ "state-paused", NULL, "only those in that state" },
	{ "state-shutoff", NULL, "only those in that state" },
	{ "state-other", NULL, "only those in any other state" }, END };
static const struct verb_option domstate_options[] = {
	{ "reason", NULL, "with the reason" }, END };
static const struct verb_option domstats_options[] = {
	{ "state", NULL, "the state and why" },
	{ "cpu-total", NULL, "processor time, ns" },
	{ "balloon", NULL, "memory, KiB" },
	{ "vcpu", NULL, "each vCPU" },
	{ "interface", NULL, "each network interface" },
	{ "block", NULL, "each disk" }, END };
static const struct verb_option console_options[] = {
	{ "serial", NULL, "the serial port (the default)" },
	{ "virtio", NULL, "the virtio console" }, END };
static const struct verb_option wait_options[] = {
	{ "for", "STATE", "running, paused, shutoff, crashed or agent (one answers)" },
	{ "timeout", "SECONDS", "give up after that" }, END };
static const struct verb_option event_options[] = {
	{ "loop", NULL, "until interrupted, or the time is up" },
	{ "all", NULL, "of every kind (the default)" },
	{ "event", "NAME", "only this kind: STOP, VM_STATE_CHANGE, ..." },
	{ "timeout", "SECONDS", "give up after that" },
	{ "timestamp", NULL, "with the time" },
	{ "since", "NUMBER", "first those behind that number; 0: all that are kept" }, END };
static const struct verb_option permission_options[] = {
	{ "user", "USER", "name or number" },
	{ "group", "GROUP", "name or number" }, END };
static const struct verb_option audit_options[] = {
	{ "since", "TIME", "90s, 30m, 2h or 7d ago, or YYYY-MM-DD [HH:MM]" },
	{ "user", "USER", "only calls of that user" },
	{ "vm", "VM", "only calls about that VM" }, END };
static const struct verb_option run_options[] = {
	{ "log-level", "LEVEL", "error, warning (the default), info, debug or trace" },
	{ "vm-program", "PATH", "cairn-vm, when it is elsewhere" },
	{ "no-sandbox", NULL, "for debugging the VM's process; unsafe" }, END };
static const struct verb_option help_options[] = {
	{ "names", NULL, "names of verbs only, for completion" },
	{ "options", NULL, "of one verb: options only, for completion" }, END };

static const struct verb_option edit_options[] = {
	{ "format", "FORMAT", "json (the default), or xml: libvirt's domain XML" },
	{ "xml", NULL, "the same as --format xml" },
	{ "print-only", NULL, "show what would change, and change nothing" }, END };
static const struct verb_option change_options[] = { CHANGE_OPTIONS, END };
static const struct verb_option setvcpus_options[] = {
	{ "maximum", NULL, "the same: there is one number" }, CHANGE_OPTIONS, END };
static const struct verb_option desc_options[] = {
	{ "title", NULL, "the title, not the description" },
	{ "new-desc", "TEXT", "the text, as an option" }, CHANGE_OPTIONS, END };
static const struct verb_option attach_disk_options[] = {
	{ "subdriver", "FORMAT", "raw (the default) or qcow2" },
	{ "type", "TYPE", "disk (the default) or cdrom" },
	{ "mode", "readonly", "the guest cannot write to it" },
	{ "serial", "SERIAL", "as the guest sees it" },
	{ "targetbus", "virtio", "the only one" },
	{ "sourcetype", "TYPE", "file or block" },
	{ "driver", "qemu", "no effect" },
	{ "cache", "MODE", "no effect" },
	{ "io", "MODE", "no effect" },
	{ "persistent", NULL, "the same as --config" }, CHANGE_OPTIONS, END };
static const struct verb_option detach_options[] = {
	{ "persistent", NULL, "the same as --config" }, CHANGE_OPTIONS, END };
static const struct verb_option change_media_options[] = {
	{ "eject", NULL, "take it out" },
	{ "insert", NULL, "into an empty drive" },
	{ "update", NULL, "instead of what is in it, if anything is (the default)" },
	{ "subdriver", "FORMAT", "raw (the default) or qcow2" },
	{ "force", NULL, "no effect: the guest cannot lock a drive" }, CHANGE_OPTIONS, END };
static const struct verb_option attach_interface_options[] = {
	{ "mac", "MAC", "52:54:00:..., else one is made" },
	{ "model", "virtio", "the only one" },
	{ "target", "ID", "what it is called: net0, net1, ..." },
	{ "persistent", NULL, "the same as --config" }, CHANGE_OPTIONS, END };
static const struct verb_option detach_interface_options[] = {
	{ "mac", "MAC", "which, if there are several of the type" },
	{ "persistent", NULL, "the same as --config" }, CHANGE_OPTIONS, END };
static const struct verb_option domblklist_options[] = {
	{ "inactive", NULL, "of a running VM: what its next start uses" },
	{ "details", NULL, "with type and device" }, END };

const struct verb verbs[] = {
	{ "define", "Definitions", "FILE", "make a VM from a file, JSON or libvirt's XML, or change it",
		define_options, 1, 1, false, "file", verb_define },
	{ "validate", "Definitions", "FILE", "check a definition's file, without a daemon", validate_options,
		0, 1, true, "file", verb_validate },
	{ "dumpjson", "Definitions", "VM", "print a VM's definition", dump_options, 1, 1, true, "vm",
		verb_dumpjson },
	{ "dumpxml", "Definitions", "VM", "print a VM's definition as libvirt's domain XML",
		dumpxml_options, 1, 1, false, "vm", verb_dumpxml },
	{ "edit", "Definitions", "VM", "change a definition in $VISUAL or $EDITOR", edit_options, 1, 1, false, "vm",
		verb_edit },
	{ "domrename", "Definitions", "VM NEW-NAME", "give a VM that is off another name", NULL, 2, 2, false, "vm-name",
		verb_domrename },
	{ "desc", "Definitions", "VM [TEXT...]", "show or change the description or the title", desc_options, 1,
		MANY, false, "vm", verb_desc },
	{ "setvcpus", "Definitions", "VM COUNT", "number of virtual processors", setvcpus_options, 2, 2, false,
		"vm-name", verb_setvcpus },
	{ "setmem", "Definitions", "VM SIZE", "memory: KiB, or with a unit, as 512M", change_options, 2, 2,
		false, "vm-name", verb_setmem },
	{ "setmaxmem", "Definitions", "VM SIZE", "the same as setmem", change_options, 2, 2, false, "vm-name",
		verb_setmem },
	{ "attach-disk", "Definitions", "VM SOURCE TARGET", "add a disk", attach_disk_options, 3, 3, false,
		"vm-file", verb_attach_disk },
	{ "detach-disk", "Definitions", "VM TARGET", "take a disk away; its image stays", detach_options, 2, 2,
		false, "vm-disk", verb_detach_disk },
	{ "change-media", "Definitions", "VM PATH [SOURCE]", "change the medium of a cdrom drive",
		change_media_options, 2, 3, false, "vm-disk", verb_change_media },
	{ "attach-interface", "Definitions", "VM TYPE [SOURCE]", "add a network interface",
		attach_interface_options, 2, 3, false, "vm-name", verb_attach_interface },
	{ "detach-interface", "Definitions", "VM TYPE", "take a network interface away",
		detach_interface_options, 2, 2, false, "vm-name", verb_detach_interface },
	{ "undefine", "Definitions", "{VM...|--all}", "forget VMs; their disks stay unless said", undefine_options,
		1, MANY, true, "vm", verb_undefine },
	{ "start", "Life", "{VM...|--all}", "start VMs", start_options, 1, MANY, true, "vm", verb_start },
	{ "shutdown", "Life", "{VM...|--all}", "press the power button", shutdown_options, 1, MANY, true,
		"vm", verb_shutdown },
	{ "reboot", "Life", "{VM...|--all}", "press the power button, and start again", reboot_options, 1,
		MANY, true, "vm", verb_reboot },
	{ "reset", "Life", "{VM...|--all}", "hard reset", fan_options, 1, MANY, true, "vm", verb_reset },
	{ "suspend", "Life", "{VM...|--all}", "make the vCPUs stand still", fan_options, 1, MANY, true,
		"vm", verb_suspend },
	{ "resume", "Life", "{VM...|--all}", "let the vCPUs run on", fan_options, 1, MANY, true, "vm",
		verb_resume },
	{ "destroy", "Life", "{VM...|--all}", "stop at once, as by pulling the plug", fan_options, 1,
		MANY, true, "vm", verb_destroy },
	{ "autostart", "Life", "{VM...|--all}", "start them when the host has booted", autostart_options, 1,
		MANY, true, "vm", verb_autostart },
	{ "run", "Life", "FILE", "run one VM in the foreground, without a daemon", run_options, 1, 1,
		false, "file", verb_run },
	{ "clone", "Life", "VM [NAME]", "copies of a VM", clone_options, 1, 2, true, "vm-name", verb_clone },
	{ "template", "Life", "VM", "from now on it is only cloned", template_options, 1, 1, false, "vm",
		verb_template },
	{ "dump", "Life", "VM FILE", "write its memory and registers into an ELF core file", dump_memory_options, 2, 2,
		false, "vm-file", verb_dump },
	{ "export", "Life", "VM FILE", "all of a VM into one file: .tar.zst, .tar.gz, .tar", export_options, 2, 2,
		true, "vm-file", verb_export },
	{ "import", "Life", "FILE", "define a VM from such a file", import_options, 1, 1, true, "file",
		verb_import },
	{ "save", "Saved states", "VM FILE", "keep its state in a file, and end it", save_options, 2, 2,
		false, "vm-file", verb_save },
	{ "restore", "Saved states", "FILE", "start a VM from a saved state", restore_options, 1, 1,
		false, "file", verb_restore },
	{ "managedsave", "Saved states", "{VM...|--all}", "keep its state for the next start, and end it",
		managedsave_options, 1, MANY, true, "vm", verb_managedsave },
	{ "managedsave-remove", "Saved states", "{VM...|--all}", "drop the state kept for the next start",
		fan_options, 1, MANY, true, "vm", verb_managedsave_remove },
	{ "snapshot-create", "Snapshots", "{VM|--all}", "take one, named after the time", snapshot_create_options,
		1, 1, true, "vm", verb_snapshot_create },
	{ "snapshot-create-as", "Snapshots", "{VM|--all} [NAME [DESCRIPTION]]", "take one",
		snapshot_create_as_options, 1, 3, true, "vm", verb_snapshot_create_as },
	{ "snapshot-list", "Snapshots", "VM", "list them", snapshot_list_options, 1, 1, true, "vm",
		verb_snapshot_list },
	{ "snapshot-info", "Snapshots", "VM NAME", "what one is", snapshot_one_options, 1, 2, true,
		"vm-snapshot", verb_snapshot_info },
	{ "snapshot-current", "Snapshots", "VM", "the one that the VM goes on from",
		snapshot_current_options, 1, 1, true, "vm", verb_snapshot_current },
	{ "snapshot-parent", "Snapshots", "VM NAME", "the one before", snapshot_one_options, 1, 2,
		false, "vm-snapshot", verb_snapshot_parent },
	{ "snapshot-revert", "Snapshots", "VM NAME", "go back to one", snapshot_revert_options, 1, 2,
		true, "vm-snapshot", verb_snapshot_revert },
	{ "snapshot-delete", "Snapshots", "VM NAME", "delete one; its children stay",
		snapshot_delete_options, 1, 2, true, "vm-snapshot", verb_snapshot_delete },
	{ "snapshot-rename", "Snapshots", "VM NAME NEW", "give one another name", snapshot_rename_options,
		2, 3, false, "vm-snapshot", verb_snapshot_rename },
	{ "snapshot-tag", "Snapshots", "VM NAME [TAG...]", "print, add or take away tags",
		snapshot_tag_options, 1, MANY, false, "vm-snapshot", verb_snapshot_tag },
	{ "snapshot-schedule", "Snapshots", "[VM]", "take them by the clock, and delete old ones",
		snapshot_schedule_options, 0, 1, true, "vm", verb_snapshot_schedule },
	{ "list", "Looking", "", "list VMs", list_options, 0, 0, true, NULL, verb_list },
	{ "dominfo", "Looking", "VM", "what a VM is and how it does", NULL, 1, 1, true, "vm",
		verb_dominfo },
	{ "domstate", "Looking", "VM", "state of a VM", domstate_options, 1, 1, true, "vm",
		verb_domstate },
	{ "domblklist", "Looking", "VM", "disks of a VM", domblklist_options, 1, 1, true, "vm",
		verb_domblklist },
	{ "domiflist", "Looking", "VM", "network interfaces of a VM", dump_options, 1, 1, true, "vm",
		verb_domiflist },
	{ "domblkerror", "Looking", "VM", "disks whose errors stopped a VM", NULL, 1, 1, true, "vm",
		verb_domblkerror },
	{ "domstats", "Looking", "[VM...]", "figures of VMs, under virsh's names", domstats_options, 0, MANY, true,
		"vm", verb_domstats },
	{ "qmp-path", "Looking", "VM", "where its own socket is, for programs that speak QEMU's QMP", NULL,
		1, 1, false, "vm", verb_qmp_path },
	{ "console", "Looking", "VM", "attach this terminal; Ctrl-] leaves", console_options, 1, 1,
		false, "vm", verb_console },
	{ "wait", "Looking", "VM", "wait for a state", wait_options, 1, 1, false, "vm", verb_wait },
	{ "event", "Looking", "[VM]", "show events as they come", event_options, 0, 1, true, "vm",
		verb_event },
	{ "events", "Looking", "[VM]", "the same as event --loop", event_options, 0, 1, true, "vm",
		verb_event },
	{ "jobs", "Jobs", "", "work under way, and results that were not looked at", NULL, 0, 0, true,
		NULL, verb_jobs },
	{ "job-cancel", "Jobs", "ID...", "ask jobs to end", NULL, 1, MANY, false, "job",
		verb_job_cancel },
	{ "job-dismiss", "Jobs", "ID...", "forget results", NULL, 1, MANY, false, "job",
		verb_job_dismiss },
	{ "grant", "Administration", "ROLE [VM]", "let a user or a group be viewer, operator, admin, or owner "
		"of a VM", permission_options, 1, 2, false, NULL, verb_grant },
	{ "revoke", "Administration", "[VM]", "take that away", permission_options, 0, 1, false, "vm",
		verb_revoke },
	{ "permissions", "Administration", "", "who may what", NULL, 0, 0, true, NULL,
		verb_permissions },
	{ "audit", "Administration", "", "who changed what", audit_options, 0, 0, true, NULL, verb_audit },
	{ "daemon-stop", "Administration", "", "stop VMs as their definitions say, and end the daemon",
		daemon_stop_options, 0, 0, true, NULL, verb_daemon_stop },
	{ "version", "Help", "", "versions of this program and of the daemon", NULL, 0, 0, true,
		NULL, verb_version },
	{ "help", "Help", "[VERB]", "this list, or one verb", help_options, 0, 1, false, "verb",
		verb_help },
	{ NULL, NULL, NULL, NULL, NULL, 0, 0, false, NULL, NULL },
};

const struct verb *verb_find(const char *name)
{
	for (const struct verb *v = verbs; v->name; v++)
		if (!strcmp(v->name, name))
			return v;
	return NULL;
}

static void option_print(const char *name, const char *value, const char *doc)
{
	char left[64];

	snprintf(left, sizeof(left), "--%s%s%s", name, value ? " " : "", value ? value : "");
	printf("  %-22s %s\n", left, doc);
}

static void one_print(const struct verb *v)
{
	printf("cairn %s%s%s%s: %s\n", v->name, v->args[0] ? " " : "", v->args,
		v->options || v->prints ? " [OPTIONS]" : "", v->summary);
	for (const struct verb_option *o = v->options; o && o->name; o++)
		option_print(o->name, o->value, o->doc);
	if (v->prints)
		option_print("format", "FORMAT", "table (the default), json, yaml or csv");
}

static void all_print(void)
{
	const char *group = "";

	printf("usage: cairn [-c SOCKET] VERB [ARGUMENTS]\n");
	for (const struct verb *v = verbs; v->name; v++) {
		if (strcmp(group, v->group))
			printf("\n%s\n", v->group);
		group = v->group;
		printf("  %-18s %-9s %s\n", v->name, v->args, v->summary);
	}
	printf("\ncairn help VERB tells more. The daemon's socket: -c, or CAIRN_SOCKET.\n");
}

static void options_list(const struct verb *v)
{
	for (const struct verb_option *o = v->options; o && o->name; o++)
		printf("--%s\n", o->name);
	if (v->prints)
		printf("--format\n");
	printf("--help\n");
}

int verb_help(struct cli *c)
{
	const struct verb *v = c->npos ? verb_find(c->pos[0]) : NULL;

	if (c->npos && !v) {
		fprintf(stderr, "error: there is no verb \"%s\"\nerror: cairn help lists them\n",
			c->pos[0]);
		return CLI_USAGE;
	}
	if (c->verb && c->verb->run == verb_help && option_flag(c, "names")) {
		for (v = verbs; v->name; v++)
			printf("%s %s\n", v->name, v->completes ? v->completes : "-");
	} else if (v && c->verb->run == verb_help && option_flag(c, "options")) {
		options_list(v);
	} else if (v) {
		one_print(v);
	} else {
		all_print();
	}
	return CLI_OK;
}
