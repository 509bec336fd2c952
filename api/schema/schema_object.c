/* Members of the objects inside of arguments, results and events. Times are ns of the real time, and sizes are bytes,
 * unless a member's description says otherwise. */
#include "api/schema/schema_internal.h"
#include "base/util.h"

#define FIELD_NAME { "name", FIELD_STRING, REQUIRED, "name of the VM" }
#define FIELD_UUID { "uuid", FIELD_STRING, REQUIRED, "UUID of the VM" }

static const struct field qemu_version[] = {
	{ "major", FIELD_INT, REQUIRED, "7" },
	{ "minor", FIELD_INT, REQUIRED, "2" },
	{ "micro", FIELD_INT, REQUIRED, "0" }, END };

static const struct field schema_entry[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the command, the event or the type" },
	{ "meta-type", FIELD_STRING, REQUIRED, "command, event, object, array, map (an object with names of any kind), enum, alternate or builtin" },
	{ "doc", FIELD_STRING, OPTIONAL, "description" },
	{ "arg-type", FIELD_STRING, OPTIONAL, "type of the arguments of a command, or of the data of an event" },
	{ "ret-type", FIELD_STRING, OPTIONAL, "type of the result of a command" },
	{ "job-type", FIELD_STRING, OPTIONAL, "type of its jobs in query-jobs" },
	{ "result-type", FIELD_STRING, OPTIONAL, "type of the result of its jobs" },
	{ "role", FIELD_STRING, OPTIONAL, "role that a command needs, or nobody" },
	{ "job", FIELD_BOOL, OPTIONAL, "whether it starts a job" },
	{ "mutates", FIELD_BOOL, OPTIONAL, "whether the audit log has it" },
	{ "takes-fd", FIELD_BOOL, OPTIONAL, "true: the client passes an open file with it" },
	{ "returns-fd", FIELD_BOOL, OPTIONAL, "true: its answer carries an open file" },
	{ "templates", FIELD_BOOL, OPTIONAL, "false: it is refused for a template" },
	{ "states", FIELD_STRING, OPTIONAL, "words of the states that it is legal in, with commas; missing: any" },
	{ "members", LIST_OF(FIELD_SCHEMA_MEMBER), OPTIONAL, "members of an object, types of an alternate, or words of an enum" },
	{ "values", LIST_OF(FIELD_STRING), OPTIONAL, "words of an enum" },
	{ "element-type", FIELD_STRING, OPTIONAL, "type of the values of an array" },
	{ "value-type", FIELD_STRING, OPTIONAL, "type of the values of a map" },
	{ "json-type", FIELD_STRING, OPTIONAL, "type of a builtin in JSON" }, END };
static const struct field schema_member[] = {
	{ "name", FIELD_STRING, OPTIONAL, "name of the member" },
	{ "type", FIELD_STRING, OPTIONAL, "its type" },
	{ "default", FIELD_ANY, OPTIONAL, "null: the member is optional" },
	{ "doc", FIELD_STRING, OPTIONAL, "description" }, END };

/* ---- VMs ---- */

static const struct field vm_entry[] = {
	{ "id", FIELD_INT, REQUIRED, "id of the running VM; -1: off" },
	FIELD_NAME,
	{ "uuid", FIELD_STRING, OPTIONAL, "UUID of the VM; missing with brief" },
	{ "title", FIELD_STRING, OPTIONAL, "title of the definition" },
	{ "state", FIELD_VM_STATE, REQUIRED, "state of the VM" },
	{ "word", FIELD_VM_STATE, REQUIRED, "the same as state, for older clients" },
	{ "outdated", FIELD_BOOL, OPTIONAL, "true: the VM's process is of another build of Cairn than that of a VM that starts now" },
	{ "waits-for-hook", FIELD_STRING, OPTIONAL, "as in vm-info" },
	{ "reason", FIELD_VM_REASON, OPTIONAL, "reason of the state; this and the others are missing with brief" },
	{ "persistent", FIELD_BOOL, OPTIONAL, "the daemon keeps the definition when the VM is off" },
	{ "ephemeral", FIELD_BOOL, OPTIONAL, "true: when the VM has ended, the daemon undefines it and removes the images that were made for it; also with brief" },
	{ "autostart", FIELD_BOOL, OPTIONAL, "the daemon starts the VM after a boot of the host" },
	{ "managed-save", FIELD_BOOL, OPTIONAL, "the VM has a managed save" },
	{ "template", FIELD_BOOL, OPTIONAL, "the VM is a template" }, END };
static const struct field unloaded_vm[] = { FIELD_NAME,
	{ "why", FIELD_STRING, REQUIRED, "why the daemon could not load the VM, with the remedy" }, END };

