/* Tables of the QMP commands and events on a VM's own socket. */
#include "api/schema/schema_qmp.h"
#include "api/schema/schema_internal.h"
#include "base/util.h"

#define MUTATES COMMAND_MUTATES
#define LIST COMMAND_RETURNS_LIST

static const struct field no_fields[] = { END };

static const struct field capabilities_args[] = {
	{ "enable", LIST_OF(FIELD_STRING), OPTIONAL, "capabilities to enable; none exist" }, END };
static const struct field version_returns[] = {
	{ "qemu", FIELD_QEMU_VERSION, REQUIRED, "QEMU version whose QMP the socket speaks" },
	{ "package", FIELD_STRING, REQUIRED, "program and version" }, END };
static const struct field commands_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of a command" }, END };
static const struct field name_returns[] = { { "name", FIELD_STRING, OPTIONAL, "name of the VM" }, END };
static const struct field uuid_returns[] = { { "UUID", FIELD_STRING, REQUIRED, "UUID of the VM" }, END };
static const struct field kvm_returns[] = {
	{ "enabled", FIELD_BOOL, REQUIRED, "KVM is in use; always true" },
	{ "present", FIELD_BOOL, REQUIRED, "the host has KVM; always true" }, END };
static const struct field status_returns[] = {
	{ "running", FIELD_BOOL, REQUIRED, "the vCPUs run" },
	{ "singlestep", FIELD_BOOL, REQUIRED, "always false" },
	{ "status", FIELD_STRING, REQUIRED,
		"running, paused, io-error, watchdog, save-vm, guest-panicked, internal-error" }, END };
static const struct field cpus_returns[] = {
	{ "cpu-index", FIELD_INT, REQUIRED, "index of the vCPU, from 0" },
	{ "qom-path", FIELD_STRING, REQUIRED, "path of the vCPU, for qom-list" },
	{ "thread-id", FIELD_INT, OPTIONAL, "id of the host thread; missing while the VM's process does not answer" },
	{ "props", FIELD_CPU_PROPS, OPTIONAL, "its place" },
	{ "target", FIELD_STRING, REQUIRED, "x86_64" }, END };
static const struct field pci_returns[] = {
	{ "bus", FIELD_INT, REQUIRED, "0" },
	{ "devices", LIST_OF(FIELD_PCI_DEVICE), REQUIRED, "devices by slot" }, END };
static const struct field hotpluggable_returns[] = {
	{ "type", FIELD_STRING, REQUIRED, "driver for device_add" },
	{ "vcpus-count", FIELD_INT, REQUIRED, "1" },
	{ "props", FIELD_CPU_PROPS, REQUIRED, "its place" },
	{ "qom-path", FIELD_STRING, OPTIONAL, "name of the vCPU; missing: the guest lacks it" }, END };
static const struct field memory_returns[] = {
	{ "base-memory", FIELD_INT, REQUIRED, "memory of the VM, bytes" },
	{ "plugged-memory", FIELD_INT, OPTIONAL, "hot-plugged memory, bytes; always 0" }, END };

static const struct field target_returns[] = { { "arch", FIELD_STRING, REQUIRED, "always x86_64" }, END };
static const struct field machines_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "cairn- and the machine version" },
	{ "alias", FIELD_STRING, OPTIONAL, "cairn, of the newest" },
	{ "is-default", FIELD_BOOL, OPTIONAL, "true, of the newest" },
	{ "cpu-max", FIELD_INT, REQUIRED, "the most vCPUs" },
	{ "hotpluggable-cpus", FIELD_BOOL, REQUIRED, "always true" },
	{ "numa-mem-supported", FIELD_BOOL, REQUIRED, "always false" },
	{ "deprecated", FIELD_BOOL, REQUIRED, "always false" },
	{ "default-cpu-type", FIELD_STRING, OPTIONAL, "the host's processor" }, END };
static const struct field cpu_definitions_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the model" },
	{ "typename", FIELD_STRING, REQUIRED, "driver for device_add" },
	{ "static", FIELD_BOOL, REQUIRED, "always false" },
	{ "migration-safe", FIELD_BOOL, OPTIONAL, "the same on each host" },
	{ "deprecated", FIELD_BOOL, REQUIRED, "always false" }, END };
static const struct field iothreads_returns[] = {
	{ "id", FIELD_STRING, REQUIRED, "name that object-add gave" },
	{ "thread-id", FIELD_INT, REQUIRED, "id of the VM's process: each disk has a thread of its own" },
	{ "poll-max-ns", FIELD_INT, REQUIRED, "always 0" },
	{ "poll-grow", FIELD_INT, REQUIRED, "always 0" },
	{ "poll-shrink", FIELD_INT, REQUIRED, "always 0" },
	{ "aio-max-batch", FIELD_INT, REQUIRED, "always 0" }, END };
