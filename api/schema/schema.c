/* Table of the daemon's commands, and the check of arguments. schema_event.c has the events; schema_json.c prints both
 * for clients. */
#include "api/schema/schema.h"
#include "api/schema/schema_internal.h"
#include "api/schema/schema_qmp.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

#define FIELD_VM { "vm", FIELD_STRING, REQUIRED, "name or UUID of the VM" }

static const struct field no_fields[] = { END };
static const struct field vm_only[] = { FIELD_VM, END };

static const struct field capabilities_args[] = { { "enable", LIST_OF(FIELD_STRING), OPTIONAL, "capabilities to enable; none exist" }, END };

static const struct field version_fields[] = {
	{ "qemu", FIELD_QEMU_VERSION, REQUIRED, "QEMU version whose QMP the socket speaks" },
	{ "package", FIELD_STRING, REQUIRED, "program and version" },
	{ "cairn", FIELD_STRING, REQUIRED, "version of the daemon" }, END };

static const struct field schema_args[] = {
	{ "page", FIELD_INT, OPTIONAL, "show one page of the schema, from 0, with descriptions; an empty page follows the last "
		"[all without descriptions]" }, END };
static const struct field schema_get_args[] = { { "page", FIELD_INT, OPTIONAL, "page, from 0 [0]" }, END };
static const struct field schema_get_returns[] = {
	{ "schema", LIST_OF(FIELD_SCHEMA_ENTRY), REQUIRED, "commands, events and types of this page" },
	{ "next", FIELD_INT, OPTIONAL, "`page` of the call for the next page, if there is one" }, END };
static const struct field commands_returns[] = { { "name", FIELD_STRING, REQUIRED, "name of a command" }, END };

static const struct field define_args[] = {
	{ "definition", FIELD_DEFINITION, REQUIRED, "definition of the VM; see docs/definition.md" },
	{ "folder", FIELD_STRING, OPTIONAL, "absolute path; relative paths in the definition start here" },
	{ "was", FIELD_DEFINITION, OPTIONAL, "definition from vm-dump-definition; the call fails if the VM's definition "
		"has changed since" },
	{ "validate-only", FIELD_BOOL, OPTIONAL, "check the definition and change nothing" }, END };

static const struct field define_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the VM" },
	{ "uuid", FIELD_STRING, REQUIRED, "UUID of the VM" },
	{ "created", FIELD_BOOL, REQUIRED, "true: new VM; false: existing VM was redefined" },
	{ "pending", FIELD_BOOL, REQUIRED, "the VM runs with another definition until its next start" },
	{ "warnings", LIST_OF(FIELD_STRING), REQUIRED, "sentences about keys that are kept and have no effect" }, END };

static const struct field create_args[] = {
	{ "definition", FIELD_DEFINITION, REQUIRED, "definition of the VM; see docs/definition.md" },
	{ "folder", FIELD_STRING, OPTIONAL, "absolute path; relative paths in the definition start here" },
	{ "paused", FIELD_BOOL, OPTIONAL, "start the VM paused" }, END };
static const struct field create_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the VM" },
	{ "uuid", FIELD_STRING, REQUIRED, "UUID of the VM" },
	{ "id", FIELD_INT, REQUIRED, "id of the running VM" },
	{ "warnings", LIST_OF(FIELD_STRING), REQUIRED, "sentences about keys that are kept and have no effect" }, END };

static const struct field dump_args[] = { FIELD_VM,
	{ "inactive", FIELD_BOOL, OPTIONAL, "use the definition of the next start instead of the running VM's" }, END };
static const struct field dump_returns[] = {
	{ "definition", FIELD_DEFINITION, REQUIRED, "canonical definition, with every key" },
	{ "pending", FIELD_BOOL, REQUIRED, "the running definition differs from the definition of the next start" }, END };

static const struct field list_args[] = {
	{ "after", FIELD_STRING, OPTIONAL, "start the page after this name" },
	{ "limit", FIELD_INT, OPTIONAL, "maximum number of entries in one answer, 1 to 1000" },
	{ "brief", FIELD_BOOL, OPTIONAL, "return only id, name, state, word, outdated and waits-for-hook" }, END };

