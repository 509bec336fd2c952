#include "api/jobs/volumes.h"
#include "api/access/authors.h"
#include "api/access/fork_as.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/jobs/volume_users.h"
#include "api/vm/former_files.h"
#include "api/vm/image_users.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK_TIMEOUT_NS (10 * 1000000000ULL)

_Static_assert(VOLUMES_MAX <= CHANNEL_FDS_MAX, "there is a note for each");
_Static_assert(VOLUMES_MAX >= 2 * VM_DISKS_MAX, "each disk may have a data file");

/* ---- selecting volumes ---- */

/* Return whether a word is the disk's id or path; a drive without a medium has no path. */
static bool is_disk(const struct definition_disk *d, const char *word)
{
	return !strcmp(word, d->id) || (d->nlayers && !strcmp(word, d->layers[0].path));
}

static bool is_wanted(struct json_object *wanted, const struct definition_disk *d)
{
	for (size_t i = 0; wanted && i < json_object_array_length(wanted); i++) {
		const char *w = js_plain_string(json_object_array_get_idx(wanted, i));

		if (w && is_disk(d, w))
			return true;
	}
	return !wanted;
}

static int wanted_check(const struct vm *vm, struct json_object *wanted, struct err *e)
{
	for (size_t i = 0; wanted && i < json_object_array_length(wanted); i++) {
		const char *w = js_plain_string(json_object_array_get_idx(wanted, i));
		bool found = false;

		for (uint32_t k = 0; w && k < vm->def->ndisks; k++)
			found = found || is_disk(&vm->def->disks[k], w);
		if (!found)
			return err_set(e, -ENOENT, ERR_NOT_FOUND,
				"storage: VM '%s' has no disk \"%.200s\"; name disks by their id, such as vda, or by "
				"path",
				vm->def->name, w ? w : "");
	}
	return 0;
}

static char *path_copy(const char *path)
{
	char *copy = must_alloc(strdup(path));

	return copy;
}

static void volume_add(struct volumes *v, const char *id, const char *path, bool read_only)
{
	struct volume *x = &v->list[v->n++];

	snprintf(x->id, sizeof(x->id), "%s", id);
	x->path = path_copy(path);
	x->read_only = read_only;
}

/* Return the rights that remove the files, which have one author: volumes_of() has checked that. */
static const struct rights *volumes_author(const struct vm *vm, const struct volumes *v)
{
	for (unsigned i = 0; i < v->n; i++)
		if (!v->list[i].read_only)
			return author_of(vm->def, v->list[i].path);
	return vm->def->rights;
}

static int volume_check_free(const struct vm *vm, const struct volumes *v, const struct volume *x, struct err *e)
{
	const struct vm *user = x->read_only ? NULL : image_user(vm, x->path);

	if (!x->read_only && !rights_are_same(author_of(vm->def, x->path), volumes_author(vm, v)))
		return err_set(e, -EPERM, ERR_PERMISSION,
			"disk %s: the user who added %s is not the one who added the disks before it; name the disks of "
			"one user in storage; nothing was done", x->id, x->path);
	if (!user)
		return 0;
	if (!permissions_seen_together(&vm->host->permissions, vm->def->uuid, user->def->uuid))
		return err_set(e, -EBUSY, ERR_BUSY, "disk %s: %s is used by another VM and cannot be removed; nothing "
			"was done", x->id,
			x->path);
	return err_set(e, -EBUSY, ERR_BUSY,
		"disk %s: %s is used by VM '%s'; undefine that VM first, or keep the images; nothing was done", x->id,
		x->path, user->def->name);
}

/* ---- files of an imported VM ---- */

static bool is_in(const char *folder, const char *path)
{
	size_t n = strlen(folder);

	return path && !strncmp(path, folder, n) && path[n] == '/' && !strchr(path + n + 1, '/');
}

static bool vm_boots_from(const struct definition *def, const char *path)
{
	return def && ((def->kernel && !strcmp(def->kernel, path)) || (def->initrd && !strcmp(def->initrd, path)) ||
		(def->loader && !strcmp(def->loader, path)) || (def->nvram_template && !strcmp(def->nvram_template, path)));
}

static bool others_boot(const struct vm *vm, const char *path)
{
	const struct vm_host *host = vm->host;

	for (size_t i = 0; i < host->nvms; i++)
		if (host->vms[i] != vm && (vm_boots_from(host->vms[i]->def, path) || vm_boots_from(host->vms[i]->live, path)))
			return true;
	return false;
}

/* Add a file in the import's folder, unless another VM uses the file or another user added it. Then the
 * file stays, and so does the folder. */
static void own_add(const struct vm *vm, const char *folder, const char *id, const char *path, uint64_t until_ns, struct volumes *v)
{
	if (!is_in(folder, path) || !rights_are_same(author_of(vm->def, path), volumes_author(vm, v)) || others_boot(vm, path) || image_user(vm, path))
		return;
	for (unsigned i = 0; i < v->n; i++)
		if (!strcmp(v->list[i].path, path)) {
			v->list[i].read_only = false;
			return;
		}
	if (v->n < VOLUMES_MAX) {
		volume_add(v, id, path, false);
		v->list[v->n - 1].until_ns = until_ns;
	}
}