static const struct field mice_returns[] = {
	{ "index", FIELD_INT, REQUIRED, "number, from 1" },
	{ "name", FIELD_STRING, REQUIRED, "the device" },
	{ "absolute", FIELD_BOOL, REQUIRED, "true: the tablet" },
	{ "current", FIELD_BOOL, REQUIRED, "true: input-send-event moves this one" }, END };
static const struct field chardev_returns[] = {
	{ "label", FIELD_STRING, REQUIRED, "compat_monitor0, serial0 or org.qemu.guest_agent.0" },
	{ "filename", FIELD_STRING, REQUIRED, "the host's end" },
	{ "frontend-open", FIELD_BOOL, REQUIRED, "the guest has opened the port" }, END };
static const struct field vnc_returns[] = {
	{ "enabled", FIELD_BOOL, REQUIRED, "the VM has a VNC server" },
	{ "host", FIELD_STRING, OPTIONAL, "its address, or the path of its Unix socket" },
	{ "service", FIELD_STRING, OPTIONAL, "its port; empty: a Unix socket" },
	{ "family", FIELD_STRING, OPTIONAL, "ipv4, ipv6 or unix" },
	{ "auth", FIELD_STRING, OPTIONAL, "vnc: a password, or none" }, END };
static const struct field spice_returns[] = {
	{ "enabled", FIELD_BOOL, REQUIRED, "always false" },
	{ "migrated", FIELD_BOOL, REQUIRED, "always false" },
	{ "mouse-mode", FIELD_STRING, REQUIRED, "client: the VM has a tablet; or server" }, END };
static const struct field display_returns[] = { { "type", FIELD_STRING, REQUIRED, "always none" }, END };
static const struct field replay_returns[] = {
	{ "mode", FIELD_STRING, REQUIRED, "always none" },
	{ "icount", FIELD_INT, REQUIRED, "always 0" }, END };
static const struct field rx_filter_args[] = { { "name", FIELD_STRING, OPTIONAL, "id of an interface; always an error" }, END };
static const struct field option_args[] = { { "option", FIELD_STRING, OPTIONAL, "no effect" }, END };
static const struct field qom_list_args[] = { { "path", FIELD_STRING, REQUIRED, "/machine, /machine/peripheral or an object in them" }, END };
static const struct field qom_list_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of a property" },
	{ "type", FIELD_STRING, REQUIRED, "its type; child<...>: an object" }, END };
static const struct field qom_get_args[] = {
	{ "path", FIELD_STRING, REQUIRED, "as of qom-list" },
	{ "property", FIELD_STRING, REQUIRED, "type, realized, drive, serial, mac, guest-stats, guest-stats-polling-interval" }, END };

static const struct field block_returns[] = {
	{ "device", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "qdev", FIELD_STRING, OPTIONAL, "the same" },
	{ "type", FIELD_STRING, REQUIRED, "always unknown, as in QEMU" },
	{ "removable", FIELD_BOOL, REQUIRED, "true: a CD drive" },
	{ "locked", FIELD_BOOL, REQUIRED, "always false" },
	{ "inserted", FIELD_BLOCK_NODE, OPTIONAL, "the image, as in query-named-block-nodes" },
	{ "io-status", FIELD_STRING, OPTIONAL, "ok, failed, nospace" }, END };
static const struct field nodes_args[] = {
	{ "flat", FIELD_BOOL, OPTIONAL, "omit backing images; the answer never contains them" }, END };
static const struct field stats_args[] = {
	{ "query-nodes", FIELD_BOOL, OPTIONAL, "list nodes instead of devices; no effect, because each disk is one node" }, END };
static const struct field stats_returns[] = {
	{ "device", FIELD_STRING, OPTIONAL, "id of the disk" },
	{ "qdev", FIELD_STRING, OPTIONAL, "the same" },
	{ "node-name", FIELD_STRING, OPTIONAL, "the same" },
	{ "stats", FIELD_BLOCK_STATS, REQUIRED,
		"its counters" }, END };

static const struct field dump_args[] = {
	{ "paging", FIELD_BOOL, REQUIRED, "must be false: the dump has physical addresses" },
	{ "protocol", FIELD_STRING, REQUIRED, "target: file:PATH, or fd:NAME for an fd from getfd; an empty regular file" },
	{ "detach", FIELD_BOOL, OPTIONAL, "return at once; DUMP_COMPLETED and query-dump report the result" },
	{ "begin", FIELD_INT, OPTIONAL, "refused: all memory is dumped" },
	{ "length", FIELD_INT, OPTIONAL, "refused: all memory is dumped" },
	{ "format", FIELD_STRING, OPTIONAL, "format of the dump; only elf" }, END };
static const struct field input_args[] = {
	{ "device", FIELD_STRING, OPTIONAL, "no effect" },
	{ "head", FIELD_INT, OPTIONAL, "no effect" },
	{ "events", LIST_OF(FIELD_INPUT_EVENT), REQUIRED, "at most 64 events" }, END };
