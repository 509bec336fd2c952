#include "tools/cairn/change.h"
#include "api/wire/json.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/definition_file.h"
#include "tools/cairn/difference.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TRIES 8

/* Refuse --live, and --current for a running VM, because both would change the running VM. */
static int flags_check(struct cli *c, const char *vm, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL;
	int r;

	if (option_flag(c, "live"))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"--live is not supported: %s cannot change a running VM; without --live the change applies to the next start",
			c->verb->name);
	if (!option_flag(c, "current"))
		return 0;
	r = cli_vm_info(c, vm, &info, e);
	if (r < 0 || js_get_int(info, "id", -1) < 0)
		return r;
	return err_set(e, -EPERM, ERR_WRONG_STATE,
		"VM '%s' runs, and %s cannot change a running VM; with --config the change applies to the next start", vm,
		c->verb->name);
}

static int definition_read(struct cli *c, const char *vm, bool inactive, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *args = cli_vm_args(vm);
	int r;

	js_put_bool(args, "inactive", inactive);
	r = cli_execute(c, "vm-dump-definition", args, &o, NULL, e);
	if (!r)
		*ret = json_object_get(js_get(o, "definition"));
	return r;
}

int change_read(struct cli *c, const char *vm, struct json_object **ret_definition, struct err *e)
{
	return definition_read(c, vm, true, ret_definition, e);
}

int change_read_running(struct cli *c, const char *vm, struct json_object **ret_definition, struct err *e)
{
	return definition_read(c, vm, false, ret_definition, e);
}

int change_read_list(struct cli *c, const char *vm, const char *key, struct json_object **ret_list, struct err *e)
{
	CLEANUP_JS struct json_object *definition = NULL;
	int r = definition_read(c, vm, option_flag(c, "inactive"), &definition, e);

	if (!r)
		*ret_list = json_object_get(js_get_array(definition, key));
	return r;
}

int change_print(int r, const struct err *e, const char *what, const char *done)
{
	if (r < 0)
		return cli_fail(e, "Failed to %s", what);
	if (!r)
		printf("%s successfully\n", done);
	return CLI_OK;
}

/* What becomes of a changed definition. */
enum fate {
	SAVED,
	SAVED_TOO, /* the running VM has the change, too */
	CHECKED,
};

static int definition_send(struct cli *c, struct json_object *was, struct json_object *now, enum fate fate, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = json_object_new_object();
	char folder[PATH_MAX];
	int r;

	js_put(args, "definition", json_object_get(now));
	js_put(args, "was", json_object_get(was));
	if (getcwd(folder, sizeof(folder)))
		js_put_str(args, "folder", folder);
	if (fate == CHECKED)
		js_put_bool(args, "validate-only", true);
	r = cli_execute(c, "vm-define", args, &answer, NULL, e);
	if (r < 0 || fate == CHECKED)
		return r;
	warnings_print(js_get_array(answer, "warnings"));
	if (js_get_bool(answer, "pending", false) && fate == SAVED)
		fprintf(stderr, "note: domain '%s' runs; the change applies to its next start\n", js_get_str(answer, "name"));
	return 0;
}

int change_define(struct cli *c, struct json_object *was, struct json_object *now, struct err *e)
{
	return definition_send(c, was, now, SAVED, e);
}

static int change_try(struct cli *c, const char *vm, enum fate fate,
	int (*edit)(struct cli *c, struct json_object *definition, void *opaque, struct err *e), void *opaque, struct err *e)
{
	CLEANUP_JS struct json_object *was = NULL, *now = NULL;
	int r = change_read(c, vm, &was, e);

	if (!r && json_object_deep_copy(was, &now, NULL) < 0)
		r = err_set_errno(e, -ENOMEM, "the definition");
	if (!r)
		r = edit(c, now, opaque, e);
	if (r)
		return r;
	if (!option_flag(c, "print-only"))
		return definition_send(c, was, now, fate, e);
	difference_print(stdout, was, now);
	return 1;
}

