/* Table of the daemon's events. */
#include "api/schema/schema.h"
#include "api/schema/schema_internal.h"
#include "api/schema/schema_qmp.h"
#include "base/util.h"

#include <string.h>

static const struct field no_fields[] = { END };
static const struct field vm_name_only[] = { FIELDS_VM_NAME, END };

#define FIELD_LEFT_OUT { "left-out", FIELD_INT, OPTIONAL, \
	"number of such events of this VM that were suppressed before this one" }
static const struct field repeated_data[] = { FIELDS_VM_NAME, FIELD_LEFT_OUT, END };
static const struct field guest_reason[] = { FIELDS_VM_NAME,
	{ "guest", FIELD_BOOL, REQUIRED, "the guest caused the event" },
	{ "reason", FIELD_STRING, REQUIRED, "QEMU's word for the reason" }, FIELD_LEFT_OUT, END };
static const struct field defined_data[] = { FIELDS_VM_NAME,
	{ "renamed-from", FIELD_STRING, OPTIONAL, "previous name, after a rename" }, END };
static const struct field undefined_data[] = { FIELDS_VM_NAME,
	{ "renamed-to", FIELD_STRING, OPTIONAL, "new name, after a rename" }, END };
static const struct field panicked_data[] = { FIELDS_VM_NAME,
	{ "action", FIELD_STRING, REQUIRED, "pause or shutdown" },
	{ "bits", FIELD_INT, REQUIRED, "bits that the guest wrote to pvpanic" }, FIELD_LEFT_OUT, END };
static const struct field watchdog_data[] = { FIELDS_VM_NAME,
	{ "action", FIELD_STRING, REQUIRED,
		"action taken: reset, shutdown, poweroff, pause, dump, none, inject-nmi" }, FIELD_LEFT_OUT, END };
static const struct field reset_delayed_data[] = { FIELDS_VM_NAME,
	{ "in", FIELD_INT, REQUIRED, "time until the reset, ns" },
	{ "resets", FIELD_INT, REQUIRED, "number of resets that the guest has requested in this window" }, FIELD_LEFT_OUT,
	END };
static const struct field restart_data[] = { FIELDS_VM_NAME,
	{ "in", FIELD_INT, REQUIRED, "time until the restart, ns" },
	{ "try", FIELD_INT, REQUIRED, "number of this restart in the window" },
	{ "tries", FIELD_INT, REQUIRED, "maximum number of restarts; 0: no limit" }, END };
static const struct field plan_data[] = { FIELDS_VM_NAME,
	{ "what", FIELD_STRING, REQUIRED, "planned, delayed (by a hook), cancelled, overdue (the deadline has passed) or failed" },
	{ "reboot", FIELD_BOOL, REQUIRED, "true: reboot; false: shutdown" },
	{ "at", FIELD_INT, OPTIONAL, "time of a planned or delayed shutdown or reboot: realtime, ns" },
	{ "then", FIELD_STRING, OPTIONAL, "action at the deadline: leave, destroy or save" },
	{ "detail", FIELD_STRING, OPTIONAL, "why it is delayed or failed" }, END };
static const struct field start_delayed_data[] = { FIELDS_VM_NAME,
	{ "at", FIELD_INT, REQUIRED, "time of the next try: realtime, ns" },
	{ "detail", FIELD_STRING, REQUIRED, "the hook and its reason" }, END };
static const struct field autostart_data[] = { FIELDS_VM_NAME,
	{ "outcome", FIELD_STRING, REQUIRED, "started or failed" },
	{ "detail", FIELD_STRING, OPTIONAL, "why it failed" }, END };
static const struct field dump_data[] = { FIELDS_VM_NAME,
	{ "result", FIELD_DUMP_STATE, REQUIRED, "state of the dump: completed or failed" },
	{ "path", FIELD_STRING, OPTIONAL, "path of the file, if the daemon chose it" },
	{ "error", FIELD_STRING, OPTIONAL, "why it failed" }, END };
