/* Parses and prints the policies: restart, shutdown, idle, start order, balance. */
#include "api/definition/definition_key.h"
#include "api/wire/json.h"
#include "base/duration.h"
#include "base/util.h"

#include <errno.h>

#define DAY_S (24 * 3600)

static const struct choice thens[] = { { "leave", DEFINITION_LEAVE }, { "destroy", DEFINITION_DESTROY },
	{ "save", DEFINITION_SAVE }, { NULL, 0 } };
const struct choice definition_stop_actions[] = { { "leave", DEFINITION_LEAVE },
	{ "shutdown", DEFINITION_SHUTDOWN }, { "save", DEFINITION_SAVE }, { NULL, 0 } };
static const struct choice idle_actions[] = { { "suspend", DEFINITION_SUSPEND },
	{ "save", DEFINITION_SAVE }, { NULL, 0 } };

#define RESTART(field) offsetof(struct backoff_rule, field)
static const struct key restart_rows[] = {
	{ "delay", KEY_NUMBER, .offset = RESTART(delay_s), .min = 0, .max = DAY_S,
		.about = "seconds before the second restart; doubled for each further one", .initial = "1" },
	{ "max_delay", KEY_NUMBER, .offset = RESTART(max_delay_s), .min = 0, .max = DAY_S,
		.about = "longest delay, in seconds", .initial = "60" },
	{ "tries", KEY_NUMBER, .offset = RESTART(tries), .min = 0, .max = 1000,
		.about = "maximum number of restarts in a window; 0: no limit", .initial = "5" },
	{ "window", KEY_NUMBER, .offset = RESTART(window_s), .min = 1, .max = 30 * DAY_S,
		.about = "length of the window, in seconds", .initial = "300" },
};
const struct keys definition_restart_keys = { restart_rows, ARRAY_SIZE(restart_rows), NULL };

#define DEF(field) offsetof(struct definition, field)
static const struct key shutdown_rows[] = {
	{ "deadline", KEY_NUMBER, .offset = DEF(shutdown_deadline_s), .min = 1, .max = DAY_S,
		.about = "seconds that the guest has to shut down after the power button was pressed",
		.initial = "30" },
	{ "then", KEY_CHOICE, .offset = DEF(shutdown_then), .choices = thens,
		.about = "action when the guest misses the deadline", .initial = "\"leave\"" },
};
const struct keys definition_shutdown_keys = { shutdown_rows, ARRAY_SIZE(shutdown_rows), NULL };

static int parse_after(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 255);
	char given[48];
	uint32_t after;

	if (!s)
		return -EINVAL;
	key_quote(s, given);
	if (duration_parse(s, &after) < 0 || !after)
		return key_error(p, "\"%s\" is not a duration from 1s to 366d, such as \"90s\", \"30m\" or \"2h\"", given);
	*(uint32_t *)into = after;
	return 0;
}

static const struct key idle_rows[] = {
	{ "after", KEY_CUSTOM, .offset = DEF(idle_after_s), .parse = parse_after, .needed = true,
		.about = "duration of idleness before the action, such as 90s, 30m or 2h",
		.form = "{\"type\":\"string\",\"pattern\":\"^[0-9]*[1-9][0-9]*[smhd]$\"}" },
	{ "action", KEY_CHOICE, .offset = DEF(idle_action), .choices = idle_actions,
		.about = "action on the idle VM", .initial = "\"suspend\"" },
	{ "cpu", KEY_NUMBER, .offset = DEF(idle_cpu_percent), .min = 0, .max = 100,
		.about = "CPU usage, in percent of one processor, that still counts as idle", .initial = "2" },
};
const struct keys definition_idle_keys = { idle_rows, ARRAY_SIZE(idle_rows), NULL };

int definition_prepare_idle(struct parse *p, struct json_object *v, void *into)
{
	(void)into;
	if (json_object_is_type(v, json_type_object) && !js_get(v, "after"))
		return key_error(p, "after is missing; give a duration such as \"30m\"");
	return 0;
}

void definition_policy_default(struct definition *d)
{
	d->restart = (struct backoff_rule){ .delay_s = 1, .max_delay_s = 60, .tries = 5, .window_s = 300 };
	d->shutdown_deadline_s = 30;
	d->idle_cpu_percent = 2;
	d->idle_action = DEFINITION_SUSPEND;
}

int definition_check_policy(struct parse *p)
{
	const struct backoff_rule *r = &p->d->restart;

	if (r->max_delay_s < r->delay_s)
		return key_error(p, "restart: max_delay (%u s) is less than delay (%u s); give a larger max_delay",
			r->max_delay_s, r->delay_s);
	return 0;
}

/* ---- balance ---- */

static int prepare_shares(struct parse *p, struct json_object *v, void *into)
{
	(void)v;
	(void)into;
	p->d->balance.shares = true;
	return 0;
}

static int prepare_memory(struct parse *p, struct json_object *v, void *into)
{
	(void)v;
	(void)into;
	p->d->balance.memory = true;
	return 0;
}

static const struct key shares_rows[] = {
	{ "min", KEY_NUMBER, .offset = DEF(balance.shares_min), .min = 2, .max = 262144, .about = "fewest shares [cpu_shares]" },
	{ "max", KEY_NUMBER, .offset = DEF(balance.shares_max), .min = 2, .max = 262144, .about = "most shares [cpu_shares]" },
};
KEYS(shares_keys, shares_rows);

