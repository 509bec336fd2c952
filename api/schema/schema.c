/* The table itself, and the check of arguments against it. schema_json.c tells clients. */
#include "api/schema/schema.h"
#include "api/schema/schema_qmp.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

#define OPTIONAL true
#define REQUIRED false
#define END { NULL, FIELD_ANY, false, NULL }
#define ANY_STATE VM_TRIGGER_COUNT
#define FIELD_VM { "vm", FIELD_STRING, REQUIRED, "name or uuid" }

static const struct field no_fields[] = { END };
static const struct field vm_only[] = { FIELD_VM, END };

static const struct field capabilities_args[] = {
	{ "enable", FIELD_ARRAY, OPTIONAL, "capabilities to switch on; there are none" }, END };

static const struct field version_fields[] = {
	{ "qemu", FIELD_OBJECT, REQUIRED, "the QMP dialect spoken: major, minor, micro" },
	{ "package", FIELD_STRING, REQUIRED, "program and version" },
	{ "cairn", FIELD_STRING, REQUIRED, "version of the daemon" }, END };

static const struct field commands_returns[] = { { "name", FIELD_STRING, REQUIRED, "of a command" }, END };

static const struct field define_args[] = {
	{ "definition", FIELD_OBJECT, REQUIRED, "see docs/definition.md" },
	{ "folder", FIELD_STRING, OPTIONAL, "absolute; relative paths are taken from it" },
	{ "was", FIELD_OBJECT, OPTIONAL, "only if the VM's definition is this one still, as "
		"vm-dump-definition gives it" },
	{ "validate-only", FIELD_BOOL, OPTIONAL, "check it and change nothing" }, END };

static const struct field define_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "of the VM" },
	{ "uuid", FIELD_STRING, REQUIRED, "given, kept or made" },
	{ "created", FIELD_BOOL, REQUIRED, "false: it existed and is redefined" },
	{ "pending", FIELD_BOOL, REQUIRED, "it runs, and its next start uses another one than it runs with" },
	{ "warnings", FIELD_ARRAY, REQUIRED, "sentences: what is kept and has no effect" }, END };

static const struct field dump_args[] = { FIELD_VM,
	{ "inactive", FIELD_BOOL, OPTIONAL, "of a running VM: what its next start uses, not what it runs with" },
	END };
static const struct field dump_returns[] = {
	{ "definition", FIELD_OBJECT, REQUIRED, "canonical: every key stated" },
	{ "pending", FIELD_BOOL, REQUIRED, "it runs, and its next start uses another one" }, END };

static const struct field list_args[] = {
	{ "after", FIELD_STRING, OPTIONAL, "name behind which the page begins" },
	{ "limit", FIELD_INT, OPTIONAL, "entries in one answer at most; 1 to 1000" },
	{ "brief", FIELD_BOOL, OPTIONAL, "only id, name, state and word" }, END };

static const struct field list_returns[] = {
	{ "vms", FIELD_ARRAY, REQUIRED,
		"by name: id (-1: off), name, uuid, title, state, word, reason, persistent, autostart, "
		"managed-save, template" },
	{ "unloaded", FIELD_ARRAY, OPTIONAL,
		"on the first page, VMs of the state folder that the daemon could not load, unless there are very many: name, and "
		"why with what to do" },
	{ "next", FIELD_STRING, OPTIONAL, "there is more: the next call's `after`" }, END };

static const struct field info_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "of the VM" },
	{ "uuid", FIELD_STRING, REQUIRED, "of the VM" },
	{ "id", FIELD_INT, REQUIRED, "-1: off" },
	{ "state", FIELD_STRING, REQUIRED, "as users know it: \"shut off\"" },
	{ "word", FIELD_STRING, REQUIRED, "as programs know it: \"shutoff\"" },
	{ "reason", FIELD_STRING, REQUIRED, "why it is in that state" },
	{ "detail", FIELD_STRING, OPTIONAL, "more about the reason" },
	{ "value", FIELD_INT, OPTIONAL, "debug exit's status, pvpanic's bits" },
	{ "since", FIELD_INT, REQUIRED, "realtime of the last change, ns" },
	{ "vcpus", FIELD_INT, REQUIRED, "number" },
	{ "memory", FIELD_INT, REQUIRED, "bytes" },
	{ "used-memory", FIELD_INT, REQUIRED, "bytes; 0 when off" },
	{ "cpu-time", FIELD_INT, OPTIONAL, "of all vCPU threads, ns" },
	{ "vcpu-times", FIELD_ARRAY, OPTIONAL, "of each, ns" },
	{ "pid", FIELD_INT, OPTIONAL, "of the VM's process" },
	{ "resident-memory", FIELD_INT, OPTIONAL, "that its process has in RAM, bytes; 0: not known" },
	{ "job", FIELD_STRING, OPTIONAL, "id of the job under way" },
	{ "shutdown-at", FIELD_INT, OPTIONAL, "it is planned then: realtime, ns" },
	{ "reboot-at", FIELD_INT, OPTIONAL, "the same" },
	{ "shutdown-deadline", FIELD_INT, OPTIONAL, "it was asked to shut down, and has until then: realtime, ns" },
	{ "shutdown-then", FIELD_STRING, OPTIONAL, "what follows: leave, destroy or save" },
	{ "restart-in", FIELD_INT, OPTIONAL, "it has ended, and is started again in so many ns" },
	{ "exit-status", FIELD_INT, OPTIONAL, "of the last process" },
	{ "exit-signal", FIELD_INT, OPTIONAL, "that ended the last process" },
	{ "persistent", FIELD_BOOL, REQUIRED, "its definition is kept" },
	{ "autostart", FIELD_BOOL, REQUIRED, "started when the host has booted" },
	{ "managed-save", FIELD_BOOL, REQUIRED, "has a saved state" },
	{ "template", FIELD_BOOL, REQUIRED, "is only cloned" },
	{ "host", FIELD_STRING, OPTIONAL, "kind of KVM: vmx, svm, pvm" },
	{ "assist", FIELD_OBJECT, OPTIONAL, "on, syscalls, instructions" },
	{ "exits", FIELD_OBJECT, OPTIONAL, "io, mmio, other" },
	{ "idle", FIELD_BOOL, OPTIONAL, "it runs, and all its vCPUs are halted" },
	{ "agent", FIELD_STRING, OPTIONAL, "the guest agent's port: closed, open; connected: an agent answers" },
	{ "disks", FIELD_ARRAY, OPTIONAL, "per disk: id, size, counters; fault, when it has stopped the VM: "
		"no space, image corrupt, or unspecified error" }, END };

