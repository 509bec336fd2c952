/* Handlers of requests and of the rules of approval. */
#include "api/commands/command.h"
#include "api/access/permissions.h"
#include "api/policy/approver.h"
#include "api/vm/vm.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

/* ---- rules ---- */

static int arg_acts(struct call *c, unsigned *ret, struct err *e)
{
	struct json_object *acts = js_get_array(c->args, "acts");

	*ret = 0;
	for (size_t i = 0; acts && i < json_object_array_length(acts); i++) {
		const char *word = js_plain_string(json_object_array_get_idx(acts, i));
		unsigned bit = approval_act_bit(word);

		if (!bit)
			return err_set(e, -EINVAL, ERR_INVALID, "acts: \"%.40s\" is no act; use %s", word ? word : "", approval_act_words());
		*ret |= bit;
	}
	return 0;
}

static int arg_subject(struct call *c, struct approval_rule *ret, struct err *e)
{
	int64_t user = js_get_int(c->args, "user", -1), group = js_get_int(c->args, "group", -1), id = MAX(user, group);

	ret->everyone = !js_get(c->args, "user") && !js_get(c->args, "group");
	if (!ret->everyone && (id < 0 || id >= UINT32_MAX || (user >= 0 && group >= 0)))
		return err_set(e, -EINVAL, ERR_INVALID, "give the number of a user or of a group, or neither for all users");
	if (user >= 0 && uid_is_root_or_own((uid_t)user))
		return err_set(e, -EINVAL, ERR_INVALID, "no rule binds root and the daemon's own user");
	ret->is_group = group >= 0;
	ret->id = ret->everyone ? 0 : (uint32_t)id;
	return 0;
}

static int arg_vm(struct call *c, struct approval_rule *ret, struct err *e)
{
	const char *name = js_get_str(c->args, "vm");
	const struct vm *vm = name ? vm_find(c->host, name) : NULL;

	if (name && !vm)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no VM '%.255s'. Next: cairn list --all", name);
	ret->of_vm = vm;
	if (vm)
		memcpy(ret->uuid, vm->def->uuid, sizeof(ret->uuid));
	return 0;
}

void command_approval_rule_set(struct call *c)
{
	struct approval_rule rule = { .expire_ns = js_get_int(c->args, "expire", APPROVAL_EXPIRE_NS) };
	struct err e;
	int r = 0;

	if (!uid_is_root_or_own(c->uid))
		r = err_set(&e, -EPERM, ERR_PERMISSION, "only root changes rules of approval, because they bind users with the role admin, too");
	if (!r)
		r = arg_acts(c, &rule.acts, &e);
	if (!r)
		r = arg_subject(c, &rule, &e);
	if (!r)
		r = arg_vm(c, &rule, &e);
	if (!r && (rule.expire_ns < 1000000000LL || rule.expire_ns > APPROVAL_EXPIRE_MAX_NS))
		r = err_set(&e, -EINVAL, ERR_INVALID, "expire: must be from one second to 30 days");
	if (r < 0)
		call_fail(c, &e);
	else
		approver_set_rule(c, &rule);
}

void command_query_approval_rules(struct call *c)
{
	const struct approvals *t = approver_table(c->host->approver);
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	int64_t after = js_get_int(c->args, "after", 0);
	size_t i = 0, bytes = 0;

	for (; i < t->nrules && bytes < COMMAND_PAGE_BYTES; i++) {
		const struct vm *vm = t->rules[i].of_vm ? vm_find_uuid(c->host, t->rules[i].uuid) : NULL;
		struct json_object *rule;

		if (command_is_before(after, i, t->rules[i].serial))
			continue;
		rule = approval_rule_to_json(&t->rules[i]);
		/* A rule with a name and one without differ. */
		if (t->rules[i].of_vm)
			js_put_str(rule, "vm", vm ? vm->def->name : "");
		bytes += js_line_bytes(rule);
		json_object_array_add(list, rule);
	}
	js_put(o, "rules", list);
	if (i < t->nrules)
		js_put_int(o, "next", COMMAND_PAGE_KEYS + (int64_t)t->rules[i - 1].serial);
	if (t->unknown)
		js_put_str(o, "unknown", t->unknown);
	call_return(c, o);
}