static const struct field list_returns[] = {
	{ "vms", LIST_OF(FIELD_VM_ENTRY), REQUIRED, "VMs by name" },
	{ "unloaded", LIST_OF(FIELD_UNLOADED_VM), OPTIONAL,
		"on the first page: VMs that the daemon could not load (not all if there are very many)" },
	{ "may-define", FIELD_BOOL, REQUIRED, "true: you may define new VMs: as admin for all VMs, or as creator" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };

static const struct field stats_args[] = {
	{ "after", FIELD_STRING, OPTIONAL, "start the page after this name" }, END };

static const struct field stats_returns[] = {
	{ "vms", LIST_OF(FIELD_VM_FIGURES), REQUIRED, "by name: as vm-info returns a VM" },
	{ "host", FIELD_HOST_FIGURES, OPTIONAL, "on the first page: figures of the host" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };

static const struct field trend_args[] = { FIELD_VM,
	{ "series", LIST_OF(FIELD_STRING), OPTIONAL, "names of the series [all]" },
	{ "from", FIELD_INT, OPTIONAL, "begin: realtime, ns [an hour before `to`]" },
	{ "to", FIELD_INT, OPTIONAL, "end: realtime, ns [now]" },
	{ "points", FIELD_INT, OPTIONAL, "maximum number of points of a series, 1 to 2000 [100]" },
	{ "step", FIELD_INT, OPTIONAL, "time between two points in ns, at least 1 s [as `points` and the time give]" }, END };
static const struct field trend_returns[] = {
	{ "from", FIELD_INT, REQUIRED, "begin of the first point: realtime, ns" },
	{ "step", FIELD_INT, REQUIRED, "time between two points, ns" },
	{ "next", FIELD_INT, OPTIONAL, "`from` of the call for the points that do not fit" },
	{ "series", LIST_OF(FIELD_TREND_SERIES), REQUIRED, "the series" }, END };

static const struct field advise_args[] = {
	{ "vm", FIELD_STRING, OPTIONAL, "return only advice about this VM (name or UUID) [all VMs, pools and the host]" },
	{ "verbose", FIELD_BOOL, OPTIONAL, "also name the rules that lack data" },
	{ "snapshots", FIELD_BOOL, OPTIONAL, "with `vm`: also look for old snapshots, for which a process reads the VM's images" },
	{ "after", FIELD_STRING, OPTIONAL, "start the page after this name" }, END };
static const struct field advise_returns[] = {
	{ "advice", LIST_OF(FIELD_ADVICE), REQUIRED, "the advice" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };

#define FIELD_FOLDER { "folder", FIELD_STRING, OPTIONAL, "folder of relative paths" }
#define FIELD_JOB_ID { "job-id", FIELD_STRING, OPTIONAL, "id for the job [generated]" }
static const struct field rename_args[] = { FIELD_VM,
	{ "name", FIELD_STRING, REQUIRED, "new name of the VM" }, END };
static const struct field promote_args[] = { FIELD_VM,
	{ "undo", FIELD_BOOL, OPTIONAL, "undo the promotion of the VM: give all back to the VM that it replaced [false]" }, END };
static const struct field promote_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the promoted VM" },
	{ "uuid", FIELD_STRING, REQUIRED, "its UUID" },
	{ "old", FIELD_STRING, REQUIRED, "new name of the VM that was replaced" },
	{ "old-uuid", FIELD_STRING, REQUIRED, "new UUID of that VM" },
	{ "gap", FIELD_INT, OPTIONAL, "longest time for which a port had no listening process, ns; its clients waited" },
	{ "warnings", LIST_OF(FIELD_STRING), OPTIONAL, "ports that could not be opened" }, END };
static const struct field undefine_args[] = { FIELD_VM,
	{ "managed-save", FIELD_BOOL, OPTIONAL, "remove the managed save too" },
	{ "snapshots-metadata", FIELD_BOOL, OPTIONAL, "undefine the VM although its images have snapshots, unless one is of a backup under way" },
	{ "remove-all-storage", FIELD_BOOL, OPTIONAL, "delete the image files that the VM writes to; refused if another VM uses any of them" },
	{ "storage", LIST_OF(FIELD_STRING), OPTIONAL, "delete only these images, given by disk id or path" },
	{ "nvram", FIELD_BOOL, OPTIONAL, "remove the UEFI variables too" },
	{ "keep-nvram", FIELD_BOOL, OPTIONAL, "refused for a VM that has UEFI variables, which are in its state folder" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "show what would be deleted, and change nothing" }, END };
static const struct field undefine_returns[] = { { "volumes", LIST_OF(FIELD_VOLUME), OPTIONAL, "images that were deleted or stay" }, END };
static const struct field start_args[] = { FIELD_VM,
	{ "force-boot", FIELD_BOOL, OPTIONAL, "discard a managed save and boot" },
	{ "eager", FIELD_BOOL, OPTIONAL, "read the whole memory of a managed save before the vCPUs run" },
	{ "paused", FIELD_BOOL, OPTIONAL, "start the VM paused" },
	{ "boot", FIELD_BOOT_KIND, OPTIONAL, "boot from this kind of device first [boot_order]" }, { "bootmenu", FIELD_BOOL, OPTIONAL, "let the firmware offer its boot menu" },
	{ "reset-nvram", FIELD_BOOL, OPTIONAL, "replace the UEFI variables by their template" },
	{ "forwards", LIST_OF(FIELD_FORWARD), OPTIONAL, "forwards of this run, as forward-add makes them; requires the role owner; if one fails, the VM does not start" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "check quotas, limits, ports, networks, images in use by other VMs, memory, disk space and processors, and start nothing; no file is opened" }, END };
static const struct field start_returns[] = {
	{ "id", FIELD_INT, OPTIONAL, "id of the running VM, unless dry-run" }, { "published", LIST_OF(FIELD_PUBLISHED_PORT), OPTIONAL, "with forwards: their ports" },
	{ "warnings", LIST_OF(FIELD_STRING), OPTIONAL, "sentences about resources that the host lacks, the most urgent first: memory, space of a pool, and with dry-run processors" }, END };

#define FIELD_MODE { "mode", FIELD_SHUTDOWN_MODE, OPTIONAL, \
	"press the power button (acpi) or ask the guest agent (agent) [acpi]" }
#define FIELDS_AT                                                                                  \
	{ "at", FIELD_INT, OPTIONAL, "schedule the action for this time (realtime, ns); the guest agent warns users beforehand" }, \
	{ "message", FIELD_STRING, OPTIONAL, "begin the warnings to users and on consoles with this line" }
static const struct field shutdown_returns[] = {
	{ "delayed", FIELD_STRING, OPTIONAL, "a hook of the host's admin has delayed it: the hook and its reason" },
	{ "at", FIELD_INT, OPTIONAL, "with delayed: time of the next try: realtime, ns" }, END };
static const struct field shutdown_args[] = { FIELD_VM, FIELD_MODE,
	{ "then", FIELD_SHUTDOWN_THEN, OPTIONAL, "do this if the guest still runs at the deadline [shutdown.then of the definition]" },
	{ "timeout", FIELD_INT, OPTIONAL, "set the deadline, in seconds [shutdown.deadline of the definition]" }, FIELDS_AT, END };
static const struct field reboot_args[] = { FIELD_VM, FIELD_MODE, FIELDS_AT, END };
static const struct field daemon_stop_args[] = {
	{ "action", FIELD_STOP_ACTION, OPTIONAL, "apply this action to all VMs [stop_action of each definition]" },
	{ "host-ends", FIELD_BOOL, OPTIONAL, "shut down the VMs whose stop_action is leave, too, because the host ends" },
	{ "vms-only", FIELD_BOOL, OPTIONAL, "keep the daemon running" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "show what would happen, in order, and change nothing" }, END };
static const struct field daemon_stop_returns[] = {
	{ "vms", LIST_OF(FIELD_STOPPED_VM), REQUIRED, "VMs that ran or were about to be restarted" },
	{ "omitted", FIELD_INT, OPTIONAL, "number of further VMs, for which the answer's line has no room" }, END };
static const struct field autostart_args[] = { FIELD_VM,
	{ "disable", FIELD_BOOL, OPTIONAL, "turn the automatic start off" }, END };
static const struct field addresses_returns[] = {
	{ "interfaces", LIST_OF(FIELD_GUEST_INTERFACE), REQUIRED, "the guest's interfaces as its agent reports them" },
	{ "cut", FIELD_BOOL, OPTIONAL, "the list is truncated" }, END };
static const struct field interface_args[] = { FIELD_VM,
	{ "interface", FIELD_STRING, REQUIRED, "id or MAC address of the interface" },
	{ "link", FIELD_STRING, OPTIONAL, "up or down" },
	{ "inbound", FIELD_INTERFACE_LIMIT, OPTIONAL, "limits of the frames to the guest; {}: none" },
	{ "outbound", FIELD_INTERFACE_LIMIT, OPTIONAL, "limits of the frames from the guest" },
	{ "egress", FIELD_EGRESS_DEFINITION, OPTIONAL, "type user: egress rules, as in a definition; alone" },
	{ "no-egress", FIELD_BOOL, OPTIONAL, "type user: remove the egress rules" }, END };
static const struct field disk_args[] = { FIELD_VM,
	{ "disk", FIELD_STRING, REQUIRED, "id of the disk or path of its image" },
	{ "iops", FIELD_INT, OPTIONAL, "most requests in a second; 0: no limit [no change]" },
	{ "bps", FIELD_INT, OPTIONAL, "most bytes in a second; 0: no limit [no change]" },
	{ "limits", MAP_OF(FIELD_INT), OPTIONAL, "other limits, with the keys of a definition, such as iops_rd or bps_max; 0: none" }, END };
static const struct field resize_args[] = { FIELD_VM,
	{ "disk", FIELD_STRING, REQUIRED, "id of the disk or path of its image" },
	{ "size", FIELD_INT, OPTIONAL, "in bytes, not less than now [the size of the image, if it is a block device]" }, END };
static const struct field set_vcpus_args[] = { FIELD_VM, { "vcpus", FIELD_INT, REQUIRED, "number of vCPUs, at most max_vcpus of the definition" },
	{ "timeout", FIELD_INT, OPTIONAL, "seconds to wait for the guest to release vCPUs, 1 to 600 [5]" }, END };
static const struct field memory_args[] = { FIELD_VM, FIELDS_MEMORY, END };
static const struct field dirty_rate_args[] = { FIELD_VM, { "seconds", FIELD_INT, OPTIONAL, "length of the measurement, 1 to 60 [1]" },
	FIELD_SAMPLE_PAGES, END };
#define AGENT_COMMAND_ARGS \
	FIELD_VM, \
	{ "command", FIELD_AGENT_COMMAND, REQUIRED, "at most 64 KiB" }, \
	{ "timeout", FIELD_INT, OPTIONAL, "seconds, 1 to 120 [5]" }, \
	{ "fd", FIELD_BOOL, OPTIONAL, "return the answer as a file" }
static const struct field agent_command_args[] = { AGENT_COMMAND_ARGS, END };
static const struct field agent_command_returns[] = {
	{ "answer", FIELD_STRING, OPTIONAL, "a JSON text that the daemon has not checked" },
	{ "bytes", FIELD_INT, REQUIRED, "its length" }, END };
static const struct field sandbox_returns[] = {
	{ "pid", FIELD_INT, REQUIRED, "pid of the VM's process" },
	{ "uids", LIST_OF(FIELD_INT), OPTIONAL, "its user ids: real, effective, saved, and that for files" },
	{ "gids", LIST_OF(FIELD_INT), OPTIONAL, "its group ids, likewise" },
	{ "groups", LIST_OF(FIELD_INT), OPTIONAL, "ids of its other groups" },
	{ "cap-effective", FIELD_STRING, OPTIONAL, "effective capabilities, hexadecimal" },
	{ "cap-permitted", FIELD_STRING, OPTIONAL, "permitted capabilities, hexadecimal" },
	{ "no-new-privs", FIELD_BOOL, OPTIONAL, "it cannot gain privileges from programs" },
	{ "seccomp", FIELD_STRING, OPTIONAL, "mode of seccomp: disabled, strict, filter" },
	{ "seccomp-filters", FIELD_INT, OPTIONAL, "number of seccomp filters" },
	{ "landlock", FIELD_INT, OPTIONAL, "version of landlock, as the process reports it; 0: none" },
	{ "threads", FIELD_INT, OPTIONAL, "number of threads" },
	{ "limit-core", LIST_OF(FIELD_INT), OPTIONAL, "soft and hard limit of core files, bytes; -1: unlimited" },
	{ "limit-fsize", LIST_OF(FIELD_INT), OPTIONAL, "the same of other files" },
	{ "limit-nofile", LIST_OF(FIELD_INT), OPTIONAL, "soft and hard limit of open files; -1: unlimited" },
	{ "limit-nproc", LIST_OF(FIELD_INT), OPTIONAL, "soft and hard limit of threads of its user id; -1: unlimited" },
	{ "cgroups", LIST_OF(FIELD_STRING), OPTIONAL, "its control groups, as the kernel writes them; \"0::/path\" is the group of version 2" },
	{ "cgroup-limits", MAP_OF(FIELD_STRING), OPTIONAL, "limits of its own control group, by the kernel's file" },
	{ "namespaces", FIELD_NAMESPACES, OPTIONAL, "own, or daemon if the process shares the daemon's. All VMs of root's daemon share one mnt and one net, which are shown as own" },
	{ "mounts", FIELD_INT, OPTIONAL, "number of file systems that it could see; 1: only the empty root of its sandbox" },
	{ "interfaces", LIST_OF(FIELD_STRING), OPTIONAL, "network interfaces of its namespace; the VM's own interfaces are open files" },
	{ "lacks", LIST_OF(FIELD_STRING), OPTIONAL, "parts of the sandbox that are missing, each with the reason" }, END };
static const struct field path_returns[] = { { "path", FIELD_STRING, REQUIRED, "absolute path" }, END };
static const struct field console_args[] = { FIELD_VM,
	{ "kind", FIELD_CONSOLE_KIND, OPTIONAL, "console to open [serial]" },
	{ "history", FIELD_BOOL, OPTIONAL, "send the kept output first [true]" }, END };

static const struct field vsock_args[] = { FIELD_VM,
	{ "port", FIELD_INT, REQUIRED, "vsock port in the guest, 0 to 4294967294" }, END };

static const struct field save_args[] = { FIELD_VM, FIELD_JOB_ID, END };
static const struct field managed_save_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "then", FIELD_SAVED_AS, OPTIONAL, "resume the VM or leave it paused at the next start [as now]" }, END };
static const struct field job_returns[] = { { "job", FIELD_STRING, REQUIRED, "id of the job" }, END };
static const struct field exec_args[] = { FIELD_VM, FIELD_JOB_ID, FIELDS_EXEC, END };
const struct field exec_returns[] = {
	{ "ended", FIELD_BOOL, REQUIRED, "the program has ended" },
	{ "exit-status", FIELD_INT, OPTIONAL, "exit status of a program that has ended" },
	{ "signal", FIELD_INT, OPTIONAL, "signal that killed the program" },
	{ "stdout", FIELD_STRING, OPTIONAL, "page of the standard output, if it is plain text" },
	{ "stdout-base64", FIELD_STRING, OPTIONAL, "any other page, base64" },
	{ "stdout-next", FIELD_INT, REQUIRED, "`stdout-from` of the next page" },
	{ "stderr", FIELD_STRING, OPTIONAL, "as `stdout`, of the standard error" },
	{ "stderr-base64", FIELD_STRING, OPTIONAL, "as `stdout-base64`" },
	{ "stderr-next", FIELD_INT, REQUIRED, "`stderr-from` of the next page" },
	{ "more", FIELD_BOOL, REQUIRED, "there is a next page" },
	{ "truncated", FIELD_BOOL, REQUIRED, "output beyond 64 KiB was dropped" }, END };