#define FIELD_JOB_ID { "job-id", FIELD_STRING, OPTIONAL, "what to call the job; else one is made" }
static const struct field rename_args[] = { FIELD_VM,
	{ "name", FIELD_STRING, REQUIRED, "the new one" }, END };
static const struct field undefine_args[] = { FIELD_VM,
	{ "managed-save", FIELD_BOOL, OPTIONAL, "drop its saved state too" },
	{ "snapshots-metadata", FIELD_BOOL, OPTIONAL, "although there are snapshots in its images" },
	{ "remove-all-storage", FIELD_BOOL, OPTIONAL,
		"remove the images that it writes to; files alone, and none that another VM uses" },
	{ "storage", FIELD_ARRAY, OPTIONAL, "remove only these: ids or paths of its disks" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "say what would be removed, and change nothing" }, END };
static const struct field undefine_returns[] = {
	{ "volumes", FIELD_ARRAY, OPTIONAL, "id, path, removed; why, of one that stays" }, END };
static const struct field start_args[] = { FIELD_VM,
	{ "force-boot", FIELD_BOOL, OPTIONAL, "drop a managed save instead of going on from it" },
	{ "eager", FIELD_BOOL, OPTIONAL, "with a managed save: read all memory first" },
	{ "paused", FIELD_BOOL, OPTIONAL, "vCPUs stand still until it is resumed" }, END };
static const struct field start_returns[] = {
	{ "id", FIELD_INT, REQUIRED, "of this run" }, END };

#define FIELD_MODE { "mode", FIELD_SHUTDOWN_MODE, OPTIONAL, "how: the power button (the default) or the guest agent" }
#define FIELDS_AT                                                                                  \
	{ "at", FIELD_INT, OPTIONAL, "realtime, ns: then, and not now; the guest agent warns before" }, \
	{ "message", FIELD_STRING, OPTIONAL, "what the warnings by the guest agent and on the consoles begin with; one line" }
static const struct field shutdown_args[] = { FIELD_VM, FIELD_MODE,
	{ "then", FIELD_SHUTDOWN_THEN, OPTIONAL, "what is done when the time is up; else as its definition says" },
	{ "timeout", FIELD_INT, OPTIONAL, "seconds until then; else as its definition says" }, FIELDS_AT, END };
static const struct field reboot_args[] = { FIELD_VM, FIELD_MODE, FIELDS_AT, END };
static const struct field daemon_stop_args[] = {
	{ "action", FIELD_STOP_ACTION, OPTIONAL, "the same for all; else as their definitions say" },
	{ "vms-only", FIELD_BOOL, OPTIONAL, "the daemon does not end afterwards" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "say what would become of each, in that order, and do nothing" }, END };
static const struct field daemon_stop_returns[] = {
	{ "vms", FIELD_ARRAY, REQUIRED, "that ran: vm, action, outcome" }, END };
static const struct field autostart_args[] = { FIELD_VM,
	{ "disable", FIELD_BOOL, OPTIONAL, "not any more" }, END };
static const struct field addresses_returns[] = {
	{ "interfaces", FIELD_ARRAY, REQUIRED,
		"of the guest, by its agent's word: name; mac, unless it has none; addresses: type (ipv4, ipv6), address, prefix; own: it "
		"has the address of one of the VM's interfaces" },
	{ "cut", FIELD_BOOL, OPTIONAL, "there are more than are told" }, END };
static const struct field path_returns[] = { { "path", FIELD_STRING, REQUIRED, "absolute" }, END };
static const struct field console_args[] = { FIELD_VM,
	{ "kind", FIELD_CONSOLE_KIND, OPTIONAL, "the serial port unless said" },
	{ "history", FIELD_BOOL, OPTIONAL, "send what is kept first; true unless said" }, END };

static const struct field save_args[] = { FIELD_VM, FIELD_JOB_ID, END };
static const struct field managed_save_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "then", FIELD_SAVED_AS, OPTIONAL, "how the next start has it; else as it is" },
	END };
static const struct field job_returns[] = { { "job", FIELD_STRING, REQUIRED, "its id" }, END };
static const struct field export_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "compress", FIELD_COMPRESS, OPTIONAL, "zstd if left out" },
	{ "level", FIELD_INT, OPTIONAL, "of compression" },
	{ "snapshot", FIELD_STRING, OPTIONAL, "the disks as this one has them; needed while the VM is not off" },
	END };
