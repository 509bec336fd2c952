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

static const struct field capabilities_args[] = { { "enable", FIELD_ARRAY, OPTIONAL, "capabilities to enable; none exist" }, END };

static const struct field version_fields[] = {
	{ "qemu", FIELD_OBJECT, REQUIRED, "QEMU version whose QMP the socket speaks: major, minor, micro" },
	{ "package", FIELD_STRING, REQUIRED, "program and version" },
	{ "cairn", FIELD_STRING, REQUIRED, "version of the daemon" }, END };

static const struct field schema_args[] = {
	{ "page", FIELD_INT, OPTIONAL, "show one page of the schema, from 0, with descriptions; an empty page follows the last "
		"[all without descriptions]" }, END };
static const struct field commands_returns[] = { { "name", FIELD_STRING, REQUIRED, "name of a command" }, END };

static const struct field define_args[] = {
	{ "definition", FIELD_OBJECT, REQUIRED, "definition of the VM; see docs/definition.md" },
	{ "folder", FIELD_STRING, OPTIONAL, "absolute path; relative paths in the definition start here" },
	{ "was", FIELD_OBJECT, OPTIONAL, "definition from vm-dump-definition; the call fails if the VM's definition "
		"has changed since" },
	{ "validate-only", FIELD_BOOL, OPTIONAL, "check the definition and change nothing" }, END };

static const struct field define_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the VM" },
	{ "uuid", FIELD_STRING, REQUIRED, "UUID of the VM" },
	{ "created", FIELD_BOOL, REQUIRED, "true: new VM; false: existing VM was redefined" },
	{ "pending", FIELD_BOOL, REQUIRED, "the VM runs with another definition until its next start" },
	{ "warnings", FIELD_ARRAY, REQUIRED, "sentences about keys that are kept and have no effect" }, END };

static const struct field dump_args[] = { FIELD_VM,
	{ "inactive", FIELD_BOOL, OPTIONAL, "use the definition of the next start, not that of the running VM" },
	END };
static const struct field dump_returns[] = {
	{ "definition", FIELD_OBJECT, REQUIRED, "canonical definition, with every key" },
	{ "pending", FIELD_BOOL, REQUIRED, "the running definition and that of the next start differ" }, END };

static const struct field list_args[] = {
	{ "after", FIELD_STRING, OPTIONAL, "start the page after this name" },
	{ "limit", FIELD_INT, OPTIONAL, "maximum number of entries in one answer, 1 to 1000" },
	{ "brief", FIELD_BOOL, OPTIONAL, "return only id, name, state, word and outdated" }, END };