const struct field exec_output_args[] = { { "id", FIELD_STRING, REQUIRED, "id of the job" },
	{ "stdout-from", FIELD_INT, OPTIONAL, "first byte of the page of the standard output [0]" },
	{ "stderr-from", FIELD_INT, OPTIONAL, "first byte of the page of the standard error [0]" }, END };
static const struct field export_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "compress", FIELD_COMPRESS, OPTIONAL, "compression method [zstd]" },
	{ "level", FIELD_INT, OPTIONAL, "compression level" },
	{ "snapshot", FIELD_STRING, OPTIONAL, "export the disks as of this snapshot; required unless the VM is off" },
	{ "since", FIELD_STRING, OPTIONAL, "export only the differences from this earlier snapshot; needs `snapshot`" }, END };
static const struct field import_args[] = { FIELD_JOB_ID,
	{ "folder", FIELD_STRING, REQUIRED, "absolute path of the folder in which to create the folder of the VM" },
	{ "name", FIELD_STRING, OPTIONAL, "name of the VM [the name in the archive]" },
	{ "increments", LIST_OF(FIELD_STRING), OPTIONAL, "absolute paths of the increments that follow the archive, opened with the client's rights" },
	{ "max-bytes", FIELD_INT, OPTIONAL, "refuse an archive with more data than this, or whose files take more space [free space of the file system]" }, END };
static const struct field restore_args[] = { { "definition", FIELD_DEFINITION, REQUIRED, "definition in the saved state" },
	{ "paused", FIELD_BOOL, OPTIONAL, "start the VM paused" },
	{ "eager", FIELD_BOOL, OPTIONAL, "read the whole memory before the vCPUs run" },
	{ "transient", FIELD_BOOL, OPTIONAL, "undefine a VM that this command defines when it has ended, as vm-create does" },
	{ "moved", LIST_OF(FIELD_STRING), OPTIONAL, "ids of disks whose image was moved since the save; without it, another image than in the state is refused" }, END };
static const struct field restore_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "of the VM" },
	{ "id", FIELD_INT, REQUIRED, "id of the running VM" },
	{ "created", FIELD_BOOL, REQUIRED, "whether the VM was defined" },
	{ "differs", FIELD_STRING, OPTIONAL, "how the VM's definition differs from that in the saved state, with which the VM runs until it is off" }, END };
static const struct field dump_memory_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "then", FIELD_DUMP_THEN, OPTIONAL, "stop (crash) or reset the VM after the dump; the VM is paused during the dump" }, END };
static const struct field screenshot_args[] = { FIELD_VM,
	{ "format", FIELD_PICTURE_FORMAT, OPTIONAL, "format of the picture [ppm]" }, END };
static const struct field send_key_args[] = { FIELD_VM,
	{ "keys", LIST_OF(FIELD_STRING_OR_INT), REQUIRED, "keys to press together, at most 16: names such as \"KEY_ENTER\", or numbers" },
	{ "codeset", FIELD_STRING, OPTIONAL, "set of key codes: linux, xt, atset1, qnum or rfb [linux]" },
	{ "hold-time", FIELD_INT, OPTIONAL, "how long the keys are held, ms, at most 10000 [100]" }, END };
#define FIELDS_FORWARD                                                                                  \
	{ "protocol", FIELD_STRING, OPTIONAL, "tcp or udp [tcp]" },                                     \
	{ "address", FIELD_STRING, OPTIONAL, "address of this host [add: 127.0.0.1; remove: any]" }
static const struct field forward_add_args[] = { FIELD_VM, FIELDS_FORWARD,
	{ "port", FIELD_INT, OPTIONAL, "port of this host [a free one]" },
	{ "to", FIELD_INT, REQUIRED, "port of the guest" },
	{ "guest", FIELD_STRING, OPTIONAL, "address of the guest [the one that DHCP gives]" },
	{ "interface", FIELD_STRING, OPTIONAL, "id of an interface of type user or network [the first]" }, END };
static const struct field forward_remove_args[] = { FIELD_VM, FIELDS_FORWARD,
	{ "port", FIELD_INT, REQUIRED, "port of this host" }, END };
static const struct field forward_returns[] = { { "port", FIELD_INT, REQUIRED, "port of this host" }, END };
#define FIELDS_LIVE_CLONE                                                                                          \
	{ "ephemeral", FIELD_BOOL, OPTIONAL, "undefine each clone, and remove the images that were made for it, when it has ended [false]" }, \
	{ "cpu-quota", FIELD_INT, OPTIONAL,                                                                     \
		"cpu_quota of the clones: most processor time, in percent of one processor [the VM's]" },     \
	{ "memory-max", FIELD_INT, OPTIONAL,                                                                    \
		"memory_max of the clones: most memory that the process of each may take, bytes [the VM's]" }, \
	{ "forwards", LIST_OF(FIELD_FORWARD), OPTIONAL, "forwards of each clone's first run" }
static const struct field fork_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "name", FIELD_STRING, OPTIONAL, "name of the clone" },
	{ "count", FIELD_INT, OPTIONAL, "create this many clones, named NAME-1, NAME-2, ..." },
	{ "name-pattern", FIELD_STRING, OPTIONAL, "name the clones by this pattern, such as web-%02d" },
	FIELDS_LIVE_CLONE,
	{ "snapshot", FIELD_STRING, OPTIONAL,
		"continue from this snapshot (name or id) [the present state of a running or paused VM]" },
	{ "hostname", FIELD_BOOL, OPTIONAL,
		"false: do not ask the guest agent to set the host name to the clone's name [true]" },
	{ "isolated", FIELD_BOOL, OPTIONAL, "copy all writable disks, so that no clone can read the images of its source [false]" },
	{ "paused", FIELD_BOOL, OPTIONAL, "leave the clones paused" }, END };
static const struct field clone_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "name", FIELD_STRING, OPTIONAL, "name of the clone" },
	{ "count", FIELD_INT, OPTIONAL, "create this many clones, named NAME-1, NAME-2, ..." },
	{ "name-pattern", FIELD_STRING, OPTIONAL, "name the clones by this pattern, such as web-%02d" },
	{ "kind", FIELD_CLONE_KIND, OPTIONAL, "independent disks (full) or qcow2 overlays on the VM's disks (linked) [full]" },
	{ "snapshots", FIELD_BOOL, OPTIONAL, "copy the images with their snapshots and backing files (full clones only)" },
	{ "files", LIST_OF(FIELD_STRING), OPTIONAL, "path of the copy, for each disk that the VM writes to [beside the image]" },
	{ "macs", LIST_OF(FIELD_STRING), OPTIONAL, "MAC address of each interface [generated]" },
	{ "uuid", FIELD_STRING, OPTIONAL, "set the UUID of the clone [generated]" },
	{ "reset-identity", FIELD_BOOL, OPTIONAL,
		"give the guest a new machine-id, SSH host keys and host name with virt-sysprep" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "show what would be created, and create nothing" }, END };
static const struct field clone_returns[] = {
	{ "job", FIELD_STRING, OPTIONAL, "id of the job" },
	{ "clones", LIST_OF(FIELD_PLANNED_CLONE), OPTIONAL, "with dry-run: the clones that would be created" }, END };
static const struct field template_args[] = { FIELD_VM,
	{ "disable", FIELD_BOOL, OPTIONAL, "turn the template back into an ordinary VM" }, END };
static const struct field snapshot_create_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "name", FIELD_STRING, OPTIONAL, "name of the snapshot [seconds since 1970]" },
	{ "description", FIELD_STRING, OPTIONAL, "one line" },
	{ "tags", LIST_OF(FIELD_STRING), OPTIONAL, "tags; \"keep\" protects the snapshot from deletion" },
	{ "disks-only", FIELD_BOOL, OPTIONAL, "leave memory out of the snapshot" },
	{ "halt", FIELD_BOOL, OPTIONAL, "stop the VM after the snapshot" },
	{ "quiesce", FIELD_BOOL, OPTIONAL,
		"have the guest agent freeze the file systems during the snapshot" },
	{ "rate", FIELD_INT, OPTIONAL, "limit for writing memory, bytes a second" }, END };
static const struct field group_snapshot_args[] = {
	{ "vms", LIST_OF(FIELD_STRING), REQUIRED, "names of the VMs, up to 64" }, FIELD_JOB_ID,
	{ "name", FIELD_STRING, OPTIONAL, "name of the snapshots [seconds since 1970]" },
	{ "description", FIELD_STRING, OPTIONAL, "one line" },
	{ "quiesce", FIELD_BOOL, OPTIONAL,
		"have the guest agents freeze the file systems of the VMs that run" }, END };