static const struct field import_args[] = { FIELD_JOB_ID,
	{ "folder", FIELD_STRING, REQUIRED, "absolute: where a folder of the VM's name will be, with its files" },
	{ "name", FIELD_STRING, OPTIONAL, "its name; else that which it had" },
	{ "max-bytes", FIELD_INT, OPTIONAL, "refuse an archive whose files have more data than that; the file system's room is a bound in any case" },
	END };
static const struct field restore_args[] = {
	{ "definition", FIELD_OBJECT, REQUIRED, "that the state was saved with" },
	{ "paused", FIELD_BOOL, OPTIONAL, "vCPUs stand still until it is resumed" },
	{ "eager", FIELD_BOOL, OPTIONAL, "read all memory before it runs" }, END };
static const struct field restore_returns[] = {
	{ "name", FIELD_STRING, REQUIRED, "of the VM" },
	{ "id", FIELD_INT, REQUIRED, "of this run" }, END };
static const struct field dump_memory_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "then", FIELD_DUMP_THEN, OPTIONAL, "crash: stop it at once; reset; it stands still meanwhile" }, END };
static const struct field fork_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "name", FIELD_STRING, REQUIRED, "of the clone" },
	{ "count", FIELD_INT, OPTIONAL, "so many, with -1, -2, ... behind the name" },
	{ "snapshot", FIELD_STRING, OPTIONAL,
		"name or id: they begin with what it holds, whatever the VM does; else the VM runs or is paused" },
	{ "hostname", FIELD_BOOL, OPTIONAL,
		"false: the guest agent, if there is one, is not asked to give the guest the clone's name" },
	{ "paused", FIELD_BOOL, OPTIONAL, "their vCPUs stand still until they are resumed" }, END };
static const struct field clone_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "name", FIELD_STRING, OPTIONAL, "of the clone" },
	{ "count", FIELD_INT, OPTIONAL, "so many, with -1, -2, ... behind the name" },
	{ "name-pattern", FIELD_STRING, OPTIONAL, "instead of a name: web-%02d" },
	{ "kind", FIELD_CLONE_KIND, OPTIONAL, "full (the default): disks of its own; linked: disks that stand on the VM's" },
	{ "snapshots", FIELD_BOOL, OPTIONAL, "full: take along the snapshots that are in its images" },
	{ "files", FIELD_ARRAY, OPTIONAL, "for each disk that it writes to, the path of its copy; else beside it" },
	{ "macs", FIELD_ARRAY, OPTIONAL, "of each interface; else made" },
	{ "uuid", FIELD_STRING, OPTIONAL, "else made" },
	{ "reset-identity", FIELD_BOOL, OPTIONAL,
		"another machine-id, SSH host keys and host name in its images, by virt-sysprep" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "say what would be made, and make nothing" }, END };
static const struct field clone_returns[] = {
	{ "job", FIELD_STRING, OPTIONAL, "its id" },
	{ "clones", FIELD_ARRAY, OPTIONAL, "with dry-run: name, disks (id, path, from)" }, END };
static const struct field template_args[] = { FIELD_VM,
	{ "disable", FIELD_BOOL, OPTIONAL, "make it an ordinary VM again" }, END };
static const struct field snapshot_create_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "name", FIELD_STRING, OPTIONAL, "else the seconds since 1970" },
	{ "description", FIELD_STRING, OPTIONAL, "one line" },
	{ "tags", FIELD_ARRAY, OPTIONAL, "of strings; \"keep\" protects it" },
	{ "disks-only", FIELD_BOOL, OPTIONAL, "without memory" },
	{ "halt", FIELD_BOOL, OPTIONAL, "end the VM once it is taken" },
	{ "quiesce", FIELD_BOOL, OPTIONAL,
		"the guest agent freezes the file systems for that moment" },
	{ "rate", FIELD_INT, OPTIONAL, "of writing memory, bytes a second" }, END };
static const struct field snapshot_list_args[] = { FIELD_VM,
	{ "from", FIELD_INT, OPTIONAL, "index of the first; 0 unless said" }, END };
static const struct field snapshot_list_returns[] = {
	{ "snapshots", FIELD_ARRAY, REQUIRED,
		"id, parent, name, description, tags, state, disks-missing, current, time (ns), vm-clock (ns), "
		"vm-state-size, disk-size" },
	{ "next", FIELD_INT, OPTIONAL, "there is more: the next call's `from`" }, END };
#define FIELD_SNAPSHOT { "name", FIELD_STRING, REQUIRED, "or id" }
static const struct field snapshot_revert_args[] = { FIELD_VM, FIELD_JOB_ID,
	{ "name", FIELD_STRING, OPTIONAL, "or id; else the current one" },
	{ "then", FIELD_SAVED_AS, OPTIONAL, "how it goes on; else as it was taken" },
	{ "disks-only", FIELD_BOOL, OPTIONAL, "leave its memory; the VM is off then" },
	{ "disk", FIELD_STRING, OPTIONAL, "with disks-only: that one alone, by its id" },
	{ "eager", FIELD_BOOL, OPTIONAL, "read all memory before it runs" },
	{ "verify", FIELD_BOOL, OPTIONAL, "check all memory before anything is changed" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "look whether it can be done, say what would be lost, and change nothing" }, END };
static const struct field snapshot_delete_args[] = { FIELD_VM, FIELD_JOB_ID, FIELD_SNAPSHOT,
	{ "children", FIELD_CHILDREN, OPTIONAL, "too: all below it as well; only: these and not it" },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "say which would be deleted, and delete none" }, END };