const struct field info_returns[] = {
	FIELD_NAME, FIELD_UUID,
	{ "title", FIELD_STRING, OPTIONAL, "title of the definition" },
	{ "id", FIELD_INT, REQUIRED, "id of the running VM; -1: off" },
	{ "state", FIELD_VM_STATE, REQUIRED, "state of the VM" },
	{ "word", FIELD_VM_STATE, REQUIRED, "the same as state, for older clients" },
	{ "outdated", FIELD_BOOL, OPTIONAL, "true: the VM's process is of another build of Cairn than that of a VM that starts "
		"now, for example from before an upgrade; vm-restart-process brings it up to date" },
	{ "reason", FIELD_VM_REASON, REQUIRED, "reason of the state" },
	{ "detail", FIELD_STRING, OPTIONAL, "details of the reason" },
	{ "value", FIELD_INT, OPTIONAL, "status from the debug exit device, or bits from pvpanic" },
	{ "since", FIELD_INT, REQUIRED, "time of the last state change: realtime, ns; 0: there was none" },
	{ "machine", FIELD_INT, REQUIRED, "machine version of the running guest, if its process reports it, or else of the definition" },
	{ "vcpus", FIELD_INT, REQUIRED, "number of vCPUs" },
	{ "max-vcpus", FIELD_INT, REQUIRED, "the most that the VM can have" },
	{ "vcpus-absent", LIST_OF(FIELD_INT), OPTIONAL, "numbers of the vCPUs up to max-vcpus that the guest lacks; they are in the other lists" },
	{ "memory", FIELD_INT, REQUIRED, "bytes" },
	{ "used-memory", FIELD_INT, REQUIRED, "memory that the balloon leaves to the guest, bytes; 0 when off" },
	FIELD_BALLOON,
	FIELD_DIRTY,
	{ "cpu-time", FIELD_INT, OPTIONAL, "CPU time of all vCPU threads, ns" },
	{ "vcpu-times", LIST_OF(FIELD_INT), OPTIONAL, "CPU time of each vCPU thread, ns" },
	{ "vcpu-delays", LIST_OF(FIELD_INT), OPTIONAL, "time that each vCPU thread waited for a processor, ns; starts at 0 in each process" },
	{ "vcpu-halted", LIST_OF(FIELD_BOOL), OPTIONAL, "of each vCPU: whether it is halted" },
	{ "vcpu-processors", LIST_OF(FIELD_INT), OPTIONAL, "of each vCPU: the host's processor on which it runs, or ran last" },
	{ "vcpu-affinity", LIST_OF(FIELD_STRING), OPTIONAL, "of each vCPU: the host's processors on which it may run: \"0-3,8\"; only in vm-info" },
	{ "cpu-user", FIELD_INT, OPTIONAL, "part of cpu-time that the host counts as user time, the guest's included, ns; of this process" },
	{ "cpu-system", FIELD_INT, OPTIONAL, "part of cpu-time in the host's kernel, ns; of this process" },
	{ "pid", FIELD_INT, OPTIONAL, "pid of the VM's process" },
	{ "balance", FIELD_BALANCE, OPTIONAL, "values that the daemon sets by load, if the definition has the key balance" },
	{ "systemd-scope", FIELD_SYSTEMD_SCOPE, OPTIONAL, "with systemd_scope: the VM's scope and machine" },
	{ "resident-memory", FIELD_INT, OPTIONAL, "resident memory of the VM's process, bytes; 0: not known" },
	{ "job", FIELD_STRING, OPTIONAL, "id of the job under way" },
	{ "shutdown-at", FIELD_INT, OPTIONAL, "time of the scheduled shutdown: realtime, ns" },
	{ "reboot-at", FIELD_INT, OPTIONAL, "time of the scheduled reboot: realtime, ns" },
	{ "shutdown-deadline", FIELD_INT, OPTIONAL, "deadline of the shutdown under way: realtime, ns" },
	{ "shutdown-then", FIELD_STRING, OPTIONAL, "action at the deadline: leave, destroy or save" },
	{ "shutdown-overdue", FIELD_BOOL, OPTIONAL, "the guest has not shut down by the deadline, whose action was leave" },
	{ "start-at", FIELD_INT, OPTIONAL, "time at which a start that a hook has delayed is tried again: realtime, ns" },
	{ "waits-for-hook", FIELD_STRING, OPTIONAL, "start, shutdown or reboot, if hooks are being asked about that or have delayed it" },
	{ "delayed", FIELD_STRING, OPTIONAL, "the hook that has delayed the start, the shutdown or the reboot, and its reason" },
	{ "starting", FIELD_BOOL, OPTIONAL, "a start is under way or waits for its turn; state and reason are still of the last end" },
	{ "restart-in", FIELD_INT, OPTIONAL, "time until the daemon restarts the ended VM, ns" },
	{ "exit-status", FIELD_INT, OPTIONAL, "exit status of the last process" },
	{ "exit-signal", FIELD_INT, OPTIONAL, "signal that ended the last process" },
	{ "persistent", FIELD_BOOL, REQUIRED, "the daemon keeps the definition when the VM is off" },
	{ "ephemeral", FIELD_BOOL, OPTIONAL, "true: when the VM has ended, the daemon undefines it and removes the images that were made for it" },
	{ "autostart", FIELD_BOOL, REQUIRED, "the daemon starts the VM after a boot of the host" },
	{ "managed-save", FIELD_BOOL, REQUIRED, "the VM has a managed save" },
	{ "template", FIELD_BOOL, REQUIRED, "the VM is a template" },
	{ "host", FIELD_STRING, OPTIONAL, "kind of KVM: vmx, svm, pvm or unknown" },
	{ "assist", FIELD_ASSIST, OPTIONAL, "work of the assist for hosts whose KVM emulates kernel mode" },
	{ "exits", FIELD_EXITS, OPTIONAL, "number of VM exits by kind" },
	{ "idle", FIELD_BOOL, OPTIONAL, "the VM runs and all vCPUs are halted" },
	{ "agent", FIELD_STRING, OPTIONAL, "state of the guest agent's port: closed, open, connected (an agent answers)" },
	{ "growth", FIELD_INT, OPTIONAL, "bytes a day by which the images that the VM writes grew in the last week; this and days-left only in vm-info" },
	{ "days-left", FIELD_INT, OPTIONAL, "days until these images have the size that the guest sees" },
	{ "role", FIELD_ROLE, OPTIONAL, "your role for the VM, which is admin for its owner, too; only in vm-info" },
	{ "disks", LIST_OF(FIELD_DISK_FIGURES), OPTIONAL, "figures of each disk" },
	{ "interfaces", LIST_OF(FIELD_INTERFACE_FIGURES), OPTIONAL, "figures of each interface" }, END };
static const struct field balloon_figures[] = {
	{ "driver", FIELD_BOOL, REQUIRED, "the guest has a driver for the balloon" },
	{ "target", FIELD_INT, REQUIRED, "memory that the balloon shall leave to the guest, bytes" },
	{ "actual", FIELD_INT, REQUIRED, "memory that it leaves to the guest, bytes" },
	{ "reported", FIELD_INT, REQUIRED, "bytes given back by free page reporting so far" },
	{ "period", FIELD_INT, REQUIRED, "seconds between statistics of the guest; 0: none" },
	{ "last-update", FIELD_INT, OPTIONAL, "time of the last statistics: realtime, seconds" },
	{ "swap-in", FIELD_INT, OPTIONAL, "bytes that the guest read from its swap space; this and the others if the guest reports them" },
	{ "swap-out", FIELD_INT, OPTIONAL, "bytes that it wrote to its swap space" },
	{ "major-faults", FIELD_INT, OPTIONAL, "page faults for which it read a disk" },
	{ "minor-faults", FIELD_INT, OPTIONAL, "other page faults" },
	{ "unused", FIELD_INT, OPTIONAL, "free memory, bytes" },
	{ "available", FIELD_INT, OPTIONAL, "all memory, bytes" },
	{ "usable", FIELD_INT, OPTIONAL, "memory for new programs without swapping, bytes" },
	{ "disk-caches", FIELD_INT, OPTIONAL, "memory of caches, bytes" },
	{ "hugetlb-allocs", FIELD_INT, OPTIONAL, "huge pages that were allocated" },
	{ "hugetlb-failures", FIELD_INT, OPTIONAL, "failed allocations of huge pages" }, END };
static const struct field dirty_rate[] = {
	{ "status", FIELD_STRING, REQUIRED, "measuring or measured" },
	{ "start-time", FIELD_INT, REQUIRED, "time of the start: realtime, seconds" },
	{ "seconds", FIELD_INT, REQUIRED, "length of the measurement" },
	{ "sample-pages", FIELD_INT, REQUIRED, "pages that are sampled of each GiB" },
	{ "bytes-per-second", FIELD_INT, OPTIONAL, "once measured: bytes of pages that change in a second" }, END };
static const struct field mirror[] = {
	{ "type", FIELD_STRING, REQUIRED, "type of the job that began it: blockcopy or blockcommit" },
	{ "path", FIELD_STRING, OPTIONAL, "path of the file, if it is known" },
	{ "format", FIELD_IMAGE_FORMAT, OPTIONAL, "its format, with `path`" },
	{ "user", FIELD_INT, OPTIONAL, "uid of the user who said that this is its path; 0: root, or the base of a commit, which the definition names" }, END };
static const struct field systemd_scope[] = {
	{ "unit", FIELD_STRING, OPTIONAL, "name of its unit" },
	{ "machine", FIELD_STRING, OPTIONAL, "name of its machine in machined" },
	{ "lack", FIELD_STRING, OPTIONAL, "why one of them is missing" }, END };
static const struct field balance[] = {
	{ "cpu-shares", FIELD_BALANCED, OPTIONAL, "its cpu_shares" },
	{ "memory", FIELD_BALANCED, OPTIONAL, "memory that the balloon shall leave to the guest, bytes" }, END };
static const struct field balanced[] = {
	{ "now", FIELD_INT, REQUIRED, "the present value" },
	{ "min", FIELD_INT, REQUIRED, "lower bound in force" },
	{ "max", FIELD_INT, REQUIRED, "upper bound in force" },
	{ "reason", FIELD_STRING, OPTIONAL, "reason of the last change" },
	{ "lack", FIELD_STRING, OPTIONAL, "why the daemon does not change it" }, END };
