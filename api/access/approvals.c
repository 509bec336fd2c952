#include "api/access/approvals.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/schema/schema.h"
#include "api/store/store.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOUR_NS (3600 * 1000000000LL)

_Static_assert(APPROVAL_VM_MAX == VM_NAME_MAX, "a name fits");

/* ---- acts ---- */

static const char *const act_words[] = { "destroy", "shutdown", "reset", "undefine", "snapshot-revert", "snapshot-delete", "export", "dump",
	"clone" };

enum act {
	DESTROY = 1 << 0,
	SHUTDOWN = 1 << 1,
	RESET = 1 << 2,
	UNDEFINE = 1 << 3,
	REVERT = 1 << 4,
	DELETE = 1 << 5,
	EXPORT = 1 << 6,
	DUMP = 1 << 7,
	CLONE = 1 << 8,
};

/* The commands of the act, and other commands with the same effect. */
static const struct {
	enum dialect dialect;
	const char *command;
	unsigned acts;
} act_commands[] = {
	{ DIALECT_DAEMON, "vm-destroy", DESTROY },
	{ DIALECT_DAEMON, "vm-promote", DESTROY },
	{ DIALECT_DAEMON, "vm-managed-save-remove", DESTROY },
	{ DIALECT_DAEMON, "vm-shutdown", SHUTDOWN },
	{ DIALECT_DAEMON, "vm-reboot", SHUTDOWN },
	{ DIALECT_DAEMON, "daemon-stop", DESTROY | SHUTDOWN },
	{ DIALECT_DAEMON, "vm-reset", RESET },
	{ DIALECT_DAEMON, "vm-undefine", UNDEFINE },
	{ DIALECT_DAEMON, "snapshot-revert", REVERT },
	{ DIALECT_DAEMON, "snapshot-delete", DELETE },
	{ DIALECT_DAEMON, "snapshot-schedule-set", DELETE },
	{ DIALECT_DAEMON, "vm-export", EXPORT },
	{ DIALECT_DAEMON, "vm-blockcopy", EXPORT },
	{ DIALECT_DAEMON, "vm-dump", DUMP },
	{ DIALECT_DAEMON, "vm-save", DUMP },
	{ DIALECT_DAEMON, "vm-clone", CLONE },
	{ DIALECT_DAEMON, "vm-fork", CLONE },
	{ DIALECT_DAEMON, "group-clone", CLONE },
	{ DIALECT_QEMU, "quit", DESTROY },
	{ DIALECT_QEMU, "system_powerdown", SHUTDOWN },
	{ DIALECT_QEMU, "system_reset", RESET },
	{ DIALECT_QEMU, "snapshot-load", REVERT },
	{ DIALECT_QEMU, "snapshot-delete", DELETE },
	{ DIALECT_QEMU, "dump-guest-memory", DUMP },
};

/* First words of QEMU's monitor. */
static const struct {
	const char *word;
	unsigned acts;
} monitor_words[] = { { "quit", DESTROY }, { "q", DESTROY }, { "system_powerdown", SHUTDOWN }, { "system_reset", RESET }, { "loadvm", REVERT },
	{ "delvm", DELETE } };

unsigned approval_act_bit(const char *word)
{
	for (unsigned i = 0; word && i < ARRAY_SIZE(act_words); i++)
		if (!strcmp(act_words[i], word))
			return 1u << i;
	return 0;
}

const char *approval_act_words(void)
{
	return "destroy, shutdown, reset, undefine, snapshot-revert, snapshot-delete, export, dump, clone";
}

static unsigned acts_of_monitor(const char *line)
{
	static const char blanks[] = " \t\r\n";
	size_t n;

	if (!line)
		return 0;
	line += strspn(line, blanks);
	n = strcspn(line, blanks);
	for (size_t i = 0; i < ARRAY_SIZE(monitor_words); i++)
		if (strlen(monitor_words[i].word) == n && !memcmp(monitor_words[i].word, line, n))
			return monitor_words[i].acts;
	return 0;
}