static const struct field snapshot_size_args[] = { FIELD_VM, FIELD_SNAPSHOT, END };
static const struct field snapshot_size_returns[] = {
	{ "own-size", FIELD_INT, REQUIRED, "bytes that only this snapshot holds: deleting it frees them" },
	END };
static const struct field snapshot_set_args[] = { FIELD_VM, FIELD_SNAPSHOT,
	{ "new-name", FIELD_STRING, OPTIONAL, "rename it" },
	{ "description", FIELD_STRING, OPTIONAL, "one line" },
	{ "tags", FIELD_ARRAY, OPTIONAL, "in place of those it has" }, END };
static const struct field query_jobs_args[] = {
	{ "id", FIELD_STRING, OPTIONAL, "only this one" },
	{ "after", FIELD_STRING, OPTIONAL, "id behind which the page begins" }, END };
static const struct field query_jobs_returns[] = {
	{ "id", FIELD_STRING, REQUIRED, "of the job" },
	{ "qmp-id", FIELD_STRING, OPTIONAL, "what it is called on the VM's own socket" },
	{ "type", FIELD_STRING, REQUIRED, "save, managed-save, snapshot-create, ..." },
	{ "status", FIELD_STRING, REQUIRED, "as in JOB_STATUS_CHANGE" },
	{ "vm", FIELD_STRING, REQUIRED, "whose work it is" },
	{ "current-progress", FIELD_INT, REQUIRED, "units" },
	{ "total-progress", FIELD_INT, REQUIRED, "units" },
	{ "started", FIELD_INT, REQUIRED, "realtime, ns" },
	{ "duration", FIELD_INT, OPTIONAL, "of one that has concluded, ns" },
	{ "unit", FIELD_STRING, OPTIONAL, "bytes or snapshots" },
	{ "rate", FIELD_INT, OPTIONAL, "units a second" },
	{ "remaining", FIELD_INT, OPTIONAL, "at that rate, ns" },
	{ "error", FIELD_STRING, OPTIONAL, "why it failed" },
	{ "error-class", FIELD_STRING, OPTIONAL, "the same for programs" },
	{ "result", FIELD_OBJECT, OPTIONAL, "as its type has it" }, END };
static const struct field query_events_args[] = {
	{ "since", FIELD_INT, OPTIONAL, "number of the last one seen; 0 unless said" },
	{ "vm", FIELD_STRING, OPTIONAL, "only of this one, by name" },
	{ "event", FIELD_STRING, OPTIONAL, "only of this kind" }, END };
static const struct field query_events_returns[] = {
	{ "events", FIELD_ARRAY, REQUIRED, "as they were sent, each with its number as seq" },
	{ "next", FIELD_INT, REQUIRED, "the next call's `since`" },
	{ "last", FIELD_INT, REQUIRED, "number of the newest" },
	{ "lost", FIELD_BOOL, REQUIRED, "some behind `since` are not kept any more" },
	{ "more", FIELD_BOOL, REQUIRED, "there is another page" }, END };
static const struct field query_audit_args[] = {
	{ "from", FIELD_INT, OPTIONAL, "a place: the last page's `next`; else the oldest kept" },
	{ "since", FIELD_INT, OPTIONAL, "realtime, ns" },
	{ "uid", FIELD_INT, OPTIONAL, "only calls of that user" },
	{ "vm", FIELD_STRING, OPTIONAL, "only calls about that VM, as it was named" }, END };
static const struct field query_audit_returns[] = {
	{ "lines", FIELD_ARRAY, REQUIRED,
		"time (ns), uid, pid, command, vm, arguments, outcome, error, duration (ns)" },
	{ "next", FIELD_INT, REQUIRED, "the next call's `from`" },
	{ "more", FIELD_BOOL, REQUIRED, "there is another page" }, END };
static const struct field schedule_set_args[] = { FIELD_VM,
	{ "every", FIELD_STRING, OPTIONAL, "such as 15m, 1h, 1d; needed the first time" },
	{ "keep", FIELD_STRING, OPTIONAL, "rules WINDOW:PERIOD; at first " SCHEDULE_KEEP_DEFAULT },
	{ "min-free", FIELD_STRING, OPTIONAL,
		"below it none is taken: 10% of the file system, 5G; at first " SCHEDULE_MIN_FREE_DEFAULT },
	{ "dry-run", FIELD_BOOL, OPTIONAL, "tell what it would delete of the snapshots that there are when it has taken the next, and change nothing" }, END };
static const struct field schedule_set_returns[] = {
	{ "would-delete", FIELD_ARRAY, OPTIONAL, "with dry-run: names of the first of them" },
	{ "count", FIELD_INT, OPTIONAL, "with dry-run: how many that are" }, END };
static const struct field query_schedules_args[] = {
	{ "vm", FIELD_STRING, OPTIONAL, "only of this one, by name or uuid" },
	{ "after", FIELD_STRING, OPTIONAL, "name behind which the page begins" }, END };
static const struct field query_schedules_returns[] = {
	{ "schedules", FIELD_ARRAY, REQUIRED,
		"vm, every, keep, min-free, next-run (ns), last-run (ns), outcome (taken, skipped, failed), "
		"detail" },
	{ "next", FIELD_STRING, OPTIONAL, "there is more: the next call's `after`" }, END };
