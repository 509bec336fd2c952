/* The table of verbs. What the schema says too stands there alone: FROM_SCHEMA(). */
#include "tools/cairn/change.h"
#include "api/policy/schedule.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/job.h"
#include "tools/cairn/multi_vm.h"

#include <stdio.h>
#include <string.h>

#define MANY CLI_POSITIONALS_MAX
#define END { NULL, NULL, NULL }
/* Of virsh's, typed by habit. */
#define BYPASS_CACHE { "bypass-cache", NULL, "no effect" }
#define ATOMIC { "atomic", NULL, "no effect: it always is" }
#define DRY_RUN { "dry-run", NULL, FROM_SCHEMA("dry-run") }
#define VERBOSE { "verbose", NULL, "no effect: a terminal shows how far it is" }

static const struct verb_option start_options[] = {
	{ "console", NULL, "attach this terminal to its console" },
	{ "paused", NULL, FROM_SCHEMA("paused") },
	{ "force-boot", NULL, FROM_SCHEMA("force-boot") },
	{ "eager", NULL, FROM_SCHEMA("eager") }, BYPASS_CACHE, FAN_OPTIONS, END };
static const struct verb_option undefine_options[] = {
	{ "managed-save", NULL, FROM_SCHEMA("managed-save") },
	{ "snapshots-metadata", NULL, FROM_SCHEMA("snapshots-metadata") },
	{ "remove-all-storage", NULL, FROM_SCHEMA("remove-all-storage") },
	{ "storage", "DISK,...", FROM_SCHEMA("storage") },
	{ "nvram", NULL, "accepted: a VM has no such file" },
	{ "keep-nvram", NULL, "the same" },
	{ "tpm", NULL, "the same" },
	{ "keep-tpm", NULL, "the same" },
	{ "checkpoints-metadata", NULL, "accepted: there are no checkpoints" }, FAN_OPTIONS, END };
static const struct verb_option destroy_options[] = {
	{ "graceful", NULL, "accepted: it is asked first, and has its images closed" }, FAN_OPTIONS, END };
static const struct verb_option multi_vm_options[] = { FAN_OPTIONS, END };
static const struct verb_option dump_memory_options[] = {
	{ "live", NULL, "let it run meanwhile: it always does, unless one of these is given" },
	{ "crash", NULL, "stop it at once when its memory is written" },
	{ "reset", NULL, "reset it when its memory is written" },
	{ "memory-only", NULL, "accepted: a dump has memory and registers only" },
	{ "format", "elf", "the only one" }, BYPASS_CACHE, VERBOSE, JOB_OPTIONS, END };
static const struct verb_option save_options[] = { BYPASS_CACHE, VERBOSE, JOB_OPTIONS, END };
#define SNAPSHOTNAME { "snapshotname", "NAME", "the snapshot, as an option" }
#define CURRENT { "current", NULL, "the current snapshot" }
static const struct verb_option snapshot_create_options[] = {
	{ "tag", "TAG", "mark it; may come again; \"keep\" protects it" },
	{ "disk-only", NULL, FROM_SCHEMA("disks-only") },
	{ "halt", NULL, FROM_SCHEMA("halt") },
	{ "quiesce", NULL, FROM_SCHEMA("quiesce") },
	{ "rate", "SIZE", "write at most that much memory a second, such as 100M" },
	ATOMIC, JOB_OPTIONS, FAN_OPTIONS, END };
static const struct verb_option snapshot_create_as_options[] = {
	{ "name", "NAME", "the same as the positional" }, SNAPSHOTNAME,
	{ "description", "TEXT", "the same as the positional" },
	{ "tag", "TAG", "mark it; may come again; \"keep\" protects it" },
	{ "disk-only", NULL, FROM_SCHEMA("disks-only") },
	{ "halt", NULL, FROM_SCHEMA("halt") },
	{ "quiesce", NULL, FROM_SCHEMA("quiesce") },
	{ "rate", "SIZE", "write at most that much memory a second, such as 100M" },
	ATOMIC, JOB_OPTIONS, FAN_OPTIONS, END };
