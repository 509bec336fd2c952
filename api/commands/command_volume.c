/* Handlers of the volumes of pools. The files are touched with the rights of the client (api/jobs/pool_volumes.h). */
#include "api/access/fork_as.h"
#include "api/commands/command.h"
#include "api/definition/definition.h"
#include "api/jobs/job.h"
#include "api/jobs/pool_volumes.h"
#include "api/jobs/volume_job.h"
#include "api/vm/vm.h"
#include "api/wire/close_async.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CAPACITY_MAX (1LL << 60)
/* A file of a VM that does not answer keeps a process, so lists do without looks for this time. */
#define HANG_NS (60 * 1000000000ULL)

/* ---- arguments ---- */

static int name_take(char dst[NAME_MAX + 1], const char *name, struct err *e)
{
	if (!volume_name_is_valid(name))
		return err_set(e, -EINVAL, ERR_INVALID, "\"%.100s\" is no name of a volume; give a file's name without a folder", name);
	snprintf(dst, NAME_MAX + 1, "%s", name);
	return 0;
}

/* Take the pool and, except for VOLUME_LIST, the name. */
static int work_take(const struct call *c, enum volume_act act, struct volume_work *w, struct err *e)
{
	const char *pool = js_get_str(c->args, "pool");
	int i = pool_find(&c->host->pools, pool);

	*w = (struct volume_work){ .act = act, .host = c->host };
	if (i < 0)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no pool '%.63s'. Next: cairn pool-list", pool);
	snprintf(w->folder, sizeof(w->folder), "%s", c->host->pools.list[i].target);
	if (act == VOLUME_LIST) {
		snprintf(w->name, sizeof(w->name), "%s", js_get_str_or(c->args, "after", ""));
		return 0;
	}
	return name_take(w->name, js_get_str(c->args, "name"), e);
}

static int capacity_take(const struct call *c, struct volume_work *w, struct err *e)
{
	int64_t capacity = js_get_int(c->args, "capacity", 0);

	if (capacity < 0 || capacity > CAPACITY_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "capacity: must be 0 to %lld", CAPACITY_MAX);
	w->capacity_bytes = (uint64_t)capacity;
	return 0;
}

/* Take a format; an absent one leaves *f as it is. */
static int format_take(const struct call *c, const char *key, enum volume_format *f, struct err *e)
{
	const char *word = js_get_str(c->args, key);

	if (!word)
		return 0;
	*f = !strcmp(word, "raw") ? VOLUME_RAW : VOLUME_QCOW2;
	if (!strcmp(word, volume_format_name(*f)))
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "%s: must be qcow2 or raw, not \"%.40s\"", key, word);
}

/* Take the backing file of a new volume: the name of a volume of the pool, or an absolute path. */
static int backing_take(const struct call *c, struct volume_work *w, struct err *e)
{
	const char *backing = js_get_str(c->args, "backing");
	char name[NAME_MAX + 1];
	int r = 0;

	if (!backing)
		return js_get(c->args, "backing-format") ? err_set(e, -EINVAL, ERR_INVALID, "backing-format: there is no backing") : 0;
	if (w->format == VOLUME_RAW)
		return err_set(e, -EINVAL, ERR_INVALID, "a raw image has no backing file; give --format qcow2");
	w->backing_is_volume = *backing != '/';
	if (w->backing_is_volume)
		r = name_take(name, backing, e);
	else if (!utf8_is_clean(backing))
		r = err_set(e, -EINVAL, ERR_INVALID, "backing: \"%.200s\" has control characters", backing);
	if (!r && snprintf(w->backing, sizeof(w->backing), "%s%s%s", w->backing_is_volume ? w->folder : "", w->backing_is_volume ? "/" : "", backing) >=
		(int)sizeof(w->backing))
		r = err_set_errno(e, -ENAMETOOLONG, "%.200s", backing);
	return r ? r : format_take(c, "backing-format", &w->backing_format, e);
}

static int preallocation_take(const struct call *c, struct volume_work *w, struct err *e)
{
	static const char *const words[] = { "off", "metadata", "falloc", "full" };
	const char *word = js_get_str(c->args, "preallocation");

	for (size_t i = 0; word && i < ARRAY_SIZE(words); i++)
		if (!strcmp(word, words[i]))
			w->preallocation = words[i];
	if (!word || w->preallocation)
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "preallocation: must be off, metadata, falloc or full, not \"%.40s\"", word);
}

static void begin(struct call *c, int r, const struct volume_work *w, const struct err *why,
	void (*done)(struct call *c, const struct volume_work *w, int r, const struct fork_as_result *res, const struct err *e))
{
	struct err e;

	if (r < 0)
		call_fail(c, why);
	else if (pool_volumes_begin(c, w, done, &e) < 0)
		call_fail(c, &e);
}

/* ---- query-volumes ---- */

static struct json_object *entry_json(const struct call *c, const struct volume_entry *v)
{
	struct json_object *o = json_object_new_object(), *vms = json_object_new_array();