#define FIELD_USER { "user", FIELD_INT, OPTIONAL, "number of a user; this or group" }
#define FIELD_GROUP { "group", FIELD_INT, OPTIONAL, "number of a group" }
static const struct field grant_args[] = { FIELD_USER, FIELD_GROUP,
	{ "role", FIELD_ROLE, REQUIRED, "of one VM: viewer, operator or owner" },
	{ "vm", FIELD_STRING, OPTIONAL, "only for that one" }, END };
static const struct field revoke_args[] = { FIELD_USER, FIELD_GROUP,
	{ "vm", FIELD_STRING, OPTIONAL, "what they have for that one; else what they have for all" },
	END };
static const struct field query_permissions_args[] = {
	{ "from", FIELD_INT, OPTIONAL, "index of the first; 0 unless said" }, END };
static const struct field query_permissions_returns[] = {
	{ "permissions", FIELD_ARRAY, REQUIRED, "user or group, role, vm" },
	{ "next", FIELD_INT, OPTIONAL, "there is more: the next call's `from`" }, END };
static const struct field job_args[] = { { "id", FIELD_STRING, REQUIRED, "of the job" }, END };

static const struct command commands[] = {
	{ "qmp_capabilities", "end the negotiation", capabilities_args, NULL, ROLE_NONE,
		COMMAND_BEFORE_NEGOTIATION, ANY_STATE },
	{ "query-version", "version of the daemon and the dialect", no_fields, version_fields,
		ROLE_NONE, 0, ANY_STATE },
	{ "query-commands", "names of all commands", no_fields, commands_returns, ROLE_NONE,
		COMMAND_RETURNS_LIST, ANY_STATE },
	{ "query-qmp-schema", "this table", no_fields, NULL, ROLE_NONE, COMMAND_RETURNS_LIST, ANY_STATE },
	{ "vm-define", "make a VM from its definition, or (an owner: only) change it", define_args,
		define_returns, ROLE_ADMIN, COMMAND_DEFINES | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, ANY_STATE },
	{ "vm-rename", "give a VM that is off another name; its state, permissions and snapshots follow", rename_args,
		NULL, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, VM_ASK_RENAME },
	{ "vm-undefine", "forget a VM; its disks stay unless said", undefine_args, undefine_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_UNDEFINE },
	{ "vm-dump-definition", "the definition of a VM", dump_args, dump_returns, ROLE_VIEWER,
		COMMAND_CONCERNS_VM, ANY_STATE },
	{ "vm-list", "all VMs, page by page", list_args, list_returns, ROLE_VIEWER, COMMAND_FILTERS,
		ANY_STATE },
	{ "vm-info", "one VM: state, reason, figures", vm_only, info_returns, ROLE_VIEWER,
		COMMAND_CONCERNS_VM, ANY_STATE },
	{ "vm-addresses", "the guest's network interfaces and their addresses; its agent is asked", vm_only, addresses_returns,
		ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "vm-qmp-path", "the VM's own socket, which is there while it runs: QMP as QEMU has it", vm_only,
		path_returns, ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "vm-start", "start a VM; returns when its vCPUs run", start_args, start_returns,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, VM_ASK_START },
	{ "vm-shutdown", "press the power button", shutdown_args, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_SHUTDOWN },
	{ "vm-reboot", "press the power button, and start again when it is off", reboot_args,
		NULL, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_REBOOT },
	{ "vm-shutdown-cancel", "no shutdown or reboot that is planned, and no deadline", vm_only, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "daemon-stop", "stop VMs, by their order, and end; answered when they are stopped", daemon_stop_args,
		daemon_stop_returns, ROLE_ADMIN, COMMAND_MUTATES, ANY_STATE },
	{ "vm-autostart", "start it when the host has booted, or not any more", autostart_args, NULL,
		ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "vm-reset", "hard reset", vm_only, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_RESET },
	{ "vm-suspend", "make the vCPUs stand still", vm_only, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_SUSPEND },
	{ "vm-resume", "let the vCPUs run on", vm_only, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_RESUME },
	{ "vm-destroy", "stop at once; returns when the process is gone", vm_only, NULL,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_DESTROY },
	{ "vm-console", "a socket to the guest's console comes along as an fd", console_args, NULL,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_RETURNS_FD, VM_ASK_CONSOLE },
	{ "vm-save", "write the state into the file that comes along (empty, regular, for reading and "
		     "writing), and end the VM", save_args, job_returns, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB | COMMAND_TAKES_FD, VM_ASK_SAVE },
	{ "vm-managed-save", "keep the state for the next start, and end the VM", managed_save_args,
		job_returns, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB,
		VM_ASK_SAVE },
	{ "vm-managed-save-remove", "drop the state that is kept for the next start", vm_only, NULL,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_DROP_SAVED },
	{ "vm-restore", "start a VM from the saved state that comes along", restore_args,
		restore_returns, ROLE_OPERATOR, COMMAND_MUTATES | COMMAND_TAKES_FD, ANY_STATE },
	{ "vm-dump", "the guest's memory and registers at one instant, as an ELF core, into the file that comes along "
		     "(empty, regular, for writing)", dump_memory_args, job_returns, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB | COMMAND_TAKES_FD, VM_ASK_DUMP },
	{ "vm-export", "write definition, disks, kernel and initrd into the file that comes along; the owner's, as whoever has "
		       "that file has all that is on the disks",
		export_args, job_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB | COMMAND_TAKES_FD, ANY_STATE },
	{ "vm-import", "define a VM out of the archive of vm-export that comes along", import_args,
		job_returns, ROLE_ADMIN, COMMAND_MUTATES | COMMAND_JOB | COMMAND_TAKES_FD, ANY_STATE },
	{ "vm-fork", "running copies of a running VM, or of a snapshot, which share its memory until they write to it",
		fork_args, job_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB, VM_ASK_FORK_SNAPSHOT },
	{ "vm-clone", "copies of a VM that is off", clone_args, clone_returns, ROLE_ADMIN,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_JOB, ANY_STATE },
	{ "vm-template", "from now on it is only cloned: it does not start, and its images are only read",
		template_args, NULL, ROLE_ADMIN, COMMAND_CONCERNS_VM | COMMAND_MUTATES, VM_ASK_TEMPLATE },
	{ "snapshot-create", "disks, memory and devices at one instant; disks alone of a VM that is off",
		snapshot_create_args, job_returns, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES | COMMAND_JOB, VM_ASK_SNAPSHOT },
	{ "snapshot-list", "the snapshots of a VM, page by page", snapshot_list_args,
		snapshot_list_returns, ROLE_VIEWER, COMMAND_CONCERNS_VM, ANY_STATE },
	{ "snapshot-revert", "go back to a snapshot", snapshot_revert_args, job_returns,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES | COMMAND_JOB, VM_ASK_REVERT },
	{ "snapshot-delete", "delete snapshots; children keep what they need", snapshot_delete_args,
		job_returns, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES | COMMAND_JOB,
		VM_ASK_SNAPSHOT },
	{ "snapshot-set", "rename, describe, tag", snapshot_set_args, NULL, ROLE_OPERATOR,
		COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, VM_ASK_SNAPSHOT },
	{ "snapshot-size", "what one alone holds", snapshot_size_args, snapshot_size_returns, ROLE_VIEWER,
		COMMAND_CONCERNS_VM, ANY_STATE },
	{ "snapshot-schedule-set", "take snapshots by the clock, and delete old ones",
		schedule_set_args, schedule_set_returns, ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES | COMMAND_NEVER_TEMPLATES, ANY_STATE },
	{ "snapshot-schedule-remove", "take no more; those that are there stay", vm_only, NULL,
		ROLE_OPERATOR, COMMAND_CONCERNS_VM | COMMAND_MUTATES, ANY_STATE },
	{ "query-snapshot-schedules", "the schedules, by VM", query_schedules_args,
		query_schedules_returns, ROLE_VIEWER, COMMAND_FILTERS, ANY_STATE },
	{ "query-events", "events that were missed: the last 10000 are kept", query_events_args,
		query_events_returns, ROLE_VIEWER, COMMAND_FILTERS, ANY_STATE },
	{ "query-audit", "who changed what", query_audit_args, query_audit_returns, ROLE_ADMIN, 0,
		ANY_STATE },
	{ "permission-grant", "give a user or a group a role", grant_args, NULL, ROLE_ADMIN,
		COMMAND_MUTATES, ANY_STATE },
	{ "permission-revoke", "take it away", revoke_args, NULL, ROLE_ADMIN, COMMAND_MUTATES,
		ANY_STATE },
	{ "query-permissions", "the table of roles", query_permissions_args,
		query_permissions_returns, ROLE_ADMIN, 0, ANY_STATE },
	{ "query-jobs", "jobs under way, and results that were not dismissed", query_jobs_args,
		query_jobs_returns, ROLE_VIEWER, COMMAND_FILTERS | COMMAND_RETURNS_LIST, ANY_STATE },
	{ "job-cancel", "ask a job to end", job_args, NULL, ROLE_OPERATOR,
		COMMAND_MUTATES | COMMAND_CONCERNS_JOB, ANY_STATE },
	{ "job-dismiss", "forget the result of a job", job_args, NULL, ROLE_OPERATOR,
		COMMAND_MUTATES | COMMAND_CONCERNS_JOB, ANY_STATE },
};

