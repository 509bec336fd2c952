/* timetable_run: the commands of a schedule's run, their arguments, and the checks whether the run took effect.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_TIMETABLE_RUN_H
#define CAIRN_API_POLICY_TIMETABLE_RUN_H

#include "api/policy/timetable.h"

#include <stdbool.h>

struct json_object;
struct vm;

#define TIMETABLE_RUN_NAME_BYTES (TIMETABLE_NAME_MAX + 32)

/* Print the name of the run's snapshot. */
void timetable_run_name(const struct timetable_entry *t, char name[TIMETABLE_RUN_NAME_BYTES]);
/* Whether the VM's state shows that a run of an earlier daemon took effect. For a snapshot, its name shows that. */
bool timetable_effect_is_there(const struct vm *vm, const struct timetable_entry *t);
/* Return the command for the run, or for its next stage. */
const char *timetable_command(const struct vm *vm, const struct timetable_entry *t);
/* Return the command's arguments. The caller owns them. */
struct json_object *timetable_args(const struct vm *vm, const struct timetable_entry *t);

#endif