static void all_own_add(const struct vm *vm, const char *folder, struct volumes *v)
{
	const struct definition *def = vm->def;
	const char *path, *disk;
	uint64_t ns;

	for (uint32_t i = 0; i < def->ndisks; i++)
		for (unsigned k = 0; k < def->disks[i].nlayers; k++) {
			own_add(vm, folder, def->disks[i].id, def->disks[i].layers[k].path, 0, v);
			own_add(vm, folder, def->disks[i].id, def->disks[i].layers[k].data_file, 0, v);
		}
	own_add(vm, folder, "kernel", def->kernel, 0, v);
	own_add(vm, folder, "initrd", def->initrd, 0, v);
	own_add(vm, folder, "loader", def->loader, 0, v);
	own_add(vm, folder, "nvram", def->nvram_template, 0, v);
	for (size_t i = 0; (path = former_files_at(vm, i, &disk, &ns)); i++)
		own_add(vm, folder, disk, path, ns, v);
	v->folder = path_copy(folder);
}

int volumes_of(const struct vm *vm, struct json_object *wanted, const char *folder, struct volumes *v, struct err *e)
{
	int r = wanted_check(vm, wanted, e);

	*v = (struct volumes){ 0 };
	for (uint32_t i = 0; i < vm->def->ndisks && !r; i++) {
		const struct definition_disk *d = &vm->def->disks[i];

		if (!d->nlayers || !is_wanted(wanted, d))
			continue;
		volume_add(v, d->id, d->layers[0].path, d->read_only);
		if (d->layers[0].data_file)
			volume_add(v, d->id, d->layers[0].data_file, d->read_only);
	}
	for (unsigned i = 0; i < v->n && !r; i++)
		r = volume_check_free(vm, v, &v->list[i], e);
	if (!r && folder && !wanted)
		all_own_add(vm, folder, v);
	if (r < 0)
		volumes_done(v);
	return r;
}

void volumes_done(struct volumes *v)
{
	while (v->n)
		free(v->list[--v->n].path);
	free(v->folder);
	v->folder = NULL;
}

/* ---- functions that run in the forked process ---- */

struct removal {
	const struct volumes *v;
	const struct vm *vm; /* vm->host has the other VMs */
	bool remove;
};

static bool is_file(const char *path, const struct stat *st)
{
	struct stat other;

	return path && stat(path, &other) == 0 && other.st_ino == st->st_ino && other.st_dev == st->st_dev;
}

static bool definition_has(const struct definition *def, const struct stat *st)
{
	for (uint32_t k = 0; def && k < def->ndisks; k++)
		for (unsigned l = 0; l < def->disks[k].nlayers; l++)
			if (is_file(def->disks[k].layers[l].path, st) || is_file(def->disks[k].layers[l].data_file, st))
				return true;
	return def && (is_file(def->kernel, st) || is_file(def->initrd, st) || is_file(def->loader, st) ||
		is_file(def->nvram_template, st));
}

/* Return a VM whose definition, or the one that it runs with, has the file; it compares inodes. except: not this one;
 * NULL allowed. NULL: there is none. Takes no lock. */
static const struct vm *volumes_user(const struct vm_host *host, const struct vm *except, const struct stat *st)
{
	for (size_t i = 0; i < host->nvms; i++)
		if (host->vms[i] != except && (definition_has(host->vms[i]->def, st) || definition_has(host->vms[i]->live, st)))
			return host->vms[i];
	return NULL;
}

/* Check that no other VM uses the same file under another path. The error does not name the other VM, because this
 * process does not check whether the user may see that VM. */
static int others_check(const struct removal *w, const struct volume *x, const struct stat *st, struct err *e)
{
	if (!volumes_user(w->vm->host, w->vm, st))
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY, "disk %s: another VM uses the file %s by another path; nothing was done", x->id, x->path);
}

static int folder_check(const struct volume *x, struct err *e)
{
	const char *slash = strrchr(x->path, '/');
	char folder[PATH_MAX];

	snprintf(folder, sizeof(folder), "%.*s/", (int)(slash ? slash - x->path : 0), x->path);
	if (faccessat(AT_FDCWD, folder, W_OK | X_OK, AT_EACCESS) < 0)
		return err_set_errno(e, -errno, "disk %s: cannot remove %s", x->id, x->path);
	return 0;
}

static enum volume_kind kind_of(mode_t mode)
{
	return S_ISREG(mode) ? VOLUME_FILE : S_ISBLK(mode) || S_ISCHR(mode) ? VOLUME_DEVICE :
		S_ISLNK(mode)			      ? VOLUME_LINK : VOLUME_OTHER;
}