static const struct field list_returns[] = {
	{ "vms", FIELD_ARRAY, REQUIRED,
		"by name: id (-1: off), name, uuid, title, state, word, outdated (only if true: an older version of "
		"Cairn started the VM's process), reason, persistent, autostart, managed-save, template" },
	{ "unloaded", FIELD_ARRAY, OPTIONAL,
		"on the first page: VMs that the daemon could not load (not all if there are very many): name, and "
		"why, with the remedy" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };

static const struct field stats_args[] = {
	{ "after", FIELD_STRING, OPTIONAL, "start the page after this name" }, END };

static const struct field stats_returns[] = {
	{ "vms", FIELD_ARRAY, REQUIRED, "by name: as vm-info returns a VM" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };

static const struct field trend_args[] = { FIELD_VM,
	{ "series", FIELD_ARRAY, OPTIONAL, "names of the series [all]" },
	{ "from", FIELD_INT, OPTIONAL, "begin: realtime, ns [an hour before `to`]" },
	{ "to", FIELD_INT, OPTIONAL, "end: realtime, ns [now]" },
	{ "points", FIELD_INT, OPTIONAL, "most points of a series, 1 to 2000 [100]" },
	{ "step", FIELD_INT, OPTIONAL, "time between two points in ns, at least 1 s [as `points` and the time give]" }, END };
static const struct field trend_returns[] = {
	{ "from", FIELD_INT, REQUIRED, "begin of the first point: realtime, ns" },
	{ "step", FIELD_INT, REQUIRED, "time between two points, ns" },
	{ "next", FIELD_INT, OPTIONAL, "`from` of the call for the points that do not fit" },
	{ "series", FIELD_ARRAY, REQUIRED, "per series: name, unit (of cpu, percent of one processor), and of each point average and maximum; null: not known" }, END };

static const struct field info_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the VM" },
	{ "uuid", FIELD_STRING, REQUIRED, "UUID of the VM" },
	{ "id", FIELD_INT, REQUIRED, "id of the running VM; -1: off" },
	{ "state", FIELD_STRING, REQUIRED, "state for users: \"shut off\"" },
	{ "word", FIELD_STRING, REQUIRED, "state for programs: \"shutoff\"" },
	{ "outdated", FIELD_BOOL, OPTIONAL, "true: an older version of Cairn started the VM's process, which lacks newer "
		"functions; vm-restart-process brings it up to date" },
	{ "reason", FIELD_STRING, REQUIRED, "reason of the state" },
	{ "detail", FIELD_STRING, OPTIONAL, "details of the reason" },
	{ "value", FIELD_INT, OPTIONAL, "status from the debug exit device, or bits from pvpanic" },
	{ "since", FIELD_INT, REQUIRED, "time of the last state change: realtime, ns" },
	{ "machine", FIELD_INT, REQUIRED, "machine version: that of the running guest, if its process tells it, or else that of the definition" },
	{ "vcpus", FIELD_INT, REQUIRED, "number of vCPUs" },
	{ "max-vcpus", FIELD_INT, REQUIRED, "the most that the VM can have" },
	{ "vcpus-absent", FIELD_ARRAY, OPTIONAL, "numbers of the vCPUs up to max-vcpus that the guest lacks; they are in the other lists" },
	{ "memory", FIELD_INT, REQUIRED, "bytes" },
	{ "used-memory", FIELD_INT, REQUIRED, "memory of the guest: what the balloon leaves to it, bytes; 0 when off" },
	FIELD_BALLOON,
	{ "cpu-time", FIELD_INT, OPTIONAL, "CPU time of all vCPU threads, ns" },
	{ "vcpu-times", FIELD_ARRAY, OPTIONAL, "CPU time of each vCPU thread, ns" },
	{ "vcpu-delays", FIELD_ARRAY, OPTIONAL, "time that each vCPU thread waited for a processor, ns; starts at 0 in each process" },
	{ "vcpu-halted", FIELD_ARRAY, OPTIONAL, "of each vCPU: whether it is halted, true or false" },
	{ "vcpu-processors", FIELD_ARRAY, OPTIONAL, "of each vCPU: the host's processor on which it runs, or ran last" },
	{ "vcpu-affinity", FIELD_ARRAY, OPTIONAL, "of each vCPU: the host's processors on which it may run: \"0-3,8\"; only in vm-info" },
	{ "cpu-user", FIELD_INT, OPTIONAL, "part of cpu-time that the host counts as user time, the guest's included, ns; of this process" },
	{ "cpu-system", FIELD_INT, OPTIONAL, "part of cpu-time in the host's kernel, ns; of this process" },
	{ "pid", FIELD_INT, OPTIONAL, "pid of the VM's process" },
	{ "systemd-scope", FIELD_OBJECT, OPTIONAL, "with systemd_scope: its unit, its machine of machined, and lack: why one is missing" },
	{ "resident-memory", FIELD_INT, OPTIONAL, "resident memory of the VM's process, bytes; 0: not known" },
	{ "job", FIELD_STRING, OPTIONAL, "id of the job under way" },
	{ "shutdown-at", FIELD_INT, OPTIONAL, "time of the scheduled shutdown: realtime, ns" },
	{ "reboot-at", FIELD_INT, OPTIONAL, "time of the scheduled reboot: realtime, ns" },
	{ "shutdown-deadline", FIELD_INT, OPTIONAL, "deadline of the shutdown under way: realtime, ns" },
	{ "shutdown-then", FIELD_STRING, OPTIONAL, "action at the deadline: leave, destroy or save" },
	{ "starting", FIELD_BOOL, OPTIONAL, "a start is under way or waits for its turn; state and reason are still those of the last end" },
	{ "restart-in", FIELD_INT, OPTIONAL, "time until the daemon restarts the ended VM, ns" },
	{ "exit-status", FIELD_INT, OPTIONAL, "exit status of the last process" },
	{ "exit-signal", FIELD_INT, OPTIONAL, "signal that ended the last process" },
	{ "persistent", FIELD_BOOL, REQUIRED, "always true: the daemon keeps the definition" },
	{ "autostart", FIELD_BOOL, REQUIRED, "the daemon starts the VM after a boot of the host" },
	{ "managed-save", FIELD_BOOL, REQUIRED, "the VM has a managed save" },
	{ "template", FIELD_BOOL, REQUIRED, "the VM is a template" },
	{ "host", FIELD_STRING, OPTIONAL, "kind of KVM: vmx, svm, pvm" },
	{ "assist", FIELD_OBJECT, OPTIONAL, "on: whether the assist is in use; syscalls, instructions: how many it has completed" },
	{ "exits", FIELD_OBJECT, OPTIONAL, "VM exits by kind: io, mmio, other" },
	{ "idle", FIELD_BOOL, OPTIONAL, "the VM runs and all vCPUs are halted" },
	{ "agent", FIELD_STRING, OPTIONAL, "state of the guest agent's port: closed, open, connected (an agent answers)" },
	{ "disks", FIELD_ARRAY, OPTIONAL, "per disk: id, size, counters, and fault if an error has paused the VM: "
		"no space, image corrupt, or unspecified error; of a CD drive tray-open; in-flight: requests that wait for the image; "
		"rd-latency, wr-latency, fl-latency: numbers of requests of this process that took less than 10, 20, 50, 100, 200, 500 us, "
		"1, 2, 5, 10, 20, 50, 100, 200, 500 ms, 1, 2, 5 s, or longer, up to the last number that is not 0; the last three "
		"and in-flight are missing if the process shares no page of figures" }, END };

#define FIELD_FOLDER { "folder", FIELD_STRING, OPTIONAL, "folder of relative paths" }
#define FIELD_JOB_ID { "job-id", FIELD_STRING, OPTIONAL, "id for the job [generated]" }
static const struct field rename_args[] = { FIELD_VM,
	{ "name", FIELD_STRING, REQUIRED, "new name of the VM" }, END };
static const struct field undefine_args[] = { FIELD_VM,
	{ "managed-save", FIELD_BOOL, OPTIONAL, "remove the managed save too" },
	{ "snapshots-metadata", FIELD_BOOL, OPTIONAL, "undefine the VM although its images have snapshots" },
	{ "remove-all-storage", FIELD_BOOL, OPTIONAL, "delete the image files that the VM writes to; refused if another VM uses any of them" },
	{ "storage", FIELD_ARRAY, OPTIONAL, "delete only these images, given by disk id or path" },
	{ "nvram", FIELD_BOOL, OPTIONAL, "remove the UEFI variables too" },
	{ "keep-nvram", FIELD_BOOL, OPTIONAL, "refused for a VM that has UEFI variables, which are in its state folder" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "show what would be deleted, and change nothing" }, END };
static const struct field undefine_returns[] = { { "volumes", FIELD_ARRAY, OPTIONAL, "id, path, removed, and why if the file stays" }, END };
static const struct field start_args[] = { FIELD_VM,
	{ "force-boot", FIELD_BOOL, OPTIONAL, "discard a managed save and boot" },
	{ "eager", FIELD_BOOL, OPTIONAL, "read the whole memory of a managed save before the vCPUs run" },
	{ "paused", FIELD_BOOL, OPTIONAL, "start the VM paused" },
	{ "boot", FIELD_BOOT_KIND, OPTIONAL, "boot from this kind of device first [boot_order]" },
	{ "bootmenu", FIELD_BOOL, OPTIONAL, "let the firmware offer its boot menu" },
	{ "reset-nvram", FIELD_BOOL, OPTIONAL, "replace the UEFI variables by their template" }, END };
static const struct field start_returns[] = { { "id", FIELD_INT, REQUIRED, "id of the running VM" }, END };

#define FIELD_MODE { "mode", FIELD_SHUTDOWN_MODE, OPTIONAL, \
	"press the power button (acpi) or ask the guest agent (agent) [acpi]" }
#define FIELDS_AT                                                                                  \
	{ "at", FIELD_INT, OPTIONAL, "schedule the action for this time (realtime, ns); the guest agent warns users before" }, \
	{ "message", FIELD_STRING, OPTIONAL, "start warnings to users and on consoles with this line" }
static const struct field shutdown_args[] = { FIELD_VM, FIELD_MODE,
	{ "then", FIELD_SHUTDOWN_THEN, OPTIONAL, "do this if the guest still runs at the deadline [shutdown.then of the definition]" },
	{ "timeout", FIELD_INT, OPTIONAL, "set the deadline, in seconds [shutdown.deadline of the definition]" }, FIELDS_AT, END };
static const struct field reboot_args[] = { FIELD_VM, FIELD_MODE, FIELDS_AT, END };
static const struct field daemon_stop_args[] = {
	{ "action", FIELD_STOP_ACTION, OPTIONAL, "apply this action to all VMs [stop_action of each definition]" },
	{ "vms-only", FIELD_BOOL, OPTIONAL, "keep the daemon running" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "show what would happen, in order, and change nothing" }, END };
static const struct field daemon_stop_returns[] = {
	{ "vms", FIELD_ARRAY, REQUIRED, "VMs that ran or were about to be restarted: vm, action, outcome" }, END };
static const struct field autostart_args[] = { FIELD_VM,
	{ "disable", FIELD_BOOL, OPTIONAL, "turn the automatic start off" }, END };
