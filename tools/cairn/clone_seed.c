#include "tools/cairn/clone_seed.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "tools/cairn/change.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/seed_image.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int clone_seed_find(struct cli *c, const char *vm, struct clone_seed *ret, struct err *e)
{
	CLEANUP_JS struct json_object *d = NULL;
	struct json_object *disks;
	int r = change_read(c, vm, &d, e);

	if (r < 0)
		return r;
	disks = js_get_array(d, "disks");
	for (size_t i = 0; disks && i < json_object_array_length(disks); i++) {
		struct json_object *disk = json_object_array_get_idx(disks, i);
		const char *path = js_get_str_or(disk, "path", "");

		if (!js_get_bool(disk, "readonly", false) || !seed_image_is(path))
			continue;
		snprintf(ret->id, sizeof(ret->id), "%s", js_get_str_or(disk, "id", ""));
		snprintf(ret->path, sizeof(ret->path), "%s", path);
		return seed_image_read(path, &ret->files, e);
	}
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "--new-seed: VM '%s' has no seed, which is a read-only disk with the label CIDATA; "
		"create one with: cairn seed FILE", vm);
}

void clone_seed_done(struct clone_seed *s)
{
	json_object_put(s->files);
	s->files = NULL;
}

static void path_make(const struct clone_seed *s, const char *clone, char path[PATH_MAX])
{
	const char *slash = strrchr(s->path, '/');

	snprintf(path, PATH_MAX, "%.*s/%s-%s.iso", slash ? (int)(slash - s->path) : 1, slash ? s->path : ".", clone, s->id);
}

int clone_seed_check(const struct clone_seed *s, const char *clone, struct err *e)
{
	char path[PATH_MAX];

	path_make(s, clone, path);
	if (access(path, F_OK) == 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "%s, the seed of '%s', exists; remove it or choose another name", path, clone);
	return 0;
}

struct replaced {
	const char *id, *path;
};

static int disk_replace(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct json_object *disks = js_get_array(definition, "disks");
	const struct replaced *what = opaque;
	int at = disks ? change_find(disks, "id", what->id) : -1;

	(void)c;
	if (at < 0)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "the clone has no disk %s", what->id);
	json_object_object_add(json_object_array_get_idx(disks, (size_t)at), "path", json_object_new_string(what->path));
	return 0;
}

int clone_seed_make(struct cli *c, const struct clone_seed *s, const char *clone, bool keeps_name, struct err *e)
{
	CLEANUP_JS struct json_object *files = NULL;
	char id[SEED_ID_BYTES], path[PATH_MAX];
	int r = seed_id_make(id, e);

	if (r < 0 || json_object_deep_copy(s->files, &files, NULL) < 0)
		return r < 0 ? r : err_set_errno(e, -ENOMEM, "the seed of '%s'", clone);
	seed_renew(files, id, keeps_name ? NULL : clone);
	path_make(s, clone, path);
	r = seed_image_write(files, path, false, e);
	if (!r)
		r = change_make_config(c, clone, false, disk_replace, &(struct replaced){ s->id, path }, e);
	return r < 0 ? r : 0;
}