static const struct field assist[] = {
	{ "on", FIELD_BOOL, REQUIRED, "the assist is in use" },
	{ "syscalls", FIELD_INT, REQUIRED, "number of system calls that it has completed" },
	{ "instructions", FIELD_INT, REQUIRED, "number of instructions that it has completed" }, END };
static const struct field exits[] = {
	{ "io", FIELD_INT, REQUIRED, "exits for I/O ports" },
	{ "mmio", FIELD_INT, REQUIRED, "exits for MMIO" },
	{ "other", FIELD_INT, REQUIRED, "other exits" }, END };
#define DOC_LATENCY \
	"of this process that took less than 10, 20, 50, 100, 200, 500 us, 1, 2, 5, 10, 20, 50, 100, 200, 500 ms, 1, 2, 5 s, " \
	"or longer, up to the last number that is not 0"
static const struct field disk_figures[] = {
	{ "id", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "size", FIELD_INT, REQUIRED, "size that the guest sees, bytes" },
	{ "rd-reqs", FIELD_INT, REQUIRED, "number of reads" },
	{ "rd-bytes", FIELD_INT, REQUIRED, "bytes read" },
	{ "rd-ns", FIELD_INT, REQUIRED, "time of all reads, ns" },
	{ "wr-reqs", FIELD_INT, REQUIRED, "number of writes" },
	{ "wr-bytes", FIELD_INT, REQUIRED, "bytes written" },
	{ "wr-ns", FIELD_INT, REQUIRED, "time of all writes, ns" },
	{ "fl-reqs", FIELD_INT, REQUIRED, "number of flushes" },
	{ "fl-ns", FIELD_INT, REQUIRED, "time of all flushes, ns" },
	{ "errors", FIELD_INT, REQUIRED, "number of failed requests" },
	{ "path", FIELD_STRING, OPTIONAL, "path of its image; if the paths of the VM's images have more than 32 KiB in all, the last ones are missing here and in backing" },
	{ "backing", LIST_OF(FIELD_STRING), OPTIONAL, "paths of the image's backing files, the nearest first" },
	{ "mirror", FIELD_MIRROR, OPTIONAL, "the file that gets each change, too, since vm-blockcopy or an active vm-blockcommit is ready" },
	{ "allocation", FIELD_INT, OPTIONAL, "bytes that its image takes, some seconds old at most; this and physical are missing before the guest writes, or a client runs vm-space" },
	{ "physical", FIELD_INT, OPTIONAL, "size of the image's file or device, bytes" },
	{ "fault", FIELD_STRING, OPTIONAL, "error that has paused the VM: no space, image corrupt, or unspecified error" },
	{ "tray-open", FIELD_BOOL, OPTIONAL, "of a CD drive: its tray is open" },
	{ "in-flight", FIELD_INT, OPTIONAL, "requests that wait for the image; this and the next three are missing if the process shares no page of figures" },
	{ "rd-latency", LIST_OF(FIELD_INT), OPTIONAL, "numbers of reads " DOC_LATENCY },
	{ "wr-latency", LIST_OF(FIELD_INT), OPTIONAL, "likewise of writes" },
	{ "fl-latency", LIST_OF(FIELD_INT), OPTIONAL, "likewise of flushes" }, END };
static const struct field interface_figures[] = {
	{ "id", FIELD_STRING, REQUIRED, "id of the interface" },
	{ "mac", FIELD_STRING, REQUIRED, "its MAC address" },
	{ "target", FIELD_STRING, OPTIONAL, "name of its tap on the host" },
	{ "link", FIELD_STRING, REQUIRED, "up or down, as the guest sees it" },
	{ "rx-bytes", FIELD_INT, REQUIRED, "bytes that the guest received" },
	{ "rx-packets", FIELD_INT, REQUIRED, "packets that it received" },
	{ "rx-errors", FIELD_INT, REQUIRED, "errors in receiving" },
	{ "rx-drops", FIELD_INT, REQUIRED, "packets to the guest that were dropped" },
	{ "tx-bytes", FIELD_INT, REQUIRED, "bytes that the guest sent" },
	{ "tx-packets", FIELD_INT, REQUIRED, "packets that it sent" },
	{ "tx-errors", FIELD_INT, REQUIRED, "errors in sending" },
	{ "tx-drops", FIELD_INT, REQUIRED, "packets of the guest that were dropped" },
	{ "set-link", FIELD_STRING, OPTIONAL, "up or down, as vm-set-interface or the definition has set it" },
	{ "bandwidth", FIELD_INTERFACE_LIMITS, OPTIONAL, "limits in force" },
	{ "egress", FIELD_EGRESS_FIGURES, OPTIONAL, "with egress rules: numbers of denied packets and names" },
	{ "network-address", FIELD_STRING, OPTIONAL, "of a live clone: its address in the network, with the prefix" },
	{ "guest-address", FIELD_STRING, OPTIONAL, "of a live clone: the address that the guest has from its source, if known" },
	{ "forwards-problem", FIELD_STRING, OPTIONAL, "why its published ports are closed" }, END };
static const struct field interface_limits[] = {
	{ "inbound", FIELD_INTERFACE_LIMIT, OPTIONAL, "of the frames to the guest" },
	{ "outbound", FIELD_INTERFACE_LIMIT, OPTIONAL, "of the frames from the guest" }, END };
static const struct field interface_limit[] = {
	{ "average", FIELD_INT, OPTIONAL, "KiB/s" },
	{ "peak", FIELD_INT, OPTIONAL, "KiB/s during a burst" },
	{ "burst", FIELD_INT, OPTIONAL, "KiB of a burst" },
	{ "packets", FIELD_INT, OPTIONAL, "packets a second" }, END };
static const struct field egress_figures[] = {
	{ "denied-packets", FIELD_INT, REQUIRED, "packets that the rules have denied" },
	{ "denied-questions", FIELD_INT, REQUIRED, "DNS queries that they have refused" }, END };
static const struct field trend_series[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the series" },
	{ "unit", FIELD_STRING, REQUIRED, "its unit; of cpu: percent of one processor" },
	{ "average", LIST_OF(FIELD_NUMBER_OR_NULL), REQUIRED, "average of each point; null: not known" },
	{ "maximum", LIST_OF(FIELD_NUMBER_OR_NULL), REQUIRED, "maximum of each point" }, END };
static const struct field advice[] = {
	{ "vm", FIELD_STRING, OPTIONAL, "VM that the advice is about; or else it has pool or host" },
	{ "pool", FIELD_STRING, OPTIONAL, "pool that it is about" },
	{ "host", FIELD_STRING, OPTIONAL, "part of the host that it is about: memory" },
	{ "kind", FIELD_STRING, REQUIRED, "waste, short, unusual, run-out or lacks (a rule lacks data)" },
	{ "rule", FIELD_STRING, REQUIRED, "name of the rule" },
	{ "text", FIELD_STRING, REQUIRED, "the advice" },
	{ "figures", MAP_OF(FIELD_NUMBER), OPTIONAL, "its figures by name: bytes, days, or rates a second; missing if kind is lacks" },
	{ "command", FIELD_STRING, OPTIONAL, "command that corrects it" },
	{ "apply", FIELD_STRING, OPTIONAL, "a command that corrects it, takes only `vm`, and does no harm" }, END };