static const struct field addresses_returns[] = {
	{ "interfaces", FIELD_ARRAY, REQUIRED,
		"the guest's interfaces as its agent reports them: name; mac, if any; addresses: type (ipv4, ipv6), "
		"address, prefix; own: the MAC address is that of an interface of the VM" },
	{ "cut", FIELD_BOOL, OPTIONAL, "the list is truncated" }, END };
static const struct field interface_args[] = { FIELD_VM,
	{ "interface", FIELD_STRING, REQUIRED, "id or MAC address of the interface" },
	{ "link", FIELD_STRING, OPTIONAL, "up or down" },
	{ "inbound", FIELD_OBJECT, OPTIONAL, "limits of the frames to the guest, as in a definition; {}: none" },
	{ "outbound", FIELD_OBJECT, OPTIONAL, "limits of the frames from the guest" },
	{ "egress", FIELD_OBJECT, OPTIONAL, "type user: what the guest may reach, as in a definition; alone" },
	{ "no-egress", FIELD_BOOL, OPTIONAL, "type user: remove the egress rules" }, END };
static const struct field disk_args[] = { FIELD_VM,
	{ "disk", FIELD_STRING, REQUIRED, "id of the disk or path of its image" },
	{ "iops", FIELD_INT, OPTIONAL, "most requests in a second; 0: no limit [no change]" },
	{ "bps", FIELD_INT, OPTIONAL, "most bytes in a second; 0: no limit [no change]" },
	{ "limits", FIELD_OBJECT, OPTIONAL, "other limits, with the keys of a definition, such as iops_rd or bps_max; 0: none" }, END };
static const struct field resize_args[] = { FIELD_VM,
	{ "disk", FIELD_STRING, REQUIRED, "id of the disk or path of its image" },
	{ "size", FIELD_INT, OPTIONAL, "in bytes, not less than now [that of the block device that is the image]" }, END };
static const struct field set_vcpus_args[] = { FIELD_VM, { "vcpus", FIELD_INT, REQUIRED, "number of vCPUs, at most max_vcpus of the definition" },
	{ "timeout", FIELD_INT, OPTIONAL, "seconds to wait for the guest to release vCPUs, 1 to 600 [5]" }, END };
static const struct field memory_args[] = { FIELD_VM, FIELDS_MEMORY, END };
#define AGENT_COMMAND_ARGS \
	FIELD_VM, \
	{ "command", FIELD_OBJECT, REQUIRED, "execute and arguments, at most 64 KiB" }, \
	{ "timeout", FIELD_INT, OPTIONAL, "seconds, 1 to 120 [5]" }, \
	{ "fd", FIELD_BOOL, OPTIONAL, "return the answer as a file" }
static const struct field agent_command_args[] = { AGENT_COMMAND_ARGS, END };
static const struct field agent_command_returns[] = {
	{ "answer", FIELD_STRING, OPTIONAL, "a JSON text that the daemon has not checked" },
	{ "bytes", FIELD_INT, REQUIRED, "its length" }, END };
static const struct field sandbox_returns[] = {
	{ "pid", FIELD_INT, REQUIRED, "pid of the VM's process" },
	{ "uids", FIELD_ARRAY, OPTIONAL, "its user ids: real, effective, saved, and that for files" },
	{ "gids", FIELD_ARRAY, OPTIONAL, "its group ids, likewise" },
	{ "groups", FIELD_ARRAY, OPTIONAL, "ids of its other groups" },
	{ "cap-effective", FIELD_STRING, OPTIONAL, "effective capabilities, hexadecimal" },
	{ "cap-permitted", FIELD_STRING, OPTIONAL, "permitted capabilities, hexadecimal" },
	{ "no-new-privs", FIELD_BOOL, OPTIONAL, "it cannot gain privileges from programs" },
	{ "seccomp", FIELD_STRING, OPTIONAL, "mode of seccomp: disabled, strict, filter" },
	{ "seccomp-filters", FIELD_INT, OPTIONAL, "number of seccomp filters" },
	{ "landlock", FIELD_INT, OPTIONAL, "version of landlock that it uses; 0: none. The kernel does not report this: the "
		"process tells it" },
	{ "threads", FIELD_INT, OPTIONAL, "number of threads" },
	{ "limit-core", FIELD_ARRAY, OPTIONAL, "soft and hard limit of core files, bytes; -1: unlimited" },
	{ "limit-fsize", FIELD_ARRAY, OPTIONAL, "the same of other files" },
	{ "limit-nofile", FIELD_ARRAY, OPTIONAL, "soft and hard limit of open files; -1: unlimited" },
	{ "limit-nproc", FIELD_ARRAY, OPTIONAL, "soft and hard limit of threads of its user id; -1: unlimited" },
	{ "cgroups", FIELD_ARRAY, OPTIONAL, "its control groups, as the kernel writes them: \"0::/path\" is that of version 2" },
	{ "cgroup-limits", FIELD_OBJECT, OPTIONAL, "limits of its own control group, by the kernel's file" },
	{ "namespaces", FIELD_OBJECT, OPTIONAL, "mnt, net, pid, ipc, uts, user: own, or daemon if it is the daemon's. All VMs that "
		"a daemon of root has started share own mnt and net" },
	{ "mounts", FIELD_INT, OPTIONAL, "number of file systems that it could see; 1: only the empty root of its sandbox" },
	{ "interfaces", FIELD_ARRAY, OPTIONAL, "network interfaces of its namespace; those of the VM are open files instead" },
	{ "lacks", FIELD_ARRAY, OPTIONAL, "parts of the sandbox that are missing, each with the reason" }, END };
static const struct field path_returns[] = { { "path", FIELD_STRING, REQUIRED, "absolute path" }, END };
static const struct field console_args[] = { FIELD_VM,
	{ "kind", FIELD_CONSOLE_KIND, OPTIONAL, "console to open [serial]" },
	{ "history", FIELD_BOOL, OPTIONAL, "send the kept output first [true]" }, END };

static const struct field vsock_args[] = { FIELD_VM,
	{ "port", FIELD_INT, REQUIRED, "vsock port in the guest, 0 to 4294967294" }, END };

static const struct field save_args[] = { FIELD_VM, FIELD_JOB_ID, END };
static const struct field managed_save_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "then", FIELD_SAVED_AS, OPTIONAL, "resume the VM or leave it paused at the next start [as now]" },
	END };
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
	{ "since", FIELD_STRING, OPTIONAL, "export only what differs from this earlier snapshot; needs `snapshot`" },
	END };
static const struct field import_args[] = { FIELD_JOB_ID,
	{ "folder", FIELD_STRING, REQUIRED, "absolute path of the folder in which to create the folder of the VM" },
	{ "name", FIELD_STRING, OPTIONAL, "name of the VM [the name in the archive]" },
	{ "increments", FIELD_ARRAY, OPTIONAL, "absolute paths of the increments that follow the archive, opened with the client's rights" },
	{ "max-bytes", FIELD_INT, OPTIONAL, "refuse an archive with more data than this [free space of the file system]" }, END };
