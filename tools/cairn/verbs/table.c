/* The table of verbs. Texts that the schema also has are taken from it with FROM_SCHEMA(). */
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
/* Options that virsh users type by habit. */
#define BYPASS_CACHE { "bypass-cache", NULL, "no effect; accepted for virsh" }
#define ATOMIC { "atomic", NULL, "no effect: every snapshot is atomic" }
#define DRY_RUN { "dry-run", NULL, FROM_SCHEMA("dry-run") }

#define PUBLISH \
	{ "publish", "[PROTOCOL:][ADDRESS:]PORT:TO", "forward PORT of this host (auto: a free one) to port TO of the guest; repeatable" }
static const struct verb_option start_options[] = {
	{ "console", NULL, "attach the terminal to the serial console after the start" },
	{ "foreground", NULL, "stay until the VM ends, and exit as run does; SIGTERM shuts the guest down, a second one destroys the VM" },
	{ "paused", NULL, FROM_SCHEMA("paused") },
	{ "force-boot", NULL, FROM_SCHEMA("force-boot") },
	{ "eager", NULL, FROM_SCHEMA("eager") },
	{ "boot", "hd|cdrom|network", FROM_SCHEMA("boot") },
	{ "bootmenu", NULL, FROM_SCHEMA("bootmenu") }, { "reset-nvram", NULL, FROM_SCHEMA("reset-nvram") }, PUBLISH, BYPASS_CACHE, MULTI_VM_OPTIONS, END };
static const struct verb_option undefine_options[] = {
	{ "managed-save", NULL, FROM_SCHEMA("managed-save") },
	{ "snapshots-metadata", NULL, FROM_SCHEMA("snapshots-metadata") },
	{ "remove-all-storage", NULL, FROM_SCHEMA("remove-all-storage") },
	{ "storage", "DISK,...", FROM_SCHEMA("storage") },
	{ "nvram", NULL, FROM_SCHEMA("nvram") },
	{ "keep-nvram", NULL, FROM_SCHEMA("keep-nvram") },
	{ "tpm", NULL, "no effect: VMs have no TPM" },
	{ "keep-tpm", NULL, "no effect: VMs have no TPM" },
	{ "checkpoints-metadata", NULL, "no effect: there are no checkpoints" }, MULTI_VM_OPTIONS, END };
static const struct verb_option destroy_options[] = {
	{ "graceful", NULL, "no effect: the VM process always closes its images first" }, MULTI_VM_OPTIONS, END };
static const struct verb_option multi_vm_options[] = { MULTI_VM_OPTIONS, END };
static const struct verb_option dump_memory_options[] = {
	{ "live", NULL, "run the VM during the dump [default]" },
	{ "crash", NULL, "stop the VM after the dump" },
	{ "reset", NULL, "reset the VM after the dump" },
	{ "memory-only", NULL, "no effect: a dump holds only memory and registers" },
	{ "format", "elf", "write an ELF core file [default]" }, BYPASS_CACHE, JOB_OPTIONS, END };
static const struct verb_option save_options[] = { BYPASS_CACHE, JOB_OPTIONS, END };
#define SNAPSHOTNAME { "snapshotname", "NAME", "give the name of the snapshot" }
#define CURRENT { "current", NULL, "use the current snapshot" }
static const struct verb_option snapshot_create_options[] = {
	{ "tag", "TAG", "add a tag; repeatable; \"keep\" protects the snapshot" },
	{ "disk-only", NULL, FROM_SCHEMA("disks-only") },
	{ "halt", NULL, FROM_SCHEMA("halt") },
	{ "quiesce", NULL, FROM_SCHEMA("quiesce") },
	{ "rate", "SIZE", "limit writing memory to SIZE bytes a second, such as 100M [no limit]" },
	ATOMIC, JOB_OPTIONS, MULTI_VM_OPTIONS, END };
static const struct verb_option snapshot_create_as_options[] = {
	{ "name", "NAME", "give the name of the snapshot" }, SNAPSHOTNAME,
	{ "description", "TEXT", "give the description of the snapshot" },
	{ "tag", "TAG", "add a tag; repeatable; \"keep\" protects the snapshot" },
	{ "disk-only", NULL, FROM_SCHEMA("disks-only") },
	{ "external", NULL, "with --disk-only: let each disk go on with an overlay, and leave its image as it is" },
	{ "diskspec", "SPEC", "the same; SPEC is DISK[,snapshot=external|no][,file=OVERLAY]; repeatable" },
	{ "reuse-external", NULL, "with --external: use overlays that exist" },
	{ "no-metadata", NULL, "no effect: an external snapshot has no entry in a list" },
	{ "halt", NULL, FROM_SCHEMA("halt") },
	{ "quiesce", NULL, FROM_SCHEMA("quiesce") },
	{ "rate", "SIZE", "limit writing memory to SIZE bytes a second, such as 100M [no limit]" },
	ATOMIC, JOB_OPTIONS, MULTI_VM_OPTIONS, END };
static const struct verb_option snapshot_list_options[] = {
	{ "tree", NULL, "print a tree" },
	{ "parent", NULL, "add a column with the parent" },
	{ "roots", NULL, "list only snapshots without a parent" },
	{ "leaves", NULL, "list only snapshots without children" },
	{ "no-leaves", NULL, "list only snapshots with children" },
	{ "active", NULL, "list only snapshots with memory" },
	{ "inactive", NULL, "list only snapshots without memory" },
	{ "metadata", NULL, "no effect: every snapshot has metadata" },
	{ "internal", NULL, "no effect: every snapshot is internal" },
	{ "name", NULL, "print only names" },
	{ "from", "NAME", "list only the children of NAME; with --tree, NAME and all descendants" },
	{ "current", NULL, "list only the children of the current snapshot, as --from does" },
	{ "descendants", NULL, "with --from or --current: list all descendants" }, END };
static const struct verb_option snapshot_one_options[] = { SNAPSHOTNAME, CURRENT, END };
static const struct verb_option snapshot_current_options[] = {
	{ "name", NULL, "print only the name" }, END };
static const struct verb_option snapshot_revert_options[] = { SNAPSHOTNAME, CURRENT,
	{ "running", NULL, "resume the VM after the revert [as in the snapshot]" },
	{ "paused", NULL, "leave the VM paused after the revert [as in the snapshot]" },
	{ "disks-only", NULL, FROM_SCHEMA("disks-only") },
	{ "disk", "ID", FROM_SCHEMA("disk") },
	{ "eager", NULL, FROM_SCHEMA("eager") },
	{ "verify", NULL, FROM_SCHEMA("verify") }, DRY_RUN, JOB_OPTIONS, END };
static const struct verb_option snapshot_delete_options[] = { SNAPSHOTNAME, CURRENT,
	{ "children", NULL, "delete all descendants too" },
	{ "children-only", NULL, "delete only the descendants" }, DRY_RUN, JOB_OPTIONS, END };
static const struct verb_option snapshot_rename_options[] = { SNAPSHOTNAME, END };
static const struct verb_option snapshot_tag_options[] = { SNAPSHOTNAME,
	{ "remove", NULL, "remove the given tags" }, END };
static const struct verb_option snapshot_schedule_options[] = {
	{ "every", "TIME", FROM_SCHEMA("every") },
	{ "keep", "RULES", FROM_SCHEMA("keep") },
	{ "min-free", "SIZE", FROM_SCHEMA("min-free") },
	{ "remove", NULL, FROM_SCHEMA("snapshot-schedule-remove") }, DRY_RUN, END };
static const struct verb_option schedule_options[] = {
	{ "on", "CALENDAR", FROM_SCHEMA("on") },
	{ "zone", "ZONE", FROM_SCHEMA("zone") },
	{ "missed", FROM_SCHEMA("missed"), FROM_SCHEMA("missed") },
	{ "to", "FOLDER", FROM_SCHEMA("folder") },
	{ "name", "NAME", FROM_SCHEMA("name") }, END };
static const struct verb_option restore_options[] = {
	{ "running", NULL, "resume the VM [as at the save]" },
	{ "paused", NULL, "leave the VM paused [as at the save]" },
	{ "eager", NULL, FROM_SCHEMA("eager") }, BYPASS_CACHE, END };
static const struct verb_option managedsave_options[] = {
	{ "running", NULL, "resume the VM at its next start [as at the save]" },
	{ "paused", NULL, "leave the VM paused at its next start [as at the save]" }, BYPASS_CACHE, JOB_OPTIONS, MULTI_VM_OPTIONS, END };
static const struct verb_option blockpull_options[] = {
	{ "bandwidth", "MIB", "limit the rate, in MiB/s [no limit]" },
	{ "wait", NULL, "no effect: the verb waits unless --no-wait is given" }, JOB_OPTIONS, END };
static const struct verb_option backup_begin_options[] = {
	{ "pull", NULL, "serve the disks over NBD until domjobabort [copy them to files]" },
	{ "socket", "DIR", "with --pull: make the sockets in DIR [VM.backup]" },
	{ "since", "NAME", "with --pull: offer only what differs from this earlier snapshot" },
	{ "to", "DIR", "write the files to DIR [beside the images]" },
	{ "disk", "ID", "back up this disk only; repeatable [all writable disks]" },
	{ "checkpoint", "NAME", "keep the snapshot with this name, for a later --since" },
	{ "quiesce", NULL, FROM_SCHEMA("quiesce") }, END };