static const struct field group_clone_args[] = {
	{ "vms", LIST_OF(FIELD_STRING), REQUIRED, "names of the VMs, up to 64, which run or are paused" }, FIELD_JOB_ID,
	{ "name-pattern", FIELD_STRING, OPTIONAL, "name each clone by this pattern, with %s for the name of its VM [%s-clone]" },
	FIELDS_LIVE_CLONE,
	{ "hostname", FIELD_BOOL, OPTIONAL,
		"false: do not ask the guest agents to set the host names to the clones' names [true]" },
	{ "isolated", FIELD_BOOL, OPTIONAL, "copy all writable disks, so that no clone can read the images of its source [false]" },
	{ "keep-networks", FIELD_BOOL, OPTIONAL, "leave the clones on the networks that the VMs share [make isolated ones in place of these]" },
	{ "paused", FIELD_BOOL, OPTIONAL, "leave the clones paused" }, END };
static const struct field snapshot_list_args[] = { FIELD_VM,
	{ "from", FIELD_INT, OPTIONAL, "`next` of the previous page, or index of the first entry [0]" }, END };
static const struct field snapshot_list_returns[] = {
	{ "snapshots", LIST_OF(FIELD_SNAPSHOT_ENTRY), REQUIRED, "the snapshots" },
	{ "next", FIELD_INT, OPTIONAL, "`from` of the call for the next page, if there is one" }, END };
#define FIELD_SNAPSHOT { "name", FIELD_STRING, REQUIRED, "name or id of the snapshot" }
static const struct field snapshot_revert_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "name", FIELD_STRING, OPTIONAL, "name or id of the snapshot [the current one]" },
	{ "then", FIELD_SAVED_AS, OPTIONAL, "resume the VM or leave it paused [as in the snapshot]" },
	{ "disks-only", FIELD_BOOL, OPTIONAL, "revert the disks without memory; the VM is off then, except with `then`" },
	{ "disk", FIELD_STRING, OPTIONAL, "with disks-only: revert only the disk with this id" },
	{ "eager", FIELD_BOOL, OPTIONAL, "read the whole memory before the vCPUs run" },
	{ "verify", FIELD_BOOL, OPTIONAL, "check all memory before the revert changes anything" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "check whether the revert is possible, show what would be lost, and change nothing" }, END };
static const struct field snapshot_delete_args[] = { FIELD_VM, FIELD_JOB_ID, FIELD_SNAPSHOT,
	{ "children", FIELD_CHILDREN, OPTIONAL, "too: delete its descendants as well; only: delete only its descendants" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "show which snapshots would be deleted, and delete none" }, END };
static const struct field blockpull_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "disk", FIELD_STRING, REQUIRED, "id of the disk, or path of its image" },
	{ "bandwidth", FIELD_INT, OPTIONAL, "maximum rate in bytes/s [no limit]" }, END };
static const struct field blockcopy_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "disk", FIELD_STRING, REQUIRED, "id of the disk, or path of its image" },
	{ "format", FIELD_IMAGE_FORMAT, OPTIONAL, "format of the copy [raw]" },
	{ "path", FIELD_STRING, OPTIONAL, "absolute path of the file, for `mirror` of vm-info" }, { "bandwidth", FIELD_INT, OPTIONAL, "maximum rate in bytes/s [no limit]" },
	{ "pivot", FIELD_BOOL, OPTIONAL, "refuse the copy if vm-blockjob-pivot would be refused, because the disk has snapshots [false]" }, END };
static const struct field pivot_args[] = { FIELD_VM, { "disk", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "path", FIELD_STRING, REQUIRED, "absolute path of the copy" }, { "format", FIELD_IMAGE_FORMAT, REQUIRED, "format of the copy" },
	{ "check-only", FIELD_BOOL, OPTIONAL, "look whether the pivot would be refused; the definition need not name the copy [false]" }, END };
static const struct field copy_abort_args[] = { FIELD_VM, { "disk", FIELD_STRING, REQUIRED, "id of the disk, or path of its image" }, END };
static const struct field disk_snapshot_args[] = { FIELD_VM,
	{ "disks", LIST_OF(FIELD_OVERLAY), REQUIRED, "the new overlay of each disk" },
	{ "check-only", FIELD_BOOL, OPTIONAL, "look whether it would be refused; the definition need not name the overlays [false]" }, END };
static const struct field blockcommit_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "disk", FIELD_STRING, REQUIRED, "id of the disk, or path of its image" },
	{ "top", FIELD_STRING, OPTIONAL, "path of the uppermost layer to commit [the disk's image]" },
	{ "base", FIELD_STRING, OPTIONAL, "path of the layer that gets all [the lowest one]" },
	{ "shallow", FIELD_BOOL, OPTIONAL, "without base: the layer below top gets all [false]" },
	{ "active", FIELD_BOOL, OPTIONAL, "top may be the image that the guest of a running VM writes to [false]" },
	{ "bandwidth", FIELD_INT, OPTIONAL, "maximum rate in bytes/s [no limit]" }, END };
static const struct field snapshot_size_args[] = { FIELD_VM, FIELD_SNAPSHOT, END };
#define FIELDS_DIFF                                                                                      \
	FIELD_VM, FIELD_JOB_ID, { "from", FIELD_STRING, REQUIRED, "name or id of the earlier snapshot" },    \
	{ "to", FIELD_STRING, OPTIONAL, "name or id of the later snapshot [the present content of a VM that is off]" }, \
	{ "disk", FIELD_STRING, OPTIONAL, "compare only the disk with this id [all]" },                      \
	{ "page", FIELD_STRING, OPTIONAL, "the `next` of the page before [the first page]" },                    \
	{ "limit", FIELD_INT, OPTIONAL, "greatest number of entries in the page [as many as fit into an answer]" }
static const struct field snapshot_diff_args[] = { FIELDS_DIFF,
	{ "extents", FIELD_BOOL, OPTIONAL, "list the differences, page by page" }, END };
static const struct field snapshot_diff_files_args[] = { FIELDS_DIFF, END };
static const struct field snapshot_size_returns[] = {
	{ "own-size", FIELD_INT, REQUIRED, "bytes that only this snapshot uses, and that its deletion frees" }, END };
static const struct field pins_returns[] = {
	{ "pins", LIST_OF(FIELD_PIN), REQUIRED, "the pins" }, END };
static const struct field snapshot_set_args[] = { FIELD_VM, FIELD_SNAPSHOT,
	{ "new-name", FIELD_STRING, OPTIONAL, "new name of the snapshot" },
	{ "description", FIELD_STRING, OPTIONAL, "one line" },
	{ "tags", LIST_OF(FIELD_STRING), OPTIONAL, "new tags, in place of the present ones" }, END };
static const struct field query_jobs_args[] = {
	{ "id", FIELD_STRING, OPTIONAL, "return only this job" },
	{ "after", FIELD_STRING, OPTIONAL, "start the page after this id; NotFound if that job was dismissed meanwhile" }, END };
static const struct field query_events_args[] = {
	{ "since", FIELD_INT, OPTIONAL, "number of the last event seen [0]" },
	{ "vm", FIELD_STRING, OPTIONAL, "return only events of VMs that had this name, or of the VM with this UUID" },
	{ "event", FIELD_STRING, OPTIONAL, "return only events of this name" }, END };
static const struct field event_filter_args[] = {
	{ "vm", FIELD_STRING, OPTIONAL, "name or UUID of the VM whose events to send [events of all VMs and of no VM]" },
	{ "events", LIST_OF(FIELD_STRING), OPTIONAL, "names of the events to send [all]" }, END };
static const struct field query_events_returns[] = {
	{ "events", LIST_OF(FIELD_EVENT), REQUIRED, "events as sent, each with its number as seq" },
	{ "next", FIELD_INT, REQUIRED, "`since` of the next call" },
	{ "last", FIELD_INT, REQUIRED, "number of the newest event" },
	{ "lost", FIELD_BOOL, REQUIRED, "some events after `since` are no longer kept, or `since` is beyond `last`: the state folder is another one" },
	{ "more", FIELD_BOOL, REQUIRED, "another page follows" }, END };
static const struct field query_audit_args[] = {
	{ "from", FIELD_INT, OPTIONAL, "`next` of the previous page [the oldest line]" },
	{ "since", FIELD_INT, OPTIONAL, "return only calls since this time: realtime, ns" },
	{ "uid", FIELD_INT, OPTIONAL, "show only calls of this user" },
	{ "vm", FIELD_STRING, OPTIONAL, "show only calls that name this VM" }, END };
static const struct field query_audit_returns[] = {
	{ "lines", LIST_OF(FIELD_AUDIT_LINE), REQUIRED,
		"lines of the log, oldest first" },
	{ "next", FIELD_INT, REQUIRED, "`from` of the next call" },
	{ "more", FIELD_BOOL, REQUIRED, "another page follows" }, END };
static const struct field vm_log_args[] = { FIELD_VM,
	{ "from", FIELD_STRING, OPTIONAL, "`next` of the previous page [the oldest line]" }, END };
static const struct field vm_log_returns[] = {
	{ "text", FIELD_STRING, REQUIRED, "lines, at most 16 KiB" },
	{ "next", FIELD_STRING, REQUIRED, "`from` of the next call" },
	{ "more", FIELD_BOOL, REQUIRED, "another page follows" },
	{ "lost", FIELD_BOOL, REQUIRED, "some lines after `from` are no longer kept" }, END };