static const struct field restore_args[] = {
	{ "definition", FIELD_OBJECT, REQUIRED, "definition in the saved state" },
	{ "paused", FIELD_BOOL, OPTIONAL, "start the VM paused" },
	{ "eager", FIELD_BOOL, OPTIONAL, "read the whole memory before the vCPUs run" }, END };
static const struct field restore_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "of the VM" },
	{ "id", FIELD_INT, REQUIRED, "id of the running VM" }, END };
static const struct field dump_memory_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "then", FIELD_DUMP_THEN, OPTIONAL, "stop (crash) or reset the VM after the dump; the VM is paused during the dump" }, END };
static const struct field screenshot_args[] = { FIELD_VM,
	{ "format", FIELD_PICTURE_FORMAT, OPTIONAL, "format of the picture [ppm]" }, END };
static const struct field send_key_args[] = { FIELD_VM,
	{ "keys", FIELD_ARRAY, REQUIRED, "keys to press together, at most 16: names such as \"KEY_ENTER\", or numbers" },
	{ "codeset", FIELD_STRING, OPTIONAL, "what the numbers mean: linux, xt, atset1, qnum or rfb [linux]" },
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
static const struct field fork_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "name", FIELD_STRING, REQUIRED, "name of the clone" },
	{ "count", FIELD_INT, OPTIONAL, "create this many clones, named NAME-1, NAME-2, ..." },
	{ "snapshot", FIELD_STRING, OPTIONAL,
		"continue from this snapshot (name or id) [the present state of a running or paused VM]" },
	{ "hostname", FIELD_BOOL, OPTIONAL,
		"false: do not ask the guest agent to set the host name to the clone's name [true]" },
	{ "forwards", FIELD_ARRAY, OPTIONAL, "forwards of each clone's first run, as for forward-add; one without port gets a free port" },
	{ "isolated", FIELD_BOOL, OPTIONAL, "copy all writable disks, so that no clone can read the images of its source [false]" },
	{ "paused", FIELD_BOOL, OPTIONAL, "leave the clones paused" }, END };
static const struct field clone_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "name", FIELD_STRING, OPTIONAL, "name of the clone" },
	{ "count", FIELD_INT, OPTIONAL, "create this many clones, named NAME-1, NAME-2, ..." },
	{ "name-pattern", FIELD_STRING, OPTIONAL, "name the clones by this pattern, such as web-%02d" },
	{ "kind", FIELD_CLONE_KIND, OPTIONAL, "independent disks (full) or qcow2 overlays on the VM's disks (linked) [full]" },
	{ "snapshots", FIELD_BOOL, OPTIONAL, "copy the images with their snapshots and backing files (full clones only)" },
	{ "files", FIELD_ARRAY, OPTIONAL, "path of the copy, for each disk that the VM writes to [beside the image]" },
	{ "macs", FIELD_ARRAY, OPTIONAL, "MAC address of each interface [generated]" },
	{ "uuid", FIELD_STRING, OPTIONAL, "set the UUID of the clone [generated]" },
	{ "reset-identity", FIELD_BOOL, OPTIONAL,
		"give the guest a new machine-id, SSH host keys and host name with virt-sysprep" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "show what would be created, and create nothing" }, END };
static const struct field clone_returns[] = {
	{ "job", FIELD_STRING, OPTIONAL, "id of the job" },
	{ "clones", FIELD_ARRAY, OPTIONAL, "with dry-run: name, disks (id, path, from)" }, END };
static const struct field template_args[] = { FIELD_VM,
	{ "disable", FIELD_BOOL, OPTIONAL, "turn the template back into an ordinary VM" }, END };
static const struct field snapshot_create_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "name", FIELD_STRING, OPTIONAL, "name of the snapshot [seconds since 1970]" },
	{ "description", FIELD_STRING, OPTIONAL, "one line" },
	{ "tags", FIELD_ARRAY, OPTIONAL, "tags; \"keep\" protects the snapshot from deletion" },
	{ "disks-only", FIELD_BOOL, OPTIONAL, "leave memory out of the snapshot" },
	{ "halt", FIELD_BOOL, OPTIONAL, "stop the VM after the snapshot" },
	{ "quiesce", FIELD_BOOL, OPTIONAL,
		"have the guest agent freeze the file systems during the snapshot" },
	{ "rate", FIELD_INT, OPTIONAL, "limit for writing memory, bytes a second" }, END };
static const struct field snapshot_list_args[] = { FIELD_VM,
	{ "from", FIELD_INT, OPTIONAL, "index of the first entry [0]" }, END };
static const struct field snapshot_list_returns[] = {
	{ "snapshots", FIELD_ARRAY, REQUIRED,
		"id, parent, name, description, tags, state, disks-missing, current, time (ns), vm-clock (ns), "
		"vm-state-size, disk-size" },
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
	{ "bandwidth", FIELD_INT, OPTIONAL, "maximum rate in bytes/s [no limit]" }, END };
static const struct field pivot_args[] = { FIELD_VM, { "disk", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "path", FIELD_STRING, REQUIRED, "absolute path of the copy" }, { "format", FIELD_IMAGE_FORMAT, REQUIRED, "format of the copy" },
	{ "check-only", FIELD_BOOL, OPTIONAL, "look whether the pivot would be refused; the definition need not name the copy [false]" }, END };
static const struct field copy_abort_args[] = { FIELD_VM, { "disk", FIELD_STRING, REQUIRED, "id of the disk, or path of its image" }, END };
static const struct field disk_snapshot_args[] = { FIELD_VM,
	{ "disks", FIELD_ARRAY, REQUIRED, "for each disk: disk, its id or the path of its image; path, the absolute path of its new overlay, a "
		"qcow2 image with the present image as its backing file" },
	{ "check-only", FIELD_BOOL, OPTIONAL, "look whether it would be refused; the definition need not name the overlays [false]" }, END };
static const struct field blockcommit_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "disk", FIELD_STRING, REQUIRED, "id of the disk, or path of its image" },
	{ "top", FIELD_STRING, OPTIONAL, "path of the uppermost layer to commit [the disk's image]" },
	{ "base", FIELD_STRING, OPTIONAL, "path of the layer that gets all [the lowest one]" },
	{ "shallow", FIELD_BOOL, OPTIONAL, "without base: the layer below top gets all [false]" },
	{ "active", FIELD_BOOL, OPTIONAL, "top may be the image that the guest of a running VM writes to [false]" },
	{ "bandwidth", FIELD_INT, OPTIONAL, "maximum rate in bytes/s [no limit]" }, END };
static const struct field snapshot_size_args[] = { FIELD_VM, FIELD_SNAPSHOT, END };
static const struct field snapshot_size_returns[] = {
	{ "own-size", FIELD_INT, REQUIRED, "bytes that only this snapshot uses, and that its deletion frees" },
	END };
