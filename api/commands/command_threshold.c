/* Handlers of thresholds. */
#include "api/commands/command.h"
#include "api/access/rights.h"
#include "api/policy/thresholds.h"
#include "api/vm/image_users.h"
#include "api/vm/vm.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define PAGE_BYTES (40 * 1024)

static int name_set(struct call *c, struct threshold *t, struct err *e)
{
	const char *name = js_get_str_or(c->args, "name", field_type_word(FIELD_MEASURE, t->measure));

	if (!timetable_name_is_good(name))
		return err_set(e, -EINVAL, ERR_INVALID,
			"name: \"%.80s\" is no name of a threshold; give up to %d letters, digits, '.', '_' and '-', such as busy", name,
			THRESHOLD_NAME_MAX);
	snprintf(t->name, sizeof(t->name), "%s", name);
	return 0;
}

static int threshold_parse(struct call *c, struct threshold *t, struct err *e)
{
	int64_t ns = js_get_int(c->args, "for", THRESHOLD_FOR_DEFAULT_S * (int64_t)CLOCK_NS_PER_S);
	const char *then = js_get_str(c->args, "then");
	int r;

	t->measure = (enum threshold_measure)field_type_index(FIELD_MEASURE, js_get_str(c->args, "measure"));
	t->then = then ? (enum threshold_action)field_type_index(FIELD_THRESHOLD_ACTION, then) : THRESHOLD_NOTHING;
	t->uid = c->uid;
	t->value = NAN;
	r = name_set(c, t, e);
	if (!r)
		r = threshold_set_limits(t, js_get_str(c->args, "above"), js_get_str(c->args, "below"), e);
	if (r < 0)
		return r;
	if (ns < 0 || ns > THRESHOLD_FOR_MAX_S * (int64_t)CLOCK_NS_PER_S)
		return err_set(e, -EINVAL, ERR_INVALID, "for: must be 0 to seven days, in ns");
	t->for_s = (uint32_t)(ns / (int64_t)CLOCK_NS_PER_S);
	if (uid_is_root_or_own(c->uid))
		return 0;
	t->maker = rights_of_ids(&c->who);
	return t->maker ? 0 : err_set_errno(e, -ENOMEM, "threshold");
}

void command_threshold_set(struct call *c)
{
	struct threshold *t = must_alloc(calloc(1, sizeof(*t)));
	struct err e;
	int r = template_check(c->vm, "have thresholds", &e);

	if (!r)
		r = threshold_parse(c, t, &e);
	if (!r)
		r = thresholds_set(c->vm, t, call_done, c, &e);
	if (r < 0) {
		threshold_free(t);
		call_fail(c, &e);
	}
}

void command_threshold_remove(struct call *c)
{
	struct err e;

	if (thresholds_remove(c->vm, js_get_str(c->args, "name"), call_done, c, &e) < 0)
		call_fail(c, &e);
}

static bool may_see(const struct call *c, const struct vm *vm)
{
	return conn_role_for(c->conn, vm->def->uuid) >= ROLE_VIEWER;
}

void command_query_thresholds(struct call *c)
{
	const char *name = js_get_str(c->args, "vm"), *after = js_get_str(c->args, "after");
	struct vm_host *host = c->host;
	struct vm *only = name ? vm_find(host, name) : NULL;
	size_t i = vm_index_after(host, after ? after : ""), bytes = 0;
	struct json_object *o, *list;
	struct err e;

	if (name && (!only || !may_see(c, only))) {
		err_set(&e, -ENOENT, ERR_NOT_FOUND, "there is no VM '%.255s'. Next: cairn list --all", name);
		call_fail(c, &e);
		return;
	}
	o = json_object_new_object();
	list = json_object_new_array();
	for (; i < host->nvms && bytes < PAGE_BYTES; i++) {
		const struct thresholds *all = thresholds_of(host->vms[i]);

		if (!all || (only && host->vms[i] != only) || !may_see(c, host->vms[i]))
			continue;
		for (size_t k = 0; k < all->n; k++) {
			json_object_array_add(list, thresholds_show(host->vms[i], all->list[k]));
			bytes += 700;
		}
	}
	js_put(o, "thresholds", list);
	if (i < host->nvms)
		js_put_str(o, "next", host->vms[i - 1]->def->name);
	call_return(c, o);
}
