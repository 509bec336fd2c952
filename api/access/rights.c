#include "api/access/rights.h"
#include "api/access/permissions.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct rights *rights_new(uid_t uid, gid_t gid, size_t ngroups)
{
	struct rights *r = calloc(1, sizeof(*r) + ngroups * sizeof(gid_t));

	if (r) {
		r->uid = uid;
		r->gid = gid;
		r->ngroups = ngroups;
	}
	return r;
}

struct rights *rights_of_ids(const struct peer *who)
{
	struct rights *r = rights_new(who->uid, who->gid, who->ngroups);

	if (r && who->ngroups)
		memcpy(r->groups, who->groups, who->ngroups * sizeof(gid_t));
	return r;
}

struct rights *rights_of_user(const struct peer *who)
{
	return rights_new(who->uid, who->gid, 0);
}

struct peer rights_peer(const struct rights *r)
{
	return (struct peer){ r->uid, r->gid, r->groups, r->ngroups };
}

int rights_of_peer(const struct peer *who, struct rights **ret, struct err *e)
{
	*ret = NULL;
	if (uid_is_root_or_own(who->uid))
		return 0;
	if (geteuid() != 0)
		return err_set(e, -EPERM, ERR_PERMISSION,
			"this daemon runs as user %u and cannot open files as user %u; let user %u define the VM, or "
			"use root's daemon",
			geteuid(), who->uid, geteuid());
	*ret = rights_of_ids(who);
	return *ret ? 0 : err_set_errno(e, -ENOMEM, "definition");
}

int rights_copy(const struct rights *r, struct rights **ret)
{
	*ret = r ? rights_new(r->uid, r->gid, r->ngroups) : NULL;
	if (!*ret)
		return r ? -ENOMEM : 0;
	memcpy((*ret)->groups, r->groups, r->ngroups * sizeof(gid_t));
	return 0;
}

bool rights_are_same(const struct rights *a, const struct rights *b)
{
	return a == b || (a && b && a->uid == b->uid && a->gid == b->gid && a->ngroups == b->ngroups &&
				 !memcmp(a->groups, b->groups, a->ngroups * sizeof(*a->groups)));
}

uid_t rights_uid(const struct rights *r)
{
	return r ? r->uid : geteuid();
}

/* ---- JSON ---- */

struct json_object *rights_to_json(const struct rights *r)
{
	struct json_object *o = json_object_new_object(), *groups = json_object_new_array();

	js_put_int(o, "user", r->uid);
	js_put_int(o, "group", r->gid);
	for (size_t i = 0; i < r->ngroups; i++)
		json_object_array_add(groups, json_object_new_int64(r->groups[i]));
	js_put(o, "groups", groups);
	return o;
}

void rights_put(struct json_object *definition, const struct rights *r)
{
	js_put(definition, RIGHTS_KEY, rights_to_json(r));
}

static int id_check(int64_t id, struct err *e)
{
	/* UINT32_MAX is no id: to setresuid() it means "leave the id unchanged". */
	if (id >= 0 && id < UINT32_MAX)
		return 0;
	return err_set(e, -EINVAL, ERR_CORRUPT, RIGHTS_KEY ": names no user or group");
}

static int groups_parse(struct rights *r, struct json_object *groups, struct err *e)
{
	for (size_t i = 0; i < r->ngroups; i++) {
		struct json_object *v = json_object_array_get_idx(groups, i);
		int64_t id = json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : -1;

		if (id_check(id, e) < 0)
			return -EINVAL;
		r->groups[i] = (gid_t)id;
	}
	return 0;
}

int rights_parse(struct json_object *o, struct rights **ret, struct err *e)
{
	int64_t user = js_get_int(o, "user", -1), group = js_get_int(o, "group", -1);
	struct json_object *groups = js_get_array(o, "groups");
	size_t n = groups ? json_object_array_length(groups) : 0;
	CLEANUP_FREE struct rights *r = NULL;

	if (id_check(user, e) < 0 || id_check(group, e) < 0)
		return -EINVAL;
	if (!user || !groups || n > RIGHTS_GROUPS_MAX)
		return err_set(e, -EINVAL, ERR_CORRUPT, RIGHTS_KEY ": is malformed");
	r = rights_new((uid_t)user, (gid_t)group, n);
	if (!r)
		return err_set_errno(e, -ENOMEM, RIGHTS_KEY);
	if (groups_parse(r, groups, e) < 0)
		return -EINVAL;
	*ret = STEAL_PTR(r);
	return 0;
}

int rights_take(struct json_object *definition, struct rights **ret, struct err *e)
{
	struct json_object *o;
	int r;

	*ret = NULL;
	if (!json_object_is_type(definition, json_type_object) ||
		!json_object_object_get_ex(definition, RIGHTS_KEY, &o))
		return 0;
	r = rights_parse(o, ret, e);
	if (!r)
		json_object_object_del(definition, RIGHTS_KEY);
	return r;
}

/* ---- changing ids ---- */

/* Use raw system calls: libc's functions change the ids of all threads and take locks for that. The forked process has
 * one thread and must take no lock. */
static int ids_assume(const struct rights *r, uid_t real, bool with_groups)
{
	if (syscall(SYS_setgroups, with_groups ? r->ngroups : 0, r->groups) < 0 ||
		syscall(SYS_setresgid, r->gid, r->gid, r->gid) < 0 ||
		syscall(SYS_setresuid, real, r->uid, r->uid) < 0)
		return -errno;
	/* The process's memory is a copy of the daemon's, so the user must not be able to read it. */
	return prctl(PR_SET_DUMPABLE, 0) < 0 ? -errno : 0;
}

int rights_assume(const struct rights *r)
{
	int res = ids_assume(r, r->uid, true);

	return !res && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : res;
}

int rights_assume_for_exec(const struct rights *r, bool with_groups)
{
	return ids_assume(r, 0, with_groups);
}
