/* Tables of the QMP commands and events on a VM's own socket. */
#include "api/schema/schema_qmp.h"
#include "base/util.h"

#define OPTIONAL true
#define REQUIRED false
#define END { NULL, FIELD_ANY, false, NULL }
#define ANY_STATE VM_TRIGGER_COUNT
#define MUTATES COMMAND_MUTATES
#define LIST COMMAND_RETURNS_LIST

static const struct field no_fields[] = { END };

static const struct field capabilities_args[] = {
	{ "enable", FIELD_ARRAY, OPTIONAL, "capabilities to switch on; there are none" }, END };
static const struct field version_returns[] = {
	{ "qemu", FIELD_OBJECT, REQUIRED, "the version whose QMP this is: major, minor, micro" },
	{ "package", FIELD_STRING, REQUIRED, "program and version" }, END };
static const struct field commands_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "of a command" }, END };
static const struct field name_returns[] = { { "name", FIELD_STRING, OPTIONAL, "of the VM" }, END };
static const struct field uuid_returns[] = { { "UUID", FIELD_STRING, REQUIRED, "of the VM" }, END };
static const struct field kvm_returns[] = {
	{ "enabled", FIELD_BOOL, REQUIRED, "in use: always" },
	{ "present", FIELD_BOOL, REQUIRED, "there: always" }, END };
static const struct field status_returns[] = {
	{ "running", FIELD_BOOL, REQUIRED, "the vCPUs run" },
	{ "singlestep", FIELD_BOOL, REQUIRED, "never" },
	{ "status", FIELD_STRING, REQUIRED,
		"running, paused, io-error, watchdog, save-vm, guest-panicked, internal-error" }, END };
static const struct field cpus_returns[] = {
	{ "cpu-index", FIELD_INT, REQUIRED, "from 0" },
	{ "qom-path", FIELD_STRING, REQUIRED, "a name for it; there is no object model" },
	{ "thread-id", FIELD_INT, REQUIRED, "of the host's thread" },
	{ "props", FIELD_OBJECT, OPTIONAL, "socket-id, core-id, thread-id" },
	{ "target", FIELD_STRING, REQUIRED, "x86_64" }, END };
static const struct field memory_returns[] = {
	{ "base-memory", FIELD_INT, REQUIRED, "bytes" },
	{ "plugged-memory", FIELD_INT, OPTIONAL, "bytes: 0, none can be plugged" }, END };

static const struct field block_returns[] = {
	{ "device", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "qdev", FIELD_STRING, OPTIONAL, "the same" },
	{ "type", FIELD_STRING, REQUIRED, "unknown, as QEMU says of each" },
	{ "removable", FIELD_BOOL, REQUIRED, "no" },
	{ "locked", FIELD_BOOL, REQUIRED, "no" },
	{ "inserted", FIELD_OBJECT, OPTIONAL, "the image, as in query-named-block-nodes" },
	{ "io-status", FIELD_STRING, OPTIONAL, "ok, failed, nospace" }, END };
static const struct field nodes_returns[] = {
	{ "file", FIELD_STRING, REQUIRED, "path" },
	{ "node-name", FIELD_STRING, OPTIONAL, "id of the disk" },
	{ "ro", FIELD_BOOL, REQUIRED, "read-only" },
	{ "drv", FIELD_STRING, REQUIRED, "raw or qcow2" },
	{ "backing_file", FIELD_STRING, OPTIONAL, "path" },
	{ "backing_file_depth", FIELD_INT, REQUIRED, "number of images below" },
	{ "encrypted", FIELD_BOOL, REQUIRED, "no" },
	{ "detect_zeroes", FIELD_STRING, REQUIRED, "off" },
	{ "bps", FIELD_INT, REQUIRED, "limit: 0, none; the same for the next five" },
	{ "bps_rd", FIELD_INT, REQUIRED, "limit" },
	{ "bps_wr", FIELD_INT, REQUIRED, "limit" },
	{ "iops", FIELD_INT, REQUIRED, "limit" },
	{ "iops_rd", FIELD_INT, REQUIRED, "limit" },
	{ "iops_wr", FIELD_INT, REQUIRED, "limit" },
	{ "image", FIELD_OBJECT, REQUIRED, "filename, format, virtual-size" },
	{ "cache", FIELD_OBJECT, REQUIRED, "writeback, direct, no-flush" },
	{ "write_threshold", FIELD_INT, REQUIRED, "0: none" }, END };