/* ---- events ---- */

#define FIELD_LEFT_OUT { "left-out", FIELD_INT, OPTIONAL, "that many of this VM's, before this one, were not told" }
static const struct field guest_reason[] = { FIELD_VM,
	{ "guest", FIELD_BOOL, REQUIRED, "by the guest" },
	{ "reason", FIELD_STRING, REQUIRED, "as QEMU words it" }, FIELD_LEFT_OUT, END };
static const struct field defined_data[] = { FIELD_VM,
	{ "renamed-from", FIELD_STRING, OPTIONAL, "the name that it had" }, END };
static const struct field undefined_data[] = { FIELD_VM,
	{ "renamed-to", FIELD_STRING, OPTIONAL, "the name that it has now" }, END };
static const struct field panicked_data[] = { FIELD_VM,
	{ "action", FIELD_STRING, REQUIRED, "pause or shutdown" },
	{ "bits", FIELD_INT, REQUIRED, "what the guest wrote to pvpanic" }, FIELD_LEFT_OUT, END };
static const struct field watchdog_data[] = { FIELD_VM,
	{ "action", FIELD_STRING, REQUIRED,
		"what is done now: reset, shutdown, poweroff, pause, dump, none, inject-nmi" }, FIELD_LEFT_OUT, END };
static const struct field reset_delayed_data[] = { FIELD_VM,
	{ "in", FIELD_INT, REQUIRED, "ns: then the reset comes" },
	{ "resets", FIELD_INT, REQUIRED, "that the guest has asked for in this window" }, END };