static const struct verb_option blockcommit_options[] = {
	{ "base", "FILE", "commit to this layer, a path or DISK[N] [the lowest one]" },
	{ "top", "FILE", "commit this layer and those between it and the base [the image]" },
	{ "shallow", NULL, "commit to the layer below the top" },
	{ "active", NULL, "commit the image that the guest of a running VM writes to" },
	{ "pivot", NULL, "the same, and go on with the base" },
	{ "keep-overlay", NULL, "the same, and go on with the image" },
	{ "delete", NULL, "remove the files of the layers that left the disk" },
	{ "bandwidth", "MIB", "limit the rate, in MiB/s [no limit]" },
	{ "wait", NULL, "no effect: the verb waits unless --no-wait is given" }, JOB_OPTIONS, END };
#define COPY_OPTIONS                                                                                         \
	{ "dest", "FILE", "the file of the copy" },                                                          \
	{ "dest-format", "FMT", "the format of the copy: raw or qcow2 [qcow2 if FILE ends in .qcow2, else raw]" }, \
	{ "pivot", NULL, "go on with the copy" }
static const struct verb_option blockcopy_options[] = { COPY_OPTIONS,
	{ "finish", NULL, "leave the copy as it is, and go on with the disk" },
	{ "bandwidth", "MIB", "limit the rate, in MiB/s [no limit]" },
	{ "wait", NULL, "no effect: the verb waits unless --no-wait is given" }, JOB_OPTIONS, END };
static const struct verb_option blockjob_options[] = { COPY_OPTIONS,
	{ "abort", NULL, "leave the copy as it is, and go on with the disk" }, END };
static const struct verb_option restart_process_options[] = { JOB_OPTIONS, MULTI_VM_OPTIONS, END };
static const struct verb_option export_options[] = {
	{ "snapshotname", "NAME", FROM_SCHEMA("snapshot") },
	{ "since", "NAME", "with --snapshotname: export only what differs from this earlier snapshot" },
	{ "compress", FROM_SCHEMA("compress"), "set the compression method [from the name of FILE]" },
	{ "force", NULL, "replace an existing FILE" },
	{ "level", "N", "set the compression level: 1 to 19, with gzip 1 to 9" }, JOB_OPTIONS, END };
static const struct verb_option import_options[] = {
	{ "name", "NAME", "give the VM another name [the name in the archive]" },
	{ "folder", "DIR", "create the VM's folder in DIR [the working directory]" },
	{ "max-bytes", "SIZE", FROM_SCHEMA("max-bytes") },
	{ "dry-run", NULL, "check the archive, list its content, and change nothing" }, JOB_OPTIONS, END };
static const struct verb_option clone_options[] = {
	{ "full", NULL, "create independent disks; the VM must be off [default]" },
	{ "linked", NULL, "create qcow2 overlays on the source's disks; the VM must be off" },
	{ "live", NULL, "create running clones of a running or paused VM" },
	{ "snapshotname", "NAME", "with --live: continue from this snapshot; the VM may be off" },
	{ "isolated", NULL, "with --live: copy all disks, so that no clone can read the images of its source" },
	{ "no-hostname", NULL, "with --live: do not ask the guest agents to set the host name" },
	{ "count", "N", FROM_SCHEMA("count") },
	{ "name-pattern", "PATTERN", FROM_SCHEMA("name-pattern") },
	{ "snapshots", NULL, FROM_SCHEMA("snapshots") },
	{ "file", "PATH", "set the path of a disk's copy; repeat for each disk" },
	{ "mac", "ADDRESS", "set the MAC address of an interface; repeat for each interface [generated]" },
	{ "uuid", "UUID", FROM_SCHEMA("uuid") },
	{ "reset-identity", NULL, FROM_SCHEMA("reset-identity") },
	DRY_RUN,
	{ "paused", NULL, FROM_SCHEMA("paused") }, PUBLISH,
	{ "new-seed", NULL, "give each clone a seed image of its own, so that cloud-init configures it anew" },
	{ "auto-clone", NULL, "name the clone VM-clone, or VM-clone1 and so on, as virt-clone does" }, JOB_OPTIONS, END };
static const struct verb_option template_options[] = {
	{ "disable", NULL, FROM_SCHEMA("disable") }, END };
#define WHEN_OPTIONS                                                                                \
	{ "mode", FROM_SCHEMA("mode"), FROM_SCHEMA("mode") },                                       \
	{ "at", "TIME", "schedule the action for TIME: HH:MM or YYYY-MM-DD HH:MM" },                           \
	{ "in", "TIME", "schedule the action in TIME from now: 90s, 10m, 2h" },                                        \
	{ "message", "TEXT", FROM_SCHEMA("message") },                                              \
	{ "cancel", NULL, "cancel the scheduled action and any deadline" }
static const struct verb_option shutdown_options[] = { WHEN_OPTIONS,
	{ "wait", NULL, "return when the VM is off" },
	{ "then", FROM_SCHEMA("then"), FROM_SCHEMA("then") },
	{ "timeout", "SECONDS", "with --then: set the deadline; with --wait alone: limit the wait" }, MULTI_VM_OPTIONS, END };
static const struct verb_option reboot_options[] = { WHEN_OPTIONS, MULTI_VM_OPTIONS, END };
static const struct verb_option daemon_stop_options[] = {
	{ "leave", NULL, "leave all VMs running" },
	{ "shutdown", NULL, "shut all VMs down" },
	{ "save", NULL, "save all VMs (managed save)" },
	{ "vms-only", NULL, FROM_SCHEMA("vms-only") }, DRY_RUN, END };
static const struct verb_option autostart_options[] = {
	{ "disable", NULL, FROM_SCHEMA("disable") }, MULTI_VM_OPTIONS, END };
static const struct verb_option dumpxml_options[] = {
	{ "inactive", NULL, FROM_SCHEMA("inactive") },
	{ "security-info", NULL, "no effect: a definition holds no secrets" },
	{ "migratable", NULL, "no effect" },
	{ "update-cpu", NULL, "no effect; accepted for virsh" }, END };
static const struct verb_option define_options[] = {
	{ "validate", NULL, FROM_SCHEMA("validate-only") }, END };
static const struct verb_option validate_options[] = {
	{ "schema", NULL, "print the JSON Schema of a definition" }, END };
static const struct verb_option dump_options[] = {
	{ "inactive", NULL, FROM_SCHEMA("inactive") }, END };
static const struct verb_option list_options[] = {
	{ "all", NULL, "list all VMs" },
	{ "inactive", NULL, "list only VMs that are off" },
	{ "name", NULL, "print only names" },
	{ "uuid", NULL, "print only UUIDs" },
	{ "id", NULL, "print only ids" },
	{ "title", NULL, "add a column with the title" },
	{ "autostart", NULL, "list only VMs that start with the host" },
	{ "no-autostart", NULL, "list only VMs that do not start with the host" },
	{ "with-managed-save", NULL, "list only VMs with a managed save" },
	{ "without-managed-save", NULL, "list only VMs without a managed save" },
	{ "with-snapshot", NULL, "list only VMs with snapshots" },
	{ "without-snapshot", NULL, "list only VMs without snapshots" },
	{ "managed-save", NULL, "no effect: the state shows a managed save" },
	{ "persistent", NULL, "no effect: every VM is persistent" },
	{ "transient", NULL, "list nothing: every VM is persistent" },
	{ "table", NULL, "print a table [default]" },
	{ "template", NULL, "list only templates" },
	{ "state-running", NULL, "list only running VMs" },
	{ "state-paused", NULL, "list only paused VMs" },
	{ "state-shutoff", NULL, "list only VMs that are shut off" },
	{ "state-other", NULL, "list only VMs in any other state" },
	{ "can", "VERB", "list only VMs in a state that VERB accepts" }, END };
static const struct verb_option dominfo_options[] = {
	{ "sandbox", NULL, FROM_SCHEMA("vm-sandbox") }, END };
static const struct verb_option domstate_options[] = {
	{ "reason", NULL, "add the reason" }, END };
static const struct verb_option domblkstat_options[] = {
	{ "human", NULL, "print words instead of the names of counters" }, END };
static const struct verb_option vcpuinfo_options[] = {
	{ "pretty", NULL, "print the affinity as ranges" }, END };
static const struct verb_option vcpucount_options[] = {
	{ "maximum", NULL, "print only the number that the VM can have" },
	{ "active", NULL, "print only the number that the VM has" },
	{ "config", NULL, "print only the number of the next start" },
	{ "live", NULL, "print only the number of the running VM" },
	{ "current", NULL, "print --live of a running VM, or else --config" }, END };
static const struct verb_option nodecpustats_options[] = {
	{ "percent", NULL, "print percentages of the next second" }, END };