static const struct field guest_interface[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the interface in the guest" },
	{ "mac", FIELD_STRING, OPTIONAL, "its MAC address" },
	{ "own", FIELD_BOOL, REQUIRED, "the MAC address belongs to an interface of the VM" },
	{ "addresses", LIST_OF(FIELD_GUEST_ADDRESS), REQUIRED, "its addresses" }, END };
static const struct field guest_address[] = {
	{ "type", FIELD_STRING, REQUIRED, "ipv4 or ipv6" },
	{ "address", FIELD_STRING, REQUIRED, "the address" },
	{ "prefix", FIELD_INT, REQUIRED, "length of its prefix, bits" }, END };
static const struct field agent_command[] = {
	{ "execute", FIELD_STRING, REQUIRED, "name of the agent's command" },
	{ "arguments", FIELD_OBJECT, OPTIONAL, "its arguments" }, END };
#define FIELD_NAMESPACE(name) { name, FIELD_STRING, OPTIONAL, "own or daemon" }
static const struct field namespaces[] = { FIELD_NAMESPACE("mnt"), FIELD_NAMESPACE("net"), FIELD_NAMESPACE("pid"), FIELD_NAMESPACE("ipc"),
	FIELD_NAMESPACE("uts"), FIELD_NAMESPACE("user"), END };
static const struct field stopped_vm[] = {
	{ "vm", FIELD_STRING, REQUIRED, "name of the VM" },
	{ "action", FIELD_STRING, REQUIRED, "leave, shutdown or save" },
	{ "outcome", FIELD_STRING, OPTIONAL, "outcome; missing with dry-run" }, END };
static const struct field volume[] = {
	{ "id", FIELD_STRING, REQUIRED, "id of the disk; folder: the folder of an import, if it stays" },
	{ "path", FIELD_STRING, REQUIRED, "path of the image or folder" },
	{ "removed", FIELD_BOOL, REQUIRED, "the file was deleted, or with dry-run would be" },
	{ "why", FIELD_STRING, OPTIONAL, "why the file stays" }, END };

/* ---- ports, forks and clones ---- */

#define FIELD_PROTOCOL(optional) { "protocol", FIELD_STRING, optional, "tcp or udp" }
static const struct field forward[] = { FIELD_PROTOCOL(OPTIONAL),
	{ "address", FIELD_STRING, OPTIONAL, "address of this host [127.0.0.1]" },
	{ "port", FIELD_INT, OPTIONAL, "port of this host [a free one]" },
	{ "to", FIELD_INT, REQUIRED, "port of the guest" },
	{ "guest", FIELD_STRING, OPTIONAL, "address of the guest [the one that DHCP gives]" },
	{ "interface", FIELD_STRING, OPTIONAL, "id of an interface of type user or network [the first]" }, END };
static const struct field published_port[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the clone" }, FIELD_PROTOCOL(REQUIRED),
	{ "address", FIELD_STRING, OPTIONAL, "address of this host" },
	{ "port", FIELD_INT, REQUIRED, "port of this host" },
	{ "to", FIELD_INT, REQUIRED, "port of the guest" },
	{ "guest", FIELD_STRING, OPTIONAL, "address of the guest" }, END };
static const struct field forked_clone[] = { FIELD_NAME, FIELD_UUID, END };
static const struct field group_snapshot_member[] = {
	{ "vm", FIELD_STRING, REQUIRED, "name of the VM" },
	{ "id", FIELD_STRING, OPTIONAL, "id of its snapshot" },
	{ "instant", FIELD_INT, OPTIONAL, "time of the instant that the snapshot shows: realtime, ns; missing for a VM that was off, as the next" },
	{ "pause", FIELD_INT, OPTIONAL, "time that the guest did not run, ns" }, END };
static const struct field group_clone[] = {
	{ "vm", FIELD_STRING, REQUIRED, "name of the VM" },
	{ "name", FIELD_STRING, REQUIRED, "name of its clone" },
	{ "uuid", FIELD_STRING, REQUIRED, "UUID of its clone" },
	{ "instant", FIELD_INT, OPTIONAL, "time of the instant that the clone shows: realtime, ns" },
	{ "pause", FIELD_INT, REQUIRED, "time that the guest did not run, ns" },
	{ "addresses", LIST_OF(FIELD_CLONE_ADDRESS), OPTIONAL, "addresses of the clone in the host's networks" },
	{ "published", LIST_OF(FIELD_PUBLISHED_PORT), OPTIONAL, "with forwards: the ports of the clone" },
	{ "forwards-left-out", LIST_OF(FIELD_STRING), OPTIONAL, "forwards of the VM that the clone lacks" }, END };
static const struct field group_network[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the network" },
	{ "source", FIELD_STRING, REQUIRED, "network of the VMs in whose place it is" }, END };
static const struct field clone_address[] = { FIELD_NAME,
	{ "interface", FIELD_STRING, REQUIRED, "id of the interface" },
	{ "network", FIELD_STRING, REQUIRED, "name of the network" },
	{ "address", FIELD_STRING, REQUIRED, "address in the network" },
	{ "guest-address", FIELD_STRING, OPTIONAL, "of a live clone: the address that the guest has from its source, if known" }, END };
static const struct field fork_disk[] = {
	{ "id", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "made", FIELD_STRING, REQUIRED, "overlay (the clones read the source's image) or copy" },
	{ "flattened-layers", FIELD_INT, OPTIONAL, "of an overlay with many layers: number of layers that a job blockpull merges into one" },
	{ "reason", FIELD_STRING, OPTIONAL, "why it is a copy" },
	{ "bytes", FIELD_INT, REQUIRED, "space that the disk of one clone takes at first" }, END };
static const struct field planned_clone[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the clone" },
	{ "disks", LIST_OF(FIELD_PLANNED_DISK), REQUIRED, "images that would be made" }, END };
static const struct field planned_disk[] = {
	{ "id", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "path", FIELD_STRING, REQUIRED, "path of the new image" },
	{ "from", FIELD_STRING, REQUIRED, "path of the source's image" }, END };

/* ---- snapshots and jobs ---- */

static const struct field snapshot_entry[] = {
	{ "id", FIELD_STRING, REQUIRED, "id of the snapshot" },
	{ "parent", FIELD_STRING, OPTIONAL, "id of its parent" },
	{ "name", FIELD_STRING, REQUIRED, "its name" },
	{ "description", FIELD_STRING, OPTIONAL, "one line" },
	{ "tags", LIST_OF(FIELD_STRING), REQUIRED, "its tags" },
	{ "state", FIELD_SNAPSHOT_STATE, REQUIRED, "state of the VM in it" },
	{ "disks-missing", FIELD_INT, OPTIONAL, "number of its disks that lack it now" },
	{ "disks-added", FIELD_INT, OPTIONAL, "number of disks that the VM has got since, which are not in it" },
	{ "current", FIELD_BOOL, REQUIRED, "current snapshot" },
	{ "backup", FIELD_BOOL, OPTIONAL, "it belongs to a backup of this VM under way" },
	{ "time", FIELD_INT, REQUIRED, "realtime, ns" },
	{ "vm-clock", FIELD_INT, REQUIRED, "time that the guest had run, ns" },
	{ "vm-state-size", FIELD_INT, REQUIRED, "memory and devices, bytes" },
	{ "disk-size", FIELD_INT, REQUIRED, "size of the first disk, bytes" }, END };