static int volume_probe(const struct removal *w, unsigned i, uint8_t *ret_kind, struct err *e)
{
	const struct volume *x = &w->v->list[i];
	struct stat st;
	int r = 0;

	if (x->read_only)
		return 0;
	if (lstat(x->path, &st) < 0) {
		*ret_kind = VOLUME_MISSING;
		return errno == ENOENT ? 0 : err_set_errno(e, -errno, "disk %s: %s", x->id, x->path);
	}
	*ret_kind = (uint8_t)kind_of(st.st_mode);
	if (*ret_kind == VOLUME_FILE && x->until_ns && timespec_ns(&st.st_ctim) > x->until_ns)
		*ret_kind = VOLUME_CHANGED;
	if (*ret_kind == VOLUME_FILE)
		r = others_check(w, x, &st, e);
	if (!r && *ret_kind == VOLUME_FILE)
		r = folder_check(x, e);
	if (!r && *ret_kind == VOLUME_FILE && w->v->unless_open && !w->remove && volume_is_open(AT_FDCWD, x->path))
		r = err_set(e, -EBUSY, ERR_BUSY, "disk %s: %s is in use by " VOLUME_OPEN_BY, x->id, x->path);
	return r;
}

static int volumes_remove(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct removal *w = arg;
	int r = 0;

	for (unsigned i = 0; i < w->v->n && !r; i++)
		r = volume_probe(w, i, &out->notes[i], e);
	for (unsigned i = 0; w->remove && i < w->v->n && !r; i++) {
		if (out->notes[i] != VOLUME_FILE)
			continue;
		if (unlink(w->v->list[i].path) < 0 && errno != ENOENT)
			r = err_set_errno(e, -errno, "disk %s: cannot remove %s", w->v->list[i].id, w->v->list[i].path);
		else
			out->count++;
	}
	/* rmdir() fails if the folder is not empty; then the folder stays. */
	if (w->remove && !r && w->v->folder && rmdir(w->v->folder) < 0 && errno != ENOENT)
		out->bytes = (uint64_t)errno;
	return r;
}

int volumes_check_or_remove(const struct volumes *v, const struct vm *vm, bool remove,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct fork_as **ret, struct err *e)
{
	struct removal w = { v, vm, remove };
	struct fork_as_spec s = { .rights = volumes_author(vm, v), .run = volumes_remove, .arg = &w,
		.what = "removing its images", .timeout_ns = remove ? FORK_AS_NO_TIMEOUT : CHECK_TIMEOUT_NS, .done = done, .opaque = opaque };

	return fork_as_begin(vm->host->helpers, &s, ret, e);
}

void volumes_take(struct volumes *v, const struct fork_as_result *res)
{
	for (unsigned i = 0; i < v->n; i++)
		v->list[i].kind = res->notes[i];
}

/* ---- JSON ---- */

static const char *why_it_stays(const struct volume *x)
{
	switch (x->kind) {
	case VOLUME_MISSING:
		return "it does not exist";
	case VOLUME_DEVICE:
		return "it is a device";
	case VOLUME_LINK:
		return "it is a symbolic link";
	case VOLUME_OTHER:
		return "it is not a file";
	case VOLUME_CHANGED:
		return "it was changed after the disk had stopped using it";
	default:
		return "it is read-only for the VM";
	}
}

static struct json_object *folder_to_json(const struct volumes *v)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "id", "folder");
	js_put_str(o, "path", v->folder);
	js_put_bool(o, "removed", false);
	js_put_str(o, "why", v->folder_errno == ENOTEMPTY ? "it has other files than the removed ones" : strerror(v->folder_errno));
	return o;
}

struct json_object *volumes_to_json(const struct volumes *v)
{
	struct json_object *all = json_object_new_array();

	for (unsigned i = 0; i < v->n; i++) {
		struct json_object *o;
		bool removed = v->list[i].kind == VOLUME_FILE;

		if (v->list[i].until_ns && v->list[i].kind == VOLUME_MISSING)
			continue; /* its user has removed it already, as cairn blockcommit --delete does */
		o = json_object_new_object();
		js_put_str(o, "id", v->list[i].id);
		js_put_str(o, "path", v->list[i].path);
		js_put_bool(o, "removed", removed);
		if (!removed)
			js_put_str(o, "why", why_it_stays(&v->list[i]));
		json_object_array_add(all, o);
	}
	if (v->folder_errno)
		json_object_array_add(all, folder_to_json(v));
	return all;
}

struct json_object *volumes_keep(const struct volumes *v)
{
	struct json_object *o = json_object_new_object(), *all = json_object_new_array();

	js_put_int(o, "version", 1);
	for (unsigned i = 0; i < v->n; i++)
		if (v->list[i].kind == VOLUME_FILE)
			json_object_array_add(all, json_object_new_string(v->list[i].path));
	js_put(o, "volumes", all);
	js_put_str(o, "folder", v->folder);
	return o;
}

void volumes_load(struct json_object *o, struct volumes *v)
{
	struct json_object *all = js_get_array(o, "volumes");
	size_t n = all ? json_object_array_length(all) : 0;
	const char *folder = js_get_str(o, "folder");

	*v = (struct volumes){ 0 };
	if (folder && *folder == '/')
		v->folder = path_copy(folder);
	for (size_t i = 0; i < n && i < VOLUMES_MAX; i++) {
		const char *path = js_plain_string(json_object_array_get_idx(all, i));

		if (!path || *path != '/')
			continue;
		v->list[v->n++].path = path_copy(path);
	}
}
