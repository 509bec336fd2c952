#include "api/policy/timetable_run.h"
#include "api/policy/timetable.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* Return whether the VM was started after the run began, and the daemon ended in that start: the guest has not run. */
static bool start_was_lost(const struct vm *vm, const struct timetable_entry *t)
{
	return vm->run != t->begun_run && !vm_state_is_active(vm->state) && vm->reason == VM_REASON_FAILED;
}

bool timetable_effect_is_there(const struct vm *vm, const struct timetable_entry *t)
{
	bool ran_since = vm->run != t->begun_run && !start_was_lost(vm, t);

	switch (t->action) {
	case TIMETABLE_START:
		return ran_since || vm_state_is_active(vm->state);
	case TIMETABLE_SHUTDOWN:
		return ran_since || !vm_state_is_active(vm->state) || vm_has(vm, VM_FACT_OFF_ASKED);
	case TIMETABLE_REBOOT:
		return vm_state_is_active(vm->state) && (ran_since || vm_has(vm, VM_FACT_REBOOTS));
	case TIMETABLE_SUSPEND:
		return vm->state == VM_PAUSED;
	case TIMETABLE_RESUME:
		return vm->state == VM_RUNNING;
	case TIMETABLE_SAVE:
		return vm->state == VM_SAVED;
	case TIMETABLE_SNAPSHOT:
	case TIMETABLE_EXPORT:
	case TIMETABLE_ACTION_COUNT:
		break;
	}
	return false;
}

static const char *const commands[TIMETABLE_ACTION_COUNT] = {
	[TIMETABLE_START] = "vm-start",
	[TIMETABLE_SHUTDOWN] = "vm-shutdown",
	[TIMETABLE_REBOOT] = "vm-reboot",
	[TIMETABLE_SUSPEND] = "vm-suspend",
	[TIMETABLE_RESUME] = "vm-resume",
	[TIMETABLE_SAVE] = "vm-managed-save",
	[TIMETABLE_SNAPSHOT] = "snapshot-create",
};

/* In the order of enum timetable_stage. */
static const char *const export_commands[] = { "snapshot-create", "vm-export", "snapshot-delete" };

void timetable_run_name(const struct timetable_entry *t, char name[TIMETABLE_RUN_NAME_BYTES])
{
	time_t due = (time_t)t->begun_s;
	struct tm tm;
	size_t n = (size_t)snprintf(name, TIMETABLE_RUN_NAME_BYTES, "%s-", t->name);

	gmtime_r(&due, &tm);
	strftime(name + n, TIMETABLE_RUN_NAME_BYTES - n, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

struct json_object *timetable_args(const struct vm *vm, const struct timetable_entry *t)
{
	struct json_object *args = json_object_new_object();
	char name[TIMETABLE_RUN_NAME_BYTES];

	timetable_run_name(t, name);
	js_put_str(args, "vm", vm->def->name);
	if (t->action == TIMETABLE_SNAPSHOT)
		js_put_str(args, "name", name);
	if (t->action != TIMETABLE_EXPORT)
		return args;
	if (t->stage != TIMETABLE_WRITE_ARCHIVE)
		js_put_str(args, "name", name);
	else if (t->snapped)
		js_put_str(args, "snapshot", name);
	if (t->stage == TIMETABLE_TAKE_SNAPSHOT)
		js_put_bool(args, "disks-only", true);
	return args;
}

const char *timetable_command(const struct vm *vm, const struct timetable_entry *t)
{
	if (t->action == TIMETABLE_EXPORT)
		return export_commands[t->stage];
	/* The guest has shut down for the reboot, and the earlier daemon ended before or in the start. */
	return commands[t->action == TIMETABLE_REBOOT && t->resumed && t->begun_on && !vm_state_is_active(vm->state) ? TIMETABLE_START : t->action];
}