static const struct field disk_diff[] = {
	{ "id", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "size", FIELD_INT, OPTIONAL, "size of its later content, bytes" },
	{ "bytes", FIELD_INT, OPTIONAL, "bytes in clusters that differ" },
	{ "extents", FIELD_INT, OPTIONAL, "number of contiguous ranges of them" },
	{ "reason", FIELD_STRING, OPTIONAL, "why the disk was not compared; the other members are missing then" }, END };
static const struct field extent_diff[] = {
	{ "disk", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "start", FIELD_INT, REQUIRED, "offset in the disk, bytes" },
	{ "bytes", FIELD_INT, REQUIRED, "length" },
	{ "zero", FIELD_BOOL, REQUIRED, "the later content reads as zeros" }, END };
static const struct field file_diff[] = {
	{ "disk", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "partition", FIELD_INT, REQUIRED, "number of its partition; 0: the whole disk" },
	{ "change", FIELD_STRING, REQUIRED, "added, removed or changed" },
	{ "kind", FIELD_STRING, REQUIRED, "file, folder, link or special" },
	{ "path", FIELD_STRING, REQUIRED, "path in the file system; a control character, a byte that is no UTF-8 and the backslash are escaped as \\x0a and \\\\" },
	{ "size", FIELD_INT, OPTIONAL, "of the later file, bytes" },
	{ "size-before", FIELD_INT, OPTIONAL, "of the earlier file, bytes" },
	{ "what", LIST_OF(FIELD_STRING), OPTIONAL, "of a changed one: type, content, mode, owner, time, links, attributes" }, END };
static const struct field filesystem_diff[] = {
	{ "disk", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "partition", FIELD_INT, REQUIRED, "number of its partition; 0: the whole disk" },
	{ "start", FIELD_INT, REQUIRED, "offset in the disk, bytes" },
	{ "needs-recovery", FIELD_BOOL, OPTIONAL, "a journal is to be replayed, which was not done, so the last changes may be missing" },
	{ "damaged", FIELD_INT, OPTIONAL, "number of files and folders that could not be read" },
	{ "reason", FIELD_STRING, OPTIONAL, "why no files were compared" }, END };
static const struct field overlay[] = {
	{ "disk", FIELD_STRING, REQUIRED, "id of the disk, or path of its image" },
	{ "path", FIELD_STRING, REQUIRED, "absolute path of its new overlay, a qcow2 image with the present image as its backing file" }, END };
static const struct field pin[] = {
	{ "disk", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "pin", FIELD_STRING, REQUIRED, "id of the pin" },
	{ "clones", FIELD_INT, REQUIRED, "number of disks of clones that read it, or may read it; 0: it is about to be deleted" },
	{ "own-size", FIELD_INT, OPTIONAL, "bytes that only this snapshot uses, if the VM's process reports them" }, END };
static const struct field host_figures[] = {
	{ "cpus", FIELD_INT, REQUIRED, "number of the host's processors that are online" },
	{ "memory", FIELD_INT, REQUIRED, "memory of the host, bytes" },
	{ "memory-available", FIELD_INT, REQUIRED, "memory that new VMs could take without swapping, bytes" },
	{ "jobs", LIST_OF(FIELD_JOB_COUNT), OPTIONAL, "jobs of each type; this and the next ones need a role for all VMs" },
	{ "hook-events-waiting", FIELD_INT, OPTIONAL, "number of events that wait for all web hooks" },
	{ "hook-events-delivered", FIELD_INT, OPTIONAL, "number of events that web hooks have delivered" },
	{ "hook-events-failed", FIELD_INT, OPTIONAL, "number of events that could not be delivered" },
	{ "hook-events-dropped", FIELD_INT, OPTIONAL, "number of events that were dropped because too many waited" }, END };
static const struct field job_count[] = {
	{ "type", FIELD_STRING, REQUIRED, "type of the jobs" },
	{ "running", FIELD_INT, REQUIRED, "number of those under way" },
	{ "finished", FIELD_INT, REQUIRED, "number of those that have ended since the daemon started, failed and cancelled ones included" },
	{ "failed", FIELD_INT, REQUIRED, "number of those that have failed since then" },
	{ "cancelled", FIELD_INT, REQUIRED, "number of those that were cancelled since then" }, END };
const struct field job_entry[] = {
	{ "id", FIELD_STRING, REQUIRED, "id of the job" },
	{ "qmp-id", FIELD_STRING, OPTIONAL, "id of the job on the VM's own socket" },
	{ "type", FIELD_STRING, REQUIRED, "save, managed-save, snapshot-create, ..." },
	{ "status", FIELD_STRING, REQUIRED, "as in JOB_STATUS_CHANGE" },
	FIELDS_JOB_VM,
	{ "disk", FIELD_STRING, OPTIONAL, "id of the disk that blockcopy, blockcommit or blockpull works on" },
	{ "bandwidth", FIELD_INT, OPTIONAL, "its maximum rate in bytes/s; missing: no limit" },
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
	{ "result", FIELD_OBJECT, OPTIONAL, "result; its members depend on the type, see the command that starts such jobs" }, END };

/* ---- logs ---- */

static const struct field event[] = {
	{ "event", FIELD_STRING, REQUIRED, "name of the event" },
	{ "data", FIELD_OBJECT, REQUIRED, "its data, as the event of this name has" },
	{ "timestamp", FIELD_TIMESTAMP, REQUIRED, "time of the event" },
	{ "seq", FIELD_INT, REQUIRED, "its number" }, END };
static const struct field timestamp[] = {
	{ "seconds", FIELD_INT, REQUIRED, "realtime, seconds" },
	{ "microseconds", FIELD_INT, REQUIRED, "and microseconds" }, END };
static const struct field audit_line[] = {
	{ "time", FIELD_INT, REQUIRED, "realtime, ns" },
	{ "uid", FIELD_INT, OPTIONAL, "user; missing: several users" },
	{ "pid", FIELD_INT, OPTIONAL, "process of the client" },
	{ "command", FIELD_STRING, OPTIONAL, "the command; in parentheses: an act of the daemon" },
	{ "vm", FIELD_STRING, OPTIONAL, "VM that the command names" },
	{ "arguments", FIELD_ANY, OPTIONAL, "arguments of the command, cut and without secrets" },
	{ "schedule", FIELD_STRING, OPTIONAL, "schedule whose run it is; of an action of a threshold: threshold NAME" },
	{ "outcome", FIELD_STRING, REQUIRED, "ok, or the class of the error; any: of any outcome" },
	{ "error", FIELD_STRING, OPTIONAL, "the error" },
	{ "duration", FIELD_INT, OPTIONAL, "ns" },
	{ "left-out", FIELD_INT, OPTIONAL, "number of omitted lines that this line replaces" },
	{ "since", FIELD_INT, OPTIONAL, "time of the first one of these: realtime, ns" }, END };

/* ---- schedules, pools and networks ---- */

#define FIELD_OF_VM { "vm", FIELD_STRING, REQUIRED, "name of the VM" }
#define FIELDS_RUNS(outcomes)                                                                          \
	{ "next-run", FIELD_INT, OPTIONAL, "time of the next run: realtime, ns" },                         \
	{ "last-run", FIELD_INT, OPTIONAL, "time of the last run: realtime, ns" },                         \
	{ "outcome", FIELD_STRING, OPTIONAL, "outcome of the last run: " outcomes },                       \
	{ "detail", FIELD_STRING, OPTIONAL, "details of the outcome" }