static const struct field schedule_set_args[] = { FIELD_VM,
	{ "every", FIELD_STRING, OPTIONAL, "set the interval, such as 15m, 1h or 1d; required for a new schedule" },
	{ "keep", FIELD_STRING, OPTIONAL, "set the retention rules WINDOW:PERIOD [" SCHEDULE_KEEP_DEFAULT "]" },
	{ "min-free", FIELD_STRING, OPTIONAL,
		"create no snapshot with less free space than this (10%, 5G) [" SCHEDULE_MIN_FREE_DEFAULT "]" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "show which existing snapshots the schedule would delete after its next run, and change nothing" }, END };
static const struct field schedule_set_returns[] = {
	{ "would-delete", LIST_OF(FIELD_STRING), OPTIONAL, "with dry-run: names of the first snapshots to delete" },
	{ "count", FIELD_INT, OPTIONAL, "with dry-run: number of snapshots to delete" }, END };
#define FIELD_SCHEDULE_NAME { "name", FIELD_STRING, REQUIRED, "name of the schedule" }
static const struct field schedule_add_args[] = { FIELD_VM,
	{ "action", FIELD_SCHEDULE_ACTION, REQUIRED, "do this" },
	{ "on", FIELD_STRING, REQUIRED, "when: a calendar expression of systemd, such as Mon..Fri 02:30, daily or *-*-01 04:00 UTC" },
	{ "zone", FIELD_STRING, OPTIONAL, "time zone, such as Europe/Berlin [the host's]" },
	{ "missed", FIELD_SCHEDULE_MISSED, OPTIONAL,
		"of missed runs: skip all, make up for them by one run, or do the last 10 of them all [skip]" },
	{ "folder", FIELD_STRING, OPTIONAL, "absolute path of the folder in which export creates its archives; required for it, and only for it" },
	{ "name", FIELD_STRING, OPTIONAL, "name of the schedule [the action, perhaps with a number]" }, END };
static const struct field schedule_add_returns[] = { { "name", FIELD_STRING, REQUIRED, "name of the schedule" },
	{ "next-run", FIELD_INT, REQUIRED, "time of the first run: realtime, ns" }, END };
static const struct field schedule_name_args[] = { FIELD_VM, FIELD_SCHEDULE_NAME, END };
static const struct field schedule_pause_args[] = { FIELD_VM, FIELD_SCHEDULE_NAME,
	{ "resume", FIELD_BOOL, OPTIONAL, "let it run again; runs that became due during the pause are omitted" }, END };
static const struct field query_timetables_args[] = {
	{ "vm", FIELD_STRING, OPTIONAL, "return only the schedules of this VM (name or UUID)" },
	{ "after", FIELD_STRING, OPTIONAL, "`next` of the previous page, or start the page after the VM of this name" }, END };