static const struct field send_key_args[] = {
	{ "keys", LIST_OF(FIELD_KEY_VALUE), REQUIRED, "at most 16 keys" },
	{ "hold-time", FIELD_INT, OPTIONAL, "how long the keys are held, ms, at most 10000 [100]" }, END };
static const struct field screendump_args[] = {
	{ "filename", FIELD_STRING, REQUIRED, "absolute path of a regular file, which is opened with the rights of the client, and replaced" },
	{ "format", FIELD_STRING, OPTIONAL, "ppm or png [ppm]" }, END };
static const struct field dump_returns[] = {
	{ "status", FIELD_STRING, REQUIRED, "none, active, completed, failed" },
	{ "completed", FIELD_INT, REQUIRED, "written bytes" },
	{ "total", FIELD_INT, REQUIRED, "bytes of the whole dump" }, END };
static const struct field capability_returns[] = {
	{ "formats", LIST_OF(FIELD_STRING), REQUIRED, "formats of a dump: elf" }, END };
static const struct field fd_args[] = {
	{ "fdname", FIELD_STRING, REQUIRED, "name for the fd; getfd closes an earlier fd of that name" }, END };
static const struct field watchdog_args[] = {
	{ "action", FIELD_STRING, REQUIRED, "reset, shutdown, poweroff, pause, none or inject-nmi" }, END };
static const struct field balloon_args[] = { { "value", FIELD_INT, REQUIRED, "memory of the guest, bytes" }, END };
static const struct field dirty_rate_args[] = {
	{ "calc-time", FIELD_INT, REQUIRED, "length of the measurement, 1 to 60 seconds" },
	FIELD_SAMPLE_PAGES,
	{ "mode", FIELD_STRING, OPTIONAL, "only page-sampling" }, END };
static const struct field dirty_rate_returns[] = {
	{ "status", FIELD_STRING, REQUIRED, "unstarted, measuring or measured" },
	{ "start-time", FIELD_INT, REQUIRED, "time of the start: realtime, seconds; 0: unstarted" },
	{ "calc-time", FIELD_INT, REQUIRED, "length of the measurement, seconds" },
	{ "sample-pages", FIELD_INT, REQUIRED, "pages that are sampled of each GiB" },
	{ "mode", FIELD_STRING, REQUIRED, "page-sampling" },
	{ "dirty-rate", FIELD_INT, OPTIONAL, "once measured: MiB of pages that change in a second" }, END };
static const struct field balloon_returns[] = { { "actual", FIELD_INT, REQUIRED, "memory of the guest, bytes" }, END };

/* Arguments that belong to some drivers or types only are optional here; the handlers check them. */
static const struct field node_args[] = {
	{ "driver", FIELD_STRING, REQUIRED, "raw or qcow2 with file; or file or host_device with filename" },
	{ "node-name", FIELD_STRING, OPTIONAL, "name of the node; needed" },
	{ "filename", FIELD_STRING, OPTIONAL, "absolute path; device_add opens it, with the rights of its client" },
	{ "file", FIELD_ANY, OPTIONAL, "name of a node with the driver file, or an object with driver and filename" },
	{ "backing", FIELD_ANY, OPTIONAL, "qcow2: name of the node of the backing file; null: none [none]" },
	{ "read-only", FIELD_BOOL, OPTIONAL, "the guest cannot write [false]" },
	{ "auto-read-only", FIELD_BOOL, OPTIONAL, "no effect" },
	{ "discard", FIELD_STRING, OPTIONAL, "unmap or ignore [unmap]" },
	{ "detect-zeroes", FIELD_STRING, OPTIONAL, "off, on or unmap [off]" },
	{ "cache", FIELD_OBJECT, OPTIONAL, "direct and no-flush [of the file's node; else direct]" }, END };
static const struct field memory_devices_returns[] = {
	{ "type", FIELD_STRING, REQUIRED, "kind of the device" },
	{ "data", FIELD_OBJECT, REQUIRED, "the device" }, END };
static const struct field node_del_args[] = { { "node-name", FIELD_STRING, REQUIRED, "name of a node that no disk uses" }, END };
static const struct field netdev_args[] = {
	{ "type", FIELD_STRING, REQUIRED, "user or bridge" },
	{ "id", FIELD_STRING, REQUIRED, "name for device_add" },
	{ "br", FIELD_STRING, OPTIONAL, "bridge: the bridge [br0]" },
	{ "net", FIELD_STRING, OPTIONAL, "user: the guest's private network" },
	{ "restrict", FIELD_BOOL, OPTIONAL, "user: block all connections of the guest to the outside [false]" }, END };
static const struct field netdev_del_args[] = { { "id", FIELD_STRING, REQUIRED, "name of a netdev that no interface uses" }, END };
static const struct field object_args[] = {
	{ "qom-type", FIELD_STRING, REQUIRED, "iothread, which device_add may name: Cairn chooses the thread of a disk by itself" },
	{ "id", FIELD_STRING, REQUIRED, "name of the object" }, END };
