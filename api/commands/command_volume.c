/* Handlers of the volumes of pools. The files are touched with the rights of the client (api/jobs/pool_volumes.h). */
#include "api/access/fork_as.h"
#include "api/commands/command.h"
#include "api/definition/definition.h"
#include "api/jobs/pool_volumes.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CAPACITY_MAX (1LL << 60)
#define VMS_MAX 8

/* ---- VMs that use volumes ---- */

/* Whether the path is that of the volume in the folder. */
static bool is_volume(const char *path, const char *folder, const char *name)
{
	size_t n = strlen(folder);

	return path && !strncmp(path, folder, n) && path[n] == '/' && !strcmp(path + n + 1, name);
}

/* Return the format in which the definition uses the volume; VOLUME_NO_FORMAT: it does not use it. */
static enum volume_format definition_format(const struct definition *def, const char *folder, const char *name)
{
	for (uint32_t i = 0; def && i < def->ndisks; i++)
		for (unsigned k = 0; k < def->disks[i].nlayers; k++) {
			const struct definition_layer *l = &def->disks[i].layers[k];

			if (is_volume(l->path, folder, name))
				return l->format == DEFINITION_FORMAT_QCOW2 ? VOLUME_QCOW2 : VOLUME_RAW;
			if (is_volume(l->data_file, folder, name))
				return VOLUME_RAW;
		}
	return VOLUME_NO_FORMAT;
}

static enum volume_format vm_format(const struct vm *vm, const char *folder, const char *name)
{
	enum volume_format f = definition_format(vm->live, folder, name);

	return f == VOLUME_NO_FORMAT ? definition_format(vm->def, folder, name) : f;
}

/* Return the format in which VMs use the volume, by this path: the daemon's loop may not look at files. */
static enum volume_format known_format(const struct vm_host *host, const char *folder, const char *name)
{
	enum volume_format f = VOLUME_NO_FORMAT;

	for (size_t i = 0; i < host->nvms && f == VOLUME_NO_FORMAT; i++)
		f = vm_format(host->vms[i], folder, name);
	return f;
}

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

static struct json_object *entry_json(const struct call *c, const char *folder, const struct volume_entry *v)
{
	struct json_object *o = json_object_new_object(), *vms = json_object_new_array();
	enum volume_format format = known_format(c->host, folder, v->name);

	js_put_str(o, "name", v->name);
	if (v->format != VOLUME_NO_FORMAT) {
		bool differs = format != VOLUME_NO_FORMAT && format != v->format;

		js_put_str(o, "format", volume_format_name(differs ? format : v->format));
		js_put_uint(o, "capacity", differs ? v->file_bytes : v->capacity_bytes);
		js_put_uint(o, "allocation", v->allocation_bytes);
		if (v->backing[0] && !differs)
			js_put_str(o, "backing", v->backing);
	}
	for (size_t i = 0; format != VOLUME_NO_FORMAT && i < c->host->nvms && json_object_array_length(vms) < VMS_MAX; i++)
		if (vm_format(c->host->vms[i], folder, v->name) != VOLUME_NO_FORMAT)
			json_object_array_add(vms, json_object_new_string(c->host->vms[i]->def->name));
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

	if (r < 0 || call_check_role(c, ROLE_VIEWER, NULL, &lost) < 0) {
		call_fail(c, r < 0 ? e : &lost);
		return;
	}
	o = json_object_new_object();
	list = json_object_new_array();
	while (bytes < COMMAND_PAGE_BYTES && volume_entry_take(&data, &left, &v)) {
		struct json_object *one = entry_json(c, w->folder, &v);

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

	begin(c, r, &w, &e, list_done);
}

/* ---- changes ---- */

static void change_done(struct call *c, const struct volume_work *w, int r, const struct fork_as_result *res, const struct err *e)
{
	(void)w;
	(void)res;
	call_done(c, r, e);
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
	begin(c, r, &w, &e, change_done);
}

void command_volume_clone(struct call *c)
{
	struct volume_work w;
	struct err e;
	int r = work_take(c, VOLUME_CLONE, &w, &e);

	if (!r)
		r = name_take(w.copy, js_get_str(c->args, "new-name"), &e);
	begin(c, r, &w, &e, change_done);
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