/* ---- requests ---- */

#define PAGE_LOOKS 128 /* requests that one call looks at: each may need a look at all permissions */

/* Return a request for clients, with the name that the VM has now. */
static struct json_object *request_to_json(const struct call *c, const struct approval_request *r)
{
	const struct command *command = schema_find(DIALECT_DAEMON, r->command);
	const struct vm *vm = r->of_vm ? vm_find_uuid(c->host, r->uuid) : NULL;
	struct json_object *o = approval_request_to_json(r);

	if (vm)
		js_put_str(o, "vm", vm->def->name);
	js_put_str(o, "does", command->doc);
	for (const struct field *f = command->args; f->name; f++)
		if (!strcmp(f->name, "dry-run"))
			js_put_bool(o, "dry-run", true);
	return o;
}

void command_query_requests(struct call *c)
{
	const struct approvals *t = approver_table(c->host->approver);
	struct json_object *o = json_object_new_object(), *list = json_object_new_array(), *one;
	int64_t after = js_get_int(c->args, "after", 0), id = js_get_int(c->args, "id", 0);
	bool all = js_get_bool(c->args, "all", false) || id;
	size_t i = 0, bytes = 0, looks = 0;

	for (; i < t->nrequests && bytes < COMMAND_PAGE_BYTES && looks < PAGE_LOOKS; i++) {
		const struct approval_request *r = t->requests[i];

		if (r->id <= after || (id && r->id != id) || !(all || approval_is_open(r)))
			continue;
		looks++;
		if (!approver_shows(c, r))
			continue;
		one = request_to_json(c, r);
		bytes += js_line_bytes(one);
		json_object_array_add(list, one);
	}
	js_put(o, "requests", list);
	if (i < t->nrequests)
		js_put_int(o, "next", t->requests[i - 1]->id);
	call_return(c, o);
}

void command_request_approve(struct call *c)
{
	approver_answer(c, js_get_int(c->args, "id", 0), true, js_get_str(c->args, "reason"));
}

void command_request_deny(struct call *c)
{
	approver_answer(c, js_get_int(c->args, "id", 0), false, js_get_str(c->args, "reason"));
}

/* vm: NULL: for all VMs. */
static bool has_role(const struct call *c, enum role wanted, const struct vm *vm)
{
	enum role role = server_role(c->host->server, &c->who, vm ? vm->def->uuid : NULL);

	return wanted == ROLE_CREATOR ? role >= ROLE_ADMIN || permissions_creates(&c->host->permissions, &c->who) : role >= wanted;
}

static int check_role_asked(const struct call *c, const char *role, const char *name, const char *note, struct err *e)
{
	const struct vm *vm = name ? vm_find_name(c->host, name) : NULL;
	enum role wanted;

	if (uid_is_root_or_own(c->uid))
		return err_set(e, -EEXIST, ERR_EXISTS, "you have all rights, and need no role");
	if (command_arg_role(c, name, &wanted, e) < 0)
		return -EINVAL;
	if (name && definition_check_name(name, e) < 0) {
		err_prefix(e, "vm");
		return -EINVAL;
	}
	if (note && strlen(note) > APPROVAL_TEXT_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "note: has more than %d bytes", APPROVAL_TEXT_MAX);
	/* The user knows the own role, so this tells nothing about the VM. */
	if ((!name || vm) && has_role(c, wanted, vm))
		return err_set(e, -EEXIST, ERR_EXISTS, "you have the role %.40s or a higher one already", role);
	return 0;
}

void command_request_permission(struct call *c)
{
	const char *role = js_get_str(c->args, "role"), *vm = js_get_str(c->args, "vm"), *note = js_get_str(c->args, "note");
	struct err e;

	if (check_role_asked(c, role, vm, note, &e) < 0)
		call_fail(c, &e);
	else
		approver_ask_role(c, role, vm, note);
}