#define DOC_OUTCOMES "done, skipped, missed, refused, failed or delayed"
static const struct field schedule[] = { FIELD_OF_VM,
	{ "name", FIELD_STRING, REQUIRED, "name of the schedule" },
	{ "action", FIELD_SCHEDULE_ACTION, REQUIRED, "what it does" },
	{ "on", FIELD_STRING, REQUIRED, "calendar expression" },
	{ "zone", FIELD_STRING, OPTIONAL, "time zone, unless it is the host's" },
	{ "missed", FIELD_SCHEDULE_MISSED, REQUIRED, "handling of missed runs" },
	{ "folder", FIELD_STRING, OPTIONAL, "folder of the archives of export" },
	{ "uid", FIELD_INT, REQUIRED, "uid of its maker" },
	{ "paused", FIELD_BOOL, OPTIONAL, "true: it is paused" },
	{ "under-way", FIELD_BOOL, OPTIONAL, "true: a run is under way" }, FIELDS_RUNS(DOC_OUTCOMES), END };
static const struct field schedule_run[] = {
	{ "schedule", FIELD_STRING, REQUIRED, "name of the schedule" },
	{ "action", FIELD_SCHEDULE_ACTION, REQUIRED, "what it does" },
	{ "due", FIELD_INT, REQUIRED, "time of the run by the calendar: realtime, ns" },
	{ "time", FIELD_INT, REQUIRED, "time of its end: realtime, ns" },
	{ "outcome", FIELD_STRING, REQUIRED, DOC_OUTCOMES },
	{ "detail", FIELD_STRING, OPTIONAL, "details of the outcome" }, END };
static const struct field threshold[] = { FIELD_OF_VM,
	{ "name", FIELD_STRING, REQUIRED, "name of the threshold" },
	{ "measure", FIELD_MEASURE, REQUIRED, "its figure" },
	{ "above", FIELD_STRING, REQUIRED, "it is raised above this" },
	{ "below", FIELD_STRING, REQUIRED, "it is cleared at or below this" },
	{ "for", FIELD_INT, REQUIRED, "after so long without a break, ns" },
	{ "then", FIELD_THRESHOLD_ACTION, OPTIONAL, "action when the threshold is raised" },
	{ "uid", FIELD_INT, REQUIRED, "uid of its maker" },
	{ "value", FIELD_STRING, OPTIONAL, "the last figure with its unit" },
	{ "raised", FIELD_BOOL, REQUIRED, "it is raised" },
	{ "since", FIELD_INT, OPTIONAL, "raised since: realtime, ns" }, END };
static const struct field snapshot_schedule[] = { FIELD_OF_VM,
	{ "every", FIELD_STRING, REQUIRED, "interval, such as 15m" },
	{ "keep", FIELD_STRING, REQUIRED, "retention rules WINDOW:PERIOD" },
	{ "min-free", FIELD_STRING, REQUIRED, "no snapshot with less free space than this" }, FIELDS_RUNS("taken, skipped or failed"), END };
static const struct field pool[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the pool" },
	{ "target", FIELD_STRING, REQUIRED, "absolute path of its folder" },
	{ "looked", FIELD_INT, OPTIONAL, "time when the daemon looked at its file system: realtime, ns; the others are missing before" },
	{ "used", FIELD_INT, OPTIONAL, "bytes of its file system that are taken" },
	{ "total", FIELD_INT, OPTIONAL, "bytes of its file system" },
	{ "growth", FIELD_INT, OPTIONAL, "bytes a day, of the last week" },
	{ "days-left", FIELD_INT, OPTIONAL, "days until it is full" },
	{ "low", FIELD_BOOL, OPTIONAL, "true: above 90 %, or full in less than a week" }, END };
static const struct field pool_volume[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the file in the pool's folder" },
	{ "format", FIELD_STRING, OPTIONAL, "qcow2 or raw: as VMs use it, or else as its header says; missing with the next three if you may not read the file" },
	{ "capacity", FIELD_INT, OPTIONAL, "size that a guest sees, bytes" },
	{ "allocation", FIELD_INT, OPTIONAL, "bytes that it takes in the file system" },
	{ "backing", FIELD_STRING, OPTIONAL, "backing file, as its header names it" },
	{ "vms", LIST_OF(FIELD_STRING), REQUIRED, "VMs with the file in their definition, at most 8 of those that you may see" }, END };
static const struct field network_entry[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the network" },
	{ "uuid", FIELD_STRING, REQUIRED, "UUID of the network" },
	{ "state", FIELD_STRING, REQUIRED, "active, inactive, starting or stopping" },
	{ "persistent", FIELD_BOOL, REQUIRED, "the daemon keeps the definition when the network stops" },
	{ "autostart", FIELD_BOOL, REQUIRED, "the daemon starts the network after a boot of the host" },
	{ "mode", FIELD_STRING, REQUIRED, "nat, route, isolated, open, bridge, private, vepa or passthrough" },
	{ "bridge", FIELD_STRING, OPTIONAL, "name of the bridge" }, FIELD_DIRECT,
	{ "blocked", FIELD_BOOL, OPTIONAL, "iptables-legacy drops its packets, as net-info has found; net-info has the remedy" }, END };
static const struct field lease[] = {
	{ "expires", FIELD_INT, REQUIRED, "realtime, seconds; 0: never" },
	{ "mac", FIELD_STRING_OR_NULL, REQUIRED, "MAC address; null: not known" },
	{ "address", FIELD_STRING, REQUIRED, "the address" },
	{ "prefix", FIELD_INT, REQUIRED, "length of its prefix, bits" },
	{ "family", FIELD_STRING, REQUIRED, "ipv4 or ipv6" },
	{ "name", FIELD_STRING_OR_NULL, REQUIRED, "host name that the guest sent" },
	{ "client_id", FIELD_STRING_OR_NULL, REQUIRED, "id that the guest sent" },
	{ "iaid", FIELD_INT, OPTIONAL, "of ipv6: id of the interface" }, END };

/* ---- access ---- */

#define FIELDS_PERMISSION                                                                              \
	{ "user", FIELD_INT, OPTIONAL, "uid; or else it has group" },                                      \
	{ "group", FIELD_INT, OPTIONAL, "gid" },                                                           \
	{ "role", FIELD_ROLE, REQUIRED, "the role" },                                                      \
	{ "vm", FIELD_STRING, OPTIONAL, "name of the VM; missing: all VMs" },                              \
	{ VM_UUID_KEY, FIELD_STRING, OPTIONAL, "UUID of the VM; empty if it is not known" }
static const struct field permission[] = { FIELDS_PERMISSION, END };
static const struct field reviewed_permission[] = { FIELDS_PERMISSION,
	{ "since", FIELD_INT, OPTIONAL, "when the role was given: realtime, ns; missing: by an older version" },
	{ "by", FIELD_INT, OPTIONAL, "uid of the user who gave it" },
	{ "last-used", FIELD_INT, OPTIONAL, "realtime, ns; missing: never since uses are recorded" },
	{ "unused", FIELD_INT, OPTIONAL, "time since the last use, ns; at most since the role was given and since uses are recorded" },
	{ "socket", FIELD_BOOL, OPTIONAL, "true: the role of the socket's group, which needs no entry" }, END };