static const struct field query_timetables_returns[] = {
	{ "schedules", LIST_OF(FIELD_SCHEDULE), REQUIRED, "the schedules, by VM and name" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };
static const struct field query_history_args[] = { FIELD_VM, END };
static const struct field query_history_returns[] = {
	{ "runs", LIST_OF(FIELD_SCHEDULE_RUN), REQUIRED, "the last runs, oldest first" }, END };
static const struct field threshold_set_args[] = { FIELD_VM,
	{ "measure", FIELD_MEASURE, REQUIRED, "watch this figure: cpu, memory and disk-space in percent, latency of disk requests, failed disk "
		"requests a second, or bytes a second of all interfaces" },
	{ "above", FIELD_STRING, REQUIRED, "raise it above this, such as 90, 20ms or 100M" },
	{ "below", FIELD_STRING, OPTIONAL, "clear it at or below this [as above]" },
	{ "for", FIELD_INT, OPTIONAL, "raise and clear it after so long without a break, ns [a minute]" },
	{ "then", FIELD_THRESHOLD_ACTION, OPTIONAL, "do this when it is raised, with the rights that you have then, at most once in ten minutes [none]" },
	{ "name", FIELD_STRING, OPTIONAL, "name of the threshold, which replaces one of this name [the measure]" }, END };
static const struct field threshold_remove_args[] = { FIELD_VM, { "name", FIELD_STRING, REQUIRED, "name of the threshold" }, END };
static const struct field query_thresholds_args[] = {
	{ "vm", FIELD_STRING, OPTIONAL, "return only the thresholds of this VM (name or UUID)" },
	{ "after", FIELD_STRING, OPTIONAL, "`next` of the previous page, or start the page after the VM of this name" }, END };
static const struct field query_thresholds_returns[] = {
	{ "thresholds", LIST_OF(FIELD_THRESHOLD), REQUIRED, "the thresholds, by VM and name" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };
static const struct field query_schedules_args[] = {
	{ "vm", FIELD_STRING, OPTIONAL, "return only the schedule of this VM (name or UUID)" },
	{ "after", FIELD_STRING, OPTIONAL, "`next` of the previous page, or start the page after the VM of this name" }, END };
static const struct field query_schedules_returns[] = {
	{ "schedules", LIST_OF(FIELD_SNAPSHOT_SCHEDULE), REQUIRED, "the schedules" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };
static const struct field pool_define_args[] = { { "name", FIELD_STRING, REQUIRED, "name of the pool" },
	{ "target", FIELD_STRING, REQUIRED, "absolute path of its folder, which the daemon does not open" }, END };
static const struct field pool_name_args[] = { { "name", FIELD_STRING, REQUIRED, "name of the pool" }, END };
static const struct field query_pools_args[] = { { "after", FIELD_STRING, OPTIONAL, "start the page after this name" }, END };
static const struct field query_pools_returns[] = { { "pools", LIST_OF(FIELD_POOL), REQUIRED, "the pools" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };
#define FIELD_VOLUME_POOL { "pool", FIELD_STRING, REQUIRED, "name of the pool" }
#define FIELD_VOLUME_NAME { "name", FIELD_STRING, REQUIRED, "name of the volume: a file in the pool's folder" }
static const struct field query_volumes_args[] = { FIELD_VOLUME_POOL,
	{ "after", FIELD_STRING, OPTIONAL, "start the page after this name" }, END };
static const struct field query_volumes_returns[] = {
	{ "volumes", LIST_OF(FIELD_POOL_VOLUME), REQUIRED, "the volumes, without names that are no UTF-8 or have control characters" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };
static const struct field volume_create_args[] = { FIELD_VOLUME_POOL, FIELD_VOLUME_NAME,
	{ "capacity", FIELD_INT, REQUIRED, "size that a guest sees, bytes" },
	{ "format", FIELD_STRING, OPTIONAL, "qcow2 or raw [qcow2]" },
	{ "backing", FIELD_STRING, OPTIONAL, "backing file: the name of a volume of the pool, or an absolute path [none]" },
	{ "backing-format", FIELD_STRING, OPTIONAL, "qcow2 or raw [as VMs use the backing file, or else as its header says]" },
	{ "preallocation", FIELD_STRING, OPTIONAL, "off, metadata, falloc or full, as cairn-img has them [off]" }, FIELD_JOB_ID, END };
static const struct field volume_clone_args[] = { FIELD_VOLUME_POOL, FIELD_VOLUME_NAME,
	{ "new-name", FIELD_STRING, REQUIRED, "name of the copy" }, FIELD_JOB_ID, END };
static const struct field volume_resize_args[] = { FIELD_VOLUME_POOL, FIELD_VOLUME_NAME,
	{ "capacity", FIELD_INT, REQUIRED, "its new size, bytes" },
	{ "shrink", FIELD_BOOL, OPTIONAL, "allow a smaller size; the data beyond it is lost" }, END };
static const struct field volume_open_returns[] = { { "warnings", LIST_OF(FIELD_STRING), OPTIONAL, "why it is open for reading only" }, END };
static const struct field volume_delete_args[] = { FIELD_VOLUME_POOL, FIELD_VOLUME_NAME, END };
static const struct field job_wait_args[] = { { "id", FIELD_STRING, REQUIRED, "id of the job" },
	{ "timeout", FIELD_INT, OPTIONAL, "time limit, 1 to 86400 seconds [none]" }, END };
static const struct field job_args[] = { { "id", FIELD_STRING, REQUIRED, "id of the job" }, END };

#define FIELD_NETWORK { "network", FIELD_STRING, REQUIRED, "name or UUID of the network" }
#define FIELD_WARNINGS { "warnings", LIST_OF(FIELD_STRING), OPTIONAL, \
	"sentences, such as about another firewall that drops the traffic" }
static const struct field network_only[] = { FIELD_NETWORK, END };
static const struct field net_define_args[] = {
	{ "definition", FIELD_NETWORK_DEFINITION, REQUIRED, "definition of the network; see docs/networks.md" },
	{ "was", FIELD_NETWORK_DEFINITION, OPTIONAL, "definition from net-dump-definition; the call fails if the network's definition has "
		"changed since" },
	{ "validate-only", FIELD_BOOL, OPTIONAL, "check the definition and change nothing" }, END };
static const struct field net_define_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the network" },
	{ "uuid", FIELD_STRING, REQUIRED, "UUID of the network" },
	{ "created", FIELD_BOOL, REQUIRED, "true: new definition; false: the existing one was replaced" },
	{ "pending", FIELD_BOOL, REQUIRED, "the network is active with another definition until its next start" }, END };
static const struct field net_create_args[] = {
	{ "definition", FIELD_NETWORK_DEFINITION, REQUIRED, "definition of the network; see docs/networks.md" }, END };
static const struct field net_create_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the network" },
	{ "uuid", FIELD_STRING, REQUIRED, "UUID of the network" },
	{ "bridge", FIELD_STRING, OPTIONAL, "name of the bridge" }, FIELD_DIRECT, FIELD_WARNINGS, END };
static const struct field net_start_returns[] = {
	{ "bridge", FIELD_STRING, OPTIONAL, "name of the bridge" }, FIELD_DIRECT, FIELD_WARNINGS, END };
static const struct field net_update_args[] = { FIELD_NETWORK,
	{ "definition", FIELD_NETWORK_DEFINITION, REQUIRED, "definition that the active network gets; only DHCP, DNS, egress, users and "
		"groups may differ. net-define changes the next start's" },
	{ "was", FIELD_NETWORK_DEFINITION, OPTIONAL, "definition from net-dump-definition; the call fails if the active one has changed since" }, END };
static const struct field net_update_returns[] = {
	{ "restarted", FIELD_BOOL, OPTIONAL, "true: the network's dnsmasq was restarted; DHCP and DNS did not answer meanwhile" }, FIELD_WARNINGS, END };
static const struct field net_autostart_args[] = { FIELD_NETWORK,
	{ "disable", FIELD_BOOL, OPTIONAL, "turn the automatic start off" }, END };
static const struct field net_list_args[] = {
	{ "after", FIELD_STRING, OPTIONAL, "start the page after this name" }, END };
static const struct field net_list_returns[] = {
	{ "networks", LIST_OF(FIELD_NETWORK_ENTRY), REQUIRED, "networks by name" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };
static const struct field net_info_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the network" },
	{ "uuid", FIELD_STRING, REQUIRED, "UUID of the network" },
	{ "state", FIELD_STRING, REQUIRED, "active, inactive, starting or stopping" },
	{ "persistent", FIELD_BOOL, REQUIRED, "the daemon keeps the definition when the network stops" },
	{ "autostart", FIELD_BOOL, REQUIRED, "the daemon starts the network after a boot of the host" },
	{ "mode", FIELD_STRING, REQUIRED, "nat, route, isolated, open, bridge, private, vepa or passthrough" },
	{ "bridge", FIELD_STRING, OPTIONAL, "name of the bridge" }, FIELD_DIRECT,
	{ "pending", FIELD_BOOL, REQUIRED, "the active definition differs from the definition of the next start" },
	{ "vms", LIST_OF(FIELD_STRING), REQUIRED, "names of the VMs that run with an interface of the network" },
	{ "denied-packets", FIELD_INT, OPTIONAL, "packets that the egress rules have denied since they were made" },
	{ "denied-questions", FIELD_INT, OPTIONAL, "DNS queries that they have refused; missing if they have no names" },
	{ "clones", LIST_OF(FIELD_CLONE_ADDRESS), OPTIONAL, "running live clones" },
	{ "reserved", LIST_OF(FIELD_CLONE_ADDRESS), OPTIONAL, "running VMs whose address is reserved for their published ports" }, FIELD_WARNINGS, END };
static const struct field net_dump_args[] = { FIELD_NETWORK,
	{ "inactive", FIELD_BOOL, OPTIONAL, "use the definition of the next start instead of the active network's" }, END };
static const struct field net_dump_returns[] = {
	{ "definition", FIELD_NETWORK_DEFINITION, REQUIRED, "canonical definition" } , END };
static const struct field net_leases_args[] = { FIELD_NETWORK,
	{ "mac", FIELD_STRING, OPTIONAL, "show only leases of this MAC address" },
	{ "from", FIELD_INT, OPTIONAL, "`next` of the previous page, or index of the first entry [0]" }, END };
static const struct field net_leases_returns[] = {
	{ "leases", LIST_OF(FIELD_LEASE), REQUIRED, "the leases" },
	{ "next", FIELD_INT, OPTIONAL, "`from` of the call for the next page, if there is one" }, END };

static const struct field attach_disk_args[] = { FIELD_VM, { "disk", FIELD_DISK_DEFINITION, REQUIRED, "the disk, as in a definition" }, FIELD_FOLDER, END };
static const struct field attach_interface_args[] = { FIELD_VM, { "interface", FIELD_INTERFACE_DEFINITION, REQUIRED, "the interface, as in a definition, without forwards and slot" }, END };
static const struct field attach_interface_returns[] = {
	{ "interface", FIELD_STRING, REQUIRED, "id of the interface" },
	{ "mac", FIELD_STRING, REQUIRED, "its MAC address" }, END };
static const struct field medium_args[] = { FIELD_VM, { "disk", FIELD_STRING, REQUIRED, "id of the drive or path of its image" },
	{ "medium", FIELD_DISK_DEFINITION, OPTIONAL, "the medium: only path, format, data_file and backing [none]" }, FIELD_FOLDER,
	{ "force", FIELD_BOOL, OPTIONAL, "although the guest keeps the tray locked" }, END };
static const struct field detach_device_args[] = { FIELD_VM, { "device", FIELD_STRING, REQUIRED, "id of the disk or path of its image; id or MAC address of the interface" },
	{ "timeout", FIELD_INT, OPTIONAL, "seconds to wait for the guest, 1 to 600 [5]" }, END };

static const struct command commands[] = {
	{ "qmp_capabilities", "end the negotiation", capabilities_args, NULL, ROLE_NONE,
		COMMAND_BEFORE_NEGOTIATION, ANY_STATE },
	{ "query-version", "show the versions of the daemon and of its QMP", no_fields, version_fields,
		ROLE_NONE, 0, ANY_STATE },
	{ "query-commands", "list the names of all commands", no_fields, commands_returns, ROLE_NONE,
		COMMAND_RETURNS_LIST, ANY_STATE },
	{ "query-qmp-schema", "show all commands, events and types", schema_args, NULL, ROLE_NONE, COMMAND_RETURNS_LIST, ANY_STATE },
	{ "schema-get", "show all commands, events and types with descriptions, page by page; lists and objects are typed down to the last member",
		schema_get_args, schema_get_returns, ROLE_NONE, 0, ANY_STATE },
	{ "vm-define", "define a VM, or redefine an existing one; a creator may define new ones, and an owner may redefine the VM", define_args,
		define_returns, ROLE_ADMIN, COMMAND_DEFINES | COMMAND_CREATES | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, ANY_STATE },
	{ "vm-create", "define and start a VM that is undefined when it has ended; the role creator is enough", create_args, create_returns, ROLE_ADMIN, COMMAND_CREATES | COMMAND_MUTATES, ANY_STATE },
	{ "vm-rename", "rename a VM that is off; its state, permissions and snapshots stay", rename_args,
		NULL, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, VM_ASK_RENAME },
	{ "vm-promote", "give a running live clone the name, UUID, ports, permissions, schedules and autostart of its source; "
		"the source stops and stays as NAME-old", promote_args, promote_returns, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-undefine", "remove a VM; its disk images are kept by default", undefine_args, undefine_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_UNDEFINE },
	{ "vm-dump-definition", "show the definition of a VM", dump_args, dump_returns, ROLE_VIEWER,
		COMMAND_CONCERNS_VM, ANY_STATE },
	{ "vm-list", "list all VMs, page by page", list_args, list_returns, ROLE_VIEWER, COMMAND_FILTERS,
		ANY_STATE },
	{ "vm-info", "show state, reason and statistics of a VM", vm_only, info_returns, ROLE_VIEWER,
		COMMAND_CONCERNS_VM, ANY_STATE },
	{ "vm-stats", "show what vm-info shows of all VMs, page by page; a process that does not answer within a second has no statistics",
		stats_args, stats_returns, ROLE_VIEWER, COMMAND_FILTERS, ANY_STATE },
	{ "vm-space", "as vm-info, but ask the VM's process first for the space of its images, if it has not reported that in this run", vm_only, info_returns, ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "vm-trend", "show a VM's figures over time, up to two years back", trend_args, trend_returns, ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "advise", "list resources that are wasted, short or unusual, or that will run out, from the trends of VMs, the space of pools and the memory of the host", advise_args, advise_returns,
		ROLE_VIEWER, COMMAND_FILTERS, ANY_STATE },
	{ "vm-addresses", "show the guest's network interfaces and addresses, as the guest agent reports them", vm_only, addresses_returns,
		ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "vm-set-interface", "change an interface of a running VM; a new start uses the definition again", interface_args, NULL, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-set-disk", "change the limits of a disk of a running VM; a new start uses the definition again", disk_args, NULL, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-resize-disk", "grow a disk of a running VM, whose guest sees the new size at once", resize_args, NULL, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-attach-disk", "attach a disk to a running VM; the definition of the next start is unchanged", attach_disk_args, NULL, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-attach-interface", "attach an interface to a running VM; the definition of the next start is unchanged", attach_interface_args,
		attach_interface_returns, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-detach-device", "ask the guest to release a disk or an interface, and wait until it is detached; the definition of the next start is unchanged",
		detach_device_args, NULL, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-change-medium", "change the medium of a cdrom drive of a running VM; the definition of the next start is unchanged", medium_args, NULL, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-set-memory", DOC_SET_MEMORY, memory_args, NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-calc-dirty-rate", DOC_DIRTY_RATE, dirty_rate_args, NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_DIRTY_RATE },
	{ "vm-set-vcpus", "add vCPUs to a running VM, or ask the guest to release some and wait for it; a new start uses the definition again",
		set_vcpus_args, NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-reclaim", DOC_RECLAIM, vm_only, reclaim_returns, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_RECLAIM },
	{ "vm-agent-command", "run a command of the guest agent", agent_command_args, agent_command_returns,
		ROLE_GUEST, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_RETURNS_FD, VM_ASK_GUEST },
	{ "vm-agent-query", "like vm-agent-command, but not in the audit log: for commands that only read, and for files and programs that vm-agent-command has opened or started", agent_command_args, agent_command_returns, ROLE_GUEST,
		COMMAND_CONCERNS_VM | COMMAND_RETURNS_FD, VM_ASK_GUEST },
	{ "vm-sandbox", "show the privileges, limits and namespaces of the VM's process, as the kernel reports them; fields that the "
		"daemon may not read are missing", vm_only, sandbox_returns, ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "vm-qmp-path", "show the path of the running VM's own socket, which speaks QEMU's QMP", vm_only,
		path_returns, ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "vm-start", "start a VM; return when its vCPUs run", start_args, start_returns,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, VM_ASK_START },
	{ "vm-shutdown", "shut the guest down, by the power button or the guest agent", shutdown_args, shutdown_returns, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_SHUTDOWN },
	{ "vm-reboot", "shut the guest down, and start the VM again when it is off", reboot_args,
		shutdown_returns, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_REBOOT },
	{ "vm-shutdown-cancel", "cancel the scheduled shutdown or reboot and any deadline", vm_only, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "daemon-stop", "stop the running VMs in their order, then the daemon; return when the VMs are stopped", daemon_stop_args,
		daemon_stop_returns, ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "vm-autostart", "start the VM automatically after a boot of the host, or turn that off", autostart_args, NULL,
		ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-reset", "reset the VM, like a hardware reset button", vm_only, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_RESET },
	{ "vm-suspend", "pause the vCPUs", vm_only, NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_SUSPEND },
	{ "vm-resume", "resume the vCPUs", vm_only, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_RESUME },
	{ "vm-destroy", "stop the VM at once, or end its start; return when its process has ended (a transient VM: is undefined), or fail if it is stuck in the kernel",
		vm_only, NULL,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_DESTROY },
	{ "vm-console", "connect to a console of the guest; the answer carries a socket as an fd", console_args, NULL,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_RETURNS_FD, VM_ASK_CONSOLE },
	{ "vm-log", "show the log of the VM's process, page by page", vm_log_args, vm_log_returns, ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "forward-add", "forward a port of this host to the running guest, until the VM's process ends", forward_add_args,
		forward_returns, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "forward-remove", "remove a forward of the running VM; open connections continue", forward_remove_args,
		forward_returns, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vsock-connect", "connect to a vsock port of the guest; the answer carries a socket as an fd", vsock_args, NULL,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_RETURNS_FD, VM_ASK_CONSOLE },
	{ "agent-connect", "connect to cairn-agent in the guest, over vsock; the answer carries a socket as an fd", vm_only, NULL,
		ROLE_GUEST, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_POLLED | COMMAND_RETURNS_FD, VM_ASK_GUEST },
	{ "agent-exec", "run a program in the guest as a job, with cairn-agent; cancelling the job kills the program", exec_args, job_returns,
		ROLE_GUEST, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB, VM_ASK_GUEST },
	{ "agent-exec-output", "show the output so far of a job of agent-exec that is not dismissed", exec_output_args, exec_returns, ROLE_GUEST,
		COMMAND_CONCERNS_JOB, ANY_STATE },
	{ "vm-save", "save the VM's state to the file passed as an fd (empty, regular, open for reading and "
		     "writing), and stop the VM", save_args, job_returns, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB | COMMAND_TAKES_FD, VM_ASK_SAVE },
	{ "vm-managed-save", "save the VM's state for its next start, and stop the VM", managed_save_args,
		job_returns, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB,
		VM_ASK_SAVE },
	{ "vm-restart-process", "move the VM to a new process, for example of a newer version of Cairn, by a handover or else by a "
		"save and a start; after a failure, the VM still runs or is saved", save_args, job_returns, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB, VM_ASK_RESTART_PROCESS },
	{ "vm-managed-save-remove", "remove the managed save of a VM", vm_only, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_DROP_SAVED },
	{ "vm-restore", "start a VM from the saved state passed as an fd, and define it if it is not defined; a VM with another definition "
			"runs with that of the state until it is off, which requires the role owner",
		restore_args, restore_returns, ROLE_OPERATOR, COMMAND_RESTORES | COMMAND_MUTATES | COMMAND_TAKES_FD, ANY_STATE },
	{ "vm-dump", "dump the guest's memory and registers, as of one instant, as an ELF core to the file passed as an fd "
		     "(empty, regular, open for writing)", dump_memory_args, job_returns, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB | COMMAND_TAKES_FD, VM_ASK_DUMP },
	{ "vm-screenshot", "write a picture of the guest's screen to the file passed as an fd (empty, regular, open for writing)",
		screenshot_args, NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_TAKES_FD, VM_ASK_DUMP },
	{ "vm-inject-nmi", "send an NMI to every vCPU", vm_only, NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_GUEST },
	{ "vm-send-key", "press keys of the guest's keyboard together, and release them", send_key_args, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_GUEST },
	{ "vm-export", "export definition, disks, kernel and initrd to the file passed as an fd; owners only, because the archive "
		       "holds all data of the disks",
		export_args, job_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB | COMMAND_TAKES_FD, ANY_STATE },
	{ "vm-import", "define a VM from an archive that vm-export has written, passed as an fd; the role creator is enough", import_args,
		job_returns, ROLE_ADMIN, COMMAND_CREATES | COMMAND_MUTATES | COMMAND_JOB | COMMAND_TAKES_FD, ANY_STATE },
	{ "vm-fork", "create running copies of a running VM or of a snapshot; the copies share memory until they write to it; also requires the role admin for all VMs or creator",
		fork_args, job_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB, VM_ASK_FORK_SNAPSHOT },
	{ "vm-clone", "create copies of a VM that is off; also requires the role admin for all VMs or creator", clone_args, clone_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB, ANY_STATE },
	{ "vm-template", "make the VM a template, which can only be cloned; its images become read-only",
		template_args, NULL, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_TEMPLATE },
	{ "vm-blockcopy", "copy a disk of a running VM to an empty file, passed as an fd; at the end, both get each change of the guest",
		blockcopy_args, job_returns, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB | COMMAND_TAKES_FD, ANY_STATE },
	{ "vm-blockjob-pivot", "after vm-blockcopy, continue with the copy; a next start that has the disk's image must name the copy first", pivot_args,
		NULL, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-blockjob-abort", "after vm-blockcopy, continue without the copy, which keeps the content of this moment", copy_abort_args, NULL,
		ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-blockcommit", "copy the data of a disk's upper layers to a lower one, and then drop the upper layers; if the image of a "
		"running VM is among them, both images get each change at the end, as after vm-blockcopy",
		blockcommit_args, job_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES | COMMAND_JOB, VM_ASK_PULL },
	{ "vm-disk-snapshot", "let disks of a running VM continue with new overlays, all at one instant; a next start that has the images must "
		"name the overlays first", disk_snapshot_args, NULL, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-blockpull", "copy the content of its backing files into a qcow2 disk, and remove the backing files from the "
		"image and from the definition; the guest may run", blockpull_args, job_returns, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES | COMMAND_JOB, VM_ASK_PULL },
	{ "snapshot-create", "create a snapshot of disks, memory and devices (if the VM is off: of disks only)",
		snapshot_create_args, job_returns, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES | COMMAND_JOB, VM_ASK_SNAPSHOT },
	{ "group-snapshot", "create snapshots of several VMs at one instant, all of them or none; needs the role for each VM", group_snapshot_args,
		job_returns, ROLE_OPERATOR, COMMAND_FILTERS | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES | COMMAND_JOB, ANY_STATE },
	{ "group-clone", "create a running copy of each of several VMs, all at one instant, all of them or none", group_clone_args, job_returns,
		ROLE_ADMIN, COMMAND_MUTATES | COMMAND_JOB, ANY_STATE },
	{ "snapshot-list", "list the snapshots of a VM, page by page", snapshot_list_args,
		snapshot_list_returns, ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "snapshot-revert", "revert the VM to a snapshot", snapshot_revert_args, job_returns,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES | COMMAND_JOB, VM_ASK_REVERT },
	{ "snapshot-delete", "delete snapshots; their children stay complete", snapshot_delete_args,
		job_returns, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES | COMMAND_JOB,
		VM_ASK_SNAPSHOT },
	{ "snapshot-set", "change name, description or tags of a snapshot", snapshot_set_args, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, VM_ASK_SNAPSHOT },
	{ "snapshot-size", "show the space that only this snapshot uses", snapshot_size_args, snapshot_size_returns, ROLE_VIEWER,
		COMMAND_CONCERNS_VM, ANY_STATE },
	{ "snapshot-diff", "find what parts of the disks differ between two snapshots; memory is not compared", snapshot_diff_args, job_returns,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB, ANY_STATE },
	{ "snapshot-diff-files", "list the files of ext2, ext3 and ext4 file systems that differ between two snapshots, page by page; owners only, "
		"because it reads the content of the disks", snapshot_diff_files_args, job_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB, ANY_STATE },
	{ "vm-pins", "list the content that live clones keep in the VM's images", vm_only, pins_returns, ROLE_VIEWER,
		COMMAND_CONCERNS_VM, ANY_STATE },
	{ "snapshot-schedule-set", "create snapshots automatically, and delete old automatic ones",
		schedule_set_args, schedule_set_returns, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, ANY_STATE },
	{ "snapshot-schedule-remove", "remove the schedule; existing snapshots stay", vm_only, NULL,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "query-snapshot-schedules", "list the snapshot schedules of all VMs", query_schedules_args,
		query_schedules_returns, ROLE_VIEWER, COMMAND_FILTERS, ANY_STATE },
	{ "schedule-add", "do something with a VM at times of a calendar, with the rights that you have then", schedule_add_args, schedule_add_returns,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, ANY_STATE },
	{ "schedule-remove", "remove a schedule of a VM; its history stays", schedule_name_args, NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "schedule-pause", "pause a schedule of a VM", schedule_pause_args, NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "query-schedules", "list the schedules of all VMs", query_timetables_args, query_timetables_returns, ROLE_VIEWER, COMMAND_FILTERS, ANY_STATE },
	{ "query-schedule-history", "list the last runs of a VM's schedules", query_history_args, query_history_returns, ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "threshold-set", "send an event when a figure of a VM is too high", threshold_set_args, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, ANY_STATE },
	{ "threshold-remove", "remove a threshold of a VM", threshold_remove_args, NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "query-thresholds", "list the thresholds of all VMs", query_thresholds_args, query_thresholds_returns, ROLE_VIEWER, COMMAND_FILTERS, ANY_STATE },
	{ "web-hook-set", "send events of a VM, or of all VMs, to a URL; replaces the web hook of this name", web_hook_set_args, web_hook_set_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "web-hook-remove", "remove a web hook, and the events that wait for it", web_hook_args, NULL, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "web-hook-test", "send an event of the type test once, and wait for the outcome", web_hook_args, web_hook_test_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "query-web-hooks", "list your web hooks; admins see all", query_web_hooks_args, query_web_hooks_returns, ROLE_VIEWER, COMMAND_FILTERS, ANY_STATE },
	{ "query-events", "list past events; the last 10000 are kept", query_events_args,
		query_events_returns, ROLE_VIEWER, COMMAND_FILTERS, ANY_STATE },
	{ "event-filter", "choose which of the events that your roles show the daemon sends on this connection from now on [all]",
		event_filter_args, NULL, ROLE_VIEWER, COMMAND_FILTERS, ANY_STATE },
	{ "query-audit", "show the audit log: calls that change something, including denied ones", query_audit_args, query_audit_returns, ROLE_ADMIN, 0,
		ANY_STATE },
	{ "permission-grant", "give a user or a group a role", grant_args, grant_returns, ROLE_ADMIN,
		COMMAND_MUTATES, ANY_STATE },
	{ "permission-revoke", "remove a role of a user or a group", revoke_args, grant_returns, ROLE_ADMIN, COMMAND_MUTATES,
		ANY_STATE },
	{ "query-permissions", "list the roles of all users and groups", query_permissions_args,
		query_permissions_returns, ROLE_ADMIN, 0, ANY_STATE },
	{ "query-permissions-review", "show the roles of users and groups, when and by whom each was granted, and its last use; an admin sees "
		"all, an owner the roles for the VM, and a user the user's own", query_review_args, query_review_returns, ROLE_VIEWER, COMMAND_FILTERS, ANY_STATE },
	{ "approval-rule-set", "let acts of users wait for the approval of another user; only for root and the daemon's own user", approval_rule_args, NULL,
		ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "query-approval-rules", "list the rules of approval", approval_rules_args, approval_rules_returns, ROLE_ADMIN, 0, ANY_STATE },
	{ "query-requests", "list the requests that you made, and those that you may answer", query_requests_args, query_requests_returns, ROLE_NONE,
		COMMAND_FILTERS, ANY_STATE },
	{ "request-permission", "ask the admins for a role; the name of the VM is not checked", request_permission_args, request_permission_returns,
		ROLE_NONE, COMMAND_MUTATES, ANY_STATE },
	{ "request-approve", "approve a request of another user, whose act then runs with that user's rights; you need the role for the act",
		request_answer_args, request_answer_returns, ROLE_VIEWER, COMMAND_FILTERS | COMMAND_MUTATES, ANY_STATE },
	{ "request-deny", "deny a request, or withdraw your own", request_answer_args, request_answer_returns, ROLE_NONE,
		COMMAND_FILTERS | COMMAND_MUTATES, ANY_STATE },
	{ "quota-set", "limit the resources of the VMs of a user or of a group's members; only for root and the daemon's own user",
		quota_set_args, NULL, ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "quota-remove", "remove a quota; only for root and the daemon's own user", quota_remove_args, NULL, ROLE_ADMIN,
		COMMAND_MUTATES, ANY_STATE },
	{ "query-quotas", "list quotas and their use", query_quotas_args, query_quotas_returns, ROLE_VIEWER,
		COMMAND_FILTERS, ANY_STATE },
	{ "pool-define", "give a folder for images a name", pool_define_args, NULL, ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "pool-undefine", "remove the definition of a pool; its folder and its volumes stay", pool_name_args, NULL, ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "query-pools", "list pools", query_pools_args, query_pools_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-volumes", "list the volumes of a pool, as your user may see the files", query_volumes_args, query_volumes_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "volume-create", "create an empty volume or an overlay in a pool, as your user", volume_create_args, job_returns, ROLE_OPERATOR,
		COMMAND_MUTATES | COMMAND_JOB, ANY_STATE },
	{ "volume-clone", "copy a volume within its pool, as your user", volume_clone_args, job_returns, ROLE_OPERATOR,
		COMMAND_MUTATES | COMMAND_JOB, ANY_STATE },
	{ "volume-resize", "change the size of a volume that no running VM has, as your user", volume_resize_args, NULL, ROLE_OPERATOR,
		COMMAND_MUTATES, ANY_STATE },
	{ "volume-open", "open a volume to copy its content, as your user; the answer carries a socket as an fd, from which recvmsg() takes the file", volume_delete_args, volume_open_returns,
		ROLE_OPERATOR, COMMAND_MUTATES | COMMAND_RETURNS_FD, ANY_STATE },
	{ "volume-delete", "delete a volume that no VM and no other volume of the pool uses, as your user", volume_delete_args, NULL, ROLE_OPERATOR,
		COMMAND_MUTATES, ANY_STATE },
	{ "query-jobs", "list jobs under way, and results that were not dismissed", query_jobs_args,
		job_entry, ROLE_VIEWER, COMMAND_FILTERS | COMMAND_RETURNS_LIST, ANY_STATE },
	{ "job-wait", "wait until a job has concluded, or for the time limit, and show the job as it is then", job_wait_args, job_entry, ROLE_VIEWER,
		COMMAND_CONCERNS_JOB, ANY_STATE },
	{ "job-cancel", "cancel a job", job_args, NULL, ROLE_OPERATOR,
		COMMAND_MUTATES | COMMAND_CONCERNS_JOB, ANY_STATE },
	{ "job-dismiss", "delete the result of a finished job", job_args, NULL, ROLE_OPERATOR,
		COMMAND_MUTATES | COMMAND_CONCERNS_JOB, ANY_STATE },
	{ "net-define", "define a network, or redefine an existing one; an active network keeps its definition until it stops",
		net_define_args, net_define_returns, ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "net-create", "define and start a network that is undefined when it stops", net_create_args, net_create_returns, ROLE_ADMIN,
		COMMAND_MUTATES, ANY_STATE },
	{ "net-undefine", "remove the definition of a network; an active network stays until it stops", network_only, NULL, ROLE_ADMIN,
		COMMAND_MUTATES, ANY_STATE },
	{ "net-start", "start a network: its bridge, its rules, DHCP and DNS; for an active network, restore missing parts",
		network_only, net_start_returns, ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "net-destroy", "stop a network and remove all that it made; refused while VMs use it", network_only, NULL, ROLE_ADMIN,
		COMMAND_MUTATES, ANY_STATE },
	{ "net-update", "change an active network", net_update_args, net_update_returns, ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "net-autostart", "start the network automatically after a boot of the host, or turn that off", net_autostart_args, NULL,
		ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "net-list", "list the networks; users see those that their VMs may use", net_list_args, net_list_returns, ROLE_VIEWER,
		COMMAND_FILTERS, ANY_STATE },
	{ "net-info", "show the state of a network", network_only, net_info_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "net-dump-definition", "show the definition of a network", net_dump_args, net_dump_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "net-dhcp-leases", "show the addresses that a network's guests got by DHCP", net_leases_args, net_leases_returns, ROLE_VIEWER, 0, ANY_STATE },
};

/* ---- lookups in the tables ---- */

const struct command *schema_command(enum dialect d, size_t i)
{
	size_t n = d == DIALECT_QEMU ? qmp_commands_count : ARRAY_SIZE(commands);

	return i >= n ? NULL : d == DIALECT_QEMU ? &qmp_commands[i] : &commands[i];
}

const struct command *schema_find(enum dialect d, const char *name)
{
	const struct command *c;

	for (size_t i = 0; (c = schema_command(d, i)); i++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

const char *role_name(enum role r)
{
	static const char *const names[] = { "nobody", "creator", "viewer", "guest", "operator", "admin" };

	return names[MIN((unsigned)r, (unsigned)ROLE_ADMIN)];
}

/* ---- arguments ---- */

int schema_check_args(const struct command *c, struct json_object *args, struct err *e)
{
	for (const struct field *f = c->args; f->name; f++) {
		struct json_object *v = NULL;
		bool there = json_object_object_get_ex(args, f->name, &v);

		if (!there && !f->optional)
			return err_set(e, -EINVAL, ERR_GENERIC, "Parameter '%s' is missing", f->name);
		if (there && field_type_check(f->type, f->name, v, e) < 0)
			return -EINVAL;
	}
	json_object_object_foreach(args, key, value)
	{
		const struct field *f = c->args;

		(void)value;
		while (f->name && strcmp(f->name, key))
			f++;
		if (!f->name)
			return err_set(e, -EINVAL, ERR_GENERIC, "Parameter '%.60s' is unexpected", key);
	}
	return 0;
}