static const struct field agent_data[] = { FIELDS_VM_NAME,
	{ "connected", FIELD_BOOL, REQUIRED, "true: the agent answers; false: it no longer answers" }, END };
static const struct field port_data[] = { FIELDS_VM_NAME,
	{ "id", FIELD_STRING, REQUIRED, "id of the port" },
	{ "open", FIELD_BOOL, REQUIRED, "true: a program in the guest has opened the port" }, END };
static const struct field io_error_data[] = { FIELDS_VM_NAME,
	{ "device", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "node-name", FIELD_STRING, REQUIRED, "id of the disk" },
	{ "operation", FIELD_STRING, REQUIRED, "read or write" },
	{ "action", FIELD_STRING, REQUIRED, "report, stop or ignore" },
	{ "nospace", FIELD_BOOL, REQUIRED, "the cause is a lack of space" },
	{ "reason", FIELD_STRING, REQUIRED, "error text of the errno, or \"image corrupt\"" }, FIELD_LEFT_OUT, END };
static const struct field link_data[] = { FIELDS_VM_NAME,
	{ "device", FIELD_STRING, REQUIRED, "id of the interface" },
	{ "detail", FIELD_STRING, REQUIRED, "lost peer of the interface" }, FIELD_LEFT_OUT, END };
static const struct field forwards_data[] = { FIELDS_VM_NAME,
	{ "device", FIELD_STRING, REQUIRED, "id of the interface" },
	{ "open", FIELD_BOOL, REQUIRED, "whether the ports are open" },
	{ "detail", FIELD_STRING, OPTIONAL, "why they are closed" }, END };
static const struct field tray_data[] = { FIELDS_VM_NAME,
	{ "device", FIELD_STRING, REQUIRED, "id of the drive" },
	{ "tray-open", FIELD_BOOL, REQUIRED, "position of the tray" }, FIELD_LEFT_OUT, END };
static const struct field deleted_data[] = { FIELDS_VM_NAME,
	{ "device", FIELD_STRING, REQUIRED, "id of the disk or the interface, or vcpu with a number" },
	{ "detail", FIELD_STRING, OPTIONAL, "what was lost, if the last data could not be written" }, END };
static const struct field unplug_data[] = { FIELDS_VM_NAME,
	{ "device", FIELD_STRING, REQUIRED, "id of the disk or the interface, or vcpu with a number" }, END };
static const struct field balloon_data[] = { FIELDS_VM_NAME, FIELD_ACTUAL, FIELD_LEFT_OUT, END };
static const struct field device_data[] = { FIELDS_VM_NAME,
	{ "device", FIELD_STRING, REQUIRED, "device that its driver must reset" }, FIELD_LEFT_OUT, END };
static const struct field change_data[] = { FIELDS_VM_NAME,
	{ "from", FIELD_VM_STATE, REQUIRED, "previous state" },
	{ "state", FIELD_VM_STATE, REQUIRED, "new state" },
	{ "reason", FIELD_VM_REASON, REQUIRED, "reason of the new state" },
	{ "detail", FIELD_STRING, OPTIONAL, "details of the reason" },
	{ "value", FIELD_INT, OPTIONAL, "status from the debug exit device, or bits from pvpanic" }, END };

static const struct field snapshot_data[] = { FIELDS_VM_NAME,
	{ "snapshot", FIELD_STRING, REQUIRED, "name of the snapshot" },
	{ "job", FIELD_STRING, REQUIRED, "id of the job" },
	{ "disk", FIELD_STRING, OPTIONAL, "id of the disk, after a revert of one disk" }, END };
static const struct field skipped_data[] = { FIELDS_VM_NAME,
	{ "reason", FIELD_STRING, REQUIRED, "off (the VM is off), space (too little free space), quota or failed" },
	{ "detail", FIELD_STRING, REQUIRED, "details of the reason" }, END };