static const struct field approval_rule[] = {
	{ "acts", LIST_OF(FIELD_STRING), REQUIRED, "acts that wait for approval" },
	{ "user", FIELD_INT, OPTIONAL, "uid; neither user nor group: all users" },
	{ "group", FIELD_INT, OPTIONAL, "gid" },
	{ "vm", FIELD_STRING, OPTIONAL, "name of the VM; missing: all VMs" },
	{ VM_UUID_KEY, FIELD_STRING, OPTIONAL, "UUID of the VM" },
	{ "expire", FIELD_INT, REQUIRED, "how long a request waits, ns" }, END };
static const struct field request[] = {
	{ "id", FIELD_INT, REQUIRED, "number of the request" },
	{ "state", FIELD_STRING, REQUIRED, "waiting, approved (the asker may now repeat the command), running, done, failed, denied, withdrawn or expired" },
	{ "user", FIELD_INT, REQUIRED, "uid of the asker" },
	{ "command", FIELD_STRING, REQUIRED, "the command" },
	{ "arguments", FIELD_OBJECT, REQUIRED, "its arguments, as the command of this name has" },
	{ "vm", FIELD_STRING, OPTIONAL, "name of the VM, if it is about one" },
	{ VM_UUID_KEY, FIELD_STRING, OPTIONAL, "UUID of the VM" },
	{ "note", FIELD_STRING, OPTIONAL, "note of the asker" },
	{ "does", FIELD_STRING, REQUIRED, "what the command does" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "true: the command has a dry run" },
	{ "asked", FIELD_INT, REQUIRED, "realtime, ns" },
	{ "expires", FIELD_INT, REQUIRED, "realtime, ns" },
	{ "ended", FIELD_INT, OPTIONAL, "realtime, ns" },
	{ "by", FIELD_INT, OPTIONAL, "uid of the user who answered" },
	{ "reason", FIELD_STRING, OPTIONAL, "reason that this user gave" },
	{ "job", FIELD_STRING, OPTIONAL, "id of the job that it started" },
	{ "detail", FIELD_STRING, OPTIONAL, "why it failed" }, END };
static const struct field quota[] = {
	{ "user", FIELD_INT, OPTIONAL, "uid; or else it has group or default" },
	{ "group", FIELD_INT, OPTIONAL, "gid" },
	{ "default", FIELD_BOOL, OPTIONAL, "true: the quota of each user without a quota of its own; with user: the user has none" },
	{ "limits", FIELD_QUOTA_VALUES, REQUIRED, "the limits; a missing one: no limit" },
	{ "used", FIELD_QUOTA_VALUES, OPTIONAL, "amounts in use; missing for the default" }, END };
static const struct field quota_values[] = {
	{ "vms", FIELD_INT, OPTIONAL, "defined VMs" },
	{ "running", FIELD_INT, OPTIONAL, "running VMs" },
	{ "memory", FIELD_INT, OPTIONAL, "bytes of memory of the running VMs" },
	{ "vcpus", FIELD_INT, OPTIONAL, "vCPUs of the running VMs" },
	{ "disk", FIELD_INT, OPTIONAL, "bytes of the images that Cairn made for the VMs" },
	{ "snapshots", FIELD_INT, OPTIONAL, "snapshots of the VMs" }, END };

/* ---- a VM's own socket; the first one also in events of the daemon ---- */

static const struct field dump_state[] = {
	{ "status", FIELD_STRING, REQUIRED, "none, active, completed or failed" },
	{ "completed", FIELD_INT, REQUIRED, "written bytes" },
	{ "total", FIELD_INT, REQUIRED, "bytes of the whole dump" }, END };
static const struct field cpu_props[] = {
	{ "socket-id", FIELD_INT, OPTIONAL, "number of the socket" },
	{ "core-id", FIELD_INT, OPTIONAL, "number of the core in it" },
	{ "thread-id", FIELD_INT, OPTIONAL, "number of the thread in it" }, END };
static const struct field pci_device[] = {
	{ "bus", FIELD_INT, REQUIRED, "0" },
	{ "slot", FIELD_INT, REQUIRED, "its slot" },
	{ "function", FIELD_INT, REQUIRED, "0" },
	{ "class_info", FIELD_PCI_CLASS, REQUIRED, "its class" },
	{ "id", FIELD_PCI_ID, REQUIRED, "its ids" },
	{ "irq", FIELD_INT, OPTIONAL, "its interrupt, if the guest has set one" },
	{ "irq_pin", FIELD_INT, REQUIRED, "pin of the interrupt; 0: none" },
	{ "qdev_id", FIELD_STRING, REQUIRED, "id of the disk or the interface, or a name" },
	{ "regions", LIST_OF(FIELD_PCI_REGION), REQUIRED, "its memory" }, END };
static const struct field pci_class[] = {
	{ "desc", FIELD_STRING, OPTIONAL, "name of the class" },
	{ "class", FIELD_INT, REQUIRED, "its number" }, END };
static const struct field pci_id[] = {
	{ "device", FIELD_INT, REQUIRED, "id of the device" },
	{ "vendor", FIELD_INT, REQUIRED, "id of the vendor" },
	{ "subsystem", FIELD_INT, OPTIONAL, "id of the subsystem" },
	{ "subsystem-vendor", FIELD_INT, OPTIONAL, "id of its vendor" }, END };
static const struct field pci_region[] = {
	{ "bar", FIELD_INT, REQUIRED, "number of the base address register" },
	{ "type", FIELD_STRING, REQUIRED, "memory" },
	{ "address", FIELD_INT, REQUIRED, "guest address; -1: the guest has set none" },
	{ "size", FIELD_INT, REQUIRED, "bytes" },
	{ "prefetch", FIELD_BOOL, OPTIONAL, "always false" },
	{ "mem_type_64", FIELD_BOOL, OPTIONAL, "the address has 64 bits" }, END };
const struct field block_node[] = {
	{ "file", FIELD_STRING, REQUIRED, "path of the image" },
	{ "node-name", FIELD_STRING, OPTIONAL, "name from blockdev-add, or else the id of the disk" },
	{ "ro", FIELD_BOOL, REQUIRED, "true: read-only" },
	{ "drv", FIELD_STRING, REQUIRED, "format: raw or qcow2" },
	{ "backing_file", FIELD_STRING, OPTIONAL, "path of the backing file" },
	{ "backing_file_depth", FIELD_INT, REQUIRED, "number of backing files below the image" },
	{ "encrypted", FIELD_BOOL, REQUIRED, "always false" },
	{ "detect_zeroes", FIELD_STRING, REQUIRED, "always off" },
	{ "bps", FIELD_INT, REQUIRED, "rate limit, bytes per second; 0: none" },
	{ "bps_rd", FIELD_INT, REQUIRED, "rate limit of reads" },
	{ "bps_wr", FIELD_INT, REQUIRED, "rate limit of writes" },
	{ "iops", FIELD_INT, REQUIRED, "rate limit, requests per second; 0: none" },
	{ "iops_rd", FIELD_INT, REQUIRED, "rate limit of reads" },
	{ "iops_wr", FIELD_INT, REQUIRED, "rate limit of writes" },
	{ "image", FIELD_IMAGE_INFO, REQUIRED, "the image" },
	{ "cache", FIELD_CACHE_INFO, REQUIRED, "how it is cached" },
	{ "write_threshold", FIELD_INT, REQUIRED, "always 0: no threshold" }, END };
static const struct field image_info[] = {
	{ "filename", FIELD_STRING, REQUIRED, "path of the image" },
	{ "format", FIELD_STRING, REQUIRED, "raw or qcow2" },
	{ "virtual-size", FIELD_INT, REQUIRED, "size that the guest sees, bytes" }, END };