	js_put_str(o, "name", v->name);
	if (v->format != VOLUME_NO_FORMAT) {
		bool differs = v->used_format != VOLUME_NO_FORMAT && v->used_format != v->format;

		js_put_str(o, "format", volume_format_name(differs ? v->used_format : v->format));
		js_put_uint(o, "capacity", differs ? v->file_bytes : v->capacity_bytes);
		js_put_uint(o, "allocation", v->allocation_bytes);
		if (v->backing[0] && !differs)
			js_put_str(o, "backing", v->backing);
	}
	for (unsigned i = 0; i < v->nvms; i++) {
		const struct vm *vm = vm_find_uuid(c->host, v->vms[i]);

		if (vm)
			json_object_array_add(vms, json_object_new_string(vm->def->name));
	}
	js_put(o, "vms", vms);
	return o;
}

static void list_done(struct call *c, const struct volume_work *w, int r, const struct fork_as_result *res, const struct err *e)
{
	struct json_object *o, *list;
	const char *data = r < 0 ? NULL : res->data;
	size_t left = r < 0 ? 0 : res->ndata, bytes = 0;
	struct volume_entry v = { .name = "" };
	struct err lost;

	(void)w;
	if (r == 0 && res->sizes[0])
		c->host->volume_looks_after_ns = loop_now_ns() + HANG_NS;
	if (r < 0 || call_check_role(c, ROLE_VIEWER, NULL, &lost) < 0) {
		call_fail(c, r < 0 ? e : &lost);
		return;
	}
	o = json_object_new_object();
	list = json_object_new_array();
	while (bytes < COMMAND_PAGE_BYTES && volume_entry_take(&data, &left, &v)) {
		struct json_object *one = entry_json(c, &v);

		bytes += strlen(json_object_to_json_string_ext(one, JSON_C_TO_STRING_PLAIN));
		json_object_array_add(list, one);
	}
	js_put(o, "volumes", list);
	if (left || res->count)
		js_put_str(o, "next", v.name);
	call_return(c, o);
}

void command_query_volumes(struct call *c)
{
	struct volume_work w;
	struct err e;
	int r = work_take(c, VOLUME_LIST, &w, &e);

	w.no_look = loop_now_ns() < c->host->volume_looks_after_ns;
	begin(c, r, &w, &e, list_done);
}

/* ---- changes ---- */

static void change_done(struct call *c, const struct volume_work *w, int r, const struct fork_as_result *res, const struct err *e)
{
	(void)w;
	(void)res;
	call_done(c, r, e);
}

static void job_begin(struct call *c, int r, const struct volume_work *w, const struct err *why)
{
	struct job *j;
	struct err e;

	if (r < 0)
		call_fail(c, why);
	else if (volume_job_begin(c, w, js_get_str(c->args, "job-id"), &j, &e) < 0)
		call_fail(c, &e);
	else
		call_return_job(c, j);
}

void command_volume_create(struct call *c)
{
	struct volume_work w;
	struct err e;
	int r = work_take(c, VOLUME_CREATE, &w, &e);

	w.format = VOLUME_QCOW2;
	if (!r)
		r = capacity_take(c, &w, &e);
	if (!r)
		r = format_take(c, "format", &w.format, &e);
	if (!r)
		r = backing_take(c, &w, &e);
	if (!r)
		r = preallocation_take(c, &w, &e);
	job_begin(c, r, &w, &e);
}

void command_volume_clone(struct call *c)
{
	struct volume_work w;
	struct err e;
	int r = work_take(c, VOLUME_CLONE, &w, &e);

	if (!r)
		r = name_take(w.copy, js_get_str(c->args, "new-name"), &e);
	job_begin(c, r, &w, &e);
}

void command_volume_resize(struct call *c)
{
	struct volume_work w;
	struct err e;
	int r = work_take(c, VOLUME_RESIZE, &w, &e);

	if (!r)
		r = capacity_take(c, &w, &e);
	w.shrink = js_get_bool(c->args, "shrink", false);
	begin(c, r, &w, &e, change_done);
}

void command_volume_delete(struct call *c)
{
	struct volume_work w;
	struct err e;
	int r = work_take(c, VOLUME_DELETE, &w, &e);

	begin(c, r, &w, &e, change_done);
}

static void open_done(struct call *c, const struct volume_work *w, int r, const struct fork_as_result *res, const struct err *e)
{
	struct json_object *o = NULL, *list;
	struct err lost;

	if (r >= 0 && call_check_role(c, ROLE_OPERATOR, NULL, &lost) < 0) {
		closer_close(c->host->closer, w->carrier);
		r = -EPERM;
		e = &lost;
	}
	if (r < 0) {
		call_fail(c, e);
		return;
	}
	if (res->ndata) {
		o = json_object_new_object();
		list = json_object_new_array();
		json_object_array_add(list, json_object_new_string_len(res->data, (int)res->ndata));
		js_put(o, "warnings", list);
	}
	call_return_fd(c, o, w->carrier);
}

void command_volume_open(struct call *c)
{
	struct volume_work w;
	struct err e;
	int r = work_take(c, VOLUME_OPEN, &w, &e);

	begin(c, r, &w, &e, open_done);
}
