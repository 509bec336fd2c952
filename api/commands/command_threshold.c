/* Handlers of thresholds. */
#include "api/commands/command.h"
#include "api/access/rights.h"
#include "api/policy/thresholds.h"
#include "api/policy/timetable.h"
#include "api/vm/image_users.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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
	t->maker = rights_of_user(&c->who);
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

static void thresholds_append(const struct vm *vm, struct json_object *list)
{
	const struct thresholds *all = thresholds_of(vm);

	for (size_t k = 0; all && k < all->n; k++)
		json_object_array_add(list, thresholds_show(vm, all->list[k]));
}

void command_query_thresholds(struct call *c)
{
	command_return_page(c, "thresholds", thresholds_append);
}
