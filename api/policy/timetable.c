#include "api/policy/timetable.h"
#include "api/access/client_file.h"
#include "api/access/rights.h"
#include "api/schema/schema.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS 1000000000LL

const char *timetable_action_name(enum timetable_action a)
{
	return field_type_word(FIELD_SCHEDULE_ACTION, a);
}

bool timetable_name_is_good(const char *name)
{
	size_t len = strlen(name);

	if (!len || len > TIMETABLE_NAME_MAX || !isalnum((unsigned char)name[0]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
			return false;
	return true;
}

void timetable_entry_free(struct timetable_entry *t)
{
	if (!t)
		return;
	client_file_free(t->file);
	free(t->folder);
	free(t->maker);
	free(t);
}

void timetable_free(struct timetable *t)
{
	for (size_t i = 0; t && i < t->n; i++)
		timetable_entry_free(t->entries[i]);
	free(t);
}

int timetable_find(const struct timetable *t, const char *name)
{
	for (size_t i = 0; t && i < t->n; i++)
		if (!strcmp(t->entries[i]->name, name))
			return (int)i;
	return -1;
}

void timetable_drop(struct timetable *t, size_t i)
{
	timetable_entry_free(t->entries[i]);
	t->n--;
	memmove(&t->entries[i], &t->entries[i + 1], (t->n - i) * sizeof(t->entries[0]));
}

/* ---- due times ---- */

struct timetable_due timetable_due(const struct timetable_entry *t, int64_t now_s)
{
	struct timetable_due due = { 0 };
	int64_t last, before;

	if (!calendar_last(&t->calendar, t->z, t->last_s, now_s, &last))
		return due;
	if (t->missed == TIMETABLE_SKIP && now_s - last > TIMETABLE_GRACE_S) {
		due.missed_s = last;
		return due;
	}
	due.run_s = last;
	if (t->missed == TIMETABLE_ALL)
		for (unsigned i = 1; i < TIMETABLE_ALL_MAX && calendar_last(&t->calendar, t->z, t->last_s, due.run_s - 1, &before); i++)
			due.run_s = before;
	if (t->missed != TIMETABLE_ONCE && calendar_last(&t->calendar, t->z, t->last_s, due.run_s - 1, &before))
		due.missed_s = before;
	return due;
}

int64_t timetable_next(const struct timetable_entry *t)
{
	int64_t at;

	return calendar_next(&t->calendar, t->z, t->last_s, &at) ? at : 0;
}

/* ---- history ---- */

void timetable_note(struct timetable *t, const struct timetable_run *run)
{
	if (t->nhistory == TIMETABLE_HISTORY_MAX)
		memmove(&t->history[0], &t->history[1], --t->nhistory * sizeof(t->history[0]));
	t->history[t->nhistory++] = *run;
}

const struct timetable_run *timetable_last_run(const struct timetable *t, const char *schedule)
{
	for (size_t i = t->nhistory; i-- > 0;)
		if (!strcmp(t->history[i].schedule, schedule))
			return &t->history[i];
	return NULL;
}

/* ---- JSON ---- */

struct json_object *timetable_run_to_json(const struct timetable_run *run)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "schedule", run->schedule);
	js_put_str(o, "action", timetable_action_name(run->action));
	js_put_int(o, "due", run->due_s * NS);
	js_put_int(o, "time", run->run_s * NS);
	js_put_str(o, "outcome", run->outcome);
	if (run->detail[0])
		js_put_str(o, "detail", run->detail);
	return o;
}

static struct json_object *entry_to_json(const struct timetable_entry *t)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "name", t->name);
	js_put_str(o, "action", timetable_action_name(t->action));
	js_put_str(o, "on", t->on);
	js_put_str(o, "zone", t->zone);
	js_put_str(o, "missed", field_type_word(FIELD_SCHEDULE_MISSED, t->missed));
	js_put_bool(o, "paused", t->paused);
	if (t->folder)
		js_put_str(o, "folder", t->folder);
	js_put_int(o, "uid", t->uid);
	if (t->maker)
		js_put(o, "maker", rights_to_json(t->maker));
	js_put_int(o, "last_s", t->last_s);
	if (t->begun_s) {
		js_put_int(o, "begun_s", t->begun_s);
		js_put_int(o, "begun_run", (int64_t)t->begun_run);
		js_put_bool(o, "begun_on", t->begun_on);
	}
	return o;
}