static const struct field schedule_data[] = { FIELDS_VM_NAME,
	{ "schedule", FIELD_STRING, REQUIRED, "name of the schedule" },
	{ "action", FIELD_STRING, REQUIRED, "start, shutdown, reboot, suspend, resume, save, snapshot or export" },
	{ "due", FIELD_INT, REQUIRED, "time of the run by the calendar: realtime, ns" },
	{ "outcome", FIELD_STRING, REQUIRED, "done, skipped (the VM's state did not fit), missed, refused (its maker lacks the role), delayed (a hook has planned it for later) or failed" },
	{ "detail", FIELD_STRING, OPTIONAL, "why it was not done" }, END };
static const struct field threshold_data[] = { FIELDS_VM_NAME,
	{ "threshold", FIELD_STRING, REQUIRED, "name of the threshold" },
	{ "measure", FIELD_STRING, REQUIRED, "its figure, as in threshold-set" },
	{ "state", FIELD_STRING, REQUIRED, "raised or cleared" },
	{ "value", FIELD_STRING, OPTIONAL, "the figure with its unit; missing if the VM has ended" },
	{ "above", FIELD_STRING, REQUIRED, "the limit" },
	{ "left-out", FIELD_INT, OPTIONAL, "number of events of this threshold that were left out before: it has at most 10 an hour" }, END };
static const struct field pool_data[] = { { "pool", FIELD_STRING, REQUIRED, "name of the pool" },
	{ "state", FIELD_STRING, REQUIRED, "low (above 90 %, or full in less than a week) or enough" },
	{ "used", FIELD_INT, REQUIRED, "bytes of its file system that are taken" },
	{ "total", FIELD_INT, REQUIRED, "bytes of its file system" },
	{ "growth", FIELD_INT, OPTIONAL, "bytes a day, of the last week" },
	{ "days-left", FIELD_INT, OPTIONAL, "days until it is full" }, END };
static const struct field space_data[] = { FIELDS_VM_NAME,
	{ "device", FIELD_STRING, REQUIRED, "id of the disk with the fullest file system" },
	{ "state", FIELD_STRING, REQUIRED, "low (less than 5 % is free, at most 4 GiB, or it will be full in 5 minutes) or enough" },
	{ "free", FIELD_INT, REQUIRED, "free bytes of its file system" },
	{ "total", FIELD_INT, REQUIRED, "bytes of its file system" },
	{ "seconds-left", FIELD_INT, OPTIONAL, "seconds until it is full, as it fills now" },
	{ "left-out", FIELD_INT, OPTIONAL, "number of such events of this VM that were left out before: it has at most 10 an hour" }, END };
static const struct field memory_data[] = { FIELDS_VM_NAME,
	{ "freed", FIELD_INT, REQUIRED, "bytes that were freed" },
	{ "pressure", FIELD_STRING, REQUIRED, "whose memory pressure was the cause: vm (of its control group) or host" }, END };
static const struct field balance_data[] = { FIELDS_VM_NAME,
	{ "resource", FIELD_STRING, REQUIRED, "cpu_shares or memory" },
	{ "from", FIELD_INT, REQUIRED, "the value before: shares, or bytes that the balloon shall leave to the guest" },
	{ "to", FIELD_INT, REQUIRED, "the value now" },
	{ "reason", FIELD_STRING, REQUIRED, "why it has changed" }, END };
static const struct field recovered_data[] = { FIELDS_VM_NAME,
	{ "snapshot", FIELD_STRING, REQUIRED, "name of the snapshot" },
	{ "device", FIELD_STRING, REQUIRED, "id of the disk that showed the interruption" },
	{ "action", FIELD_STRING, REQUIRED, "taken, rolled-back, deleted, reverted" }, FIELD_LEFT_OUT, END };