static const struct field restart_data[] = { FIELD_VM,
	{ "in", FIELD_INT, REQUIRED, "ns: then it is started" },
	{ "try", FIELD_INT, REQUIRED, "how many it is in this window" },
	{ "tries", FIELD_INT, REQUIRED, "of how many; 0: without an end" }, END };
static const struct field plan_data[] = { FIELD_VM,
	{ "what", FIELD_STRING, REQUIRED, "planned, cancelled, overdue, failed" },
	{ "reboot", FIELD_BOOL, REQUIRED, "false: a shutdown" },
	{ "at", FIELD_INT, OPTIONAL, "of one that is planned: realtime, ns" },
	{ "then", FIELD_STRING, OPTIONAL, "of one that is overdue: leave, destroy or save" },
	{ "detail", FIELD_STRING, OPTIONAL, "why it failed" }, END };
static const struct field autostart_data[] = { FIELD_VM,
	{ "outcome", FIELD_STRING, REQUIRED, "started or failed" },
	{ "detail", FIELD_STRING, OPTIONAL, "why it failed" }, END };
static const struct field dump_data[] = { FIELD_VM,
	{ "result", FIELD_OBJECT, REQUIRED, "status (completed, failed), completed, total: bytes" },
	{ "path", FIELD_STRING, OPTIONAL, "of the file, if the daemon chose it" },
	{ "error", FIELD_STRING, OPTIONAL, "why it failed" }, END };
static const struct field agent_data[] = { FIELD_VM,
	{ "connected", FIELD_BOOL, REQUIRED, "it answers, or does not any more" }, END };
static const struct field port_data[] = { FIELD_VM,
	{ "id", FIELD_STRING, REQUIRED, "of the port" },
	{ "open", FIELD_BOOL, REQUIRED, "by a program in the guest" }, END };
static const struct field io_error_data[] = { FIELD_VM,
	{ "device", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "node-name", FIELD_STRING, REQUIRED, "the same" },
	{ "operation", FIELD_STRING, REQUIRED, "read or write" },
	{ "action", FIELD_STRING, REQUIRED, "report, stop or ignore" },
	{ "nospace", FIELD_BOOL, REQUIRED, "no space was the cause" },
	{ "reason", FIELD_STRING, REQUIRED, "the errno in words, or \"image corrupt\"" }, FIELD_LEFT_OUT, END };
static const struct field link_data[] = { FIELD_VM,
	{ "device", FIELD_STRING, REQUIRED, "id of the interface" },
	{ "detail", FIELD_STRING, REQUIRED, "what is gone" }, END };
static const struct field device_data[] = { FIELD_VM,
	{ "device", FIELD_STRING, REQUIRED, "that needs a reset by its driver" }, FIELD_LEFT_OUT, END };
static const struct field change_data[] = { FIELD_VM,
	{ "from", FIELD_STRING, REQUIRED, "state as a word" },
	{ "state", FIELD_STRING, REQUIRED, "state as a word" },
	{ "reason", FIELD_STRING, REQUIRED, "why" },
	{ "detail", FIELD_STRING, OPTIONAL, "more about the reason" },
	{ "value", FIELD_INT, OPTIONAL, "debug exit's status, pvpanic's bits" }, END };

static const struct field snapshot_data[] = { FIELD_VM,
	{ "snapshot", FIELD_STRING, REQUIRED, "its name" },
	{ "job", FIELD_STRING, REQUIRED, "that did it" },
	{ "disk", FIELD_STRING, OPTIONAL, "of a revert of one disk: its id" }, END };
static const struct field skipped_data[] = { FIELD_VM,
	{ "reason", FIELD_STRING, REQUIRED, "off, space, failed" },
	{ "detail", FIELD_STRING, REQUIRED, "in words" }, END };
static const struct field recovered_data[] = { FIELD_VM,
	{ "snapshot", FIELD_STRING, REQUIRED, "its name" },
	{ "device", FIELD_STRING, REQUIRED, "id of the disk that told" },
	{ "action", FIELD_STRING, REQUIRED, "taken, rolled-back, deleted, reverted" }, END };
static const struct field job_status_data[] = { FIELD_VM,
	{ "id", FIELD_STRING, REQUIRED, "of the job" },
	{ "status", FIELD_STRING, REQUIRED,
		"created, running, aborting, waiting, pending, concluded, null" },
	{ "qmp-id", FIELD_STRING, OPTIONAL, "what it is called on the VM's own socket" },
	{ "type", FIELD_STRING, REQUIRED, "save, managed-save, ..." }, END };
static const struct field job_progress_data[] = { FIELD_VM,
	{ "id", FIELD_STRING, REQUIRED, "of the job" },
	{ "done", FIELD_INT, REQUIRED, "units" },
	{ "total", FIELD_INT, REQUIRED, "units" },
	{ "unit", FIELD_STRING, REQUIRED, "bytes or snapshots" },
	{ "rate", FIELD_INT, REQUIRED, "units a second" },
	{ "remaining", FIELD_INT, OPTIONAL, "at that rate, ns" }, END };

#define FIELDS_CLIENT                                                                              \
	{ "uid", FIELD_INT, REQUIRED, "whose" }, { "pid", FIELD_INT, REQUIRED, "of the client" }
static const struct field denied_data[] = { FIELDS_CLIENT,
	{ "command", FIELD_STRING, REQUIRED, "what was asked for" },
	{ "vm", FIELD_STRING, OPTIONAL, "as it was named" }, END };