static const struct field object_del_args[] = { { "id", FIELD_STRING, REQUIRED, "name of the object" }, END };
static const struct field device_args[] = {
	{ "driver", FIELD_STRING, REQUIRED, "virtio-blk-pci, scsi-hd, scsi-cd, virtio-net-pci, or the type of query-hotpluggable-cpus" },
	{ "id", FIELD_STRING, OPTIONAL, "id of the disk or the interface, at most 15 characters [the id of the node or netdev]" },
	{ "bus", FIELD_STRING, OPTIONAL, "only pci.0; with scsi-hd and scsi-cd only scsi0.0" },
	{ "drive", FIELD_STRING, OPTIONAL, "disk: name of a node" },
	{ "serial", FIELD_STRING, OPTIONAL, "disk: serial number that the guest sees" },
	{ "wwn", FIELD_ANY, OPTIONAL, "scsi-hd, scsi-cd: world wide name that the guest sees, a number or a text such as 0x5000c50015ea71aa" },
	{ "logical_block_size", FIELD_INT, OPTIONAL, "disk: bytes in a block [512]" },
	{ "physical_block_size", FIELD_INT, OPTIONAL, "disk: block size to which the guest aligns its writes [4096]" },
	{ "num-queues", FIELD_INT, OPTIONAL, "disk: number of queues [one per vCPU]" },
	{ "queue-size", FIELD_INT, OPTIONAL, "disk: entries per queue [256]" },
	{ "iothread", FIELD_STRING, OPTIONAL, "disk: an object of type iothread; no effect" },
	{ "netdev", FIELD_STRING, OPTIONAL, "interface: name of a netdev" },
	{ "mac", FIELD_STRING, OPTIONAL, "interface: MAC address [a new one]" },
	{ "socket-id", FIELD_INT, OPTIONAL, "vCPU: its place" },
	{ "core-id", FIELD_INT, OPTIONAL, "likewise" },
	{ "thread-id", FIELD_INT, OPTIONAL, "likewise" }, END };
static const struct field device_del_args[] = { { "id", FIELD_STRING, REQUIRED, "id of the disk or the interface, or vcpu with a number" }, END };
static const struct field link_args[] = {
	{ "name", FIELD_STRING, REQUIRED, "id of the interface, or of its netdev" },
	{ "up", FIELD_BOOL, REQUIRED, "true: the link is up" }, END };

#define FIELD_JOB { "job-id", FIELD_STRING, REQUIRED, "id for the new job" }
#define FIELD_TAG { "tag", FIELD_STRING, REQUIRED, "name of the snapshot" }
#define FIELD_VMSTATE { "vmstate", FIELD_STRING, REQUIRED, "node of the disk for the memory: the first qcow2 disk" }
#define FIELD_DEVICES { "devices", LIST_OF(FIELD_STRING), REQUIRED, "nodes of all writable disks of the VM" }
static const struct field save_args[] = { FIELD_JOB, FIELD_TAG, FIELD_VMSTATE, FIELD_DEVICES, END };
static const struct field delete_args[] = { FIELD_JOB, FIELD_TAG, FIELD_DEVICES, END };
#define FIELDS_AUTO \
	{ "auto-finalize", FIELD_BOOL, OPTIONAL, "only true: there is no job-finalize [true]" }, \
	{ "auto-dismiss", FIELD_BOOL, OPTIONAL, "false: no other job gets the job's id before job-dismiss [true]" }
static const struct field stream_args[] = {
	{ "job-id", FIELD_STRING, OPTIONAL, "id of the job [the device]" },
	{ "device", FIELD_STRING, REQUIRED, "id, node or path of the disk" },
	{ "speed", FIELD_INT, OPTIONAL, "maximum rate in bytes/s [no limit]" }, FIELDS_AUTO, END };
static const struct field commit_args[] = {
	{ "job-id", FIELD_STRING, OPTIONAL, "id of the job [the device]" },
	{ "device", FIELD_STRING, REQUIRED, "id, node or path of the disk" },
	{ "top", FIELD_STRING, OPTIONAL, "path of the uppermost layer [the image that the guest writes to]" },
	{ "top-node", FIELD_STRING, OPTIONAL, "its node; instead of top" },
	{ "base", FIELD_STRING, OPTIONAL, "path of the layer that gets all [the lowest]" },
	{ "base-node", FIELD_STRING, OPTIONAL, "its node; instead of base" },
	{ "speed", FIELD_INT, OPTIONAL, "maximum rate in bytes/s [no limit]" }, FIELDS_AUTO, END };
static const struct field overlay_args[] = {
	{ "device", FIELD_STRING, OPTIONAL, "id, node or path of the disk" },
	{ "node-name", FIELD_STRING, OPTIONAL, "node of the disk; instead of device" },
	{ "snapshot-file", FIELD_STRING, REQUIRED, "path of the overlay, which the definition names already" },
	{ "format", FIELD_STRING, OPTIONAL, "only qcow2" },
	{ "mode", FIELD_STRING, OPTIONAL, "must be existing" }, END };