static const struct field request_data[] = {
	{ "id", FIELD_INT, REQUIRED, "number of the request" },
	{ "state", FIELD_STRING, REQUIRED, "waiting, approved, running, done, failed, denied, withdrawn or expired" },
	{ "command", FIELD_STRING, REQUIRED, "the command" },
	{ "user", FIELD_INT, REQUIRED, "uid of the asker" },
	{ "by", FIELD_INT, OPTIONAL, "uid of the user who answered" },
	{ "reason", FIELD_STRING, OPTIONAL, "the reason that this user gave" },
	{ "detail", FIELD_STRING, OPTIONAL, "why it failed" },
	{ "vm", FIELD_STRING, OPTIONAL, "name of the VM, if it is about one" },
	{ VM_UUID_KEY, FIELD_STRING, OPTIONAL, "UUID of the VM" }, END };
static const struct field job_status_data[] = { FIELDS_JOB_VM,
	{ "id", FIELD_STRING, REQUIRED, "id of the job" },
	{ "status", FIELD_STRING, REQUIRED,
		"created, running, ready, aborting, waiting, pending, concluded, null" },
	{ "qmp-id", FIELD_STRING, OPTIONAL, "id of the job on the VM's own socket" },
	{ "type", FIELD_STRING, REQUIRED, "save, managed-save, ..." },
	{ "error", FIELD_STRING, OPTIONAL, "concluded: why it failed" },
	{ "error-class", FIELD_STRING, OPTIONAL, "concluded: class of the error" }, END };
static const struct field job_progress_data[] = { FIELDS_JOB_VM,
	{ "id", FIELD_STRING, REQUIRED, "id of the job" },
	{ "done", FIELD_INT, REQUIRED, "units done" },
	{ "total", FIELD_INT, REQUIRED, "units in all" },
	{ "unit", FIELD_STRING, REQUIRED, "bytes, snapshots or clones" },
	{ "rate", FIELD_INT, REQUIRED, "units a second" },
	{ "remaining", FIELD_INT, OPTIONAL, "remaining time at that rate, ns" }, END };

#define FIELDS_CLIENT                                                                              \
	{ "uid", FIELD_INT, REQUIRED, "uid of the client" }, { "pid", FIELD_INT, REQUIRED, "pid of the client" }
static const struct field denied_data[] = { FIELDS_CLIENT,
	{ "command", FIELD_STRING, REQUIRED, "command that was denied" },
	{ "vm", FIELD_STRING, OPTIONAL, "VM, as the client named it" }, END };
static const struct field dropped_data[] = { FIELDS_CLIENT,
	{ "unread", FIELD_INT, REQUIRED, "bytes that the client left unread" }, END };
static const struct field refusals_data[] = {
	{ "uid", FIELD_INT, OPTIONAL, "uid of the user; missing: users that the daemon did not count separately" },
	{ "left-out", FIELD_INT, REQUIRED, "number of suppressed events" },
	{ "since", FIELD_INT, REQUIRED, "time of the first suppressed event: realtime, ns" }, END };

#define FIELDS_NETWORK_NAME \
	{ "network", FIELD_STRING, REQUIRED, "name of the network" }, \
	{ "network-uuid", FIELD_STRING, REQUIRED, "UUID of the network" }
static const struct field network_data[] = { FIELDS_NETWORK_NAME, END };
static const struct field network_state_data[] = { FIELDS_NETWORK_NAME,
	{ "state", FIELD_STRING, REQUIRED, "active or inactive" },
	{ "detail", FIELD_STRING, OPTIONAL, "why, unless a user asked for it" }, END };

