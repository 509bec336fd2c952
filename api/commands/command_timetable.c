/* Handlers of schedules. */
#include "api/commands/command.h"
#include "api/access/rights.h"
#include "api/policy/timetables.h"
#include "api/vm/image_users.h"
#include "api/vm/vm.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS 1000000000LL

/* Set the name that the client gave, or the action's with a number if that is taken. */
static int name_choose(struct call *c, struct timetable_entry *t, struct err *e)
{
	const char *name = js_get_str(c->args, "name"), *action = timetable_action_name(t->action);

	if (name && !timetable_name_is_good(name))
		return err_set(e, -EINVAL, ERR_INVALID,
			"name: \"%.80s\" is no name of a schedule; give up to %d letters, digits, '.', '_' and '-', such as nightly", name,
			TIMETABLE_NAME_MAX);
	snprintf(t->name, sizeof(t->name), "%s", name ? name : action);
	for (unsigned n = 2; !name && timetable_find(c->vm->timetable, t->name) >= 0; n++)
		snprintf(t->name, sizeof(t->name), "%s-%u", action, n);
	return 0;
}

static int calendar_set(struct call *c, struct timetable_entry *t, struct err *e)
{
	const char *on = js_get_str(c->args, "on"), *zone = js_get_str(c->args, "zone");
	int r = calendar_parse(on, &t->calendar, e);

	if (r < 0)
		return r;
	if (calendar_is_frequent(&t->calendar))
		return err_set(e, -EINVAL, ERR_INVALID, "calendar: \"%.60s\" comes more than once a minute; give one second, for "
			"example *:*:00", on);
	if (zone && t->calendar.zone[0])
		return err_set(e, -EINVAL, ERR_INVALID, "zone: the calendar already names the zone %s; give one of them", t->calendar.zone);
	if (zone && (!zone[0] || strlen(zone) > TIME_ZONE_NAME_MAX))
		return err_set(e, -EINVAL, ERR_INVALID, "zone: \"%.63s\" is no time zone; give for example Europe/Berlin", zone);
	snprintf(t->on, sizeof(t->on), "%s", on);
	snprintf(t->zone, sizeof(t->zone), "%s", zone ? zone : "");
	return 0;
}

static int folder_set(struct call *c, struct timetable_entry *t, struct err *e)
{
	const char *folder = js_get_str(c->args, "folder");
	bool exports = t->action == TIMETABLE_EXPORT;

	if (exports != !!folder)
		return err_set(e, -EINVAL, ERR_INVALID, exports ? "folder: is missing; export needs a folder for its archives" :
			"folder: is only for export");
	if (!exports)
		return 0;
	if (*folder != '/' || strlen(folder) > TIMETABLE_FOLDER_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "folder: must be an absolute path of at most %d bytes", TIMETABLE_FOLDER_MAX);
	t->folder = must_alloc(strdup(folder));
	/* A run would be refused. */
	return call_check_role(c, schema_find(DIALECT_DAEMON, "vm-export")->role, c->vm, e);
}

/* Set the user whose rights the schedule has. */
static int maker_set(struct call *c, struct timetable_entry *t, struct err *e)
{
	t->uid = c->uid;
	if (uid_is_root_or_own(c->uid))
		return 0;
	t->maker = rights_of_ids(&c->who);
	return t->maker ? 0 : err_set_errno(e, -ENOMEM, "schedule");
}

struct addition {
	struct call *call;
	int64_t next_s;
	char name[TIMETABLE_NAME_MAX + 1];
};

static void schedule_added(void *opaque, int r, const struct err *e)
{
	struct addition *a = opaque;
	struct json_object *o;

	if (r < 0) {
		call_fail(a->call, e);
	} else {
		o = json_object_new_object();
		js_put_str(o, "name", a->name);
		js_put_int(o, "next-run", a->next_s * NS);
		call_return(a->call, o);
	}
	free(a);
}

void command_timetable_add(struct call *c)
{
	struct timetable_entry *t = must_alloc(calloc(1, sizeof(*t)));
	struct addition *a = must_alloc(calloc(1, sizeof(*a)));
	struct err e;
	int r = template_check(c->vm, "have schedules", &e);

	t->action = (enum timetable_action)field_type_index(FIELD_SCHEDULE_ACTION, js_get_str(c->args, "action"));
	t->missed = (enum timetable_missed)MAX(field_type_index(FIELD_SCHEDULE_MISSED, js_get_str(c->args, "missed")), 0);
	if (!r)
		r = name_choose(c, t, &e);
	if (!r)
		r = calendar_set(c, t, &e);
	if (!r)
		r = folder_set(c, t, &e);
	if (!r)
		r = maker_set(c, t, &e);
	a->call = c;
	snprintf(a->name, sizeof(a->name), "%s", t->name);
	if (!r)
		r = timetables_add(c->vm, t, schedule_added, a, &e);
	if (!r) {
		a->next_s = t->next_s;
		return;
	}
	timetable_entry_free(t);
	free(a);
	call_fail(c, &e);
}

void command_timetable_remove(struct call *c)
{
	struct err e;

	if (timetables_remove(c->vm, js_get_str(c->args, "name"), call_done, c, &e) < 0)
		call_fail(c, &e);
}

void command_timetable_pause(struct call *c)
{
	struct err e;

	if (timetables_pause(c->vm, js_get_str(c->args, "name"), !js_get_bool(c->args, "resume", false), call_done, c, &e) < 0)
		call_fail(c, &e);
}

static void timetable_append(const struct vm *vm, struct json_object *list)
{
	for (size_t k = 0; vm->timetable && k < vm->timetable->n; k++)
		if (!vm->timetable->entries[k]->adding && !vm->timetable->entries[k]->removing)
			json_object_array_add(list, timetables_to_json(vm, vm->timetable->entries[k]));
}

void command_query_timetables(struct call *c)
{
	command_return_page(c, "schedules", timetable_append);
}

void command_query_timetable_history(struct call *c)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	const struct timetable *t = c->vm->timetable;

	for (size_t i = 0; t && i < t->nhistory; i++)
		json_object_array_add(list, timetable_run_to_json(&t->history[i]));
	js_put(o, "runs", list);
	call_return(c, o);
}