static const struct verb_option snapshot_list_options[] = {
	{ "tree", NULL, "as a tree" },
	{ "parent", NULL, "with parents" },
	{ "roots", NULL, "only those without a parent" },
	{ "leaves", NULL, "only those without children" },
	{ "no-leaves", NULL, "only those with children" },
	{ "active", NULL, "only those with memory" },
	{ "inactive", NULL, "only those without" },
	{ "metadata", NULL, "no effect: all have it" },
	{ "internal", NULL, "no effect: all are in the images" },
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
	{ "disks-only", NULL, FROM_SCHEMA("disks-only") },
	{ "disk", "ID", FROM_SCHEMA("disk") },
	{ "eager", NULL, FROM_SCHEMA("eager") },
	{ "verify", NULL, FROM_SCHEMA("verify") }, DRY_RUN, JOB_OPTIONS, END };
static const struct verb_option snapshot_delete_options[] = { SNAPSHOTNAME, CURRENT,
	{ "children", NULL, "and all below it" },
	{ "children-only", NULL, "all below it, and not itself" }, DRY_RUN, JOB_OPTIONS, END };
static const struct verb_option snapshot_rename_options[] = { SNAPSHOTNAME, END };
static const struct verb_option snapshot_tag_options[] = { SNAPSHOTNAME,
	{ "remove", NULL, "take these tags away" }, END };
static const struct verb_option snapshot_schedule_options[] = {
	{ "every", "TIME", FROM_SCHEMA("every") },
	{ "keep", "RULES", FROM_SCHEMA("keep") },
	{ "min-free", "SIZE", FROM_SCHEMA("min-free") },
	{ "remove", NULL, FROM_SCHEMA("snapshot-schedule-remove") }, DRY_RUN, END };
static const struct verb_option restore_options[] = {
	{ "paused", NULL, FROM_SCHEMA("paused") },
	{ "eager", NULL, FROM_SCHEMA("eager") }, BYPASS_CACHE, END };
static const struct verb_option managedsave_options[] = {
	{ "running", NULL, "the next start has it running" },
	{ "paused", NULL, "the next start has it paused" }, BYPASS_CACHE, VERBOSE, JOB_OPTIONS, FAN_OPTIONS, END };
static const struct verb_option export_options[] = {
	{ "snapshotname", "NAME", FROM_SCHEMA("snapshot") },
	{ "compress", FROM_SCHEMA("compress"), "else as the file's name ends" },
	{ "force", NULL, "replace a file of that name" },
	{ "level", "N", "of compression: 1 to 19, with gzip to 9" }, JOB_OPTIONS, END };
static const struct verb_option import_options[] = {
	{ "name", "NAME", "another name than it had" },
	{ "folder", "DIR", "where its folder will be; else here" },
	{ "max-bytes", "SIZE", FROM_SCHEMA("max-bytes") },
	{ "dry-run", NULL, "check all of it, show what is in it, and change nothing" }, JOB_OPTIONS, END };
static const struct verb_option clone_options[] = {
	{ "full", NULL, "of one that is off: with disks of its own (the default)" },
	{ "linked", NULL, "of one that is off: with disks that stand on its" },
	{ "live", NULL, "of a running VM: the copies go on from where it is" },
	{ "snapshotname", "NAME", "with --live: from where this snapshot was; the VM may be off" },
	{ "no-hostname", NULL, "with --live: their agents are not asked to set the host name" },
	{ "count", "N", FROM_SCHEMA("count") },
	{ "name-pattern", "PATTERN", FROM_SCHEMA("name-pattern") },
	{ "snapshots", NULL, FROM_SCHEMA("snapshots") },
	{ "file", "PATH", "where the copy of a disk goes; once for each" },
	{ "mac", "ADDRESS", "of an interface; once for each; else made" },
	{ "uuid", "UUID", FROM_SCHEMA("uuid") },
	{ "reset-identity", NULL, FROM_SCHEMA("reset-identity") },
	DRY_RUN,
	{ "paused", NULL, FROM_SCHEMA("paused") }, JOB_OPTIONS, END };
static const struct verb_option template_options[] = {
	{ "disable", NULL, FROM_SCHEMA("disable") }, END };
#define WHEN_OPTIONS                                                                                \
	{ "mode", FROM_SCHEMA("mode"), FROM_SCHEMA("mode") },                                       \
	{ "at", "TIME", "then, and not now: HH:MM or YYYY-MM-DD HH:MM" },                           \
	{ "in", "TIME", "the same: 90s, 10m, 2h from now" },                                        \
	{ "message", "TEXT", FROM_SCHEMA("message") },                                              \
	{ "cancel", NULL, "what is planned, and a deadline" }