static const struct field pins_returns[] = {
	{ "pins", FIELD_ARRAY, REQUIRED, "for each pin: disk; pin, its id; clones, the number of disks of clones that read "
		"it, 0 if it is about to be deleted; own-size, the bytes that only it uses, if the VM's process tells them" },
	END };
static const struct field snapshot_set_args[] = { FIELD_VM, FIELD_SNAPSHOT,
	{ "new-name", FIELD_STRING, OPTIONAL, "new name of the snapshot" },
	{ "description", FIELD_STRING, OPTIONAL, "one line" },
	{ "tags", FIELD_ARRAY, OPTIONAL, "new tags, in place of the present ones" }, END };
static const struct field query_jobs_args[] = {
	{ "id", FIELD_STRING, OPTIONAL, "return only this job" },
	{ "after", FIELD_STRING, OPTIONAL, "start the page after this id" }, END };
static const struct field query_jobs_returns[] = {
	{ "id", FIELD_STRING, REQUIRED, "id of the job" },
	{ "qmp-id", FIELD_STRING, OPTIONAL, "id of the job on the VM's own socket" },
	{ "type", FIELD_STRING, REQUIRED, "save, managed-save, snapshot-create, ..." },
	{ "status", FIELD_STRING, REQUIRED, "as in JOB_STATUS_CHANGE" },
	FIELDS_VM_NAME,
	{ "current-progress", FIELD_INT, REQUIRED, "units done" },
	{ "total-progress", FIELD_INT, REQUIRED, "units in all" },
	{ "started", FIELD_INT, REQUIRED, "realtime, ns" },
	{ "duration", FIELD_INT, OPTIONAL, "duration of a concluded job, ns" },
	{ "unit", FIELD_STRING, OPTIONAL, "unit of the progress: bytes, snapshots or clones" },
	{ "rate", FIELD_INT, OPTIONAL, "units a second" },
	{ "remaining", FIELD_INT, OPTIONAL, "remaining time at that rate, ns" },
	{ "outpaced", FIELD_BOOL, OPTIONAL, "true: after JOB_OUTPACED" },
	{ "error", FIELD_STRING, OPTIONAL, "why it failed" },
	{ "error-class", FIELD_STRING, OPTIONAL, "class of the error, for programs" },
	{ "result", FIELD_OBJECT, OPTIONAL, "result; its members depend on the type" }, END };
static const struct field query_events_args[] = {
	{ "since", FIELD_INT, OPTIONAL, "number of the last event seen [0]" },
	{ "vm", FIELD_STRING, OPTIONAL, "return only events of VMs that had this name, or of the VM with this UUID" },
	{ "event", FIELD_STRING, OPTIONAL, "return only events of this name" }, END };
static const struct field query_events_returns[] = {
	{ "events", FIELD_ARRAY, REQUIRED, "events as sent, each with its number as seq" },
	{ "next", FIELD_INT, REQUIRED, "`since` of the next call" },
	{ "last", FIELD_INT, REQUIRED, "number of the newest event" },
	{ "lost", FIELD_BOOL, REQUIRED, "some events after `since` are no longer kept" },
	{ "more", FIELD_BOOL, REQUIRED, "another page follows" }, END };
static const struct field query_audit_args[] = {
	{ "from", FIELD_INT, OPTIONAL, "`next` of the previous page [the oldest line]" },
	{ "since", FIELD_INT, OPTIONAL, "return only calls since this time: realtime, ns" },
	{ "uid", FIELD_INT, OPTIONAL, "show only calls of this user" },
	{ "vm", FIELD_STRING, OPTIONAL, "show only calls that name this VM" }, END };
static const struct field query_audit_returns[] = {
	{ "lines", FIELD_ARRAY, REQUIRED,
		"time (ns), uid, pid, command, vm, arguments, schedule (of a run; of an action of a threshold: threshold NAME), outcome, error, duration (ns); a command in parentheses is "
		"the daemon's own act; a line with left-out has only time, uid (none: several users), outcome (any: of any outcome), "
		"left-out (the number of omitted lines) and since (ns)" },
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
	{ "would-delete", FIELD_ARRAY, OPTIONAL, "with dry-run: names of the first snapshots to delete" },
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
	{ "resume", FIELD_BOOL, OPTIONAL, "let it run again; what fell into the pause is not made up for" }, END };
static const struct field query_timetables_args[] = {
	{ "vm", FIELD_STRING, OPTIONAL, "return only the schedules of this VM (name or UUID)" },
	{ "after", FIELD_STRING, OPTIONAL, "start the page after this name" }, END };