unsigned approval_acts_of(enum dialect d, const char *command, struct json_object *args, const struct definition *def)
{
	bool reboots = !strcmp(command, "vm-reboot");
	unsigned acts = 0;
	const char *then;

	if (d == DIALECT_QEMU && !strcmp(command, "human-monitor-command"))
		acts = acts_of_monitor(js_get_str(args, "command-line"));
	for (size_t i = 0; i < ARRAY_SIZE(act_commands); i++)
		if (act_commands[i].dialect == d && !strcmp(act_commands[i].command, command))
			acts = act_commands[i].acts;
	if (js_get_bool(args, "dry-run", false))
		return 0;
	/* A deadline destroys the VM. */
	if (acts & SHUTDOWN && !reboots && (js_get(args, "then") || js_get(args, "timeout") || (def && def->shutdown_then == DEFINITION_DESTROY)))
		acts |= DESTROY;
	then = js_get_str_or(args, "then", "");
	if (!strcmp(command, "vm-dump"))
		acts |= !strcmp(then, "crash") ? DESTROY : !strcmp(then, "reset") ? RESET : 0;
	/* The memory is lost. */
	if ((!strcmp(command, "snapshot-create") && js_get_bool(args, "halt", false) && js_get_bool(args, "disks-only", false)) ||
		(!strcmp(command, "vm-start") && js_get_bool(args, "force-boot", false)) ||
		(!strcmp(command, "vm-undefine") && js_get_bool(args, "managed-save", false)))
		acts |= DESTROY;
	return acts;
}

/* ---- rules ---- */

static bool rule_binds(const struct approval_rule *r, const struct peer *who)
{
	return r->everyone || (r->is_group ? peer_is_in_group(who, r->id) : r->id == who->uid);
}

const struct approval_rule *approvals_find_rule(const struct approvals *t, const struct peer *who, const uint8_t *uuid, unsigned acts)
{
	for (size_t i = 0; i < t->nrules; i++) {
		const struct approval_rule *r = &t->rules[i];

		if ((r->acts & acts) && (!r->of_vm || !uuid || !memcmp(r->uuid, uuid, sizeof(r->uuid))) && rule_binds(r, who))
			return r;
	}
	return NULL;
}

static bool rules_are_about_same(const struct approval_rule *a, const struct approval_rule *b)
{
	return a->everyone == b->everyone && (a->everyone || (a->is_group == b->is_group && a->id == b->id)) && a->of_vm == b->of_vm &&
		(!a->of_vm || !memcmp(a->uuid, b->uuid, sizeof(a->uuid)));
}

int approvals_set_rule(struct approvals *t, const struct approval_rule *rule)
{
	uint64_t serial;
	size_t i = 0;

	while (i < t->nrules && !rules_are_about_same(&t->rules[i], rule))
		i++;
	if (!rule->acts && i == t->nrules)
		return -ENOENT;
	if (!rule->acts) {
		t->nrules--;
		memmove(&t->rules[i], &t->rules[i + 1], (t->nrules - i) * sizeof(*t->rules));
		return 0;
	}
	if (i == t->nrules) {
		if (t->nrules == APPROVAL_RULES_MAX)
			return -ENOSPC;
		t->rules = must_alloc(reallocarray(t->rules, t->nrules + 1, sizeof(*t->rules)));
		t->rules[t->nrules++].serial = ++t->last_serial;
	}
	serial = t->rules[i].serial;
	t->rules[i] = *rule;
	t->rules[i].serial = serial;
	return 0;
}

struct json_object *approval_rule_to_json(const struct approval_rule *r)
{
	struct json_object *o = json_object_new_object(), *acts = json_object_new_array();

	for (unsigned i = 0; i < ARRAY_SIZE(act_words); i++)
		if (r->acts & 1u << i)
			json_object_array_add(acts, json_object_new_string(act_words[i]));
	js_put(o, "acts", acts);
	if (!r->everyone)
		js_put_int(o, r->is_group ? "group" : "user", r->id);
	if (r->of_vm)
		js_put_uuid(o, VM_UUID_KEY, r->uuid);
	js_put_int(o, "expire", r->expire_ns);
	return o;
}

/* ---- requests ---- */

static const char *const state_words[APPROVAL_STATE_COUNT] = { "waiting", "approved", "running", "done", "failed", "denied", "withdrawn", "expired" };

const char *approval_state_word(enum approval_state s)
{
	return state_words[s];
}

bool approval_is_open(const struct approval_request *r)
{
	return r->state <= APPROVAL_RUNNING;
}

bool approval_is_grant(const struct approval_request *r)
{
	return !strcmp(r->command, APPROVAL_GRANT);
}

struct approval_request *approvals_find(const struct approvals *t, int64_t id)
{
	for (size_t i = 0; i < t->nrequests; i++)
		if (t->requests[i]->id == id)
			return t->requests[i];
	return NULL;
}