static const struct field nodes_args[] = {
	{ "flat", FIELD_BOOL, OPTIONAL, "without backing images: they never come nested" }, END };
static const struct field stats_args[] = {
	{ "query-nodes", FIELD_BOOL, OPTIONAL, "by node: the same, a disk is one node" }, END };
static const struct field stats_returns[] = {
	{ "device", FIELD_STRING, OPTIONAL, "id of the disk" },
	{ "qdev", FIELD_STRING, OPTIONAL, "the same" },
	{ "node-name", FIELD_STRING, OPTIONAL, "the same" },
	{ "stats", FIELD_OBJECT, REQUIRED,
		"rd_bytes, rd_operations, rd_total_time_ns, the same with wr, flush_operations, "
		"flush_total_time_ns; members that QEMU has and Cairn does not count are 0" }, END };

static const struct field dump_args[] = {
	{ "paging", FIELD_BOOL, REQUIRED, "must be false: addresses are physical ones" },
	{ "protocol", FIELD_STRING, REQUIRED, "file:PATH, or fd:NAME of one that getfd took: an empty regular file" },
	{ "detach", FIELD_BOOL, OPTIONAL, "return at once; DUMP_COMPLETED and query-dump tell" },
	{ "begin", FIELD_INT, OPTIONAL, "refused: all memory is dumped" },
	{ "length", FIELD_INT, OPTIONAL, "the same" },
	{ "format", FIELD_STRING, OPTIONAL, "elf, and no other" }, END };
static const struct field dump_returns[] = {
	{ "status", FIELD_STRING, REQUIRED, "none, active, completed, failed" },
	{ "completed", FIELD_INT, REQUIRED, "bytes" },
	{ "total", FIELD_INT, REQUIRED, "bytes" }, END };
static const struct field capability_returns[] = {
	{ "formats", FIELD_ARRAY, REQUIRED, "elf" }, END };
static const struct field fd_args[] = {
	{ "fdname", FIELD_STRING, REQUIRED, "what to call it; one of that name is closed" }, END };
static const struct field watchdog_args[] = {
	{ "action", FIELD_STRING, REQUIRED, "reset, shutdown, poweroff, pause, none or inject-nmi" }, END };
static const struct field balloon_args[] = { { "value", FIELD_INT, REQUIRED, "bytes" }, END };
static const struct field balloon_returns[] = { { "actual", FIELD_INT, REQUIRED, "bytes" }, END };

#define FIELD_JOB { "job-id", FIELD_STRING, REQUIRED, "what to call the job" }
#define FIELD_TAG { "tag", FIELD_STRING, REQUIRED, "name of the snapshot" }
#define FIELD_VMSTATE { "vmstate", FIELD_STRING, REQUIRED, "disk that holds the memory: the first qcow2 one" }
#define FIELD_DEVICES { "devices", FIELD_ARRAY, REQUIRED, "disks: all that the VM may write to" }
static const struct field save_args[] = { FIELD_JOB, FIELD_TAG, FIELD_VMSTATE, FIELD_DEVICES, END };
static const struct field delete_args[] = { FIELD_JOB, FIELD_TAG, FIELD_DEVICES, END };
static const struct field job_args[] = { { "id", FIELD_STRING, REQUIRED, "of the job" }, END };
static const struct field jobs_returns[] = {
	{ "id", FIELD_STRING, REQUIRED, "of the job" },
	{ "type", FIELD_STRING, REQUIRED, "snapshot-save, snapshot-load, snapshot-delete" },
	{ "status", FIELD_STRING, REQUIRED, "as in JOB_STATUS_CHANGE" },
	{ "current-progress", FIELD_INT, REQUIRED, "of total-progress" },
	{ "total-progress", FIELD_INT, REQUIRED, "may grow" },
	{ "error", FIELD_STRING, OPTIONAL, "why it failed" }, END };
