/* Handlers of web hooks. */
#include "api/access/rights.h"
#include "api/commands/command.h"
#include "api/policy/web_hooks.h"
#include "api/vm/vm.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The role of the call's user for all VMs. */
static bool is_admin(const struct call *c)
{
	return uid_is_root_or_own(c->uid) || server_role(c->host->server, &c->who, NULL) >= ROLE_ADMIN;
}

static int arg_events(struct call *c, unsigned *ret, struct err *e)
{
	struct json_object *list = js_get_array(c->args, "events");

	*ret = list ? 0 : (1u << WEB_HOOK_EVENTS) - 1;
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		const char *word = js_plain_string(json_object_array_get_idx(list, i));
		int index = web_hook_index(word);

		if (index < 0)
			return err_set(e, -EINVAL, ERR_INVALID,
				"events: \"%.40s\" is no event of web hooks; use started, stopped, crashed, snapshot, schedule, threshold or disk-space",
				word ? word : "");
		*ret |= 1u << index;
	}
	return *ret ? 0 : err_set(e, -EINVAL, ERR_INVALID, "events: name at least one");
}

static int hook_parse(struct call *c, struct web_hook *w, struct err *e)
{
	const char *name = js_get_str(c->args, "name"), *url = js_get_str(c->args, "url"), *secret = js_get_str(c->args, "secret");
	int r = web_hook_check_name(name, e);

	w->is_private = js_get_bool(c->args, "private", false);
	if (!r)
		r = web_hook_check_url(url, w->is_private, e);
	if (!r && secret)
		r = web_hook_check_secret(secret, e);
	if (!r)
		r = arg_events(c, &w->events, e);
	if (r < 0)
		return r;
	if (w->is_private && !is_admin(c))
		return err_set(e, -EPERM, ERR_PERMISSION, "private: only an admin may send events to addresses that are not public");
	snprintf(w->name, sizeof(w->name), "%s", name);
	w->url = must_alloc(strdup(url));
	w->secret = secret ? must_alloc(strdup(secret)) : web_hook_secret_new();
	w->uid = c->uid;
	w->of_vm = c->vm != NULL;
	if (c->vm)
		memcpy(w->uuid, c->vm->def->uuid, sizeof(w->uuid));
	if (uid_is_root_or_own(c->uid))
		return 0;
	w->maker = rights_of_user(&c->who);
	return w->maker ? 0 : err_set_errno(e, -ENOMEM, "web hook");
}

/* A new web hook whose secret is to be answered. */
struct made {
	struct call *call;
	char *secret; /* owned; NULL: the client gave it */
};

static void hook_stored(void *opaque, int r, const struct err *e)
{
	struct made *m = opaque;
	struct json_object *o = json_object_new_object();

	js_put_str(o, "secret", m->secret);
	if (r < 0) {
		json_object_put(o);
		call_fail(m->call, e);
	} else {
		call_return(m->call, o);
	}
	free(m->secret);
	free(m);
}

void command_web_hook_set(struct call *c)
{
	struct web_hook *w = must_alloc(calloc(1, sizeof(*w)));
	struct made *m = must_alloc(calloc(1, sizeof(*m)));
	struct err e;
	int r = hook_parse(c, w, &e);

	m->call = c;
	if (!r && !js_get_str(c->args, "secret"))
		m->secret = must_alloc(strdup(w->secret));
	if (!r) {
		web_hooks_set(c->host->web_hooks, w, hook_stored, m);
		return;
	}
	web_hook_free(w);
	free(m);
	call_fail(c, &e);
}

/* Find the web hook that the call names. Returns NULL after an answer. */
static struct web_hook *hook_named(struct call *c)
{
	const char *name = js_get_str(c->args, "name");
	struct web_hook *w = web_hooks_find(c->host->web_hooks, c->vm ? c->vm->def->uuid : NULL, name);
	struct err e;

	if (w)
		return w;
	if (c->vm)
		err_set(&e, -ENOENT, ERR_NOT_FOUND, "VM '%.200s' has no web hook '%.63s'. Next: cairn web-hook-list", c->vm->def->name, name);
	else
		err_set(&e, -ENOENT, ERR_NOT_FOUND, "no web hook '%.63s' is for all VMs; for one of a VM, name the VM. Next: cairn web-hook-list", name);
	call_fail(c, &e);
	return NULL;
}

void command_web_hook_remove(struct call *c)
{
	struct web_hook *w = hook_named(c);

	if (w)
		web_hooks_remove(c->host->web_hooks, w, call_done, c);
}

static void test_ended(void *opaque, bool delivered, const char *outcome)
{
	struct call *c = opaque;
	struct json_object *o;
	struct err e;

	if (!delivered) {
		err_set(&e, -EIO, ERR_HOST, "%s", outcome);
		call_fail(c, &e);
		return;
	}
	o = json_object_new_object();
	js_put_str(o, "outcome", outcome);
	call_return(c, o);
}

void command_web_hook_test(struct call *c)
{
	struct web_hook *w = hook_named(c);

	if (w)
		web_hooks_test(c->host->web_hooks, w, test_ended, c);
}

static struct json_object *hook_show(const struct call *c, const struct web_hook *w)
{
	const struct vm *vm = w->of_vm ? vm_find_uuid(c->host, w->uuid) : NULL;
	struct json_object *o = json_object_new_object(), *events = json_object_new_array();

	js_put_str(o, "name", w->name);
	if (w->of_vm)
		js_put_str(o, "vm", vm ? vm->def->name : "");
	js_put_str(o, "url", w->url);
	for (unsigned i = 0; i < WEB_HOOK_EVENTS; i++)
		if (w->events & 1u << i)
			json_object_array_add(events, json_object_new_string(web_hook_word(i)));
	js_put(o, "events", events);
	if (w->is_private)
		js_put_bool(o, "private", true);
	js_put_int(o, "uid", w->uid);
	js_put_uint(o, "waiting", w->nwaiting);
	js_put_uint(o, "delivered", w->delivered);
	js_put_uint(o, "failed", w->failed);
	js_put_uint(o, "dropped", w->dropped);
	if (w->last_s) {
		js_put_int(o, "last-try", w->last_s * (int64_t)CLOCK_NS_PER_S);
		js_put_str(o, "last", w->last);
	}
	return o;
}

void command_query_web_hooks(struct call *c)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array(), *one;
	const struct web_hook *w = web_hooks_first(c->host->web_hooks);
	int64_t after = js_get_int(c->args, "after", 0);
	uint64_t last = 0;
	bool admin = is_admin(c);
	size_t bytes = 0, i = 0;

	for (; w && bytes < COMMAND_PAGE_BYTES; w = w->next) {
		last = UINT32_MAX - w->number; /* the newest comes first */
		if (command_is_before(after, i++, last) || !(admin || w->uid == c->uid))
			continue;
		one = hook_show(c, w);
		bytes += js_line_bytes(one);
		json_object_array_add(list, one);
	}
	js_put(o, "hooks", list);
	if (w)
		js_put_int(o, "next", COMMAND_PAGE_KEYS + (int64_t)last);
	call_return(c, o);
}