struct json_object *timetable_to_json(const struct timetable *t)
{
	struct json_object *o = json_object_new_object(), *entries = json_object_new_array(), *history = json_object_new_array();

	for (size_t i = 0; i < t->n; i++)
		if (!t->entries[i]->removing)
			json_object_array_add(entries, entry_to_json(t->entries[i]));
	for (size_t i = 0; i < t->nhistory; i++)
		json_object_array_add(history, timetable_run_to_json(&t->history[i]));
	js_put(o, "schedules", entries);
	js_put(o, "history", history);
	return o;
}

static struct timetable_entry *entry_from_json(struct json_object *o)
{
	const char *name = js_get_str_or(o, "name", ""), *on = js_get_str_or(o, "on", ""), *zone = js_get_str_or(o, "zone", ""),
		   *folder = js_get_str(o, "folder");
	int action = field_type_index(FIELD_SCHEDULE_ACTION, js_get_str(o, "action")),
	    missed = field_type_index(FIELD_SCHEDULE_MISSED, js_get_str(o, "missed"));
	int64_t uid = js_get_int(o, "uid", -1), last = js_get_int(o, "last_s", -1), begun = js_get_time_s(o, "begun_s");
	struct json_object *maker = js_get(o, "maker");
	struct timetable_entry *t;
	struct calendar calendar;
	struct err e;

	if (!timetable_name_is_good(name) || strlen(zone) > TIME_ZONE_NAME_MAX || action < 0 || missed < 0 || uid < 0 || uid >= UINT32_MAX ||
		(action == TIMETABLE_EXPORT && (!folder || *folder != '/' || strlen(folder) > TIMETABLE_FOLDER_MAX)) ||
		last != js_get_time_s(o, "last_s") || calendar_parse(on, &calendar, &e) < 0)
		return NULL;
	t = must_alloc(calloc(1, sizeof(*t)));
	t->action = (enum timetable_action)action;
	t->missed = (enum timetable_missed)missed;
	t->paused = js_get_bool(o, "paused", false);
	t->calendar = calendar;
	t->uid = (uid_t)uid;
	t->last_s = last;
	t->begun_s = begun;
	t->begun_run = (uint64_t)js_get_int(o, "begun_run", 0);
	t->begun_on = js_get_bool(o, "begun_on", false);
	t->resumed = begun != 0;
	t->folder = action == TIMETABLE_EXPORT ? must_alloc(strdup(folder)) : NULL;
	snprintf(t->name, sizeof(t->name), "%s", name);
	snprintf(t->on, sizeof(t->on), "%s", on);
	snprintf(t->zone, sizeof(t->zone), "%s", zone);
	/* Without the rights of its maker, the schedule must not run with those of root. */
	if (maker && (rights_parse(maker, &t->maker, &e) < 0 || t->maker->uid != t->uid)) {
		timetable_entry_free(t);
		return NULL;
	}
	return t;
}

static void history_from_json(struct timetable *t, struct json_object *list)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		int action = field_type_index(FIELD_SCHEDULE_ACTION, js_get_str(o, "action"));
		struct timetable_run run = { .action = (enum timetable_action)action, .due_s = js_get_int(o, "due", 0) / NS,
			.run_s = js_get_int(o, "time", 0) / NS };

		if (action < 0)
			continue;
		snprintf(run.schedule, sizeof(run.schedule), "%s", js_get_str_or(o, "schedule", ""));
		snprintf(run.outcome, sizeof(run.outcome), "%s", js_get_str_or(o, "outcome", ""));
		snprintf(run.detail, sizeof(run.detail), "%s", js_get_str_or(o, "detail", ""));
		timetable_note(t, &run);
	}
}

void timetable_from_json(struct json_object *o, struct timetable **ret, unsigned *ret_bad)
{
	struct json_object *list = js_get_array(o, "schedules");
	struct timetable *t = must_alloc(calloc(1, sizeof(*t)));

	*ret_bad = 0;
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct timetable_entry *entry = entry_from_json(json_object_array_get_idx(list, i));

		if (entry && t->n < TIMETABLE_MAX && timetable_find(t, entry->name) < 0) {
			t->entries[t->n++] = entry;
			continue;
		}
		timetable_entry_free(entry);
		++*ret_bad;
	}
	history_from_json(t, js_get_array(o, "history"));
	if (!t->n && !t->nhistory) {
		timetable_free(t);
		t = NULL;
	}
	*ret = t;
}