static const struct verb_option domstats_options[] = {
	{ "state", NULL, "print the state and its reason" },
	{ "cpu-total", NULL, "print the CPU time of all vCPUs, and its parts in user and system mode, ns" },
	{ "balloon", NULL, "print the memory, KiB" },
	{ "vcpu", NULL, "print statistics of each vCPU" },
	{ "interface", NULL, "print statistics of each network interface" },
	{ "block", NULL, "print statistics of each disk" }, END };
static const struct verb_option domifaddr_options[] = {
	{ "source", "agent|lease", "ask the guest agent [default], or the DHCP servers of the VM's networks" },
	{ "full", NULL, "repeat name and MAC address in each line" }, END };
static const struct verb_option agent_command_options[] = {
	{ "timeout", "SECONDS", "wait at most SECONDS for the answer, 1 to 120 [5]" },
	{ "block", NULL, "wait as long as possible: 120 seconds" },
	{ "pretty", NULL, "print the answer on several lines" }, END };
static const struct verb_option exec_options[] = {
	{ "env", "NAME=VALUE", "set an environment variable of the program; repeatable" },
	{ "workdir", "FOLDER", "run the program in this folder of the guest" },
	{ "user", "USER", "run the program as this user of the guest [the agent's, root]" },
	{ "timeout", "SECONDS", "kill the program after SECONDS [no limit]" },
	{ "interactive", NULL, "pass the standard input on, with qga at most 40 KiB; also -i" },
	{ "tty", NULL, "give the program a terminal, and pass the standard input on; also -t; needs cairn-agent" },
	{ "agent", "cairn|qga", "use cairn-agent or QEMU's guest agent in the guest [cairn, if it answers]" },
	{ "no-wait", NULL, "run the program as a job and print the job's id; needs cairn-agent; see exec-output" }, END };
static const struct verb_option cp_options[] = {
	{ "agent", "cairn|qga", "use cairn-agent or QEMU's guest agent in the guest [cairn, if it answers]" }, END };
static const struct verb_option guestinfo_options[] = {
	{ "user", NULL, "show the users who are logged in" },
	{ "os", NULL, "show the operating system" },
	{ "timezone", NULL, "show the time zone" },
	{ "hostname", NULL, "show the host name" },
	{ "filesystem", NULL, "show the mounted file systems" },
	{ "disk", NULL, "show the disks" },
	{ "interface", NULL, "show the network interfaces" }, END };
static const struct verb_option domfstrim_options[] = {
	{ "minimum", "BYTES", "leave smaller free ranges as they are [0]" }, END };
static const struct verb_option domfsfreeze_options[] = {
	{ "mountpoint", "PATH", "freeze this file system only; repeatable" }, END };
static const struct verb_option set_user_password_options[] = {
	{ "encrypted", NULL, "PASSWORD is a hash, as in /etc/shadow" }, END };
static const struct verb_option domtime_options[] = {
	{ "now", NULL, "set the host's time" },
	{ "pretty", NULL, "print date and time, UTC" },
	{ "sync", NULL, "set the time of the guest's hardware clock" },
	{ "time", "SECONDS", "set this time, in seconds since 1970" }, END };
static const struct verb_option trend_options[] = {
	{ "last", "TIME", "show this time up to now or up to --to, such as 30m, 1d or 1y [1h]" },
	{ "from", "TIME", "begin at this time: YYYY-MM-DD [HH:MM[:SS]], or so long ago, such as 2h" },
	{ "to", "TIME", "end at this time [now]" },
	{ "step", "TIME", "with csv, json or yaml: print a value for each TIME, at least 1s [100 values]" },
	{ "format", "table|svg|csv|json|yaml", "draw in the terminal, or print an SVG image or numbers [table]" }, END };
#define POOL { "pool", "POOL", "name the pool that has the volume; not needed for an absolute path" }
static const struct verb_option pool_define_options[] = { { "target", "FOLDER", "name the folder" }, END };
static const struct verb_option pool_list_options[] = {
	{ "details", NULL, "also show the space of the file system" },
	{ "name", NULL, "print only names" },
	{ "all", NULL, "no effect: all pools are listed" }, END };
static const struct verb_option vol_list_options[] = { { "details", NULL, "also show type, capacity and allocation" }, END };
static const struct verb_option vol_options[] = { POOL, END };
static const struct verb_option vol_create_options[] = {
	{ "format", "qcow2|raw", "set the format [qcow2]" },
	{ "allocation", "SIZE", "reserve all space, if SIZE is the capacity [none]" },
	{ "prealloc-metadata", NULL, "make the tables of a qcow2 image complete" },
	{ "backing-vol", "VOL", "create an overlay on this volume of the pool, or on this path" },
	{ "backing-vol-format", "qcow2|raw", "set the format of the backing file [detected]" }, END };
static const struct verb_option vol_resize_options[] = { POOL,
	{ "delta", NULL, "CAPACITY is a difference" },
	{ "shrink", NULL, "allow a smaller size; the data beyond it is lost" }, END };
static const struct verb_option threshold_options[] = {
	{ "above", "VALUE", FROM_SCHEMA("above") },
	{ "below", "VALUE", FROM_SCHEMA("below") },
	{ "for", "TIME", "raise and clear it after so long without a break, such as 5m; 0: at once [1m]" },
	{ "then", FROM_SCHEMA("then"), FROM_SCHEMA("then") },
	{ "name", "NAME", FROM_SCHEMA("name") }, END };
static const struct verb_option top_options[] = {
	{ "sort", "cpu|memory|disk|net|name", "set the order [cpu]" },
	{ "every", "SECONDS", "set the interval [2, for one sample 1]" },
	{ "once", NULL, "print one sample and exit [default without a terminal]" }, END };
static const struct verb_option console_options[] = {
	{ "force", NULL, "no effect: several clients can attach" },
	{ "safe", NULL, "no effect: several clients can attach" },
	{ "serial", NULL, "attach to the serial port [default]" },
	{ "virtio", NULL, "attach to the virtio console" },
	{ "no-history", NULL, "show only output from now on [the last 64 KiB first]" },
	{ "no-input", NULL, "only show output; standard input is not read" },
	{ "until", "TEXT", "exit when the guest has written TEXT; fail if the console ends first" },
	{ "timeout", "SECONDS", "exit after SECONDS; with --until, fail [no limit]" }, END };
static const struct verb_option log_options[] = {
	{ "follow", NULL, "print further lines until Ctrl-C" },
	{ "tail", "N", "print only the last N lines [all]" }, END };
static const struct verb_option wait_options[] = {
	{ "for", "running|paused|shutoff|crashed|agent|ip",
		"wait for this state [running]; agent: the guest agent answers; ip: the guest has an address" },
	{ "timeout", "SECONDS", "give up after SECONDS [no limit]" }, END };
static const struct verb_option event_options[] = {
	{ "loop", NULL, "print events until Ctrl-C or the timeout" },
	{ "all", NULL, "wait for all events [default]" },
	{ "list", NULL, "print the names of all events and exit" },
	{ "event", "EVENT", "wait only for events of this name, or of virsh's name, such as lifecycle" },
	{ "timeout", "SECONDS", "give up after SECONDS [no limit]" },
	{ "timestamp", NULL, "print the time of each event" },
	{ "since", "NUMBER", "first print the events after this number; 0: all kept events" }, END };
static const struct verb_option permission_options[] = {
	{ "user", "USER", "select a user, by name or uid" },
	{ "group", "GROUP", "select a group, by name or gid" }, END };
static const struct verb_option quota_options[] = {
	{ "user", "USER", "select a user, by name or uid" },
	{ "group", "GROUP", "select a group, by name or gid" },
	{ "default", NULL, "select the quota of each user without a quota of its own" },
	{ "vms", "N", "limit the number of defined VMs; none: no limit [as now]" },
	{ "running", "N", "limit the number of running VMs [as now]" },
	{ "memory", "SIZE", "limit the memory of the running VMs, such as 8G [as now]" },
	{ "vcpus", "N", "limit the number of vCPUs of the running VMs [as now]" },
	{ "disk", "SIZE", "limit the bytes of the images that Cairn makes for the VMs [as now]" },
	{ "snapshots", "N", "limit the number of snapshots of the VMs [as now]" },
	{ "remove", NULL, "remove the quota" }, END };
static const struct verb_option audit_options[] = {
	{ "since", "TIME", "show only calls since TIME: 90s, 30m, 2h or 7d ago, or YYYY-MM-DD [HH:MM[:SS]]" },
	{ "user", "USER", FROM_SCHEMA("uid") },
	{ "vm", "VM", FROM_SCHEMA("vm") }, END };
static const struct verb_option run_options[] = {
	{ "log-level", "error|warning|info|debug|trace", "set the log level [warning]" },
	{ "vm-program", "PATH", "run PATH as the VM process [cairn-vm]" },
	{ "agent", NULL, "put cairn-agent into the initramfs, for cairn exec SOCKET, where SOCKET is vsock.path" },
	{ "boot", "hd|cdrom|network", "boot from the first device of this kind [boot_order]" },
	{ "bootmenu", NULL, "have the firmware show its boot menu" },
	{ "require-sandbox", NULL, "fail if the host lacks a part of the sandbox" },
	{ "no-sandbox", NULL, "run the VM process without its sandbox; for debugging only" }, END };