static int change_repeat(struct cli *c, const char *vm, enum fate fate,
	int (*edit)(struct cli *c, struct json_object *definition, void *opaque, struct err *e), void *opaque, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < TRIES; i++) {
		r = change_try(c, vm, fate, edit, opaque, e);
		if (r >= 0 || e->cls != ERR_BUSY)
			break;
	}
	return r;
}

int change_make_config(struct cli *c, const char *vm, bool both,
	int (*edit)(struct cli *c, struct json_object *definition, void *opaque, struct err *e), void *opaque, struct err *e)
{
	return change_repeat(c, vm, both ? SAVED_TOO : SAVED, edit, opaque, e);
}

int change_make(struct cli *c, const char *vm,
	int (*edit)(struct cli *c, struct json_object *definition, void *opaque, struct err *e),
	void *opaque, struct err *e)
{
	int r = flags_check(c, vm, e);

	return r < 0 ? r : change_make_config(c, vm, false, edit, opaque, e);
}

int place_choose(struct cli *c, struct place *ret, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL;
	int r;

	*ret = (struct place){ option_flag(c, "live"), option_flag(c, "config") };
	if (option_flag(c, "print-only")) {
		*ret = (struct place){ .config = true };
		return 0;
	}
	if (option_flag(c, "current") && (ret->live || ret->config))
		return cli_usage(c, "give either --current, or --live and --config");
	if ((ret->live || ret->config) && !option_flag(c, "persistent"))
		return 0;
	r = cli_vm_info(c, c->pos[0], &info, e);
	if (r < 0)
		return r;
	ret->live |= js_get_int(info, "id", -1) >= 0;
	ret->config |= !ret->live || option_flag(c, "persistent");
	return 0;
}

static int plug(struct cli *c, bool check, int (*live)(struct cli *c, void *opaque, struct err *e),
	int (*edit)(struct cli *c, struct json_object *definition, void *opaque, struct err *e), void *opaque, struct err *e)
{
	struct place p;
	struct err own;
	int r = place_choose(c, &p, e);

	if (!r && check && p.live && p.config) {
		r = change_repeat(c, c->pos[0], CHECKED, edit, opaque, &own);
		if (r < 0)
			return err_set(e, r, own.cls, "nothing is changed, because the definition of the next start cannot be: %.300s", own.msg);
	}
	if (!r && p.live)
		r = live(c, opaque, e);
	if (r || !p.config)
		return r;
	r = change_make_config(c, c->pos[0], p.live, edit, opaque, e);
	if (r >= 0 || !p.live)
		return r;
	own = *e;
	return err_set(e, r, own.cls, "the running VM is changed, but not the definition of its next start: %.300s", own.msg);
}

int change_plug(struct cli *c, int (*live)(struct cli *c, void *opaque, struct err *e),
	int (*edit)(struct cli *c, struct json_object *definition, void *opaque, struct err *e), void *opaque, struct err *e)
{
	return plug(c, true, live, edit, opaque, e);
}

int change_plug_unchecked(struct cli *c, int (*live)(struct cli *c, void *opaque, struct err *e),
	int (*edit)(struct cli *c, struct json_object *definition, void *opaque, struct err *e), void *opaque, struct err *e)
{
	return plug(c, false, live, edit, opaque, e);
}

void note_kept_image(const char *vm, struct json_object *disk)
{
	fprintf(stderr, "note: the next start of domain '%s' keeps its own image for disk %s: %s\n", vm, js_get_str_or(disk, "id", ""),
		js_get_str_or(disk, "path", "none"));
}

int change_find(struct json_object *list, const char *key, const char *value)
{
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		const char *s = js_get_str(json_object_array_get_idx(list, i), key);

		if (s && !strcmp(s, value))
			return (int)i;
	}
	return -1;
}

int change_find_disk(struct json_object *disks, const char *which, struct err *e)
{
	int i = disks ? change_find(disks, "id", which) : -1;

	if (i < 0 && disks)
		i = change_find(disks, "path", which);
	return i >= 0 ? i : err_set(e, -ENOENT, ERR_NOT_FOUND, "No disk found whose source path or target is %s", which);
}