struct approval_request *approvals_find_same(const struct approvals *t, uid_t uid, const char *command, struct json_object *args,
	const uint8_t *uuid)
{
	for (size_t i = 0; i < t->nrequests; i++) {
		struct approval_request *r = t->requests[i];

		if (approval_is_open(r) && r->asker->uid == uid && !strcmp(r->command, command) && r->of_vm == (uuid != NULL) &&
			(!uuid || !memcmp(r->uuid, uuid, sizeof(r->uuid))) && json_object_equal(r->args, args))
			return r;
	}
	return NULL;
}

void approval_request_free(struct approval_request *r)
{
	if (!r)
		return;
	free(r->asker);
	json_object_put(r->args);
	free(r);
}

static void remove_at(struct approvals *t, size_t i)
{
	approval_request_free(t->requests[i]);
	t->nrequests--;
	memmove(&t->requests[i], &t->requests[i + 1], (t->nrequests - i) * sizeof(*t->requests));
}

void approvals_remove(struct approvals *t, unsigned id)
{
	for (size_t i = 0; i < t->nrequests; i++)
		if (t->requests[i]->id == id) {
			remove_at(t, i);
			return;
		}
}

/* Drop the oldest ended request. uid: of this user; -1: of any. strangers: of users without a role only.
 * Returns whether there was one. */
static bool drop_oldest(struct approvals *t, int64_t uid, bool strangers)
{
	for (size_t i = 0; i < t->nrequests; i++)
		if (!approval_is_open(t->requests[i]) && (uid < 0 || t->requests[i]->asker->uid == uid) &&
			(!strangers || t->requests[i]->stranger)) {
			remove_at(t, i);
			return true;
		}
	return false;
}

/* Return whether a time is at most so long ago. A time that lies as far ahead is from a clock that was wrong. */
static bool is_recent(int64_t at_ns, int64_t now_ns, int64_t span_ns)
{
	return at_ns > now_ns - span_ns && at_ns < now_ns + span_ns;
}

static void drop_old(struct approvals *t, int64_t now_ns)
{
	for (size_t i = t->nrequests; i--;)
		if (!approval_is_open(t->requests[i]) && !is_recent(t->requests[i]->ended_ns, now_ns, APPROVAL_KEEP_NS))
			remove_at(t, i);
}

/* Make room for another request of a user without a role. */
static int strangers_room(struct approvals *t, int64_t now_ns, struct err *e)
{
	size_t open = 0, all = 0, hour = 0;

	for (size_t i = 0; i < t->nrequests; i++) {
		const struct approval_request *r = t->requests[i];

		if (!r->stranger)
			continue;
		all++;
		open += approval_is_open(r);
		hour += is_recent(r->asked_ns, now_ns, HOUR_NS);
	}
	if (open >= APPROVAL_STRANGERS_OPEN_MAX || hour >= APPROVAL_STRANGERS_HOUR_MAX)
		return err_set(e, -EDQUOT, ERR_QUOTA, "users without a role made too many requests; try again later, or ask an admin");
	if (all >= APPROVAL_STRANGERS_MAX)
		drop_oldest(t, -1, true);
	return 0;
}

int approvals_add(struct approvals *t, struct approval_request *r, int64_t now_ns, struct err *e)
{
	size_t open = 0, all = 0, grants = 0;
	int64_t oldest_ns = 0;

	drop_old(t, now_ns);
	if (r->stranger && strangers_room(t, now_ns, e) < 0)
		return -EDQUOT;
	for (size_t i = 0; i < t->nrequests; i++) {
		if (t->requests[i]->asker->uid != r->asker->uid)
			continue;
		open += approval_is_open(t->requests[i]);
		grants += approval_is_open(t->requests[i]) && approval_is_grant(t->requests[i]);
		if (!all++)
			oldest_ns = t->requests[i]->asked_ns;
	}
	if (approval_is_grant(r) && grants >= APPROVAL_GRANTS_MAX)
		return err_set(e, -EDQUOT, ERR_QUOTA, "you have %d requests for roles that wait, which is the most; withdraw one: cairn deny NUMBER",
			APPROVAL_GRANTS_MAX);
	if (open >= APPROVAL_OPEN_MAX)
		return err_set(e, -EDQUOT, ERR_QUOTA, "you have %d requests that wait, which is the most; withdraw one: cairn deny NUMBER",
			APPROVAL_OPEN_MAX);
	if (all >= APPROVAL_USER_MAX && is_recent(oldest_ns, now_ns, HOUR_NS))
		return err_set(e, -EDQUOT, ERR_QUOTA, "you made %d requests within an hour, which is the most; try again later", APPROVAL_USER_MAX);
	if (all >= APPROVAL_USER_MAX)
		drop_oldest(t, r->asker->uid, false);
	if (t->nrequests >= APPROVAL_REQUESTS_MAX && !drop_oldest(t, -1, false))
		return err_set(e, -ENOSPC, ERR_QUOTA, "%d requests wait, which is the most; an admin can deny some: cairn requests",
			APPROVAL_REQUESTS_MAX);
	t->requests = must_alloc(reallocarray(t->requests, t->nrequests + 1, sizeof(*t->requests)));
	r->id = ++t->last_id;
	t->requests[t->nrequests++] = r;
	return 0;
}