static const struct verb_option help_options[] = {
	{ "names", NULL, "print the names of all verbs, for completion" },
	{ "options", NULL, "print the options of VERB, for completion" },
	{ "values", "OPTION", "print the values of an option of VERB, for completion" }, END };

static const struct verb_option edit_options[] = {
	{ "format", "json|xml", "edit JSON or libvirt's domain XML [json]" },
	{ "xml", NULL, "edit libvirt's domain XML" },
	{ "print-only", NULL, "show the change, and do not save it" }, END };
static const struct verb_option net_edit_options[] = {
	{ "format", "json|xml", "edit JSON or libvirt's network XML [json]" },
	{ "xml", NULL, "edit libvirt's network XML" },
	{ "print-only", NULL, "show the change, and do not save it" }, END };
static const struct verb_option change_options[] = { CHANGE_OPTIONS, END };
static const struct verb_option setmem_options[] = {
	{ "live", NULL, "change the running VM, by its balloon [default with a balloon, if it runs]" },
	{ "config", NULL, "change the next start of the VM [default]" },
	{ "current", NULL, "the same as --live or --config, as the VM runs or not" },
	{ "print-only", NULL, "show the change of the definition, and do not save it" }, END };
static const struct verb_option send_key_options[] = {
	{ "codeset", "linux|xt|atset1|qnum|rfb", FROM_SCHEMA("codeset") },
	{ "holdtime", "MS", FROM_SCHEMA("hold-time") }, END };
static const struct verb_option dommemstat_options[] = {
	{ "period", "SECONDS", "let the guest send statistics so often; 0: no longer" },
	{ "live", NULL, "change the running VM [default]" },
	{ "config", NULL, "refused: a definition has no period" },
	{ "current", NULL, "the same as --live" }, END };
static const struct verb_option setvcpus_options[] = {
	{ "maximum", NULL, "set how many the VM can have from its next start on; vCPUs then come and go while it runs" },
	{ "guest", NULL, "let the guest of the running VM use so many of its processors, by the guest agent" },
	{ "timeout", "SECONDS", "wait at most SECONDS for the guest to release vCPUs, 1 to 600 [5]" },
	{ "live", NULL, "change the running VM [default, if it runs with max_vcpus]" },
	{ "config", NULL, "change the next start of the VM [default otherwise]" },
	{ "current", NULL, "the running VM, or the next start of a VM that is off" },
	{ "print-only", NULL, "show the change of the next start, and do not save it" }, END };
static const struct verb_option guestvcpus_options[] = {
	{ "cpulist", "LIST", "change these processors, such as 1-3,5" },
	{ "enable", NULL, "take them online" },
	{ "disable", NULL, "take them offline" }, END };
static const struct verb_option desc_options[] = {
	{ "title", NULL, "show or change the title" },
	{ "new-desc", "TEXT", "set this text" }, CHANGE_OPTIONS, END };
static const struct verb_option attach_disk_options[] = {
	{ "subdriver", "raw|qcow2", "set the format of the image [raw]" },
	{ "type", "disk|cdrom", "add a disk or a cdrom drive [disk]" },
	{ "mode", "readonly", "write-protect the disk" },
	{ "serial", "SERIAL", "set the serial number that the guest sees [none]" },
	{ "targetbus", "virtio|scsi", "set the bus of the disk [virtio]" },
	{ "sourcetype", "file|block", "no effect: detected" },
	{ "driver", "qemu", "no effect; accepted for virsh" },
	{ "cache", "MODE", "no effect; accepted for virsh" },
	{ "io", "MODE", "no effect; accepted for virsh" }, PLUG_OPTIONS, END };
static const struct verb_option detach_options[] = {
	{ "timeout", "SECONDS", "wait at most SECONDS for the guest to release the disk, 1 to 600 [5]" }, PLUG_OPTIONS, END };
static const struct verb_option attach_device_options[] = { PLUG_OPTIONS, END };
static const struct verb_option detach_device_options[] = {
	{ "timeout", "SECONDS", "wait at most SECONDS for the guest to release the device, 1 to 600 [5]" }, PLUG_OPTIONS, END };
static const struct verb_option update_device_options[] = {
	{ "force", NULL, "change a medium although the guest keeps the tray locked" }, PLUG_OPTIONS, END };
static const struct verb_option change_media_options[] = {
	{ "eject", NULL, "remove the medium" },
	{ "insert", NULL, "insert SOURCE into an empty drive" },
	{ "update", NULL, "insert SOURCE in place of the present medium, if any [default]" },
	{ "subdriver", "raw|qcow2", "set the format of SOURCE [raw]" },
	{ "force", NULL, "change the medium although the guest keeps the tray locked" }, PLUG_OPTIONS, END };
static const struct verb_option attach_interface_options[] = {
	{ "mac", "MAC", "set the MAC address [random, 52:54:00:...]" },
	{ "model", "virtio", "no effect: every interface is a virtio interface" },
	{ "target", "ID", "set the id of the interface [first free of net0, net1, ...]" },
	{ "queues", "N", "give it N pairs of queues, 1 to 8 [1]" },
	{ "vhost", NULL, "let the host's kernel (vhost-net) move the frames, from the VM's next start on" },
	{ "forward", "[PROTOCOL:][ADDRESS:]PORT:TO", "types user and network: forward PORT of the host to port TO of the guest; repeatable" },
	{ "network", "PREFIX", "type user: set the guest's private network [10.0.2.0/24]" },
	{ "egress", "RULE", "type user: let the guest reach only what a RULE allows; repeatable" },
	{ "restrict", NULL, "type user: block all connections to the outside" },
	{ "host-loopback", NULL, "type user: let the guest reach services on the host's loopback address" },
	PLUG_OPTIONS, END };
static const struct verb_option detach_interface_options[] = {
	{ "mac", "MAC", "select one of several interfaces by its MAC address" },
	{ "timeout", "SECONDS", "wait at most SECONDS for the guest to release the interface, 1 to 600 [5]" }, PLUG_OPTIONS, END };
#define PLACE_OPTIONS                                                                               \
	{ "live", NULL, "change or show the running VM [default, if it runs]" },                             \
	{ "config", NULL, "change or show the next start of the VM" },                                       \
	{ "current", NULL, "the running VM, or the next start of a VM that is off" }
static const struct verb_option domiftune_options[] = {
	{ "inbound", "AVERAGE[,PEAK[,BURST]]", "limit the traffic to the guest: KiB a second, KiB a second, KiB; 0: no limit" },
	{ "outbound", "AVERAGE[,PEAK[,BURST]]", "limit the traffic from the guest" },
	{ "inbound-packets", "NUMBER", "limit the packets to the guest in a second; 0: no limit" },
	{ "outbound-packets", "NUMBER", "limit the packets from the guest" }, PLACE_OPTIONS, END };
static const struct verb_option blockresize_options[] = {
	{ "capacity", NULL, "with a block device as the image: take its present size" }, END };
static const struct verb_option blkdeviotune_options[] = {
	{ "total-bytes-sec", "NUMBER", "limit the bytes in a second, such as 20M; 0: no limit" },
	{ "read-bytes-sec", "NUMBER", "limit the bytes that are read" },
	{ "write-bytes-sec", "NUMBER", "limit the bytes that are written" },
	{ "total-iops-sec", "NUMBER", "limit the requests in a second; 0: no limit" },
	{ "read-iops-sec", "NUMBER", "limit the reads" },
	{ "write-iops-sec", "NUMBER", "limit the writes" },
	{ "total-bytes-sec-max", "NUMBER", "allow so many bytes in a second of a burst; 0: no burst" },
	{ "read-bytes-sec-max", "NUMBER", "the same for reads" },
	{ "write-bytes-sec-max", "NUMBER", "the same for writes" },
	{ "total-iops-sec-max", "NUMBER", "allow so many requests in a second of a burst; 0: no burst" },
	{ "read-iops-sec-max", "NUMBER", "the same for reads" },
	{ "write-iops-sec-max", "NUMBER", "the same for writes" },
	{ "size-iops-sec", "BYTES", "count a larger request as several, each of so many bytes; 0: as one" },
	{ "total-bytes-sec-max-length", "SECONDS", "set how long a burst of bytes lasts [1]" },
	{ "read-bytes-sec-max-length", "SECONDS", "the same for reads" },
	{ "write-bytes-sec-max-length", "SECONDS", "the same for writes" },
	{ "total-iops-sec-max-length", "SECONDS", "set how long a burst of requests lasts [1]" },
	{ "read-iops-sec-max-length", "SECONDS", "the same for reads" },
	{ "write-iops-sec-max-length", "SECONDS", "the same for writes" }, PLACE_OPTIONS, END };
static const struct verb_option domif_link_options[] = { PLACE_OPTIONS, END };
static const struct verb_option domif_egress_options[] = {
	{ "clear", NULL, "remove all rules: the guest reaches everything" }, PLACE_OPTIONS, END };
