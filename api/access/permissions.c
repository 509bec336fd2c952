#include "api/access/permissions.h"
#include "api/schema/schema.h"
#include "api/store/store.h"
#include "api/wire/json.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void permissions_done(struct permissions *p)
{
	for (size_t i = 0; i < p->n; i++)
		free(p->list[i].vm);
	free(p->list);
	*p = (struct permissions){ 0 };
}

/* ---- looking up roles ---- */

static bool is_about(const struct permission *p, const struct peer *who)
{
	if (!p->is_group)
		return p->id == who->uid;
	if (p->id == who->gid)
		return true;
	for (size_t i = 0; i < who->ngroups; i++)
		if (p->id == who->groups[i])
			return true;
	return false;
}

enum role permissions_role(const struct permissions *p, const struct peer *who, const char *vm)
{
	enum role role = ROLE_NONE;

	for (size_t i = 0; i < p->n; i++) {
		const struct permission *e = &p->list[i];

		if (e->role > role && (!e->vm || (vm && !strcmp(e->vm, vm))) && is_about(e, who))
			role = e->role;
	}
	return role;
}

bool permissions_know(const struct permissions *p, const struct peer *who)
{
	for (size_t i = 0; i < p->n; i++)
		if (is_about(&p->list[i], who))
			return true;
	return false;
}

/* ---- changing permissions ---- */

static bool same_vm(const char *a, const char *b)
{
	return !a || !b ? a == b : !strcmp(a, b);
}

static void remove_at(struct permissions *p, size_t i)
{
	free(p->list[i].vm);
	p->n--;
	memmove(&p->list[i], &p->list[i + 1], (p->n - i) * sizeof(*p->list));
}

static int permission_add(struct permissions *p, bool is_group, uid_t id, const char *vm, enum role role)
{
	struct permission *more;
	char *copy = NULL;

	if (p->n == PERMISSIONS_MAX)
		return -ENOSPC;
	more = reallocarray(p->list, p->n + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	p->list = more;
	if (vm && !(copy = strdup(vm)))
		return -ENOMEM;
	p->list[p->n++] = (struct permission){ is_group, id, role, copy };
	return 0;
}

static bool sees_too(const struct permissions *p, const struct permission *who, const char *vm)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct permission *e = &p->list[i];

		if (e->is_group == who->is_group && e->id == who->id && (!e->vm || same_vm(e->vm, vm)))
			return true;
	}
	return false;
}

bool permissions_seen_together(const struct permissions *p, const char *a, const char *b)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->list[i].vm && same_vm(p->list[i].vm, a) && !sees_too(p, &p->list[i], b))
			return false;
	return true;
}

int permissions_set(struct permissions *p, bool is_group, uid_t id, const char *vm, enum role role)
{
	for (size_t i = 0; i < p->n; i++) {
		struct permission *e = &p->list[i];

		if (e->is_group != is_group || e->id != id || !same_vm(e->vm, vm))
			continue;
		if (role == ROLE_NONE)
			remove_at(p, i);
		else
			e->role = role;
		return 0;
	}
	return role == ROLE_NONE ? -ENOENT : permission_add(p, is_group, id, vm, role);
}

bool permissions_forget_vm(struct permissions *p, const char *vm)
{
	size_t had = p->n;

	for (size_t i = p->n; i--;)
		if (p->list[i].vm && !strcmp(p->list[i].vm, vm))
			remove_at(p, i);
	return p->n != had;
}

bool permissions_prune(struct permissions *p, bool (*there)(void *opaque, const char *vm), void *opaque)
{
	size_t had = p->n;

	for (size_t i = p->n; i--;)
		if (p->list[i].vm && !there(opaque, p->list[i].vm))
			remove_at(p, i);
	return p->n != had;
}

void permissions_rename_vm(struct permissions *p, const char *old, const char *name)
{
	for (size_t i = 0; i < p->n; i++) {
		char *copy;

		if (!p->list[i].vm || strcmp(p->list[i].vm, old))
			continue;
		copy = strdup(name);
		if (!copy)
			abort(); /* else the entry would apply to the next VM with the old name */
		free(p->list[i].vm);
		p->list[i].vm = copy;
	}
}

/* ---- roles' names; loading and storing permissions ---- */

enum role permissions_role_from_word(const char *word, bool of_vm)
{
	if (of_vm && word && !strcmp(word, "owner"))
		return ROLE_ADMIN;
	for (unsigned r = ROLE_VIEWER; word && r <= ROLE_ADMIN; r++)
		if (!strcmp(role_name(r), word) && !(of_vm && r == ROLE_ADMIN))
			return r;
	return ROLE_NONE;
}

struct json_object *permissions_to_json(const struct permissions *p)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < p->n; i++) {
		const struct permission *e = &p->list[i];
		struct json_object *o = json_object_new_object();

		js_put_int(o, e->is_group ? "group" : "user", e->id);
		js_put_str(o, "role", e->vm && e->role == ROLE_ADMIN ? "owner" : role_name(e->role));
		js_put_str(o, "vm", e->vm);
		json_object_array_add(list, o);
	}
	return list;
}

void permissions_load(struct permissions *p, struct json_object *list)
{
	size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		const char *vm = js_get_str(o, "vm");
		int64_t user = js_get_int(o, "user", -1), group = js_get_int(o, "group", -1);
		enum role role = permissions_role_from_word(js_get_str(o, "role"), vm != NULL);
		int64_t id = MAX(user, group);

		/* A "vm" that is not a string must not become an entry for all VMs. */
		if (id < 0 || id >= UINT32_MAX || role == ROLE_NONE || (js_get(o, "vm") && !vm))
			continue;
		permissions_set(p, group >= 0, (uid_t)id, vm, role);
	}
}

void permissions_keep(struct permissions *p, struct store *s, struct store_work *w)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();

	js_put(o, "permissions", permissions_to_json(p));
	if (w)
		store_put(s, NULL, PERMISSIONS_FILE, o, STORE_WITH_WORK, w, NULL);
	else
		store_put(s, NULL, PERMISSIONS_FILE, o, STORE_EVENTUALLY, NULL, NULL);
	if (p->changed)
		p->changed(p->opaque);
}
