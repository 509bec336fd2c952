/* Handlers of snapshot schedules. */
#include "api/commands/command.h"
#include "api/jobs/snapshots.h"
#include "api/policy/scheduler.h"
#include "api/store/store.h"
#include "api/vm/image_users.h"
#include "api/vm/vm.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_TOLD_MAX 1000 /* these names fit into one answer: an automatic snapshot's name has at most 31 bytes */

/* Set *p to the VM's plan, changed by the arguments. Without a plan, absent arguments get their defaults. */
static int plan_from_args(struct call *c, struct schedule_plan *p, struct err *e)
{
	const char *every = js_get_str(c->args, "every"), *schedule_store = js_get_str(c->args, "keep"),
		   *min_free = js_get_str(c->args, "min-free");
	bool first = !c->vm->schedule;
	int r = 0;

	*p = first ? (struct schedule_plan){0} : c->vm->schedule->plan;
	if (first && !every)
		return err_set(e, -EINVAL, ERR_INVALID, "every: is missing; give an interval such as 1h");
	if (first && !schedule_store)
		schedule_store = SCHEDULE_KEEP_DEFAULT;
	if (first && !min_free)
		min_free = SCHEDULE_MIN_FREE_DEFAULT;
	if (every)
		r = schedule_set_every(p, every, e);
	if (!r && schedule_store)
		r = schedule_set_keep(p, schedule_store, e);
	if (!r && min_free)
		r = schedule_set_min_free(p, min_free, e);
	return r;
}

struct keep {
	struct store_work work;
	struct call *call;
	struct schedule_plan plan;
	bool removes;
};

static void schedule_stored(struct store_work *work)
{
	struct keep *k = container_of(work, struct keep, work);
	struct call *c = k->call;

	c->vm = vm_find_uuid(c->host, c->uuid); /* the VM may have been undefined meanwhile */
	if (work->r < 0) {
		call_fail(c, &work->e);
	} else {
		if (c->vm && k->removes)
			scheduler_remove(c->vm);
		else if (c->vm)
			scheduler_set(c->vm, &k->plan);
		call_return(c, NULL);
	}
	free(k);
}

/* Store the plan. plan: NULL: remove the stored plan. */
static void schedule_store(struct call *c, const struct schedule_plan *plan)
{
	struct keep *k = must_alloc(calloc(1, sizeof(*k)));
	struct err e;

	*k = (struct keep){ { .done = schedule_stored, .loop = c->host->loop }, c, .removes = !plan };
	if (plan)
		k->plan = *plan;
	if (scheduler_store_plan(c->vm, plan, &k->work, &e) < 0) {
		free(k);
		call_fail(c, &e);
	}
}

/* ---- dry run ---- */

struct would {
	struct call *call;
	struct schedule_plan plan;
};

static void would_return(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct would *w = opaque;
	struct call *c = w->call;
	bool *victims = r < 0 ? NULL : calloc(s->n + 1, sizeof(*victims));
	struct json_object *o, *list;
	size_t count = 0;

	if (r < 0) {
		call_fail(c, e);
		free(w);
		return;
	}
	if (!victims)
		abort();
	scheduler_victims(&w->plan, s, true, victims);
	list = json_object_new_array();
	for (size_t i = 0; i < s->n; i++)
		if (victims[i] && count++ < NAMES_TOLD_MAX)
			json_object_array_add(list, json_object_new_string(s->list[i].name));
	o = json_object_new_object();
	js_put(o, "would-delete", list);
	js_put_uint(o, "count", count);
	call_return(c, o);
	free(victims);
	free(w);
}

static void would_fetch(struct call *c, const struct schedule_plan *plan)
{
	struct would *w;
	struct err e;

	if (vm_check_claim(c->vm, VM_CLAIM_READ, "read its snapshots", &e) < 0) {
		call_fail(c, &e);
		return;
	}
	w = must_alloc(malloc(sizeof(*w)));
	*w = (struct would){c, *plan};
	c->on_images = true;
	snapshots_fetch(c->vm, would_return, w);
}

void command_schedule_set(struct call *c)
{
	struct schedule_plan plan;
	struct err e;
	int r = template_check(c->vm, "take snapshots", &e);

	if (!r)
		r = plan_from_args(c, &plan, &e);
	if (r < 0)
		call_fail(c, &e);
	else if (js_get_bool(c->args, "dry-run", false))
		would_fetch(c, &plan);
	else
		schedule_store(c, &plan);
}

void command_schedule_remove(struct call *c)
{
	schedule_store(c, NULL);
}

static void schedule_append(const struct vm *vm, struct json_object *list)
{
	if (vm->schedule)
		json_object_array_add(list, scheduler_to_json(vm));
}

void command_query_schedules(struct call *c)
{
	command_return_page(c, "schedules", schedule_append);
}