static const struct field cache_info[] = {
	{ "writeback", FIELD_BOOL, REQUIRED, "always true: a flush of the guest syncs the file" },
	{ "direct", FIELD_BOOL, REQUIRED, "the host's page cache is not used" },
	{ "no-flush", FIELD_BOOL, REQUIRED, "always false" }, END };
#define FIELD_ZERO(name) { name, FIELD_INT, REQUIRED, "always 0" }
static const struct field block_stats[] = {
	{ "rd_bytes", FIELD_INT, REQUIRED, "bytes read" },
	{ "rd_operations", FIELD_INT, REQUIRED, "number of reads" },
	{ "rd_total_time_ns", FIELD_INT, REQUIRED, "time of all reads, ns" },
	{ "wr_bytes", FIELD_INT, REQUIRED, "bytes written" },
	{ "wr_operations", FIELD_INT, REQUIRED, "number of writes" },
	{ "wr_total_time_ns", FIELD_INT, REQUIRED, "time of all writes, ns" },
	{ "flush_operations", FIELD_INT, REQUIRED, "number of flushes" },
	{ "flush_total_time_ns", FIELD_INT, REQUIRED, "time of all flushes, ns" },
	FIELD_ZERO("unmap_bytes"), FIELD_ZERO("unmap_operations"), FIELD_ZERO("unmap_total_time_ns"), FIELD_ZERO("unmap_merged"),
	FIELD_ZERO("rd_merged"), FIELD_ZERO("wr_merged"), FIELD_ZERO("wr_highest_offset"), FIELD_ZERO("failed_rd_operations"),
	FIELD_ZERO("failed_wr_operations"), FIELD_ZERO("failed_flush_operations"), FIELD_ZERO("failed_unmap_operations"),
	FIELD_ZERO("invalid_rd_operations"), FIELD_ZERO("invalid_wr_operations"), FIELD_ZERO("invalid_flush_operations"),
	FIELD_ZERO("invalid_unmap_operations"),
	{ "account_invalid", FIELD_BOOL, REQUIRED, "always false" },
	{ "account_failed", FIELD_BOOL, REQUIRED, "always false" },
	{ "timed_stats", LIST_OF(FIELD_ANY), REQUIRED, "always empty" }, END };
static const struct field input_event[] = {
	{ "type", FIELD_STRING, REQUIRED, "key, btn or abs" },
	{ "data", FIELD_OBJECT, REQUIRED, "as in QEMU; coordinates are 0 to 32767" }, END };
static const struct field key_value[] = {
	{ "type", FIELD_STRING, REQUIRED, "qcode or number" },
	{ "data", FIELD_STRING_OR_INT, REQUIRED, "QEMU's name of a key, or its code" }, END };

static const struct field *const members[FIELD_TYPE_COUNT] = {
	[FIELD_QEMU_VERSION] = qemu_version,
	[FIELD_SCHEMA_ENTRY] = schema_entry,
	[FIELD_SCHEMA_MEMBER] = schema_member,
	[FIELD_VM_ENTRY] = vm_entry,
	[FIELD_UNLOADED_VM] = unloaded_vm,
	[FIELD_VM_FIGURES] = info_returns,
	[FIELD_HOST_FIGURES] = host_figures,
	[FIELD_BALLOON_FIGURES] = balloon_figures,
	[FIELD_DIRTY_RATE] = dirty_rate,
	[FIELD_MIRROR] = mirror,
	[FIELD_SYSTEMD_SCOPE] = systemd_scope,
	[FIELD_BALANCE] = balance,
	[FIELD_BALANCED] = balanced,
	[FIELD_ASSIST] = assist,
	[FIELD_EXITS] = exits,
	[FIELD_DISK_FIGURES] = disk_figures,
	[FIELD_INTERFACE_FIGURES] = interface_figures,
	[FIELD_INTERFACE_LIMITS] = interface_limits,
	[FIELD_INTERFACE_LIMIT] = interface_limit,
	[FIELD_EGRESS_FIGURES] = egress_figures,
	[FIELD_TREND_SERIES] = trend_series,
	[FIELD_ADVICE] = advice,
	[FIELD_GUEST_INTERFACE] = guest_interface,
	[FIELD_GUEST_ADDRESS] = guest_address,
	[FIELD_AGENT_COMMAND] = agent_command,
	[FIELD_NAMESPACES] = namespaces,
	[FIELD_STOPPED_VM] = stopped_vm,
	[FIELD_VOLUME] = volume,
	[FIELD_FORWARD] = forward,
	[FIELD_PUBLISHED_PORT] = published_port,
	[FIELD_CLONE_ADDRESS] = clone_address,
	[FIELD_FORKED_CLONE] = forked_clone,
	[FIELD_GROUP_MEMBER] = group_snapshot_member,
	[FIELD_GROUP_CLONE] = group_clone,
	[FIELD_GROUP_NETWORK] = group_network,
	[FIELD_FORK_DISK] = fork_disk,
	[FIELD_PLANNED_CLONE] = planned_clone,
	[FIELD_PLANNED_DISK] = planned_disk,
	[FIELD_SNAPSHOT_ENTRY] = snapshot_entry,
	[FIELD_DISK_DIFF] = disk_diff,
	[FIELD_EXTENT_DIFF] = extent_diff,
	[FIELD_FILE_DIFF] = file_diff,
	[FIELD_FILESYSTEM_DIFF] = filesystem_diff,
	[FIELD_OVERLAY] = overlay,
	[FIELD_PIN] = pin,
	[FIELD_JOB_ENTRY] = job_entry,
	[FIELD_JOB_COUNT] = job_count,
	[FIELD_EVENT] = event,
	[FIELD_TIMESTAMP] = timestamp,
	[FIELD_AUDIT_LINE] = audit_line,
	[FIELD_SCHEDULE] = schedule,
	[FIELD_SCHEDULE_RUN] = schedule_run,
	[FIELD_THRESHOLD] = threshold,
	[FIELD_WEB_HOOK] = web_hook_members,
	[FIELD_SNAPSHOT_SCHEDULE] = snapshot_schedule,
	[FIELD_POOL] = pool,
	[FIELD_POOL_VOLUME] = pool_volume,
	[FIELD_NETWORK_ENTRY] = network_entry,
	[FIELD_LEASE] = lease,
	[FIELD_PERMISSION] = permission,
	[FIELD_REVIEWED_PERMISSION] = reviewed_permission,
	[FIELD_APPROVAL_RULE] = approval_rule,
	[FIELD_REQUEST] = request,
	[FIELD_QUOTA] = quota,
	[FIELD_QUOTA_VALUES] = quota_values,
	[FIELD_DUMP_STATE] = dump_state,
	[FIELD_CPU_PROPS] = cpu_props,
	[FIELD_PCI_DEVICE] = pci_device,
	[FIELD_PCI_CLASS] = pci_class,
	[FIELD_PCI_ID] = pci_id,
	[FIELD_PCI_REGION] = pci_region,
	[FIELD_BLOCK_NODE] = block_node,
	[FIELD_IMAGE_INFO] = image_info,
	[FIELD_CACHE_INFO] = cache_info,
	[FIELD_BLOCK_STATS] = block_stats,
	[FIELD_INPUT_EVENT] = input_event,
	[FIELD_KEY_VALUE] = key_value,
};

const struct field *field_type_members(enum field_type t)
{
	return (unsigned)t < ARRAY_SIZE(members) ? members[t] : NULL;
}