static const struct verb_option shutdown_options[] = { WHEN_OPTIONS,
	{ "wait", NULL, "return when it is off" },
	{ "then", FROM_SCHEMA("then"), FROM_SCHEMA("then") },
	{ "timeout", "SECONDS", "that time; with --wait alone: give up waiting after that" }, FAN_OPTIONS, END };
static const struct verb_option reboot_options[] = { WHEN_OPTIONS, FAN_OPTIONS, END };
static const struct verb_option daemon_stop_options[] = {
	{ "leave", NULL, "leave them all running" },
	{ "shutdown", NULL, "shut them all down" },
	{ "save", NULL, "save them all" },
	{ "vms-only", NULL, FROM_SCHEMA("vms-only") }, DRY_RUN, END };
static const struct verb_option autostart_options[] = {
	{ "disable", NULL, FROM_SCHEMA("disable") }, FAN_OPTIONS, END };
static const struct verb_option dumpxml_options[] = {
	{ "inactive", NULL, FROM_SCHEMA("inactive") },
	{ "security-info", NULL, "nothing more: there are no secrets in it" },
	{ "migratable", NULL, "nothing less" },
	{ "update-cpu", NULL, "nothing else: the guest has the host's processor" }, END };
static const struct verb_option define_options[] = {
	{ "validate", NULL, FROM_SCHEMA("validate-only") }, END };
static const struct verb_option validate_options[] = {
	{ "schema", NULL, "print the JSON Schema of a definition instead" }, END };
static const struct verb_option dump_options[] = {
	{ "inactive", NULL, FROM_SCHEMA("inactive") }, END };
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
	{ "without-managed-save", NULL, "only the others" },
	{ "managed-save", NULL, "no effect: the state says so anyway" },
	{ "persistent", NULL, "all are" },
	{ "transient", NULL, "none is" },
	{ "table", NULL, "as a table (the default)" },
	{ "template", NULL, "only templates" },
	{ "state-running", NULL, "only those in that state" },
	{ "state-paused", NULL, "only those in that state" },
	{ "state-shutoff", NULL, "only those in that state" },
	{ "state-other", NULL, "only those in any other state" },
	{ "can", "VERB", "only those in a state in which that verb is possible" }, END };
static const struct verb_option domstate_options[] = {
	{ "reason", NULL, "with the reason" }, END };
static const struct verb_option domstats_options[] = {
	{ "state", NULL, "the state and why" },
	{ "cpu-total", NULL, "processor time, ns" },
	{ "balloon", NULL, "memory, KiB" },
	{ "vcpu", NULL, "each vCPU" },
	{ "interface", NULL, "each network interface" },
	{ "block", NULL, "each disk" }, END };
static const struct verb_option domifaddr_options[] = {
	{ "source", "agent", "the only one: the guest agent is asked" },
	{ "full", NULL, "name and MAC in each line" }, END };
static const struct verb_option top_options[] = {
	{ "sort", "cpu|memory|disk|net|name", "what comes first; cpu unless said" },
	{ "every", "SECONDS", "time between two looks: 2; with --once 1" },
	{ "once", NULL, "one table, of the time between two looks; so it is where no terminal is, too" }, END };
static const struct verb_option console_options[] = {
	{ "force", NULL, "no effect: several may be attached" },
	{ "safe", NULL, "the same" },
	{ "serial", NULL, "the serial port (the default)" },
	{ "virtio", NULL, "the virtio console" }, END };
static const struct verb_option wait_options[] = {
	{ "for", "running|paused|shutoff|crashed|agent|ip", "agent: one answers; ip: it says that the guest has an address; shutoff: however it ended" },
	{ "timeout", "SECONDS", "give up after that" }, END };
static const struct verb_option event_options[] = {
	{ "loop", NULL, "until interrupted, or the time is up" },
	{ "all", NULL, "of every kind (the default)" },
	{ "list", NULL, "the kinds that there are, and nothing else" },
	{ "event", "EVENT", "only this kind: STOP, VM_STATE_CHANGE, ..." },
	{ "timeout", "SECONDS", "give up after that" },
	{ "timestamp", NULL, "with the time" },
	{ "since", "NUMBER", "first those behind that number; 0: all that are kept" }, END };