static const struct field query_timetables_returns[] = {
	{ "schedules", FIELD_ARRAY, REQUIRED, "vm, name, action, on, zone (unless it is the host's), missed, folder, uid (of its maker), paused (only if true), under-way (only if true), "
		"next-run (ns), last-run (ns), outcome, detail" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };
static const struct field query_history_args[] = { FIELD_VM, END };
static const struct field query_history_returns[] = {
	{ "runs", FIELD_ARRAY, REQUIRED, "the last runs, oldest first: schedule, action, due (ns), time (of its end, ns), outcome (done, "
		"skipped, missed, refused, failed), detail" }, END };
static const struct field threshold_set_args[] = { FIELD_VM,
	{ "measure", FIELD_MEASURE, REQUIRED, "watch this figure: cpu, memory and disk-space in percent, latency of disk requests, failed disk "
		"requests a second, or bytes a second of all interfaces" },
	{ "above", FIELD_STRING, REQUIRED, "raise it above this, such as 90, 20ms or 100M" },
	{ "below", FIELD_STRING, OPTIONAL, "clear it at or below this [as above]" },
	{ "for", FIELD_INT, OPTIONAL, "raise and clear it after so long without a break, ns [a minute]" },
	{ "then", FIELD_THRESHOLD_ACTION, OPTIONAL, "do this when it is raised, with the rights that you have then, at most once in ten minutes [nothing]" },
	{ "name", FIELD_STRING, OPTIONAL, "name of the threshold, which replaces one of this name [the measure]" }, END };
static const struct field threshold_remove_args[] = { FIELD_VM, { "name", FIELD_STRING, REQUIRED, "name of the threshold" }, END };
static const struct field query_thresholds_args[] = {
	{ "vm", FIELD_STRING, OPTIONAL, "return only the thresholds of this VM (name or UUID)" },
	{ "after", FIELD_STRING, OPTIONAL, "start the page after this name" }, END };
static const struct field query_thresholds_returns[] = {
	{ "thresholds", FIELD_ARRAY, REQUIRED, "vm, name, measure, above, below, for (ns), then, uid (of its maker), value (the last one), raised, since (ns)" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };
static const struct field query_schedules_args[] = {
	{ "vm", FIELD_STRING, OPTIONAL, "return only the schedule of this VM (name or UUID)" },
	{ "after", FIELD_STRING, OPTIONAL, "start the page after this name" }, END };
static const struct field query_schedules_returns[] = {
	{ "schedules", FIELD_ARRAY, REQUIRED,
		"vm, every, keep, min-free, next-run (ns), last-run (ns), outcome (taken, skipped, failed), "
		"detail" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };
#define FIELD_USER { "user", FIELD_INT, OPTIONAL, "uid; give user or group" }
#define FIELD_GROUP { "group", FIELD_INT, OPTIONAL, "gid; give user or group" }
static const struct field grant_args[] = { FIELD_USER, FIELD_GROUP,
	{ "role", FIELD_ROLE, REQUIRED, "role; for one VM viewer, guest, operator or owner" },
	{ "vm", FIELD_STRING, OPTIONAL, "give the role for this VM only [all VMs]" }, END };
static const struct field grant_returns[] = {
	{ "warnings", FIELD_ARRAY, OPTIONAL, "sentences about consoles that could not be closed" }, END };
static const struct field revoke_args[] = { FIELD_USER, FIELD_GROUP,
	{ "vm", FIELD_STRING, OPTIONAL, "remove the role for this VM [the role for all VMs]" },
	END };
static const struct field query_permissions_args[] = { { "from", FIELD_INT, OPTIONAL, "index of the first entry [0]" }, END };
static const struct field query_permissions_returns[] = {
	{ "permissions", FIELD_ARRAY, REQUIRED, "user or group, role, vm, vm-uuid" },
	{ "next", FIELD_INT, OPTIONAL, "`from` of the call for the next page, if there is one" }, END };
#define FIELDS_SUBJECT                                                                             \
	{ "user", FIELD_INT, OPTIONAL, "uid; give user, group or default" },                       \
	{ "group", FIELD_INT, OPTIONAL, "gid; give user, group or default" },                      \
	{ "default", FIELD_BOOL, OPTIONAL, "true: the quota of each user without a quota of its own" }
static const struct field pool_define_args[] = { { "name", FIELD_STRING, REQUIRED, "name of the pool" },
	{ "target", FIELD_STRING, REQUIRED, "absolute path of its folder, which the daemon does not open" }, END };
static const struct field pool_name_args[] = { { "name", FIELD_STRING, REQUIRED, "name of the pool" }, END };
static const struct field query_pools_args[] = { { "after", FIELD_STRING, OPTIONAL, "start the page after this name" }, END };
static const struct field query_pools_returns[] = { { "pools", FIELD_ARRAY, REQUIRED, "name, target, and when the daemon has looked at its file system: looked (realtime, ns), used and total (bytes), "
		"growth (bytes a day), days-left, low (only if true)" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };
static const struct field quota_set_args[] = { FIELDS_SUBJECT,
	{ "vms", FIELD_INT, OPTIONAL, "defined VMs [as now]; in each limit, -1: no limit" },
	{ "running", FIELD_INT, OPTIONAL, "running VMs [as now]" },
	{ "memory", FIELD_INT, OPTIONAL, "bytes of memory of the running VMs [as now]" },
	{ "vcpus", FIELD_INT, OPTIONAL, "vCPUs of the running VMs [as now]" },
	{ "disk", FIELD_INT, OPTIONAL, "bytes of the images that Cairn made for the VMs [as now]" },
	{ "snapshots", FIELD_INT, OPTIONAL, "snapshots of the VMs [as now]" }, END };
static const struct field quota_remove_args[] = { FIELDS_SUBJECT, END };
static const struct field query_quotas_args[] = { { "from", FIELD_INT, OPTIONAL, "index of the first entry [0]" }, END };
static const struct field query_quotas_returns[] = {
	{ "quotas", FIELD_ARRAY, REQUIRED,
		"user, group or default (with user: the user has no quota of its own); limits and used: vms, running, memory, "
		"vcpus, disk, snapshots; a missing limit: none. Users who are not admins see the default, their own entry and their groups" },
	{ "next", FIELD_INT, OPTIONAL, "`from` of the call for the next page, if there is one" }, END };
static const struct field job_args[] = { { "id", FIELD_STRING, REQUIRED, "id of the job" }, END };

#define FIELD_NETWORK { "network", FIELD_STRING, REQUIRED, "name or UUID of the network" }
#define FIELD_DIRECT { "dev", FIELD_STRING, OPTIONAL, \
	"with macvtap: the link that the guests are on, in place of bridge" }, \
	{ "devs", FIELD_ARRAY, OPTIONAL, "with several links for macvtap: their names, in place of dev" }
#define FIELD_WARNINGS { "warnings", FIELD_ARRAY, OPTIONAL, \
	"sentences, such as about another firewall that drops the traffic" }
static const struct field network_only[] = { FIELD_NETWORK, END };
static const struct field net_define_args[] = {
	{ "definition", FIELD_OBJECT, REQUIRED, "definition of the network; see docs/networks.md" },
	{ "was", FIELD_OBJECT, OPTIONAL, "definition from net-dump-definition; the call fails if the network's definition has "
		"changed since" },
	{ "validate-only", FIELD_BOOL, OPTIONAL, "check the definition and change nothing" }, END };
static const struct field net_define_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the network" },
	{ "uuid", FIELD_STRING, REQUIRED, "UUID of the network" },
	{ "created", FIELD_BOOL, REQUIRED, "true: new definition; false: the existing one was replaced" },
	{ "pending", FIELD_BOOL, REQUIRED, "the network is active with another definition until its next start" }, END };
static const struct field net_create_args[] = {
	{ "definition", FIELD_OBJECT, REQUIRED, "definition of the network; see docs/networks.md" }, END };
static const struct field net_create_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the network" },
	{ "uuid", FIELD_STRING, REQUIRED, "UUID of the network" },
	{ "bridge", FIELD_STRING, OPTIONAL, "name of the bridge" }, FIELD_DIRECT, FIELD_WARNINGS, END };
static const struct field net_start_returns[] = {
	{ "bridge", FIELD_STRING, OPTIONAL, "name of the bridge" }, FIELD_DIRECT, FIELD_WARNINGS, END };
static const struct field net_update_args[] = { FIELD_NETWORK,
	{ "definition", FIELD_OBJECT, REQUIRED, "definition that the active network gets; only DHCP, DNS, egress, users and "
		"groups may differ. net-define changes the next start's" },
	{ "was", FIELD_OBJECT, OPTIONAL, "definition from net-dump-definition; the call fails if the active one has changed since" }, END };
static const struct field net_update_returns[] = {
	{ "restarted", FIELD_BOOL, OPTIONAL, "DHCP and DNS were away for a moment" }, FIELD_WARNINGS, END };
static const struct field net_autostart_args[] = { FIELD_NETWORK,
	{ "disable", FIELD_BOOL, OPTIONAL, "turn the automatic start off" }, END };
static const struct field net_list_args[] = {
	{ "after", FIELD_STRING, OPTIONAL, "start the page after this name" }, END };
static const struct field net_list_returns[] = {
	{ "networks", FIELD_ARRAY, REQUIRED, "by name: name, uuid, state (active, inactive, starting or stopping), persistent, "
		"autostart, mode, bridge" },
	{ "next", FIELD_STRING, OPTIONAL, "`after` of the call for the next page, if there is one" }, END };