void approval_end(struct approval_request *r, enum approval_state s, const char *detail, int64_t now_ns)
{
	r->state = s;
	r->ended_ns = now_ns;
	snprintf(r->detail, sizeof(r->detail), "%s", detail ? detail : "");
}

static void text_put(struct json_object *o, const char *key, const char *text)
{
	if (*text)
		js_put_str(o, key, text);
}

struct json_object *approval_request_to_json(const struct approval_request *r)
{
	struct json_object *o = json_object_new_object();

	js_put_int(o, "id", r->id);
	js_put_str(o, "state", state_words[r->state]);
	js_put_int(o, "user", r->asker->uid);
	js_put_str(o, "command", r->command);
	js_put(o, "arguments", json_object_get(r->args));
	text_put(o, "vm", r->vm);
	if (r->of_vm)
		js_put_uuid(o, VM_UUID_KEY, r->uuid);
	text_put(o, "note", r->note);
	js_put_int(o, "asked", r->asked_ns);
	js_put_int(o, "expires", r->expires_ns);
	if (r->by >= 0)
		js_put_int(o, "by", r->by);
	text_put(o, "reason", r->reason);
	text_put(o, "job", r->job);
	if (r->ended_ns)
		js_put_int(o, "ended", r->ended_ns);
	text_put(o, "detail", r->detail);
	return o;
}

/* ---- the file ---- */

struct json_object *approvals_to_json(const struct approvals *t)
{
	struct json_object *file = json_object_new_object(), *rules = json_object_new_array(), *requests = json_object_new_array();

	for (size_t i = 0; i < t->nrules; i++)
		json_object_array_add(rules, approval_rule_to_json(&t->rules[i]));
	for (size_t i = 0; i < t->nrequests; i++) {
		struct json_object *o = approval_request_to_json(t->requests[i]);

		js_put(o, "asker", rights_to_json(t->requests[i]->asker));
		if (t->requests[i]->stranger)
			js_put_bool(o, "stranger", true);
		json_object_array_add(requests, o);
	}
	js_put(file, "rules", rules);
	js_put(file, "requests", requests);
	js_put_int(file, "last", t->last_id);
	return file;
}

/* Return whether the uuid is absent, or valid and in *ret. */
static bool uuid_take(struct json_object *o, bool *ret_there, uint8_t ret[16])
{
	const char *text = js_get_str(o, VM_UUID_KEY);

	*ret_there = js_get(o, VM_UUID_KEY) != NULL;
	return !*ret_there || (text && uuid_parse(text, ret) == 0);
}

static int rule_parse(struct json_object *o, struct approval_rule *ret)
{
	struct json_object *acts = js_get_array(o, "acts");
	int64_t user = js_get_int(o, "user", -1), group = js_get_int(o, "group", -1), id = MAX(user, group);

	*ret = (struct approval_rule){ .everyone = !js_get(o, "user") && !js_get(o, "group"), .is_group = group >= 0,
		.id = id < 0 ? 0 : (uint32_t)id, .expire_ns = js_get_int(o, "expire", APPROVAL_EXPIRE_NS) };
	for (size_t i = 0; acts && i < json_object_array_length(acts); i++) {
		unsigned bit = approval_act_bit(js_plain_string(json_object_array_get_idx(acts, i)));

		if (!bit)
			return -EINVAL;
		ret->acts |= bit;
	}
	if (!ret->acts || (!ret->everyone && (id < 0 || id >= UINT32_MAX)) || ret->expire_ns <= 0 || ret->expire_ns > APPROVAL_EXPIRE_MAX_NS)
		return -EINVAL;
	return uuid_take(o, &ret->of_vm, ret->uuid) ? 0 : -EINVAL;
}

static enum approval_state state_parse(const char *word)
{
	unsigned i = 0;

	while (i < APPROVAL_STATE_COUNT && strcmp(state_words[i], word) != 0)
		i++;
	return (enum approval_state)i;
}