static const struct verb_option seed_options[] = {
	{ "hostname", "NAME", "set the guest's host name" },
	{ "user", "NAME", "create this user, who may use sudo [the default user of the guest's image]" },
	{ "ssh-key", "FILE", "let this public SSH key log in; repeatable" },
	{ "ssh-over-vsock", NULL, "let sshd answer on port 22 of vsock, for cairn ssh" },
	{ "user-data", "FILE", "use this cloud-config or script [one made from the options above]" },
	{ "meta-data", "FILE", "use this meta-data [instance-id and local-hostname]" },
	{ "network-config", "FILE", "add this network configuration [DHCP]" },
	{ "instance-id", "ID", "set the instance's id [a new one]" },
	{ "force", NULL, "replace an existing FILE" }, END };
static const struct verb_option new_options[] = {
	{ "image", "FILE", "begin with this disk image, which stays as it is" },
	{ "image-format", "FMT", "set its format: raw or qcow2 [qcow2]" },
	{ "size", "SIZE", "let the disk have SIZE, such as 20G [that of the image]" },
	{ "memory", "SIZE", "give the VM so much memory [1G]" },
	{ "vcpus", "N", "give the VM so many vCPUs [1]" },
	{ "network", "NET", "connect it to this network; user: one of its own [user]" },
	{ "firmware", "FW", "boot with bios or uefi [bios]" },
	{ "folder", "DIR", "make the disk in DIR [the working directory]" },
	{ "no-start", NULL, "do not start the VM" },
	{ "cloud-init", NULL, "add a seed for cloud-init, with the VM's name as host name" },
	{ "hostname", "NAME", "the same, with this host name" },
	{ "user", "NAME", "the same; create this user, who may use sudo" },
	{ "ssh-key", "FILE", "the same; let this public SSH key log in; repeatable" },
	{ "ssh-over-vsock", NULL, "the same; let sshd answer on port 22 of vsock, for cairn ssh" },
	{ "user-data", "FILE", "the same, with this cloud-config or script" },
	{ "network-config", "FILE", "the same, with this network configuration" }, END };
static const struct verb_option forward_add_options[] = {
	{ "interface", "ID", "interface of type user [the first]" },
	{ "guest", "ADDRESS", FROM_SCHEMA("guest") }, PLACE_OPTIONS, END };
static const struct verb_option forward_remove_options[] = { PLACE_OPTIONS, END };
static const struct verb_option domblklist_options[] = {
	{ "inactive", NULL, FROM_SCHEMA("inactive") },
	{ "details", NULL, "add type and device" }, END };

static const struct verb_option net_define_options[] = {
	{ "validate", NULL, FROM_SCHEMA("validate-only") }, END };
static const struct verb_option net_list_options[] = {
	{ "all", NULL, "list all networks" },
	{ "inactive", NULL, "list only inactive networks" },
	{ "persistent", NULL, "list only networks with a definition" },
	{ "transient", NULL, "list only networks that are gone when they stop" },
	{ "autostart", NULL, "list only networks that start with the host" },
	{ "no-autostart", NULL, "list only networks that do not start with the host" },
	{ "name", NULL, "print only names" },
	{ "uuid", NULL, "print only UUIDs" },
	{ "table", NULL, "print a table [default]" }, END };
static const struct verb_option net_autostart_options[] = {
	{ "disable", NULL, FROM_SCHEMA("disable") }, END };
static const struct verb_option net_dump_options[] = {
	{ "inactive", NULL, FROM_SCHEMA("inactive") }, END };
static const struct verb_option net_update_options[] = {
	{ "live", NULL, "change the active network" },
	{ "config", NULL, "change the definition of the next start" },
	{ "current", NULL, "change the active network, or the definition if it is inactive [default]" },
	{ "parent-index", "N", "no effect: the entry's address decides" }, END };