static const struct field resize_args[] = {
	{ "device", FIELD_STRING, OPTIONAL, "id of the disk" },
	{ "node-name", FIELD_STRING, OPTIONAL, "name of its node; instead of device" },
	{ "size", FIELD_INT, REQUIRED, "in bytes, not less than now" }, END };
static const struct field exec_args[] = { FIELD_JOB, FIELDS_EXEC, END };
static const struct field job_args[] = { { "id", FIELD_STRING, REQUIRED, "id of the job" }, END };
static const struct field block_job_args[] = { { "device", FIELD_STRING, REQUIRED, "id of the job" }, END };
static const struct field block_job_cancel_args[] = {
	{ "device", FIELD_STRING, REQUIRED, "id of the job" },
	{ "force", FIELD_BOOL, OPTIONAL, "a job that is ready is cancelled, too; else it succeeds, and the disk keeps its layers [false]" }, END };
static const struct field jobs_returns[] = {
	{ "id", FIELD_STRING, REQUIRED, "id of the job" },
	{ "type", FIELD_STRING, REQUIRED, "snapshot-save, snapshot-load, snapshot-delete, stream, commit, exec" },
	{ "status", FIELD_STRING, REQUIRED, "as in JOB_STATUS_CHANGE" },
	{ "current-progress", FIELD_INT, REQUIRED, "completed part of total-progress" },
	{ "total-progress", FIELD_INT, REQUIRED, "size of the work; may grow" },
	{ "error", FIELD_STRING, OPTIONAL, "reason of the failure" }, END };
static const struct field block_jobs_returns[] = {
	{ "device", FIELD_STRING, REQUIRED, "id of the job" },
	{ "type", FIELD_STRING, REQUIRED, "stream, mirror or commit" },
	{ "status", FIELD_STRING, REQUIRED, "as in JOB_STATUS_CHANGE" },
	{ "len", FIELD_INT, REQUIRED, "size of the work, in bytes" },
	{ "offset", FIELD_INT, REQUIRED, "completed part of len" },
	{ "speed", FIELD_INT, REQUIRED, "limit, bytes/s; 0: none" },
	{ "busy", FIELD_BOOL, REQUIRED, "it copies" },
	{ "ready", FIELD_BOOL, REQUIRED, "it waits for job-complete" },
	{ "paused", FIELD_BOOL, REQUIRED, "always false" },
	{ "io-status", FIELD_STRING, REQUIRED, "always ok" },
	{ "auto-finalize", FIELD_BOOL, REQUIRED, "always true" },
	{ "auto-dismiss", FIELD_BOOL, REQUIRED, "false: its client wants to dismiss it" },
	{ "error", FIELD_STRING, OPTIONAL, "reason of the failure" }, END };
static const struct field human_args[] = {
	{ "command-line", FIELD_STRING, REQUIRED, "command line of QEMU's monitor" },
	{ "cpu-index", FIELD_INT, OPTIONAL, "no effect" }, END };