static const struct field net_info_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the network" },
	{ "uuid", FIELD_STRING, REQUIRED, "UUID of the network" },
	{ "state", FIELD_STRING, REQUIRED, "active, inactive, starting or stopping" },
	{ "persistent", FIELD_BOOL, REQUIRED, "the daemon keeps the definition when the network stops" },
	{ "autostart", FIELD_BOOL, REQUIRED, "the daemon starts the network after a boot of the host" },
	{ "mode", FIELD_STRING, REQUIRED, "nat, route, isolated, open or bridge" },
	{ "bridge", FIELD_STRING, OPTIONAL, "name of the bridge" }, FIELD_DIRECT,
	{ "pending", FIELD_BOOL, REQUIRED, "the active definition and that of the next start differ" },
	{ "vms", FIELD_ARRAY, REQUIRED, "names of the VMs that run with an interface of the network" },
	{ "denied-packets", FIELD_INT, OPTIONAL, "packets that the egress rules have denied since they were made" },
	{ "denied-questions", FIELD_INT, OPTIONAL, "questions of DNS that they have refused, if they have names" },
	{ "clones", FIELD_ARRAY, OPTIONAL, "running live clones: name, interface, network, address (in the network), guest-address (if known)" },
	{ "reserved", FIELD_ARRAY, OPTIONAL, "running VMs whose address is reserved for their published ports: name, interface, network, address" }, END };
static const struct field net_dump_args[] = { FIELD_NETWORK,
	{ "inactive", FIELD_BOOL, OPTIONAL, "use the definition of the next start, not that of the active network" }, END };
static const struct field net_dump_returns[] = {
	{ "definition", FIELD_OBJECT, REQUIRED, "canonical definition" } , END };
static const struct field net_leases_args[] = { FIELD_NETWORK,
	{ "mac", FIELD_STRING, OPTIONAL, "show only leases of this MAC address" },
	{ "from", FIELD_INT, OPTIONAL, "index of the first entry [0]" }, END };
static const struct field net_leases_returns[] = {
	{ "leases", FIELD_ARRAY, REQUIRED, "expires (realtime, seconds; 0: never), mac, address, prefix, family (ipv4, ipv6), name, client_id" },
	{ "next", FIELD_INT, OPTIONAL, "`from` of the call for the next page, if there is one" }, END };

static const struct field attach_disk_args[] = { FIELD_VM, { "disk", FIELD_OBJECT, REQUIRED, "the disk, as in a definition" }, FIELD_FOLDER, END };
static const struct field attach_interface_args[] = { FIELD_VM, { "interface", FIELD_OBJECT, REQUIRED, "the interface, as in a definition, without forwards" }, END };
static const struct field attach_interface_returns[] = {
	{ "interface", FIELD_STRING, REQUIRED, "id of the interface" },
	{ "mac", FIELD_STRING, REQUIRED, "its MAC address" }, END };