static const struct key memory_rows[] = {
	{ "min", KEY_CUSTOM, .offset = DEF(balance.memory_min), .parse = key_parse_memory, .form = KEY_MEMORY_FORM,
		.about = "least memory, as memory [current_memory]" },
	{ "max", KEY_CUSTOM, .offset = DEF(balance.memory_max), .parse = key_parse_memory, .form = KEY_MEMORY_FORM,
		.about = "most memory, as memory [memory]" },
};
KEYS(memory_keys, memory_rows);

static const struct key balance_rows[] = {
	{ "cpu_shares", KEY_OBJECT, .of = &shares_keys, .parse = prepare_shares,
		.about = "bounds of the VM's cpu_shares, which change with its need of processors" },
	{ "memory", KEY_OBJECT, .of = &memory_keys, .parse = prepare_memory,
		.about = "bounds of the memory that the balloon leaves to the guest, which changes with its need" },
};
const struct keys definition_balance_keys = { balance_rows, ARRAY_SIZE(balance_rows), NULL };

static int check_shares(struct parse *p)
{
	const struct definition_balance *b = &p->d->balance;
	uint32_t shares = p->d->cpu_shares ? p->d->cpu_shares : DEFINITION_CPU_SHARES;

	if (b->shares_min > shares)
		return key_error(p, "balance.cpu_shares.min: %u is more than cpu_shares, which is %u; change one of them", b->shares_min, shares);
	if (b->shares_max && b->shares_max < shares)
		return key_error(p, "balance.cpu_shares.max: %u is less than cpu_shares, which is %u; change one of them", b->shares_max, shares);
	return 0;
}

static int check_memory(struct parse *p)
{
	const struct definition_balance *b = &p->d->balance;
	uint64_t first = definition_first_memory(p->d);

	if (!p->d->balloon)
		return key_error(p, "balance.memory: has no effect without a balloon; set balloon to true");
	if (b->memory_min > first)
		return key_error(p, "balance.memory.min: is more than the VM starts with; raise current_memory, or give a smaller min");
	if (b->memory_max > p->d->ram_bytes)
		return key_error(p, "balance.memory.max: is more than memory; a balloon cannot give the guest more");
	if (b->memory_max && b->memory_max < first)
		return key_error(p, "balance.memory.max: is less than the VM starts with; give a smaller current_memory, or a larger max");
	return 0;
}

int definition_check_balance(struct parse *p)
{
	int r = p->d->balance.shares ? check_shares(p) : 0;

	return !r && p->d->balance.memory ? check_memory(p) : r;
}

/* ---- to JSON ---- */

static struct json_object *restart_to_json(const struct backoff_rule *r)
{
	struct json_object *o = json_object_new_object();

	js_put_uint(o, "delay", r->delay_s);
	js_put_uint(o, "max_delay", r->max_delay_s);
	js_put_uint(o, "tries", r->tries);
	js_put_uint(o, "window", r->window_s);
	return o;
}

void definition_put_policies(struct json_object *o, const struct definition *d)
{
	static const char *const names[] = { [DEFINITION_LEAVE] = "leave", [DEFINITION_DESTROY] = "destroy",
		[DEFINITION_SAVE] = "save", [DEFINITION_SHUTDOWN] = "shutdown",
		[DEFINITION_SUSPEND] = "suspend" };
	struct json_object *shutdown = json_object_new_object(), *idle;
	char after[DURATION_TEXT];

	js_put(o, "restart", restart_to_json(&d->restart));
	js_put_uint(shutdown, "deadline", d->shutdown_deadline_s);
	js_put_str(shutdown, "then", names[d->shutdown_then]);
	js_put(o, "shutdown", shutdown);
	if (d->idle_after_s) {
		idle = json_object_new_object();
		duration_print(d->idle_after_s, after);
		js_put_str(idle, "after", after);
		js_put_str(idle, "action", names[d->idle_action]);
		js_put_uint(idle, "cpu", d->idle_cpu_percent);
		js_put(o, "idle", idle);
	}
	js_put_uint(o, "order", d->order);
	js_put_uint(o, "start_delay", d->start_delay_s);
	js_put_str(o, "stop_action", names[d->stop_action]);
}

/* min, max: 0: not given. put: prints one of them. */
static struct json_object *bounds_to_json(uint64_t min, uint64_t max, void (*put)(struct json_object *o, const char *key, uint64_t v))
{
	struct json_object *o = json_object_new_object();

	if (min)
		put(o, "min", min);
	if (max)
		put(o, "max", max);
	return o;
}

void definition_put_balance(struct json_object *o, const struct definition *d)
{
	struct json_object *balance;

	if (!d->balance.shares && !d->balance.memory)
		return;
	balance = json_object_new_object();
	if (d->balance.shares)
		js_put(balance, "cpu_shares", bounds_to_json(d->balance.shares_min, d->balance.shares_max, js_put_uint));
	if (d->balance.memory)
		js_put(balance, "memory", bounds_to_json(d->balance.memory_min, d->balance.memory_max, key_put_memory));
	js_put(o, "balance", balance);
}