/* Returns NULL: the request is invalid. */
static struct approval_request *request_parse(struct json_object *o)
{
	struct approval_request *r = must_alloc(calloc(1, sizeof(*r)));
	const char *command = js_get_str_or(o, "command", "");
	struct json_object *args = js_get(o, "arguments");
	int64_t id = js_get_int(o, "id", 0);

	r->state = state_parse(js_get_str_or(o, "state", ""));
	r->asked_ns = js_get_int(o, "asked", 0);
	r->expires_ns = js_get_int(o, "expires", 0);
	r->ended_ns = js_get_int(o, "ended", 0);
	r->by = js_get_int(o, "by", -1);
	r->stranger = js_get_bool(o, "stranger", false);
	snprintf(r->command, sizeof(r->command), "%s", command);
	snprintf(r->vm, sizeof(r->vm), "%s", js_get_str_or(o, "vm", ""));
	snprintf(r->note, sizeof(r->note), "%s", js_get_str_or(o, "note", ""));
	snprintf(r->reason, sizeof(r->reason), "%s", js_get_str_or(o, "reason", ""));
	snprintf(r->detail, sizeof(r->detail), "%s", js_get_str_or(o, "detail", ""));
	snprintf(r->job, sizeof(r->job), "%s", js_get_str_or(o, "job", ""));
	if (id <= 0 || id > UINT32_MAX || r->state == APPROVAL_STATE_COUNT || !schema_find(DIALECT_DAEMON, command) ||
		!json_object_is_type(args, json_type_object) || !uuid_take(o, &r->of_vm, r->uuid) ||
		rights_parse(js_get(o, "asker"), &r->asker, NULL) < 0) {
		approval_request_free(r);
		return NULL;
	}
	r->id = (unsigned)id;
	r->args = json_object_get(args);
	return r;
}

static void requests_parse(struct approvals *t, struct json_object *list, int64_t now_ns)
{
	size_t n = list ? MIN(json_object_array_length(list), (size_t)APPROVAL_REQUESTS_MAX) : 0;

	t->requests = must_alloc(calloc(n + 1, sizeof(struct approval_request *)));
	for (size_t i = 0; i < n; i++) {
		struct approval_request *r = request_parse(json_object_array_get_idx(list, i));

		if (!r || (t->nrequests && r->id <= t->requests[t->nrequests - 1]->id)) {
			log_error("approval", "a stored request is invalid, and is forgotten");
			approval_request_free(r);
			continue;
		}
		if (r->state == APPROVAL_RUNNING && !r->job[0])
			approval_end(r, APPROVAL_FAILED, "the daemon ended while it ran; look whether it was done, and ask again if not", now_ns);
		t->requests[t->nrequests++] = r;
		t->last_id = MAX(t->last_id, r->id);
	}
}

int approvals_parse(struct approvals *t, struct json_object *file, int64_t now_ns)
{
	struct json_object *rules = js_get_array(file, "rules");
	size_t n = rules ? json_object_array_length(rules) : 0;
	int64_t last = js_get_int(file, "last", 0);
	struct approval_rule rule;

	t->last_id = last > 0 && last < UINT32_MAX ? (unsigned)last : 0;
	requests_parse(t, js_get_array(file, "requests"), now_ns);
	for (size_t i = 0; i < n; i++)
		if (rule_parse(json_object_array_get_idx(rules, i), &rule) < 0 || approvals_set_rule(t, &rule) < 0)
			return -EINVAL;
	return rules ? 0 : -EINVAL;
}

void approvals_done(struct approvals *t)
{
	for (size_t i = 0; i < t->nrequests; i++)
		approval_request_free(t->requests[i]);
	free(t->requests);
	free(t->rules);
	*t = (struct approvals){ 0 };
}

void approvals_load(struct approvals *t, struct store *s, int64_t now_ns)
{
	CLEANUP_JS struct json_object *o = store_load_file(s, NULL, APPROVALS_FILE);

	if (o && approvals_parse(t, o, now_ns) == 0)
		return;
	if (o)
		store_set_aside(s, APPROVALS_FILE, "a rule is invalid");
	approvals_done(t); /* a change of a request would write the file without the rules */
	if (store_is_newer(s, APPROVALS_FILE))
		t->unknown = "a newer Cairn wrote " APPROVALS_FILE "; root can use that Cairn, or remove the file and restart cairnd";
	else if (store_has_side_file(s, APPROVALS_FILE) || store_has_side_file(s, APPROVALS_FILE ".damaged"))
		t->unknown = APPROVALS_FILE " is damaged; root can repair it or remove it with its copy " APPROVALS_FILE ".damaged, and restart cairnd";
}