static const struct field medium_args[] = { FIELD_VM, { "disk", FIELD_STRING, REQUIRED, "id of the drive or path of its image" },
	{ "medium", FIELD_OBJECT, OPTIONAL, "path, format, data_file, backing, as in a definition [none]" }, FIELD_FOLDER,
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
	{ "vm-define", "define a VM, or redefine an existing one (an owner may only redefine)", define_args,
		define_returns, ROLE_ADMIN, COMMAND_DEFINES | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, ANY_STATE },
	{ "vm-rename", "rename a VM that is off; its state, permissions and snapshots stay", rename_args,
		NULL, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, VM_ASK_RENAME },
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
	{ "vm-trend", "show what a VM did over time: up to two years back", trend_args, trend_returns, ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
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
	{ "vm-set-vcpus", "add vCPUs to a running VM, or ask the guest to release some and wait for it; a new start uses the definition again",
		set_vcpus_args, NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-reclaim", DOC_RECLAIM, vm_only, reclaim_returns, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_RECLAIM },
	{ "vm-agent-command", "run a command of the guest agent", agent_command_args, agent_command_returns,
		ROLE_GUEST, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_RETURNS_FD, VM_ASK_GUEST },
	{ "vm-agent-query", "like vm-agent-command, but not audited: to look, and for open files and running programs", agent_command_args, agent_command_returns, ROLE_GUEST,
		COMMAND_CONCERNS_VM | COMMAND_RETURNS_FD, VM_ASK_GUEST },
	{ "vm-sandbox", "show the privileges, limits and namespaces of the VM's process, as the kernel reports them; fields that the "
		"daemon may not read are missing", vm_only, sandbox_returns, ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "vm-qmp-path", "show the path of the running VM's own socket, which speaks QEMU's QMP", vm_only,
		path_returns, ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "vm-start", "start a VM; return when its vCPUs run", start_args, start_returns,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, VM_ASK_START },
	{ "vm-shutdown", "shut the guest down, by the power button or the guest agent", shutdown_args, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_SHUTDOWN },
	{ "vm-reboot", "shut the guest down, and start the VM again when it is off", reboot_args,
		NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_REBOOT },
	{ "vm-shutdown-cancel", "cancel the scheduled shutdown or reboot and any deadline", vm_only, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "daemon-stop", "stop the running VMs in their order, then the daemon; return when the VMs are stopped", daemon_stop_args,
		daemon_stop_returns, ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "vm-autostart", "start the VM automatically after a boot of the host, or turn that off", autostart_args, NULL,
		ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-reset", "reset the VM, like a hardware reset button", vm_only, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_RESET },
	{ "vm-suspend", "pause the vCPUs", vm_only, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_SUSPEND },
	{ "vm-resume", "resume the vCPUs", vm_only, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_RESUME },
	{ "vm-destroy", "stop the VM at once, or end its start; return when its process has ended, or fail if it is stuck in the kernel",
		vm_only, NULL,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_DESTROY },
	{ "vm-console", "connect to a console of the guest; the answer carries a socket as an fd", console_args, NULL,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_RETURNS_FD, VM_ASK_CONSOLE },
	{ "vm-log", "show what the VM's process logged, page by page", vm_log_args, vm_log_returns, ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "forward-add", "forward a port of this host to the running guest, until the VM's process ends", forward_add_args,
		forward_returns, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "forward-remove", "remove a forward of the running VM; open connections continue", forward_remove_args,
		forward_returns, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vsock-connect", "connect to a vsock port of the guest; the answer carries a socket as an fd", vsock_args, NULL,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_RETURNS_FD, VM_ASK_CONSOLE },
	{ "agent-connect", "connect to cairn-agent in the guest, over vsock; the answer carries a socket as an fd", vm_only, NULL,
		ROLE_GUEST, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_RETURNS_FD, VM_ASK_GUEST },
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
	{ "vm-restart-process", "let the VM go on in a new process, for example one of a newer version of Cairn: the old process "
		"hands it over, or else it is saved and started; if that fails, the VM still runs or is saved", save_args, job_returns, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB, VM_ASK_RESTART_PROCESS },
	{ "vm-managed-save-remove", "remove the managed save of a VM", vm_only, NULL,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_DROP_SAVED },
	{ "vm-restore", "start a VM from the saved state passed as an fd", restore_args,
		restore_returns, ROLE_OPERATOR, COMMAND_MUTATES | COMMAND_TAKES_FD, ANY_STATE },
	{ "vm-dump", "dump the guest's memory and registers, as of one instant, as an ELF core to the file passed as an fd "
		     "(empty, regular, open for writing)", dump_memory_args, job_returns, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB | COMMAND_TAKES_FD, VM_ASK_DUMP },
	{ "vm-screenshot", "write what the guest shows on its screen to the file passed as an fd (empty, regular, open for writing)",
		screenshot_args, NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_TAKES_FD, VM_ASK_DUMP },
	{ "vm-send-key", "press keys of the guest's keyboard together, and release them", send_key_args, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_GUEST },
	{ "vm-export", "export definition, disks, kernel and initrd to the file passed as an fd; owners only, because the archive "
		       "holds all data of the disks",
		export_args, job_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB | COMMAND_TAKES_FD, ANY_STATE },
	{ "vm-import", "define a VM from an archive that vm-export has written, passed as an fd", import_args,
		job_returns, ROLE_ADMIN, COMMAND_MUTATES | COMMAND_JOB | COMMAND_TAKES_FD, ANY_STATE },
	{ "vm-fork", "create running copies of a running VM or of a snapshot; the copies share memory until they write to it",
		fork_args, job_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB, VM_ASK_FORK_SNAPSHOT },
	{ "vm-clone", "create copies of a VM that is off", clone_args, clone_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB, ANY_STATE },
	{ "vm-template", "make the VM a template, which can only be cloned; its images become read-only",
		template_args, NULL, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_TEMPLATE },
	{ "vm-blockcopy", "copy a disk of a running VM to an empty file, passed as an fd; at the end, both get each change of the guest",
		blockcopy_args, job_returns, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB | COMMAND_TAKES_FD, ANY_STATE },
	{ "vm-blockjob-pivot", "after vm-blockcopy, go on with the copy; the definition of the next start must name it already", pivot_args,
		NULL, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-blockjob-abort", "after vm-blockcopy, go on without the copy, which keeps the content of this moment", copy_abort_args, NULL,
		ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-blockcommit", "copy what the upper layers of a disk have to a lower one, and then drop them from the disk; if the image of a "
		"running VM is among them, both get each change at the end, as after vm-blockcopy",
		blockcommit_args, job_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES | COMMAND_JOB, VM_ASK_PULL },
	{ "vm-disk-snapshot", "let disks of a running VM go on with new overlays, all at one instant; the definition of the next start must "
		"name them already", disk_snapshot_args, NULL, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-blockpull", "copy the content of its backing files into a qcow2 disk, and remove the backing files from the "
		"image and from the definition; the guest may run", blockpull_args, job_returns, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES | COMMAND_JOB, VM_ASK_PULL },
	{ "snapshot-create", "create a snapshot of disks, memory and devices (if the VM is off: of disks only)",
		snapshot_create_args, job_returns, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES | COMMAND_JOB, VM_ASK_SNAPSHOT },
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
	{ "vm-pins", "list what live clones keep in the VM's images", vm_only, pins_returns, ROLE_VIEWER,
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
	{ "threshold-set", "tell when a figure of a VM is too high", threshold_set_args, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, ANY_STATE },
	{ "threshold-remove", "remove a threshold of a VM", threshold_remove_args, NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "query-thresholds", "list the thresholds of all VMs", query_thresholds_args, query_thresholds_returns, ROLE_VIEWER, COMMAND_FILTERS, ANY_STATE },
	{ "query-events", "list past events; the last 10000 are kept", query_events_args,
		query_events_returns, ROLE_VIEWER, COMMAND_FILTERS, ANY_STATE },
	{ "query-audit", "show the audit log: calls that change something, including denied ones", query_audit_args, query_audit_returns, ROLE_ADMIN, 0,
		ANY_STATE },
	{ "permission-grant", "give a user or a group a role", grant_args, grant_returns, ROLE_ADMIN,
		COMMAND_MUTATES, ANY_STATE },
	{ "permission-revoke", "remove a role of a user or a group", revoke_args, grant_returns, ROLE_ADMIN, COMMAND_MUTATES,
		ANY_STATE },
	{ "query-permissions", "list the roles of all users and groups", query_permissions_args,
		query_permissions_returns, ROLE_ADMIN, 0, ANY_STATE },
	{ "quota-set", "limit what the VMs of a user or of a group's members take; only for root and the daemon's own user",
		quota_set_args, NULL, ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "quota-remove", "remove a quota; only for root and the daemon's own user", quota_remove_args, NULL, ROLE_ADMIN,
		COMMAND_MUTATES, ANY_STATE },
	{ "query-quotas", "list quotas, and what is used of them", query_quotas_args, query_quotas_returns, ROLE_VIEWER,
		COMMAND_FILTERS, ANY_STATE },
	{ "pool-define", "give a folder for images a name", pool_define_args, NULL, ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "pool-undefine", "forget the name of a pool; its folder and its volumes stay", pool_name_args, NULL, ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "query-pools", "list pools", query_pools_args, query_pools_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-jobs", "list jobs under way, and results that were not dismissed", query_jobs_args,
		query_jobs_returns, ROLE_VIEWER, COMMAND_FILTERS | COMMAND_RETURNS_LIST, ANY_STATE },
	{ "job-cancel", "cancel a job", job_args, NULL, ROLE_OPERATOR,
		COMMAND_MUTATES | COMMAND_CONCERNS_JOB, ANY_STATE },
	{ "job-dismiss", "delete the result of a finished job", job_args, NULL, ROLE_OPERATOR,
		COMMAND_MUTATES | COMMAND_CONCERNS_JOB, ANY_STATE },
	{ "net-define", "define a network, or redefine an existing one; an active network keeps its definition until it stops",
		net_define_args, net_define_returns, ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "net-create", "start a network that is forgotten when it stops", net_create_args, net_create_returns, ROLE_ADMIN,
		COMMAND_MUTATES, ANY_STATE },
	{ "net-undefine", "remove the definition of a network; an active network stays until it stops", network_only, NULL, ROLE_ADMIN,
		COMMAND_MUTATES, ANY_STATE },
	{ "net-start", "start a network: its bridge, its rules, DHCP and DNS; of an active one, what is missing",
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
	{ "net-dhcp-leases", "show the addresses that a network's guests got by DHCP", net_leases_args, net_leases_returns, ROLE_VIEWER, 0,
		ANY_STATE },
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
	static const char *const names[] = { "nobody", "viewer", "guest", "operator", "admin" };

	return names[MIN((unsigned)r, 4u)];
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