static const struct field human_args[] = {
	{ "command-line", FIELD_STRING, REQUIRED, "as typed at QEMU's monitor" },
	{ "cpu-index", FIELD_INT, OPTIONAL, "no command here looks at it" }, END };

const struct command qmp_commands[] = {
	{ "qmp_capabilities", "end the negotiation", capabilities_args, NULL, ROLE_NONE,
		COMMAND_BEFORE_NEGOTIATION, ANY_STATE },
	{ "query-version", "version", no_fields, version_returns, ROLE_NONE, 0, ANY_STATE },
	{ "query-commands", "names of all commands", no_fields, commands_returns, ROLE_NONE, LIST,
		ANY_STATE },
	{ "query-qmp-schema", "this table", no_fields, NULL, ROLE_NONE, LIST, ANY_STATE },
	{ "query-name", "name of the VM", no_fields, name_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-uuid", "uuid of the VM", no_fields, uuid_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-kvm", "is KVM in use", no_fields, kvm_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-status", "does it run, and if not, why", no_fields, status_returns, ROLE_VIEWER, 0,
		ANY_STATE },
	{ "query-cpus-fast", "vCPUs", no_fields, cpus_returns, ROLE_VIEWER, LIST, ANY_STATE },
	{ "query-memory-size-summary", "memory", no_fields, memory_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-block", "disks", no_fields, block_returns, ROLE_VIEWER, LIST, ANY_STATE },
	{ "query-blockstats", "counters of disks", stats_args, stats_returns, ROLE_VIEWER, LIST,
		ANY_STATE },
	{ "query-named-block-nodes", "images of disks", nodes_args, nodes_returns, ROLE_VIEWER, LIST,
		ANY_STATE },
	{ "stop", "make the vCPUs stand still; nothing to do is no error", no_fields, NULL,
		ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "cont", "let them run on; nothing to do is no error", no_fields, NULL, ROLE_OPERATOR, MUTATES,
		ANY_STATE },
	{ "system_powerdown", "press the power button", no_fields, NULL, ROLE_OPERATOR, MUTATES,
		ANY_STATE },
	{ "system_reset", "hard reset", no_fields, NULL, ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "quit", "stop at once; returns when the process is gone, and the stream ends", no_fields, NULL,
		ROLE_OPERATOR, MUTATES, VM_ASK_DESTROY },
	{ "inject-nmi", "an NMI to every vCPU", no_fields, NULL, ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "watchdog-set-action", "what is done when the guest does not look after it in time", watchdog_args, NULL,
		ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "dump-guest-memory", "memory and registers at one instant, as an ELF core", dump_args, NULL, ROLE_OPERATOR,
		MUTATES, ANY_STATE },
	{ "query-dump", "how the last one goes, or went", no_fields, dump_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-dump-guest-memory-capability", "its formats", no_fields, capability_returns, ROLE_VIEWER, 0,
		ANY_STATE },
	{ "getfd", "keep the fd that comes along", fd_args, NULL, ROLE_OPERATOR, MUTATES | COMMAND_TAKES_FD,
		ANY_STATE },
	{ "closefd", "close one that getfd took", fd_args, NULL, ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "balloon", "there is no balloon: DeviceNotActive", balloon_args, NULL, ROLE_OPERATOR, MUTATES,
		ANY_STATE },
	{ "query-balloon", "there is no balloon: DeviceNotActive", no_fields, balloon_returns,
		ROLE_VIEWER, 0, ANY_STATE },
	{ "snapshot-save", "take a snapshot", save_args, NULL, ROLE_OPERATOR, MUTATES | COMMAND_JOB,
		ANY_STATE },
	{ "snapshot-load", "go back to one", save_args, NULL, ROLE_OPERATOR, MUTATES | COMMAND_JOB,
		ANY_STATE },
	{ "snapshot-delete", "delete one", delete_args, NULL, ROLE_OPERATOR, MUTATES | COMMAND_JOB,
		ANY_STATE },
	{ "query-jobs", "jobs of this run of the VM", no_fields, jobs_returns, ROLE_VIEWER, LIST,
		ANY_STATE },
	{ "job-cancel", "ask a job to end", job_args, NULL, ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "job-dismiss", "forget the result of a job", job_args, NULL, ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "human-monitor-command", "a line of QEMU's monitor; its text comes back", human_args, NULL,
		ROLE_OPERATOR, MUTATES | COMMAND_RETURNS_STRING, ANY_STATE },
};
const size_t qmp_commands_count = ARRAY_SIZE(qmp_commands);

static const struct field guest_reason[] = {
	{ "guest", FIELD_BOOL, REQUIRED, "by the guest" },
	{ "reason", FIELD_STRING, REQUIRED, "guest-shutdown, host-qmp-quit, ..." }, END };
static const struct field panicked_data[] = {
	{ "action", FIELD_STRING, REQUIRED, "pause or poweroff" }, END };
static const struct field watchdog_data[] = {
	{ "action", FIELD_STRING, REQUIRED, "reset, shutdown, poweroff, pause, none or inject-nmi" }, END };
static const struct field dump_data[] = { 
	{ "result", FIELD_OBJECT, REQUIRED, "status (completed, failed), completed, total: bytes" },
	{ "error", FIELD_STRING, OPTIONAL, "why it failed" }, END };
static const struct field port_data[] = { 
	{ "id", FIELD_STRING, REQUIRED, "of the port" },
	{ "open", FIELD_BOOL, REQUIRED, "by a program in the guest" }, END };
static const struct field io_error_data[] = {
	{ "device", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "node-name", FIELD_STRING, OPTIONAL, "the same" },
	{ "operation", FIELD_STRING, REQUIRED, "read or write" },
	{ "action", FIELD_STRING, REQUIRED, "report, stop or ignore" },
	{ "nospace", FIELD_BOOL, OPTIONAL, "no space was the cause" },
	{ "reason", FIELD_STRING, REQUIRED, "in words" }, END };
static const struct field job_data[] = {
	{ "id", FIELD_STRING, REQUIRED, "of the job" },
	{ "status", FIELD_STRING, REQUIRED,
		"created, running, aborting, waiting, pending, concluded, null" }, END };

const struct event_spec qmp_events[EVENT_ID_COUNT] = {
	[EVENT_STOP] = { "STOP", "the vCPUs stand still", no_fields, false, false },
	[EVENT_RESUME] = { "RESUME", "the vCPUs run on", no_fields, false, false },
	[EVENT_SHUTDOWN] = { "SHUTDOWN", "the VM is off", guest_reason, false, false },
	[EVENT_RESET] = { "RESET", "the machine was reset", guest_reason, false, false },
	[EVENT_POWERDOWN] = { "POWERDOWN", "the power button was pressed", no_fields, false, false },
	[EVENT_GUEST_PANICKED] = { "GUEST_PANICKED", "the guest says so", panicked_data, false, false },
	[EVENT_WATCHDOG] = { "WATCHDOG", "the guest did not look after it in time", watchdog_data, false, false },
	[EVENT_DUMP_COMPLETED] = { "DUMP_COMPLETED", "of a guest's memory; or it failed", dump_data, false, false },
	[EVENT_VSERPORT_CHANGE] = { "VSERPORT_CHANGE", "the guest has opened or closed a port", port_data, false, false },
	[EVENT_BLOCK_IO_ERROR] = { "BLOCK_IO_ERROR", "an image failed a request", io_error_data, false, false },
	[EVENT_JOB_STATUS_CHANGE] = { "JOB_STATUS_CHANGE", "a job goes its way", job_data, false, false },
};