static const struct verb_option permission_options[] = {
	{ "user", "USER", "name or number" },
	{ "group", "GROUP", "name or number" }, END };
static const struct verb_option audit_options[] = {
	{ "since", "TIME", "90s, 30m, 2h or 7d ago, or YYYY-MM-DD [HH:MM]" },
	{ "user", "USER", FROM_SCHEMA("uid") },
	{ "vm", "VM", FROM_SCHEMA("vm") }, END };
static const struct verb_option run_options[] = {
	{ "log-level", "error|warning|info|debug|trace", "warning, unless said" },
	{ "vm-program", "PATH", "cairn-vm, when it is elsewhere" },
	{ "no-sandbox", NULL, "for debugging the VM's process; unsafe" }, END };
static const struct verb_option help_options[] = {
	{ "names", NULL, "names of verbs only, for completion" },
	{ "options", NULL, "of one verb: options, and which take a value, for completion" },
	{ "values", "OPTION", "of one verb: the words that an option takes, for completion" }, END };

static const struct verb_option edit_options[] = {
	{ "format", "json|xml", "json unless said; xml: libvirt's domain XML" },
	{ "xml", NULL, "the same as --format xml" },
	{ "print-only", NULL, "show what would change, and change nothing" }, END };
static const struct verb_option change_options[] = { CHANGE_OPTIONS, END };
static const struct verb_option setvcpus_options[] = {
	{ "maximum", NULL, "the same: there is one number" }, CHANGE_OPTIONS, END };
static const struct verb_option desc_options[] = {
	{ "title", NULL, "the title, not the description" },
	{ "new-desc", "TEXT", "the text, as an option" }, CHANGE_OPTIONS, END };
static const struct verb_option attach_disk_options[] = {
	{ "subdriver", "raw|qcow2", "raw unless said" },
	{ "type", "disk|cdrom", "disk unless said" },
	{ "mode", "readonly", "the guest cannot write to it" },
	{ "serial", "SERIAL", "as the guest sees it" },
	{ "targetbus", "virtio", "the only one" },
	{ "sourcetype", "file|block", "no effect" },
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
	{ "subdriver", "raw|qcow2", "raw unless said" },
	{ "force", NULL, "no effect: the guest cannot lock a drive" }, CHANGE_OPTIONS, END };
static const struct verb_option attach_interface_options[] = {
	{ "mac", "MAC", "52:54:00:..., else one is made" },
	{ "model", "virtio", "the only one" },
	{ "target", "ID", "what it is called: net0, net1, ..." },
	{ "forward", "[PROTOCOL:][ADDRESS:]PORT:TO", "of type user: a port of this host that leads to the guest's; once for each" },
	{ "network", "PREFIX", "of type user: what the guest is in (10.0.2.0/24)" },
	{ "restrict", NULL, "of type user: nothing outside is reached" },
	{ "host-loopback", NULL, "of type user: what listens on this host's loopback is reached, too" },
	{ "persistent", NULL, "the same as --config" }, CHANGE_OPTIONS, END };
static const struct verb_option detach_interface_options[] = {
	{ "mac", "MAC", "which, if there are several of the type" },
	{ "persistent", NULL, "the same as --config" }, CHANGE_OPTIONS, END };
static const struct verb_option domblklist_options[] = {
	{ "inactive", NULL, FROM_SCHEMA("inactive") },
	{ "details", NULL, "with type and device" }, END };