static const struct field dropped_data[] = { FIELDS_CLIENT,
	{ "unread", FIELD_INT, REQUIRED, "bytes that it left lying" }, END };
static const struct field refusals_data[] = {
	{ "uid", FIELD_INT, OPTIONAL, "whose; without: of users of whom there were too many to count each" },
	{ "left-out", FIELD_INT, REQUIRED, "how many" },
	{ "since", FIELD_INT, REQUIRED, "the first of them, ns since the epoch" }, END };

static const struct event_spec events[EVENT_ID_COUNT] = {
	[EVENT_STOP] = { "STOP", "the vCPUs stand still", vm_only, false, false },
	[EVENT_RESUME] = { "RESUME", "the vCPUs run on", vm_only, false, false },
	[EVENT_SHUTDOWN] = { "SHUTDOWN", "the VM is off", guest_reason, false, false },
	[EVENT_RESET] = { "RESET", "the machine was reset", guest_reason, false, false },
	[EVENT_RESET_DELAYED] = { "RESET_DELAYED", "the guest resets in a loop, which is slowed down",
		reset_delayed_data, false, false },
	[EVENT_RESTART_SCHEDULED] = { "RESTART_SCHEDULED", "it has ended, and is started again", restart_data,
		false, false },
	[EVENT_POWERDOWN] = { "POWERDOWN", "the power button was pressed", vm_only, false, false },
	[EVENT_GUEST_PANICKED] = { "GUEST_PANICKED", "the guest says so", panicked_data, false, false },
	[EVENT_WATCHDOG] = { "WATCHDOG", "the guest did not look after it in time", watchdog_data, false, false },
	[EVENT_DUMP_COMPLETED] = { "DUMP_COMPLETED", "of a guest's memory; or it failed", dump_data, false, false },
	[EVENT_AGENT] = { "AGENT", "the guest agent", agent_data, false, false },
	[EVENT_VSERPORT_CHANGE] = { "VSERPORT_CHANGE", "the guest has opened or closed a port", port_data, false, false },
	[EVENT_BLOCK_IO_ERROR] = { "BLOCK_IO_ERROR", "an image failed a request", io_error_data, false, false },
	[EVENT_DEVICE_NEEDS_RESET] = { "DEVICE_NEEDS_RESET", "the driver broke the device's rules",
		device_data, false, false },
	[EVENT_LINK_LOST] = { "LINK_LOST", "what an interface was plugged into is gone: its link is down until the VM starts anew",
		link_data, false, false },
	[EVENT_VM_STATE_CHANGE] = { "VM_STATE_CHANGE", "any change of state", change_data, false, false },
	[EVENT_SHUTDOWN_PLAN] = { "SHUTDOWN_PLAN", "a shutdown or a reboot that was asked for", plan_data, false,
		false },
	[EVENT_AUTOSTART] = { "AUTOSTART", "the host has booted, and it was this VM's turn", autostart_data,
		false, false },
	[EVENT_VM_DEFINED] = { "VM_DEFINED", "new, redefined, or renamed", defined_data, false, false },
	[EVENT_SNAPSHOT_CREATED] = { "SNAPSHOT_CREATED", "it is there", snapshot_data, false, false },
	[EVENT_SNAPSHOT_REVERTED] = { "SNAPSHOT_REVERTED", "the VM is as it was then", snapshot_data, false, false },
	[EVENT_SNAPSHOT_DELETED] = { "SNAPSHOT_DELETED", "one of them is gone", snapshot_data, false, false },
	[EVENT_SNAPSHOT_SKIPPED] = { "SNAPSHOT_SKIPPED", "the schedule's snapshot was not taken",
		skipped_data, false, false },
	[EVENT_SNAPSHOT_RECOVERED] = { "SNAPSHOT_RECOVERED", "a crash had caught it between two disks",
		recovered_data, false, false },
	[EVENT_GUEST_FROZEN] = { "GUEST_FROZEN", "saved with its file systems frozen, and no agent thaws them",
		vm_only, false, false },
	[EVENT_PERMISSION_DENIED] = { "PERMISSION_DENIED", "somebody asked for what they may not",
		denied_data, false, true },
	[EVENT_CLIENT_DROPPED] = { "CLIENT_DROPPED", "a client did not read", dropped_data, false, true },
	[EVENT_REFUSALS_LEFT_OUT] = { "REFUSALS_LEFT_OUT",
		"so many more of a user's PERMISSION_DENIED and CLIENT_DROPPED there were, but not told", refusals_data, false, true },
	[EVENT_JOB_STATUS_CHANGE] = { "JOB_STATUS_CHANGE", "a job goes its way", job_status_data, false, false },
	[EVENT_JOB_PROGRESS] = { "JOB_PROGRESS", "how far it is", job_progress_data, true, false },
	[EVENT_VM_UNDEFINED] = { "VM_UNDEFINED", "forgotten, or renamed", undefined_data, false, false },
};

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

const struct event_spec *schema_event(enum dialect d, enum event_id id)
{
	const struct event_spec *ev;

	if ((unsigned)id >= EVENT_ID_COUNT)
		return NULL;
	ev = d == DIALECT_QEMU ? &qmp_events[id] : &events[id];
	return ev->name ? ev : NULL;
}

const struct event_spec *schema_event_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		if (!strcmp(events[i].name, name))
			return &events[i];
	return NULL;
}

const char *role_name(enum role r)
{
	static const char *const names[] = { "nobody", "viewer", "operator", "admin" };

	return names[MIN((unsigned)r, 3u)];
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