const struct verb verbs[] = {
	{ "define", "Definitions", "FILE", "define or redefine a VM from JSON or libvirt's domain XML", define_options,
		1, 1, false, "file", "vm-define", verb_define },
	{ "validate", "Definitions", "FILE", "check a definition without the daemon", validate_options, 0, 1,
		true, "file", NULL, verb_validate },
	{ "dumpjson", "Definitions", "VM", "print the definition of a VM as JSON", dump_options, 1, 1, true, "vm",
		"vm-dump-definition", verb_dumpjson },
	{ "dumpxml", "Definitions", "VM", "print the definition of a VM as libvirt's domain XML", dumpxml_options, 1, 1,
		false, "vm", "vm-dump-definition", verb_dumpxml },
	{ "edit", "Definitions", "VM", "edit the definition of a VM in $VISUAL or $EDITOR", edit_options, 1, 1, false, "vm",
		"vm-define vm-dump-definition", verb_edit },
	{ "domrename", "Definitions", "VM NEW-NAME", NULL, NULL, 2, 2, false, "vm-name", "vm-rename", verb_domrename },
	{ "desc", "Definitions", "VM [TEXT...]", "show or change the description or title of a VM", desc_options, 1, MANY,
		false, "vm", "vm-define vm-dump-definition", verb_desc },
	{ "setvcpus", "Definitions", "VM COUNT", "set the number of virtual CPUs", setvcpus_options, 2, 2, false,
		"vm-name", "vm-set-vcpus vm-info vm-define vm-dump-definition vm-agent-query vm-agent-command", verb_setvcpus },
	{ "setmem", "Definitions", "VM SIZE", "set the memory, in KiB or with a unit (512M); with a balloon, the guest's share of it", setmem_options,
		2, 2, false, "vm-name", "vm-set-memory vm-info vm-define vm-dump-definition", verb_setmem },
	{ "setmaxmem", "Definitions", "VM SIZE", "set the memory; with a balloon, the most that setmem can give", change_options, 2, 2, false,
		"vm-name", "vm-define vm-dump-definition", verb_setmaxmem },
	{ "set-lifecycle-action", "Definitions", "VM TYPE ACTION", "set the action after poweroff, reboot or crash: destroy, "
		"restart, preserve, ...", change_options, 3, 3, false, "vm-name", "vm-define vm-dump-definition",
		verb_set_lifecycle_action },
	{ "attach-disk", "Definitions", "VM SOURCE TARGET", "add a disk", attach_disk_options, 3, 3, false, "vm-file",
		"vm-info vm-attach-disk vm-define vm-dump-definition", verb_attach_disk },
	{ "detach-disk", "Definitions", "VM TARGET", "remove a disk; its image is not deleted", detach_options, 2, 2, false,
		"vm-disk", "vm-info vm-detach-device vm-define vm-dump-definition", verb_detach_disk },
	{ "change-media", "Definitions", "VM PATH [SOURCE]", "change the medium of a cdrom drive", change_media_options,
		2, 3, false, "vm-disk", "vm-info vm-change-medium vm-define vm-dump-definition", verb_change_media },
	{ "attach-interface", "Definitions", "VM TYPE [SOURCE]", "add a network interface", attach_interface_options, 2,
		3, false, "vm-name", "vm-info vm-attach-interface forward-add vm-define vm-dump-definition", verb_attach_interface },
	{ "detach-interface", "Definitions", "VM TYPE", "remove a network interface", detach_interface_options, 2, 2,
		false, "vm-name", "vm-info vm-detach-device vm-define vm-dump-definition", verb_detach_interface },
	{ "attach-device", "Definitions", "VM FILE", "add the disk or interface that a file has, as JSON or libvirt's XML", attach_device_options,
		2, 2, false, "vm-file", "vm-info vm-attach-disk vm-attach-interface forward-add vm-define vm-dump-definition", verb_attach_device },
	{ "detach-device", "Definitions", "VM FILE", "remove the disk or interface that a file has", detach_device_options, 2, 2, false,
		"vm-file", "vm-info vm-detach-device vm-define vm-dump-definition", verb_detach_device },
	{ "update-device", "Definitions", "VM FILE", "change a disk or interface to what a file has", update_device_options, 2, 2, false,
		"vm-file", "vm-info vm-set-disk vm-set-interface vm-change-medium vm-define vm-dump-definition", verb_update_device },
	{ "domiftune", "Definitions", "VM INTERFACE", "show or change the limits of a network interface", domiftune_options, 2, 2,
		true, "vm-interface", "vm-info vm-set-interface vm-define vm-dump-definition", verb_domiftune },
	{ "blkdeviotune", "Definitions", "VM DISK", "show or change the limits of a disk", blkdeviotune_options, 2, 2, true, "vm-disk",
		"vm-info vm-set-disk vm-define vm-dump-definition", verb_blkdeviotune },
	{ "blockresize", "Definitions", "VM DISK [SIZE]", "grow a disk of a running VM", blockresize_options, 2, 3, false, "vm-disk",
		"vm-resize-disk", verb_blockresize },
	{ "domif-setlink", "Definitions", "VM INTERFACE STATE", "set the link of a network interface up or down", domif_link_options,
		3, 3, false, "vm-interface", "vm-set-interface vm-info vm-define vm-dump-definition", verb_domif_setlink },
	{ "domif-egress", "Definitions", "VM INTERFACE [RULE...]", "show or replace the rules for what the guest of a user interface may reach",
		domif_egress_options, 2, MANY, true, "vm-interface", "vm-set-interface vm-info vm-define vm-dump-definition", verb_domif_egress },
	{ "new", "Definitions", "VM", "create and start a VM from a disk image, with an overlay on it", new_options, 1, 1, false, NULL,
		"vm-info vm-define vm-start", verb_new },
	{ "seed", "Definitions", "FILE", "create an image from which cloud-init configures a guest", seed_options, 1, 1, false, "file",
		NULL, verb_seed },
	{ "forward-add", "Definitions", "VM [PROTOCOL:][ADDRESS:]PORT:TO", "forward a port of the host to a guest",
		forward_add_options, 2, 2, true, "vm-name", "forward-add vm-define vm-dump-definition", verb_forward_add },
	{ "forward-remove", "Definitions", "VM [PROTOCOL:][ADDRESS:]PORT", "remove a forward", forward_remove_options, 2, 2,
		false, "vm-name", "forward-remove vm-define vm-dump-definition", verb_forward_remove },
	{ "forward-list", "Definitions", "VM", "list the forwards of a VM", dump_options, 1, 1, true, "vm",
		"vm-dump-definition vm-info", verb_forward_list },
	{ "undefine", "Definitions", "{VM...|--all}", NULL, undefine_options, 1, MANY, true, "vm", "vm-undefine",
		verb_undefine },
	{ "start", "Lifecycle", "{VM...|--all}", NULL, start_options, 1, MANY, true, "vm", "vm-start vm-console forward-add",
		verb_start },
	{ "shutdown", "Lifecycle", "{VM...|--all}", NULL, shutdown_options, 1, MANY, true, "vm",
		"vm-shutdown vm-shutdown-cancel", verb_shutdown },
	{ "reboot", "Lifecycle", "{VM...|--all}", NULL, reboot_options, 1, MANY, true, "vm", "vm-reboot vm-shutdown-cancel",
		verb_reboot },
	{ "reset", "Lifecycle", "{VM...|--all}", NULL, multi_vm_options, 1, MANY, true, "vm", "vm-reset", verb_act },
	{ "suspend", "Lifecycle", "{VM...|--all}", NULL, multi_vm_options, 1, MANY, true, "vm", "vm-suspend", verb_act },
	{ "resume", "Lifecycle", "{VM...|--all}", NULL, multi_vm_options, 1, MANY, true, "vm", "vm-resume", verb_act },
	{ "destroy", "Lifecycle", "{VM...|--all}", "stop the VM at once, like pulling the power plug", destroy_options, 1, MANY, true, "vm",
		"vm-destroy", verb_act },
	{ "reclaim", "Lifecycle", "{VM...|--all}", "free memory that was not written since the last snapshot or revert", multi_vm_options, 1, MANY,
		true, "vm", "vm-reclaim", verb_act },
	{ "restart-process", "Lifecycle", "{VM...|--all}", "give a running VM a new process, of the installed version of Cairn", restart_process_options, 1, MANY, true, "vm",
		"vm-restart-process", verb_restart_process },
	{ "autostart", "Lifecycle", "{VM...|--all}", NULL, autostart_options, 1, MANY, true, "vm", "vm-autostart",
		verb_autostart },
	{ "schedule", "Lifecycle", "VM ACTION", NULL, schedule_options, 2, 2, true, "vm-action", "schedule-add", verb_schedule },
	{ "schedule-list", "Lifecycle", "[VM]", "list schedules, with the next run and the last outcome of each", NULL, 0, 1, true, "vm",
		"query-schedules", verb_schedule_list },
	{ "schedule-history", "Lifecycle", "VM", NULL, NULL, 1, 1, true, "vm", "query-schedule-history", verb_schedule_history },
	{ "schedule-pause", "Lifecycle", "VM NAME", NULL, NULL, 2, 2, false, "vm-schedule", "schedule-pause", verb_schedule_act },
	{ "schedule-resume", "Lifecycle", "VM NAME", "let a paused schedule run again", NULL, 2, 2, false, "vm-schedule", "schedule-pause", verb_schedule_act },
	{ "schedule-remove", "Lifecycle", "VM NAME", NULL, NULL, 2, 2, false, "vm-schedule", "schedule-remove", verb_schedule_act },
	{ "run", "Lifecycle", "FILE", "run one VM in the foreground, without a daemon", run_options, 1, 1, false, "file",
		NULL, verb_run },
	{ "dump", "Lifecycle", "VM FILE", "dump memory and registers to an ELF core file", dump_memory_options, 2, 2,
		false, "vm-file", "vm-dump", verb_dump },
	{ "clone", "Clones", "VM [NAME]", "create copies of a VM", clone_options, 1, 2, true, "vm-name",
		"vm-clone vm-fork vm-define vm-dump-definition",
		verb_clone },
	{ "template", "Clones", "VM", NULL, template_options, 1, 1, false, "vm", "vm-template", verb_template },
	{ "backup-begin", "Clones", "VM", "back up a VM's disks, as of one instant", backup_begin_options, 1, 1, true, "vm",
		"snapshot-create snapshot-list snapshot-set snapshot-delete vm-dump-definition", verb_backup_begin },
	{ "blockcopy", "Clones", "VM DISK", "copy a disk of a running VM", blockcopy_options, 2, 2, false, "vm-disk",
		"vm-blockcopy vm-blockjob-pivot vm-blockjob-abort vm-define vm-dump-definition",
		verb_blockcopy },
	{ "blockjob", "Clones", "VM DISK", "end the copy of a disk", blockjob_options, 2, 2, false, "vm-disk",
		"vm-blockjob-pivot vm-blockjob-abort vm-define vm-dump-definition",
		verb_blockjob },
	{ "blockcommit", "Clones", "VM DISK", "merge upper layers of a disk into a lower one", blockcommit_options, 2, 2, false, "vm-disk",
		"vm-blockcommit vm-blockjob-pivot vm-blockjob-abort vm-define vm-dump-definition",
		verb_blockcommit },
	{ "blockpull", "Clones", "VM DISK", "make a disk independent of its backing files", blockpull_options, 2, 2, true, "vm",
		"vm-blockpull", verb_blockpull },
	{ "export", "Clones", "VM FILE", "export a VM to one archive file: .tar.zst, .tar.gz or .tar", export_options, 2, 2, true,
		"vm-file", "vm-export", verb_export },
	{ "import", "Clones", "FILE [INCREMENT...]", "define a VM from archives that export has written", import_options, 1, MANY, true, "file", "vm-import",
		verb_import },
	{ "save", "Saved states", "VM FILE", "save the state of a VM to a file, and stop the VM", save_options, 2, 2, false,
		"vm-file", "vm-save", verb_save },
	{ "restore", "Saved states", "FILE", "start a VM from a saved state", restore_options, 1, 1, false, "file",
		"vm-restore", verb_restore },
	{ "managedsave", "Saved states", "{VM...|--all}", NULL, managedsave_options, 1, MANY, true, "vm",
		"vm-managed-save", verb_managedsave },
	{ "managedsave-remove", "Saved states", "{VM...|--all}", NULL, multi_vm_options, 1, MANY, true, "vm",
		"vm-managed-save-remove", verb_managedsave_remove },
	{ "snapshot-create", "Snapshots", "{VM|--all}", "create a snapshot, with the time in seconds as its name", snapshot_create_options, 1, 1,
		true, "vm", "snapshot-create", verb_snapshot_create },
	{ "snapshot-create-as", "Snapshots", "{VM|--all} [NAME [DESCRIPTION]]", "create a snapshot with a name and a description", snapshot_create_as_options,
		1, 3, true, "vm", "snapshot-create vm-disk-snapshot vm-define vm-dump-definition vm-agent-command", verb_snapshot_create_as },
	{ "snapshot-list", "Snapshots", "VM", "list the snapshots of a VM", snapshot_list_options, 1, 1, true, "vm", "snapshot-list",
		verb_snapshot_list },
	{ "snapshot-info", "Snapshots", "VM NAME", "show a snapshot", snapshot_one_options, 1, 2, true, "vm-snapshot",
		"snapshot-list snapshot-size", verb_snapshot_info },
	{ "snapshot-current", "Snapshots", "VM", "show the current snapshot", snapshot_current_options, 1, 1,
		true, "vm", "snapshot-list", verb_snapshot_current },
	{ "snapshot-parent", "Snapshots", "VM NAME", "print the parent of a snapshot", snapshot_one_options, 1, 2, false, "vm-snapshot",
		"snapshot-list", verb_snapshot_parent },
	{ "snapshot-revert", "Snapshots", "VM NAME", NULL, snapshot_revert_options, 1, 2, true, "vm-snapshot",
		"snapshot-revert vm-dump-definition", verb_snapshot_revert },
	{ "snapshot-delete", "Snapshots", "VM NAME", "delete a snapshot; its children stay", snapshot_delete_options, 1, 2,
		true, "vm-snapshot", "snapshot-delete snapshot-size vm-dump-definition", verb_snapshot_delete },
	{ "snapshot-rename", "Snapshots", "VM NAME NEW", "rename a snapshot", snapshot_rename_options, 2, 3, false,
		"vm-snapshot", "snapshot-set", verb_snapshot_rename },
	{ "snapshot-tag", "Snapshots", "VM NAME [TAG...]", "print, add or remove tags of a snapshot", snapshot_tag_options, 1,
		MANY, false, "vm-snapshot", "snapshot-set snapshot-list", verb_snapshot_tag },
	{ "snapshot-schedule", "Snapshots", "[VM]", NULL, snapshot_schedule_options, 0, 1, true, "vm",
		"snapshot-schedule-set snapshot-schedule-remove query-snapshot-schedules", verb_snapshot_schedule },
	{ "list", "Monitoring", "", "list VMs", list_options, 0, 0, true, NULL, "vm-list snapshot-list", verb_list },
	{ "dominfo", "Monitoring", "VM", "show state, resources and settings of a VM", dominfo_options, 1, 1, true, "vm",
		"vm-info vm-sandbox", verb_dominfo },
	{ "domstate", "Monitoring", "VM", "print the state of a VM", domstate_options, 1, 1, true, "vm", "vm-info", verb_domstate },
	{ "domid", "Monitoring", "VM", "print the id of a running VM", NULL, 1, 1, false, "vm", "vm-info", verb_domid },
	{ "domuuid", "Monitoring", "VM", "print the UUID of a VM", NULL, 1, 1, false, "vm", "vm-info", verb_domuuid },
	{ "domname", "Monitoring", "VM", "print the name of a VM", NULL, 1, 1, false, "vm", "vm-info", verb_domname },
	{ "domblklist", "Monitoring", "VM", "list the disks of a VM", domblklist_options, 1, 1, true, "vm", "vm-dump-definition",
		verb_domblklist },
	{ "domblkinfo", "Monitoring", "VM", "show the space that a VM's disks take, and what live clones keep in them", NULL, 1,
		1, true, "vm", "vm-dump-definition vm-pins", verb_domblkinfo },
	{ "domblkstat", "Monitoring", "VM [DISK]", "show the requests of one disk of a running VM, or of all together", domblkstat_options, 1, 2,
		true, "vm-disk", "vm-info vm-dump-definition", verb_domblkstat },
	{ "domiflist", "Monitoring", "VM", "list the network interfaces of a VM", dump_options, 1, 1, true, "vm",
		"vm-dump-definition", verb_domiflist },
	{ "domifstat", "Monitoring", "VM INTERFACE", "show the traffic of a network interface", NULL, 2, 2, true, "vm", "vm-info",
		verb_domifstat },
	{ "domif-getlink", "Monitoring", "VM INTERFACE", "show whether the link of a network interface is up", domif_link_options, 2,
		2, true, "vm-interface", "vm-info vm-dump-definition", verb_domif_getlink },
	{ "domifaddr", "Monitoring", "VM [INTERFACE]", NULL, domifaddr_options, 1, 2, true, "vm-name", "vm-addresses vm-dump-definition net-dhcp-leases vm-info",
		verb_domifaddr },
	{ "domblkerror", "Monitoring", "VM", "show the disks whose errors have paused a VM", NULL, 1, 1, true, "vm", "vm-info",
		verb_domblkerror },
	{ "vcpuinfo", "Monitoring", "VM", "show the vCPUs of a VM: where they run, their time and affinity", vcpuinfo_options, 1, 1, true, "vm",
		"vm-info", verb_vcpuinfo },
	{ "vcpucount", "Monitoring", "VM", "show the number of vCPUs", vcpucount_options, 1, 1, true, "vm", "vm-info vm-dump-definition",
		verb_vcpucount },
	{ "nodeinfo", "Monitoring", "", "show the processors and the memory of the host", NULL, 0, 0, true, NULL, NULL, verb_nodeinfo },
	{ "nodecpustats", "Monitoring", "[CPU]", "show what the host's processors, or one of them, spent their time with", nodecpustats_options,
		0, 1, true, NULL, NULL, verb_nodecpustats },
	{ "domstats", "Monitoring", "[VM...]", "print statistics of VMs, with virsh's names", domstats_options, 0, MANY, true,
		"vm", "vm-info vm-stats", verb_domstats },
	{ "metrics", "Monitoring", "", "print statistics of all VMs as OpenMetrics text, for Prometheus", NULL, 0, 0, false, NULL, "vm-stats",
		verb_metrics },
	{ "trend", "Monitoring", "VM [SERIES...]", "draw what a VM did over time; series: cpu, memory, used, balloon, rd-bytes, wr-bytes, rd-reqs, "
		"wr-reqs, rd-latency, wr-latency, io-errors, rx-bytes, tx-bytes, rx-packets, tx-packets [cpu]", trend_options, 1, 16, false, "vm-trend",
		"vm-trend", verb_trend },
	{ "threshold", "Monitoring", "VM MEASURE", NULL, threshold_options, 2, 2, false, "vm-measure", "threshold-set", verb_threshold },
	{ "threshold-list", "Monitoring", "[VM]", NULL, NULL, 0, 1, true, "vm", "query-thresholds", verb_threshold_list },
	{ "threshold-remove", "Monitoring", "VM NAME", NULL, NULL, 2, 2, false, "vm-threshold", "threshold-remove", verb_threshold_remove },
	{ "dommemstat", "Monitoring", "VM", "show the guest's memory, and how often it sends statistics", dommemstat_options, 1, 1, true, "vm",
		"vm-info vm-set-memory", verb_dommemstat },
	{ "send-key", "Monitoring", "VM KEY...", "press keys of the guest's keyboard together, such as KEY_LEFTCTRL KEY_LEFTALT KEY_DELETE",
		send_key_options, 2, MANY, false, "vm-name", "vm-send-key", verb_send_key },
	{ "screenshot", "Monitoring", "VM FILE", "save a picture of the guest's screen, as PNG if FILE ends in .png, or else as PPM", NULL, 2, 2,
		false, "vm-file", "vm-screenshot", verb_screenshot },
	{ "vncdisplay", "Monitoring", "VM", "print where VNC clients find the screen of a running VM", NULL, 1, 1, false, "vm-name",
		"vm-dump-definition vm-info", verb_vncdisplay },
	{ "top", "Monitoring", "[VM...]", "show the resource usage of VMs, continuously", top_options, 0, MANY, true, "vm", "vm-info", verb_top },
	{ "qmp-path", "Monitoring", "VM", "print the path of a VM's own socket, for programs that speak QEMU's QMP", NULL, 1, 1, false,
		"vm", "vm-qmp-path", verb_qmp_path },
	{ "console", "Monitoring", "VM", "attach the terminal to a VM's console; Ctrl-] detaches", console_options, 1, 1, false, "vm",
		"vm-console", verb_console },
	{ "log", "Monitoring", "VM", "print what the VM's process logged, such as why a start failed", log_options, 1, 1, false, "vm", "vm-log", verb_log },
	{ "vsock", "Monitoring", "VM PORT", "connect standard input and output to a vsock port of the guest", NULL, 2, 2, false, "vm",
		"vsock-connect", verb_vsock },
	{ "ssh", "Monitoring", "[USER@]VM [COMMAND...]", "run ssh(1) over vsock port 22 of the guest, or else over the network", NULL, 1, MANY,
		false, "vm", "vsock-connect vm-dump-definition net-dhcp-leases vm-addresses vm-info", verb_ssh },
	{ "wait", "Monitoring", "VM", "wait until a VM has a state, an agent or an address", wait_options, 1, 1, false, "vm",
		"vm-info vm-addresses", verb_wait },
	{ "event", "Monitoring", "[VM] [EVENT]", "wait for events and print them", event_options, 0, 2, true, "vm",
		"query-events query-version", verb_event },
	{ "events", "Monitoring", "[VM] [EVENT]", "print events until Ctrl-C, like event --loop", event_options, 0, 2, true, "vm",
		"query-events query-version", verb_event },
	{ "pool-list", "Storage", "", "list pools: folders for images that have a name", pool_list_options, 0, 0, true, NULL, "query-pools", verb_pool_list },
	{ "pool-info", "Storage", "POOL", "show the space of a pool", NULL, 1, 1, true, "pool", "query-pools", verb_pool_info },
	{ "pool-define-as", "Storage", "POOL [TYPE]", "give a folder a name; TYPE is dir", pool_define_options, 1, 2, false, NULL, "pool-define",
		verb_pool_define_as },
	{ "pool-undefine", "Storage", "POOL", NULL, NULL, 1, 1, false, "pool", "pool-undefine", verb_pool_undefine },
	{ "vol-list", "Storage", "POOL", "list the volumes of a pool: its images", vol_list_options, 1, 1, true, "pool", "query-pools", verb_vol_list },
	{ "vol-info", "Storage", "VOL", "show format, capacity and allocation of a volume", vol_options, 1, 1, true, "vol", "query-pools", verb_vol_info },
	{ "vol-path", "Storage", "VOL", "print the path of a volume", vol_options, 1, 1, false, "vol", "query-pools", verb_vol_path },
	{ "vol-create-as", "Storage", "POOL NAME CAPACITY", "create a volume", vol_create_options, 3, 3, false, "pool", "query-pools",
		verb_vol_create_as },
	{ "vol-clone", "Storage", "VOL NAME", "copy a volume that no running VM uses, in its folder", vol_options, 2, 2, false, "vol", "query-pools",
		verb_vol_clone },
	{ "vol-delete", "Storage", "VOL", "delete a volume that no VM and no overlay uses", vol_options, 1, 1, false, "vol",
		"query-pools vm-dump-definition", verb_vol_delete },
	{ "vol-resize", "Storage", "VOL CAPACITY", "change the size of a volume that no running VM uses; for others: blockresize", vol_resize_options,
		2, 2, false, "vol", "query-pools", verb_vol_resize },
	{ "net-list", "Networks", "", "list networks", net_list_options, 0, 0, true, NULL, "net-list", verb_net_list },
	{ "net-info", "Networks", "NETWORK", NULL, NULL, 1, 1, true, "net", "net-info", verb_net_info },
	{ "net-start", "Networks", "NETWORK", NULL, NULL, 1, 1, false, "net", "net-start", verb_net_act },
	{ "net-destroy", "Networks", "NETWORK", NULL, NULL, 1, 1, false, "net", "net-destroy", verb_net_act },
	{ "net-autostart", "Networks", "NETWORK", NULL, net_autostart_options, 1, 1, false, "net", "net-autostart", verb_net_autostart },
	{ "net-define", "Networks", "FILE", "define or redefine a network from JSON or libvirt's network XML", net_define_options, 1, 1,
		false, "file", "net-define", verb_net_define },
	{ "net-create", "Networks", "FILE", "start a network from JSON or libvirt's network XML; it is forgotten when it stops", NULL, 1, 1,
		false, "file", "net-create", verb_net_create },
	{ "net-dumpjson", "Networks", "NETWORK", "print the definition of a network as JSON", net_dump_options, 1, 1, true, "net",
		"net-dump-definition", verb_net_dumpjson },
	{ "net-dumpxml", "Networks", "NETWORK", "print the definition of a network as libvirt's network XML", net_dump_options, 1, 1, false,
		"net", "net-dump-definition", verb_net_dumpxml },
	{ "net-update", "Networks", "NETWORK ACTION SECTION ENTRY", "add, modify or delete an ip-dhcp-host, ip-dhcp-range, dns-host, egress, egress-rule, user or "
		"group", net_update_options, 4, 4, false, "net", "net-update net-define net-dump-definition net-info", verb_net_update },
	{ "net-edit", "Networks", "NETWORK", "edit the definition of a network in $VISUAL or $EDITOR", net_edit_options, 1, 1, false, "net",
		"net-define net-dump-definition", verb_edit },
	{ "net-dhcp-leases", "Networks", "NETWORK [MAC]", NULL, NULL, 1, 2, true, "net", "net-dhcp-leases", verb_net_dhcp_leases },
	{ "net-undefine", "Networks", "NETWORK", NULL, NULL, 1, 1, false, "net", "net-undefine", verb_net_act },
	{ "net-name", "Networks", "UUID", "print the name of a network", NULL, 1, 1, false, "net", "net-info", verb_net_name },
	{ "net-uuid", "Networks", "NETWORK", "print the UUID of a network", NULL, 1, 1, false, "net", "net-info", verb_net_name },
	{ "jobs", "Jobs", "", "list jobs under way and results of finished jobs", NULL, 0, 0, true, NULL,
		"query-jobs", verb_jobs },
	{ "domjobinfo", "Jobs", "VM", "show the job or backup of a VM that is under way", NULL, 1, 1, true, "vm",
		"query-jobs vm-info snapshot-list", verb_domjobinfo },
	{ "domjobabort", "Jobs", "VM", "cancel the job of a VM that is under way, or end its backup", NULL, 1, 1, false, "vm",
		"query-jobs vm-info snapshot-list snapshot-set snapshot-delete vm-dump-definition", verb_domjobabort },
	{ "job-cancel", "Jobs", "ID...", "cancel jobs", NULL, 1, MANY, false, "job", "job-cancel",
		verb_job_cancel },
	{ "job-dismiss", "Jobs", "ID...", "delete results of finished jobs", NULL, 1, MANY, false, "job", "job-dismiss",
		verb_job_dismiss },
#define AGENT "vm-agent-command"
#define LOOKS "vm-agent-query"
	{ "exec", "Guests", "VM COMMAND [ARGUMENT...]", "run a program in the guest, and exit with its status; VM may be the path of a VM's vsock socket", exec_options, 2, MANY, true,
		"vm-name", AGENT " " LOOKS " agent-connect agent-exec", verb_exec },
	{ "exec-output", "Guests", "JOB", "show the output of a program that exec --no-wait runs, and exit with its status", NULL, 1, 1, true, "job",
		"agent-exec-output", verb_exec_output },
	{ "cp", "Guests", "SRC DST", "copy a file or folder into the guest or out of it; one of SRC and DST is VM:PATH", cp_options, 2, 2,
		false, "file", AGENT " " LOOKS " agent-connect", verb_cp },
	{ "guestinfo", "Guests", "VM", "show what the guest agent knows of the guest, with virsh's names", guestinfo_options, 1, 1, true, "vm",
		LOOKS, verb_guestinfo },
	{ "guestvcpus", "Guests", "VM", "show or change which processors the guest uses", guestvcpus_options, 1, 1, true, "vm",
		"vm-agent-query vm-agent-command", verb_guestvcpus },
	{ "domhostname", "Guests", "VM", "print the guest's host name", NULL, 1, 1, false, "vm", LOOKS, verb_domhostname },
	{ "domfsinfo", "Guests", "VM", "list the file systems that are mounted in the guest", NULL, 1, 1, true, "vm", LOOKS, verb_domfsinfo },
	{ "domfstrim", "Guests", "VM", "give the free space of the guest's file systems back to the host", domfstrim_options, 1, 1, false, "vm",
		AGENT, verb_domfstrim },
	{ "domfsfreeze", "Guests", "VM", "stop all writes to the guest's file systems until domfsthaw", domfsfreeze_options, 1, 1, false, "vm",
		AGENT, verb_domfsfreeze },
	{ "domfsthaw", "Guests", "VM", "allow writes to the guest's file systems again", NULL, 1, 1, false, "vm", AGENT, verb_domfsthaw },
	{ "set-user-password", "Guests", "VM USER PASSWORD", "set the password of a user of the guest; PASSWORD - reads it from standard input",
		set_user_password_options, 3, 3, false, "vm-name", AGENT, verb_set_user_password },
	{ "domtime", "Guests", "VM", "show or set the guest's time", domtime_options, 1, 1, true, "vm", LOOKS " " AGENT, verb_domtime },
	{ "qemu-agent-command", "Guests", "VM COMMAND", "run a command of the guest agent, in JSON, and print the answer", agent_command_options,
		2, 2, false, "vm-name", AGENT, verb_qemu_agent_command },
#undef AGENT
#undef LOOKS
	{ "grant", "Administration", "ROLE [VM]", "give a user or a group a role: viewer, guest, operator, admin, or "
		"owner of a VM", permission_options, 1, 2, false, NULL, "permission-grant", verb_grant },
	{ "revoke", "Administration", "[VM]", "remove the role of a user or a group", permission_options, 0, 1, false, "vm",
		"permission-revoke", verb_revoke },
	{ "permissions", "Administration", "", NULL, NULL, 0, 0, true, NULL, "query-permissions",
		verb_permissions },
	{ "quota", "Administration", "", "list, set or remove limits on what the VMs of a user or a group take", quota_options, 0, 0,
		true, NULL, "query-quotas quota-set quota-remove", verb_quota },
	{ "audit", "Administration", "", NULL, audit_options, 0, 0, true, NULL, "query-audit", verb_audit },
	{ "daemon-stop", "Administration", "", "stop VMs as their definitions say, then stop the daemon",
		daemon_stop_options, 0, 0, true, NULL, "daemon-stop", verb_daemon_stop },
	{ "doctor", "Administration", "", "check what this host offers to VMs, and say what to change", NULL, 0, 0, true, NULL, NULL,
		verb_doctor },
	{ "cpu-models", "Administration", "[ARCH]", "list the processor models that a VM can have, and which of them this host offers",
		NULL, 0, 1, true, NULL, NULL, verb_cpu_models },
	{ "version", "Help", "", "print the versions of cairn and of the daemon", NULL, 0, 0, true, NULL, "query-version",
		verb_version },
	{ "shell", "Help", "", "read verbs line by line, on a terminal with history and completion", NULL, 0, 0, false, NULL, NULL, verb_shell },
	{ "help", "Help", "[VERB]", "list all verbs, or show the options of a verb", help_options, 0, 1, true, "verb", NULL, verb_help },
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
	const char *advice = foreign_word_advice(name);
	char hint[SUGGEST_HINT_BYTES];

	if (advice) {
		fprintf(stderr, "error: unknown verb \"%s\"\nerror: %s\n", name, advice);
		return CLI_USAGE;
	}
	fprintf(stderr, "error: unknown verb \"%s\"%s\nerror: see cairn help for all verbs\n", name,
		suggest_hint(name, "", verb_name_at, NULL, hint));
	return CLI_USAGE;
}