const struct command qmp_commands[] = {
	{ "qmp_capabilities", "end the negotiation", capabilities_args, NULL, ROLE_NONE,
		COMMAND_BEFORE_NEGOTIATION, ANY_STATE },
	{ "query-version", "show the version", no_fields, version_returns, ROLE_NONE, 0, ANY_STATE },
	{ "query-commands", "list the names of all commands", no_fields, commands_returns, ROLE_NONE, LIST,
		ANY_STATE },
	{ "query-qmp-schema", "show all commands, events and types", no_fields, NULL, ROLE_NONE, LIST, ANY_STATE },
	{ "query-name", "show the name of the VM", no_fields, name_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-uuid", "show the UUID of the VM", no_fields, uuid_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-kvm", "show whether KVM is in use", no_fields, kvm_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-status", "show whether the VM runs, and the reason if not", no_fields, status_returns, ROLE_VIEWER, 0,
		ANY_STATE },
	{ "query-cpus-fast", "list the vCPUs", no_fields, cpus_returns, ROLE_VIEWER, LIST, ANY_STATE },
	{ "query-hotpluggable-cpus", "list the vCPUs that the VM can have", no_fields, hotpluggable_returns, ROLE_VIEWER, LIST, ANY_STATE },
	{ "query-pci", "list the buses of PCI, with their devices", no_fields, pci_returns, ROLE_VIEWER, LIST, ANY_STATE },
	{ "query-memory-size-summary", "show the size of the memory", no_fields, memory_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-target", "show the architecture of the guest", no_fields, target_returns, ROLE_NONE, 0, ANY_STATE },
	{ "query-machines", "list the machine versions", no_fields, machines_returns, ROLE_NONE, LIST, ANY_STATE },
	{ "query-cpu-definitions", "list the models of processors", no_fields, cpu_definitions_returns, ROLE_NONE, LIST, ANY_STATE },
	{ "query-iothreads", "list the I/O threads that object-add named", no_fields, iothreads_returns, ROLE_VIEWER, LIST, ANY_STATE },
	{ "query-mice", "list the pointing devices", no_fields, mice_returns, ROLE_VIEWER, LIST, ANY_STATE },
	{ "query-chardev", "list the character devices", no_fields, chardev_returns, ROLE_VIEWER, LIST, ANY_STATE },
	{ "query-vnc", "show the VNC server", no_fields, vnc_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-spice", "show the SPICE server; there is none", no_fields, spice_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-display-options", "show the display of the VM's process; it has none", no_fields, display_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-replay", "show whether a record of the execution is made or replayed", no_fields, replay_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-migrate", "show the migration; always empty", no_fields, NULL, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-rx-filter", "list the filters of interfaces; always empty", rx_filter_args, NULL, ROLE_VIEWER, LIST,
		ANY_STATE },
	{ "query-fdsets", "list sets of passed fds; always empty", no_fields, NULL, ROLE_VIEWER, LIST, ANY_STATE },
	{ "query-command-line-options", "list the options of QEMU's command line; always empty", option_args, NULL, ROLE_NONE, LIST, ANY_STATE },
	{ "query-tpm-models", "list the models of TPMs; always empty", no_fields, NULL, ROLE_NONE, LIST, ANY_STATE },
	{ "query-yank", "list the instances that yank can end; always empty", no_fields, NULL, ROLE_VIEWER, LIST, ANY_STATE },
	{ "query-stats-schemas", "list the statistics of query-stats; always empty", no_fields, NULL, ROLE_NONE, LIST, ANY_STATE },
	{ "qom-list", "list the properties of an object", qom_list_args, qom_list_returns, ROLE_VIEWER, LIST, ANY_STATE },
	{ "qom-get", "show a property of an object", qom_get_args, NULL, ROLE_VIEWER, COMMAND_RETURNS_ANY, ANY_STATE },
	{ "query-block", "list the disks", no_fields, block_returns, ROLE_VIEWER, LIST, ANY_STATE },
	{ "query-blockstats", "show the counters of the disks", stats_args, stats_returns, ROLE_VIEWER, LIST,
		ANY_STATE },
	{ "query-named-block-nodes", "list the images of the disks", nodes_args, block_node, ROLE_VIEWER, LIST,
		ANY_STATE },
	{ "stop", "pause the VM; a paused VM is no error", no_fields, NULL,
		ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "cont", "resume the VM; a running VM is no error", no_fields, NULL, ROLE_OPERATOR, MUTATES,
		ANY_STATE },
	{ "system_powerdown", "press the power button", no_fields, NULL, ROLE_OPERATOR, MUTATES,
		ANY_STATE },
	{ "system_reset", "reset the machine", no_fields, NULL, ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "quit", "stop the VM by force; returns when the process has ended, and then the stream ends", no_fields, NULL,
		ROLE_OPERATOR, MUTATES, VM_ASK_DESTROY },
	{ "inject-nmi", "send an NMI to every vCPU", no_fields, NULL, ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "watchdog-set-action", "set the action for a watchdog timeout", watchdog_args, NULL,
		ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "dump-guest-memory", "dump memory and registers, as of one instant, as an ELF core", dump_args, NULL, ROLE_OPERATOR,
		MUTATES, ANY_STATE },
	{ "input-send-event", "press and release keys and buttons, and move the pointer", input_args, NULL, ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "send-key", "press keys of the guest's keyboard together, and release them", send_key_args, NULL, ROLE_OPERATOR, MUTATES,
		VM_ASK_GUEST },
	{ "screendump", "write a picture of the guest's screen to a file", screendump_args, NULL, ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "query-dump", "show the progress or the result of the last dump", no_fields, dump_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-dump-guest-memory-capability", "list the formats of dump-guest-memory", no_fields, capability_returns, ROLE_VIEWER, 0,
		ANY_STATE },
	{ "getfd", "store the passed fd under a name", fd_args, NULL, ROLE_OPERATOR, MUTATES | COMMAND_TAKES_FD,
		ANY_STATE },
	{ "closefd", "close an fd that getfd stored", fd_args, NULL, ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "balloon", "set the memory that the balloon leaves to the guest", balloon_args, NULL, ROLE_OPERATOR, MUTATES,
		ANY_STATE },
	{ "query-balloon", "show the memory that the balloon leaves to the guest", no_fields, balloon_returns,
		ROLE_VIEWER, 0, ANY_STATE },
	{ "calc-dirty-rate", "measure how fast the guest changes its memory, by samples; query-dirty-rate shows the result", dirty_rate_args, NULL,
		ROLE_OPERATOR, MUTATES, ANY_STATE },
	{ "query-dirty-rate", "show the last measurement of calc-dirty-rate", no_fields, dirty_rate_returns, ROLE_VIEWER, 0, ANY_STATE },
	{ "query-memory-devices", "list memory that was attached; always empty", no_fields, memory_devices_returns, ROLE_VIEWER, LIST, ANY_STATE },
	{ "blockdev-add", "name an image for device_add; forgotten when the daemon ends", node_args, NULL, ROLE_ADMIN, MUTATES, ANY_STATE },
	{ "blockdev-del", "remove an image of blockdev-add", node_del_args, NULL, ROLE_ADMIN, MUTATES, ANY_STATE },
	{ "netdev_add", "name a network for device_add; forgotten when the daemon ends", netdev_args, NULL, ROLE_ADMIN, MUTATES, ANY_STATE },
	{ "netdev_del", "remove a network of netdev_add", netdev_del_args, NULL, ROLE_ADMIN, MUTATES, ANY_STATE },
	{ "object-add", "name an I/O thread for device_add", object_args, NULL, ROLE_ADMIN, MUTATES, ANY_STATE },
	{ "object-del", "remove an I/O thread of object-add", object_del_args, NULL, ROLE_ADMIN, MUTATES, ANY_STATE },
	{ "device_add", "attach a disk, an interface or a vCPU; the definition of the next start is unchanged", device_args, NULL, ROLE_ADMIN,
		MUTATES, ANY_STATE },
	{ "device_del", "ask the guest to release a disk, an interface or a vCPU; DEVICE_DELETED reports its end", device_del_args, NULL, ROLE_ADMIN,
		MUTATES, ANY_STATE },
	{ "set_link", "set the link of an interface up or down", link_args, NULL, ROLE_ADMIN, MUTATES, ANY_STATE },
	{ "snapshot-save", "create a snapshot", save_args, NULL, ROLE_OPERATOR, MUTATES | COMMAND_JOB,
		ANY_STATE },
	{ "snapshot-load", "revert the VM to a snapshot", save_args, NULL, ROLE_OPERATOR, MUTATES | COMMAND_JOB,
		ANY_STATE },
	{ "snapshot-delete", "delete a snapshot", delete_args, NULL, ROLE_OPERATOR, MUTATES | COMMAND_JOB,
		ANY_STATE },
	{ "block-stream", "copy the content of its backing files into a disk, and remove them from the disk", stream_args, NULL,
		ROLE_OPERATOR, MUTATES | COMMAND_JOB, ANY_STATE },
	{ "block-commit", "merge upper layers of a disk into a lower one", commit_args, NULL, ROLE_ADMIN, MUTATES | COMMAND_JOB, ANY_STATE },
	{ "block_resize", "grow a disk; the guest sees the new size at once", resize_args, NULL, ROLE_ADMIN, MUTATES, ANY_STATE },
	{ "blockdev-snapshot-sync", "let a disk continue with an overlay", overlay_args, NULL, ROLE_ADMIN, MUTATES, ANY_STATE },
	{ "agent-exec", "run a program in the guest as a job, with cairn-agent; not a command of QEMU", exec_args, NULL, ROLE_GUEST,
		MUTATES | COMMAND_JOB, VM_ASK_GUEST },
	{ "agent-exec-output", "show the output so far of a job of agent-exec that is not dismissed", exec_output_args, exec_returns,
		ROLE_GUEST, COMMAND_CONCERNS_JOB, ANY_STATE },
	{ "query-block-jobs", "list the jobs of disks that are not over", no_fields, block_jobs_returns, ROLE_VIEWER, LIST, ANY_STATE },
	{ "query-jobs", "list the jobs of this run of the VM", no_fields, jobs_returns, ROLE_VIEWER, LIST,
		ANY_STATE },
	{ "job-cancel", "cancel a job", job_args, NULL, ROLE_OPERATOR, MUTATES | COMMAND_CONCERNS_JOB, ANY_STATE },
	{ "job-complete", "end a ready job of block-commit: the disk continues with the base", job_args, NULL, ROLE_ADMIN,
		MUTATES | COMMAND_CONCERNS_JOB, ANY_STATE },
	{ "block-job-complete", "do as job-complete", block_job_args, NULL, ROLE_ADMIN, MUTATES, ANY_STATE },
	{ "block-job-cancel", "cancel a job of block-commit or block-stream", block_job_cancel_args, NULL, ROLE_ADMIN, MUTATES, ANY_STATE },
	{ "job-dismiss", "remove a completed job from the list", job_args, NULL, ROLE_OPERATOR, MUTATES | COMMAND_CONCERNS_JOB, ANY_STATE },
	{ "human-monitor-command", "execute a command line of QEMU's monitor and return its output", human_args, NULL,
		ROLE_OPERATOR, MUTATES | COMMAND_RETURNS_STRING, ANY_STATE },
};
const size_t qmp_commands_count = ARRAY_SIZE(qmp_commands);

static const struct field guest_reason[] = {
	{ "guest", FIELD_BOOL, REQUIRED, "true: the guest caused the event" },
	{ "reason", FIELD_STRING, REQUIRED, "guest-shutdown, host-qmp-quit, ..." }, END };
static const struct field panicked_data[] = {
	{ "action", FIELD_STRING, REQUIRED, "pause or poweroff" }, END };
static const struct field watchdog_data[] = {
	{ "action", FIELD_STRING, REQUIRED, "reset, shutdown, poweroff, pause, none or inject-nmi" }, END };
static const struct field dump_data[] = { 
	{ "result", FIELD_DUMP_STATE, REQUIRED, "state of the dump: completed or failed" },
	{ "error", FIELD_STRING, OPTIONAL, "reason of the failure" }, END };
static const struct field port_data[] = { 
	{ "id", FIELD_STRING, REQUIRED, "id of the port" },
	{ "open", FIELD_BOOL, REQUIRED, "true: a program in the guest has opened the port" }, END };
static const struct field io_error_data[] = {
	{ "device", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "node-name", FIELD_STRING, OPTIONAL, "name of its node, as in query-block" },
	{ "operation", FIELD_STRING, REQUIRED, "read or write" },
	{ "action", FIELD_STRING, REQUIRED, "report, stop or ignore" },
	{ "nospace", FIELD_BOOL, OPTIONAL, "true: the host's file system is full, or a quota is reached" },
	{ "reason", FIELD_STRING, REQUIRED, "error message" }, END };
static const struct field device_data[] = {
	{ "device", FIELD_STRING, OPTIONAL, "id of the device" },
	{ "path", FIELD_STRING, REQUIRED, "path of the device, as of qom-list" }, END };
static const struct field job_data[] = {
	{ "id", FIELD_STRING, REQUIRED, "id of the job" },
	{ "status", FIELD_STRING, REQUIRED,
		"created, running, ready, aborting, waiting, pending, concluded, null" }, END };
static const struct field block_job_data[] = {
	{ "type", FIELD_STRING, REQUIRED, "commit or stream" },
	{ "device", FIELD_STRING, REQUIRED, "id of the job" },
	{ "len", FIELD_INT, REQUIRED, "size of the work, in bytes" },
	{ "offset", FIELD_INT, REQUIRED, "completed part of len" },
	{ "speed", FIELD_INT, REQUIRED, "limit, bytes/s; 0: none" }, END };
static const struct field block_job_end_data[] = {
	{ "type", FIELD_STRING, REQUIRED, "commit or stream" },
	{ "device", FIELD_STRING, REQUIRED, "id of the job" },
	{ "len", FIELD_INT, REQUIRED, "size of the work, in bytes" },
	{ "offset", FIELD_INT, REQUIRED, "completed part of len" },
	{ "speed", FIELD_INT, REQUIRED, "limit, bytes/s; 0: none" },
	{ "error", FIELD_STRING, OPTIONAL, "reason of the failure" }, END };

const struct event_spec qmp_events[EVENT_ID_COUNT] = {
	[EVENT_STOP] = { "STOP", "the VM was paused", no_fields, false, false },
	[EVENT_RESUME] = { "RESUME", "the VM was resumed", no_fields, false, false },
	[EVENT_SHUTDOWN] = { "SHUTDOWN", "the VM is off", guest_reason, false, false },
	[EVENT_RESET] = { "RESET", "the machine was reset", guest_reason, false, false },
	[EVENT_POWERDOWN] = { "POWERDOWN", "the power button was pressed", no_fields, false, false },
	[EVENT_GUEST_PANICKED] = { "GUEST_PANICKED", "the guest kernel panicked", panicked_data, false, false },
	[EVENT_WATCHDOG] = { "WATCHDOG", "the watchdog expired", watchdog_data, false, false },
	[EVENT_DUMP_COMPLETED] = { "DUMP_COMPLETED", "a memory dump has completed or failed", dump_data, false, false },
	[EVENT_VSERPORT_CHANGE] = { "VSERPORT_CHANGE", "the guest has opened or closed a port", port_data, false, false },
	[EVENT_DEVICE_DELETED] = { "DEVICE_DELETED", "a disk or an interface is detached", device_data, false, false },
	[EVENT_DEVICE_UNPLUG_GUEST_ERROR] = { "DEVICE_UNPLUG_GUEST_ERROR", "the guest refuses to release a device", device_data, false, false },
	[EVENT_BLOCK_IO_ERROR] = { "BLOCK_IO_ERROR", "an image failed a request", io_error_data, false, false },
	[EVENT_BALLOON_CHANGE] = { "BALLOON_CHANGE", "the balloon has another size", balloon_returns, false, false },
	[EVENT_JOB_STATUS_CHANGE] = { "JOB_STATUS_CHANGE", "the status of a job has changed", job_data, false, false },
	[EVENT_BLOCK_JOB_READY] = { "BLOCK_JOB_READY", "a block-commit of the active layer waits for job-complete or job-cancel", block_job_data,
		false, false },
	[EVENT_BLOCK_JOB_COMPLETED] = { "BLOCK_JOB_COMPLETED", "a job of block-commit or block-stream is over", block_job_end_data, false, false },
	[EVENT_BLOCK_JOB_CANCELLED] = { "BLOCK_JOB_CANCELLED", "such a job was cancelled", block_job_data, false, false },
};