static const struct event_spec events[EVENT_ID_COUNT] = {
	[EVENT_STOP] = { "STOP", "the vCPUs are paused", vm_name_only, false, false },
	[EVENT_RESUME] = { "RESUME", "the vCPUs run again", vm_name_only, false, false },
	[EVENT_SHUTDOWN] = { "SHUTDOWN", "the VM is off", guest_reason, false, false },
	[EVENT_RESET] = { "RESET", "the VM was reset", guest_reason, false, false },
	[EVENT_RESET_DELAYED] = { "RESET_DELAYED", "the guest resets itself in a loop; the daemon delays the next reset",
		reset_delayed_data, false, false },
	[EVENT_RESTART_SCHEDULED] = { "RESTART_SCHEDULED", "the VM has ended, and the daemon will restart it", restart_data,
		false, false },
	[EVENT_POWERDOWN] = { "POWERDOWN", "the power button was pressed", repeated_data, false, false },
	[EVENT_GUEST_PANICKED] = { "GUEST_PANICKED", "the guest reported a kernel panic", panicked_data, false, false },
	[EVENT_WATCHDOG] = { "WATCHDOG", "the guest did not reset its watchdog timer in time", watchdog_data, false, false },
	[EVENT_DUMP_COMPLETED] = { "DUMP_COMPLETED", "a memory dump has completed or failed", dump_data, false, false },
	[EVENT_AGENT] = { "AGENT", "the guest agent has started or stopped answering", agent_data, false, false },
	[EVENT_VSERPORT_CHANGE] = { "VSERPORT_CHANGE", "a program in the guest has opened or closed a virtio-serial port", port_data, false, false },
	[EVENT_BLOCK_IO_ERROR] = { "BLOCK_IO_ERROR", "a disk request has failed", io_error_data, false, false },
	[EVENT_DEVICE_NEEDS_RESET] = { "DEVICE_NEEDS_RESET", "the guest's driver has violated the virtio protocol; the device is stopped until its driver resets it",
		device_data, false, false },
	[EVENT_LINK_LOST] = { "LINK_LOST", "the peer of a network interface is gone; the link is down until the next start of the VM",
		link_data, false, false },
	[EVENT_FORWARDS_CHANGE] = { "FORWARDS_CHANGE",
		"the published ports of an interface of type network are closed, because its process cairn-publish has ended and has closed their connections; or the ports are open again",
		forwards_data, false, false },
	[EVENT_TRAY_MOVED] = { "DEVICE_TRAY_MOVED", "the tray of a CD drive was opened or closed", tray_data, false, false },
	[EVENT_DEVICE_DELETED] = { "DEVICE_DELETED", "a disk, an interface or a vCPU was detached from the running VM", deleted_data, false, false },
	[EVENT_DEVICE_UNPLUG_GUEST_ERROR] = { "DEVICE_UNPLUG_GUEST_ERROR", "the guest refuses to release a disk, an interface or a vCPU, which stays attached", unplug_data, false, false },
	[EVENT_BALLOON_CHANGE] = { "BALLOON_CHANGE", "the guest's balloon has another size; at most one event a second", balloon_data, false, false },
	[EVENT_VM_STATE_CHANGE] = { "VM_STATE_CHANGE",
		"the state of a VM or its reason has changed; after a start that has failed, from and state are equal, and reason is failed, destroyed if a client ended the start, or idle for a VM that sleeps",
		change_data, false, false },
	[EVENT_SHUTDOWN_PLAN] = { "SHUTDOWN_PLAN", "a shutdown or reboot was scheduled, delayed or cancelled, is overdue or has failed", plan_data, false,
		false },
	[EVENT_START_DELAYED] = { "START_DELAYED", "a hook of before-start has delayed a start", start_delayed_data, false, false },
	[EVENT_AUTOSTART] = { "AUTOSTART", "the daemon has tried to start the VM after a boot of the host", autostart_data,
		false, false },
	[EVENT_VM_DEFINED] = { "VM_DEFINED", "a VM was defined, redefined or renamed", defined_data, false, false },
	[EVENT_SNAPSHOT_CREATED] = { "SNAPSHOT_CREATED", "a snapshot was created", snapshot_data, false, false },
	[EVENT_SNAPSHOT_REVERTED] = { "SNAPSHOT_REVERTED", "the VM was reverted to a snapshot", snapshot_data, false, false },
	[EVENT_SNAPSHOT_DELETED] = { "SNAPSHOT_DELETED", "a snapshot was deleted", snapshot_data, false, false },
	[EVENT_SNAPSHOT_SKIPPED] = { "SNAPSHOT_SKIPPED", "the schedule could not create a snapshot",
		skipped_data, false, false },
	[EVENT_SCHEDULE_RUN] = { "SCHEDULE_RUN", "a run of a schedule has ended, or was missed", schedule_data, false, false },
	[EVENT_THRESHOLD] = { "THRESHOLD", "a figure of a VM is too high, or no longer", threshold_data, false, false },
	[EVENT_POOL_SPACE] = { "POOL_SPACE", "the file system of a pool has little space, or enough again", pool_data, false, true },
	[EVENT_DISK_SPACE] = { "DISK_SPACE", "a file system that holds images of a running VM has little space, or enough again", space_data, false, false },
	[EVENT_MEMORY_RECLAIMED] = { "MEMORY_RECLAIMED", "memory of a VM with reclaim_on_pressure was freed; at most one event a minute", memory_data,
		false, false },
	[EVENT_BALANCE_CHANGE] = { "BALANCE_CHANGE", "the daemon has shifted processor time or memory of a VM by load; at most one event a minute for each", balance_data,
		false, false },
	[EVENT_SNAPSHOT_RECOVERED] = { "SNAPSHOT_RECOVERED", "an operation on a snapshot that a crash had interrupted between two disks was completed or undone",
		recovered_data, false, false },
	[EVENT_GUEST_FROZEN] = { "GUEST_FROZEN", "the restored guest has frozen file systems, and no agent thaws them",
		repeated_data, false, false },
	[EVENT_PERMISSION_DENIED] = { "PERMISSION_DENIED", "a command was denied for lack of a role",
		denied_data, false, true },
	[EVENT_ROLES_CHANGED] = { "ROLES_CHANGED", "your roles have changed, and with them the VMs and jobs that you may see; only you get this event",
		no_fields, true, false },
	[EVENT_CLIENT_DROPPED] = { "CLIENT_DROPPED", "the daemon disconnected a client that did not read its answers", dropped_data, false, true },
	[EVENT_REFUSALS_LEFT_OUT] = { "REFUSALS_LEFT_OUT",
		"number of PERMISSION_DENIED and CLIENT_DROPPED events of a user that were suppressed",
		refusals_data, false, true },
	[EVENT_REQUEST_CHANGE] = { "REQUEST_CHANGE", "a request waits for approval, was approved, denied or withdrawn, has expired, or has ended",
		request_data, false, false },
	[EVENT_JOB_STATUS_CHANGE] = { "JOB_STATUS_CHANGE", "the status of a job has changed", job_status_data, false, false },
	[EVENT_JOB_PROGRESS] = { "JOB_PROGRESS", "progress of a job", job_progress_data, true, false },
	[EVENT_JOB_OUTPACED] = { "JOB_OUTPACED", "the guest writes faster than a job copies its disk, because of the limit or of a slow disk: its writes go to both images from then on",
		job_status_data, false, false },
	[EVENT_NETWORK_DEFINED] = { "NETWORK_DEFINED", "a network was defined or changed", network_data, false, false },
	[EVENT_NETWORK_UNDEFINED] = { "NETWORK_UNDEFINED", "the definition of a network was removed", network_data, false, false },
	[EVENT_NETWORK_STATE_CHANGE] = { "NETWORK_STATE_CHANGE", "a network was started or stopped, or its start has failed",
		network_state_data, false, false },
	[EVENT_VM_UNDEFINED] = { "VM_UNDEFINED", "a VM was undefined or renamed", undefined_data, false, false },
};

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
		if (events[i].name && !strcmp(events[i].name, name))
			return &events[i];
	return NULL;
}