const struct verb verbs[] = {
	{ "define", "Definitions", "FILE", "make a VM from a file, JSON or libvirt's XML, or change it", define_options,
		1, 1, false, "file", "vm-define", verb_define },
	{ "validate", "Definitions", "FILE", "check a definition's file, without a daemon", validate_options, 0, 1,
		true, "file", NULL, verb_validate },
	{ "dumpjson", "Definitions", "VM", "print a VM's definition", dump_options, 1, 1, true, "vm",
		"vm-dump-definition", verb_dumpjson },
	{ "dumpxml", "Definitions", "VM", "print a VM's definition as libvirt's domain XML", dumpxml_options, 1, 1,
		false, "vm", "vm-dump-definition", verb_dumpxml },
	{ "edit", "Definitions", "VM", "change a definition in $VISUAL or $EDITOR", edit_options, 1, 1, false, "vm",
		"vm-define vm-dump-definition", verb_edit },
	{ "domrename", "Definitions", "VM NEW-NAME", NULL, NULL, 2, 2, false, "vm-name", "vm-rename", verb_domrename },
	{ "desc", "Definitions", "VM [TEXT...]", "show or change the description or the title", desc_options, 1, MANY,
		false, "vm", "vm-define vm-dump-definition", verb_desc },
	{ "setvcpus", "Definitions", "VM COUNT", "number of virtual processors", setvcpus_options, 2, 2, false,
		"vm-name", "vm-define vm-dump-definition", verb_setvcpus },
	{ "setmem", "Definitions", "VM SIZE", "memory: KiB, or with a unit, as 512M", change_options, 2, 2, false,
		"vm-name", "vm-define vm-dump-definition", verb_setmem },
	{ "setmaxmem", "Definitions", "VM SIZE", "the same as setmem", change_options, 2, 2, false, "vm-name",
		"vm-define vm-dump-definition", verb_setmem },
	{ "set-lifecycle-action", "Definitions", "VM TYPE ACTION", "what follows: poweroff, reboot or crash; destroy, restart, "
		"preserve, ...", change_options, 3, 3, false, "vm-name", "vm-define vm-dump-definition",
		verb_set_lifecycle_action },
	{ "attach-disk", "Definitions", "VM SOURCE TARGET", "add a disk", attach_disk_options, 3, 3, false, "vm-file",
		"vm-define vm-dump-definition", verb_attach_disk },
	{ "detach-disk", "Definitions", "VM TARGET", "take a disk away; its image stays", detach_options, 2, 2, false,
		"vm-disk", "vm-define vm-dump-definition", verb_detach_disk },
	{ "change-media", "Definitions", "VM PATH [SOURCE]", "change the medium of a cdrom drive", change_media_options,
		2, 3, false, "vm-disk", "vm-define vm-dump-definition", verb_change_media },
	{ "attach-interface", "Definitions", "VM TYPE [SOURCE]", "add a network interface", attach_interface_options, 2,
		3, false, "vm-name", "vm-define vm-dump-definition", verb_attach_interface },
	{ "detach-interface", "Definitions", "VM TYPE", "take a network interface away", detach_interface_options, 2, 2,
		false, "vm-name", "vm-define vm-dump-definition", verb_detach_interface },
	{ "undefine", "Definitions", "{VM...|--all}", NULL, undefine_options, 1, MANY, true, "vm", "vm-undefine",
		verb_undefine },
	{ "start", "Life", "{VM...|--all}", NULL, start_options, 1, MANY, true, "vm", "vm-start vm-console",
		verb_start },
	{ "shutdown", "Life", "{VM...|--all}", NULL, shutdown_options, 1, MANY, true, "vm",
		"vm-shutdown vm-shutdown-cancel", verb_shutdown },
	{ "reboot", "Life", "{VM...|--all}", NULL, reboot_options, 1, MANY, true, "vm", "vm-reboot vm-shutdown-cancel",
		verb_reboot },
	{ "reset", "Life", "{VM...|--all}", NULL, multi_vm_options, 1, MANY, true, "vm", "vm-reset", verb_reset },
	{ "suspend", "Life", "{VM...|--all}", NULL, multi_vm_options, 1, MANY, true, "vm", "vm-suspend", verb_suspend },
	{ "resume", "Life", "{VM...|--all}", NULL, multi_vm_options, 1, MANY, true, "vm", "vm-resume", verb_resume },
	{ "destroy", "Life", "{VM...|--all}", "stop at once, as by pulling the plug", destroy_options, 1, MANY, true, "vm",
		"vm-destroy", verb_destroy },
	{ "autostart", "Life", "{VM...|--all}", NULL, autostart_options, 1, MANY, true, "vm", "vm-autostart",
		verb_autostart },
	{ "run", "Life", "FILE", "run one VM in the foreground, without a daemon", run_options, 1, 1, false, "file",
		NULL, verb_run },
	{ "clone", "Life", "VM [NAME]", "copies of a VM", clone_options, 1, 2, true, "vm-name", "vm-clone vm-fork",
		verb_clone },
	{ "template", "Life", "VM", NULL, template_options, 1, 1, false, "vm", "vm-template", verb_template },
	{ "dump", "Life", "VM FILE", "write its memory and registers into an ELF core file", dump_memory_options, 2, 2,
		false, "vm-file", "vm-dump", verb_dump },
	{ "export", "Life", "VM FILE", "all of a VM into one file: .tar.zst, .tar.gz, .tar", export_options, 2, 2, true,
		"vm-file", "vm-export", verb_export },
	{ "import", "Life", "FILE", "define a VM from such a file", import_options, 1, 1, true, "file", "vm-import",
		verb_import },
	{ "save", "Saved states", "VM FILE", "keep its state in a file, and end it", save_options, 2, 2, false,
		"vm-file", "vm-save", verb_save },
	{ "restore", "Saved states", "FILE", "start a VM from a saved state", restore_options, 1, 1, false, "file",
		"vm-restore", verb_restore },
	{ "managedsave", "Saved states", "{VM...|--all}", NULL, managedsave_options, 1, MANY, true, "vm",
		"vm-managed-save", verb_managedsave },
	{ "managedsave-remove", "Saved states", "{VM...|--all}", NULL, multi_vm_options, 1, MANY, true, "vm",
		"vm-managed-save-remove", verb_managedsave_remove },
	{ "snapshot-create", "Snapshots", "{VM|--all}", "take one, named after the time", snapshot_create_options, 1, 1,
		true, "vm", "snapshot-create", verb_snapshot_create },
	{ "snapshot-create-as", "Snapshots", "{VM|--all} [NAME [DESCRIPTION]]", "take one", snapshot_create_as_options,
		1, 3, true, "vm", "snapshot-create", verb_snapshot_create_as },
	{ "snapshot-list", "Snapshots", "VM", "list them", snapshot_list_options, 1, 1, true, "vm", "snapshot-list",
		verb_snapshot_list },
	{ "snapshot-info", "Snapshots", "VM NAME", "what one is", snapshot_one_options, 1, 2, true, "vm-snapshot",
		"snapshot-list snapshot-size", verb_snapshot_info },
	{ "snapshot-current", "Snapshots", "VM", "the one that the VM goes on from", snapshot_current_options, 1, 1,
		true, "vm", "snapshot-list", verb_snapshot_current },
	{ "snapshot-parent", "Snapshots", "VM NAME", "the one before", snapshot_one_options, 1, 2, false, "vm-snapshot",
		"snapshot-list", verb_snapshot_parent },
	{ "snapshot-revert", "Snapshots", "VM NAME", NULL, snapshot_revert_options, 1, 2, true, "vm-snapshot",
		"snapshot-revert", verb_snapshot_revert },
	{ "snapshot-delete", "Snapshots", "VM NAME", "delete one; its children stay", snapshot_delete_options, 1, 2,
		true, "vm-snapshot", "snapshot-delete snapshot-size", verb_snapshot_delete },
	{ "snapshot-rename", "Snapshots", "VM NAME NEW", "give one another name", snapshot_rename_options, 2, 3, false,
		"vm-snapshot", "snapshot-set", verb_snapshot_rename },
	{ "snapshot-tag", "Snapshots", "VM NAME [TAG...]", "print, add or take away tags", snapshot_tag_options, 1,
		MANY, false, "vm-snapshot", "snapshot-set snapshot-list", verb_snapshot_tag },
	{ "snapshot-schedule", "Snapshots", "[VM]", NULL, snapshot_schedule_options, 0, 1, true, "vm",
		"snapshot-schedule-set snapshot-schedule-remove query-snapshot-schedules", verb_snapshot_schedule },
	{ "list", "Looking", "", "list VMs", list_options, 0, 0, true, NULL, "vm-list", verb_list },
	{ "dominfo", "Looking", "VM", "what a VM is and how it does", NULL, 1, 1, true, "vm", "vm-info", verb_dominfo },
	{ "domstate", "Looking", "VM", "state of a VM", domstate_options, 1, 1, true, "vm", "vm-info", verb_domstate },
	{ "domid", "Looking", "VM", "its number, while it runs", NULL, 1, 1, false, "vm", "vm-info", verb_domid },
	{ "domuuid", "Looking", "VM", "its uuid", NULL, 1, 1, false, "vm", "vm-info", verb_domuuid },
	{ "domname", "Looking", "VM", "the name of a uuid", NULL, 1, 1, false, "vm", "vm-info", verb_domname },
	{ "domblklist", "Looking", "VM", "disks of a VM", domblklist_options, 1, 1, true, "vm", "vm-dump-definition",
		verb_domblklist },
	{ "domiflist", "Looking", "VM", "network interfaces of a VM", dump_options, 1, 1, true, "vm",
		"vm-dump-definition", verb_domiflist },
	{ "domifstat", "Looking", "VM INTERFACE", "what a network interface has carried", NULL, 2, 2, true, "vm", "vm-info",
		verb_domifstat },
	{ "domifaddr", "Looking", "VM [INTERFACE]", NULL, domifaddr_options, 1, 2, true, "vm-name", "vm-addresses",
		verb_domifaddr },
	{ "domblkerror", "Looking", "VM", "disks whose errors stopped a VM", NULL, 1, 1, true, "vm", "vm-info",
		verb_domblkerror },
	{ "domstats", "Looking", "[VM...]", "figures of VMs, under virsh's names", domstats_options, 0, MANY, true,
		"vm", "vm-info vm-list", verb_domstats },
	{ "top", "Looking", "[VM...]", "what VMs use, as it changes", top_options, 0, MANY, true, "vm", "vm-info", verb_top },
	{ "qmp-path", "Looking", "VM", "where its own socket is, for programs that speak QEMU's QMP", NULL, 1, 1, false,
		"vm", "vm-qmp-path", verb_qmp_path },
	{ "console", "Looking", "VM", "attach this terminal; Ctrl-] leaves", console_options, 1, 1, false, "vm",
		"vm-console", verb_console },
	{ "wait", "Looking", "VM", "wait for a state, or an address", wait_options, 1, 1, false, "vm",
		"vm-info vm-addresses", verb_wait },
	{ "event", "Looking", "[VM]", "show events as they come", event_options, 0, 1, true, "vm",
		"query-events query-version", verb_event },
	{ "events", "Looking", "[VM]", "the same as event --loop", event_options, 0, 1, true, "vm",
		"query-events query-version", verb_event },
	{ "jobs", "Jobs", "", "work under way, and results that were not looked at", NULL, 0, 0, true, NULL,
		"query-jobs", verb_jobs },
	{ "job-cancel", "Jobs", "ID...", "ask jobs to end", NULL, 1, MANY, false, "job", "job-cancel",
		verb_job_cancel },
	{ "job-dismiss", "Jobs", "ID...", "forget results", NULL, 1, MANY, false, "job", "job-dismiss",
		verb_job_dismiss },
	{ "grant", "Administration", "ROLE [VM]", "let a user or a group be viewer, operator, admin, or owner "
		"of a VM", permission_options, 1, 2, false, NULL, "permission-grant", verb_grant },
	{ "revoke", "Administration", "[VM]", "take that away", permission_options, 0, 1, false, "vm",
		"permission-revoke", verb_revoke },
	{ "permissions", "Administration", "", "who may what", NULL, 0, 0, true, NULL, "query-permissions",
		verb_permissions },
	{ "audit", "Administration", "", NULL, audit_options, 0, 0, true, NULL, "query-audit", verb_audit },
	{ "daemon-stop", "Administration", "", "stop VMs as their definitions say, and end the daemon",
		daemon_stop_options, 0, 0, true, NULL, "daemon-stop", verb_daemon_stop },
	{ "version", "Help", "", "versions of this program and of the daemon", NULL, 0, 0, true, NULL, "query-version",
		verb_version },
	{ "help", "Help", "[VERB]", "this list, or one verb", help_options, 0, 1, true, "verb", NULL, verb_help },
	{ NULL, NULL, NULL, NULL, NULL, 0, 0, false, NULL, NULL, NULL },
};

const struct verb *verb_find(const char *name)
{
	for (const struct verb *v = verbs; v->name; v++)
		if (!strcmp(v->name, name))
			return v;
	return NULL;
}

static const char *verb_name_at(const void *opaque, size_t i)
{
	(void)opaque;
	return verbs[i].name;
}

int verb_missing(const char *name)
{
	char hint[NEAREST_BYTES];

	fprintf(stderr, "error: there is no verb \"%s\"%s\nerror: cairn help lists them\n", name,
		suggest_hint(name, "", verb_name_at, NULL, hint));
	return CLI_USAGE;
}
