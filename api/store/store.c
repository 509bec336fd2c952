#include "api/store/store.h"
#include "api/store/store_file.h"
#include "api/store/store_lock.h"
#include "api/store/store_unread.h"
#include "api/store/store_version.h"
#include "api/store/store_writer.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DRAFT ".draft-" /* followed by a number, in the VMs' folder; no VM's name begins with a dot */

struct store {
	char *dir;
	int dir_fd; /* of the folder: it may be moved or unmounted */
	int lock_fd;
	bool took_over;
	struct store_writer writer;
	struct store_unread unread;
	unsigned drafts; /* number of drafts made so far */
};

static int vm_path(struct store *s, const char *name, const char *file, char out[PATH_MAX],
	struct err *e)
{
	if (snprintf(out, PATH_MAX, "%s/vms/%s/%s", s->dir, name, file) >= PATH_MAX)
		return err_set_errno(e, -ENAMETOOLONG, "%s/vms/%s", s->dir, name);
	return 0;
}

static int side_path(struct store *s, const char *file, char out[PATH_MAX], struct err *e)
{
	return snprintf(out, PATH_MAX, "%s/%s", s->dir, file) >= PATH_MAX ?
		err_set_errno(e, -ENAMETOOLONG, "%s/%s", s->dir, file) : 0;
}

/* Compute the path of a file. vm: NULL: the file lies beside the VMs' folder. */
static int file_path(struct store *s, const char *vm, const char *file, char out[PATH_MAX], struct err *e)
{
	return vm ? vm_path(s, vm, file, out, e) : side_path(s, file, out, e);
}

/* ---- writing files ---- */

/* Return the file's text, with the "version" that belongs to the file's name. */
static char *text_of(const char *path, struct json_object *o, int more_flags)
{
	char *text;

	js_put_int(o, "version", store_version(path));
	text = must_alloc(strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | more_flags)));
	return text;
}

bool store_owes(const struct store *s)
{
	return s && s->writer.owed;
}

static void file_queue(struct store *s, const char *path, struct json_object *o)
{
	store_writer_put(&s->writer, PENDING_WRITE, path, text_of(path, o, 0));
}

static int place_check(const struct store *s, struct err *e)
{
	return store_place_check(s->dir_fd, s->dir, e);
}

/* Write a file and wait. Waits for queued writes of the file first, which would otherwise overwrite it. */
static int file_write(struct store *s, const char *path, struct json_object *o, struct err *e)
{
	CLEANUP_FREE char *text = text_of(path, o, 0);
	int r = store_size_check(path, text, e);

	store_writer_drain_path(&s->writer, path);
	if (!r)
		r = place_check(s, e);
	if (!r)
		r = store_unread_check(&s->unread, NULL, path, e);
	return r < 0 ? r : file_write_atomic(path, text, strlen(text), 0600, e);
}

/* Replace a file at once, and queue its sync. */
static int file_switch(struct store *s, const char *path, struct json_object *o, struct err *e)
{
	CLEANUP_FREE char *text = text_of(path, o, 0);
	int r = store_size_check(path, text, e);

	if (!r)
		r = place_check(s, e);
	if (!r)
		r = store_unread_check(&s->unread, NULL, path, e);
	if (!r)
		r = store_file_switch(path, text, e);
	if (!r)
		store_writer_put(&s->writer, PENDING_SYNC_FILE, path, NULL);
	return r;
}

int store_put(struct store *s, const char *vm, const char *file, struct json_object *o, enum store_durability d,
	struct store_work *w, struct err *e)
{
	char path[PATH_MAX];
	struct err own;
	int r = file_path(s, vm, file, path, &own);

	if (d == STORE_WITH_WORK && (!r || !vm)) { /* if the path is too long, the write fails and w gets the error */
		store_writer_work(&s->writer, PENDING_WRITE, path, text_of(path, o, 0), w);
		return 0;
	}
	if (r < 0 && d == STORE_EVENTUALLY)
		log_error("store", "%s", own.msg);
	if (r < 0) {
		if (e)
			*e = own;
		return r;
	}
	if (d == STORE_EVENTUALLY)
		file_queue(s, path, o);
	return d == STORE_EVENTUALLY ? 0 : d == STORE_SOON ? file_switch(s, path, o, e) : file_write(s, path, o, e);
}

void store_after(struct store *s, struct store_work *w)
{
	store_writer_work(&s->writer, PENDING_NONE, s->dir, NULL, w);
}

unsigned store_failures(struct store *s, struct err *ret_last)
{
	return store_writer_failures(&s->writer, ret_last);
}

int store_run(struct store *s, const char *name, const char *file, char *path, size_t size, struct store_work *w, struct err *e)
{
	if (snprintf(path, size, "%s/vms/%s/%s", s->dir, name, file) >= (int)size)
		return err_set_errno(e, -ENAMETOOLONG, "%s/vms/%s", s->dir, name);
	store_writer_work(&s->writer, PENDING_RUN, path, NULL, w);
	return 0;
}

void store_hold(struct store *s)
{
	store_writer_hold(&s->writer);
}

void store_release(struct store *s)
{
	store_writer_release(&s->writer);
}

void store_drain(struct store *s)
{
	store_writer_drain(&s->writer);
}

/* ---- open and close ---- */

/* Make the folders, and sync the state folder, so that only a VM's own folder can be missing after a power cut. */
static int folders_make(struct store *s, struct err *e)
{
	static const char *const names[] = { "vms", STORE_BATCHES, STORE_GROUPS, "networks" };
	char path[PATH_MAX];
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(names) && !r; i++) {
		r = side_path(s, names[i], path, e);
		if (!r)
			r = mkdir_all(path, 0700, e);
	}
	return r < 0 ? r : store_folder_sync_err(s->dir, e);
}

int store_open(const char *dir, const struct store_takeover *t, struct store **ret_s, struct err *e)
{
	struct store *s = calloc(1, sizeof(*s));
	char path[PATH_MAX];
	int r;

	if (!s)
		return err_set_errno(e, -ENOMEM, "%s", dir);
	s->dir_fd = s->lock_fd = -1;
	store_unread_init(&s->unread);
	store_writer_init(&s->writer, STORE_THREAD, &s->unread);
	s->dir = strdup(dir);
	r = s->dir ? folders_make(s, e) : err_set_errno(e, -ENOMEM, "%s", dir);
	if (!r) {
		s->dir_fd = open(s->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
		r = s->dir_fd < 0 ? err_set_errno(e, -errno, "%s", dir) : 0;
	}
	if (!r)
		r = store_lock(s->dir, t, &s->lock_fd, &s->took_over, e);
	if (!r) {
		if (vm_path(s, "", "", path, NULL) == 0)
			store_files_drop(path, DRAFT); /* drafts whose daemon ended before it kept or dropped them */
		s->writer.dir = s->dir;
		s->writer.dir_fd = s->dir_fd;
		s->writer.ordered_device = store_ordered_device(s->dir);
		r = store_writer_start(&s->writer, e);
	}
	if (r < 0) {
		store_close(s);
		return r;
	}
	*ret_s = s;
	return 0;
}

bool store_took_over(const struct store *s)
{
	return s->took_over;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	store_writer_done(&s->writer);
	if (s->dir_fd >= 0)
		close(s->dir_fd);
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	store_unread_done(&s->unread);
	free(s->dir);
	free(s);
}

/* ---- loading files ---- */

/* Put a damaged file aside. If it is a definition, note that its VM is missing. */
static void file_damaged(struct store *s, const char *name, const char *path, const char *why)
{
	const char *file = strrchr(path, '/');

	if (name && !strcmp(file, "/definition.json"))
		store_unread_note(&s->unread, name, path, STORE_DAMAGED, why);
	store_put_aside(path, why);
}

void store_quarantine(struct store *s, const char *name, const char *why)
{
	char path[PATH_MAX];

	if (vm_path(s, name, "definition.json", path, NULL) < 0)
		return;
	store_writer_drain_path(&s->writer, path);
	file_damaged(s, name, path, why);
}

void store_set_aside(struct store *s, const char *file, const char *why)
{
	store_set_vm_file_aside(s, NULL, file, why);
}

void store_set_vm_file_aside(struct store *s, const char *name, const char *file, const char *why)
{
	char path[PATH_MAX];

	if (file_path(s, name, file, path, NULL) < 0)
		return;
	store_writer_drain_path(&s->writer, path);
	store_put_aside(path, why);
}

static void newer_note(struct store *s, const char *name, const char *path, const char *why)
{
	store_unread_note(&s->unread, name, path, STORE_NEWER, why);
	log_error("store", "%s: %s; the file is not changed. Next: use the newer Cairn", path, why);
}

/* Keep a file that cannot be read now, but may be read later: the daemon does not replace it. The state of a VM is
 * replaced, because its processes report all important parts of it. If the file is a definition, note that its VM is
 * missing. */
static void file_unreadable(struct store *s, const char *name, const char *path, const char *why)
{
	const char *file = strrchr(path, '/');

	log_error("store", "%s", why);
	if (strcmp(file, "/state.json") != 0)
		store_unread_note(&s->unread, strcmp(file, "/definition.json") ? NULL : name, path, STORE_UNREADABLE, why);
}

/* Upgrade a loaded file of an older version and queue it to be written. Returns 0; -ENOTSUP: a newer Cairn wrote it,
 * which is noted; -errno. On errors the caller must not use the file. */
static int path_lift(struct store *s, const char *name, const char *path, struct json_object *o, struct err *e)
{
	int64_t had = store_version_lift(path, o, e);

	if (had == -ENOTSUP)
		newer_note(s, name, path, e->msg);
	if (had < 0)
		return (int)had;
	if (had < store_version(path)) {
		log_info("store", "upgrading %s from version %lld to %lld",
			path, (long long)had, (long long)store_version(path));
		store_keep_old(path, had);
		file_queue(s, path, o);
	}
	return 0;
}

/* Load and upgrade a file. name: as for store_unread_note(). Returns NULL if the file does not exist, is damaged or
 * unreadable, or was written by a newer Cairn. */
static struct json_object *path_load(struct store *s, const char *name, const char *path)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct err e;
	int r = js_read(path, STORE_FILE_MAX, &o, &e);

	if (!r)
		r = path_lift(s, name, path, o, &e);
	if (!r)
		return STEAL_PTR(o);
	if (r == -EINVAL || r == -EFBIG)
		file_damaged(s, name, path, e.msg);
	else if (r != -ENOENT && r != -ENOTSUP)
		file_unreadable(s, name, path, e.msg);
	return NULL;
}

struct json_object *store_load_file(struct store *s, const char *vm, const char *file)
{
	char path[PATH_MAX];

	return file_path(s, vm, file, path, NULL) < 0 ? NULL : path_load(s, vm, path);
}

bool store_is_newer(struct store *s, const char *file)
{
	char path[PATH_MAX];

	return side_path(s, file, path, NULL) == 0 && store_unread_check(&s->unread, NULL, path, NULL) == -ENOTSUP;
}

bool store_has_side_file(struct store *s, const char *file)
{
	char path[PATH_MAX];
	struct stat st;

	return side_path(s, file, path, NULL) < 0 || lstat(path, &st) == 0 || errno != ENOENT;
}

struct json_object *store_read_newer(struct store *s, const char *file, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	char path[PATH_MAX];

	if (side_path(s, file, path, NULL) < 0 || js_read(path, STORE_FILE_MAX, &o, NULL) < 0 ||
		store_version_lift(path, o, e) != -ENOTSUP)
		return NULL;
	return STEAL_PTR(o);
}

void store_leave_vm(struct store *s, const char *name, const char *file, const char *why)
{
	char path[PATH_MAX];

	if (side_path(s, file, path, NULL) == 0)
		newer_note(s, name, path, why);
}

int store_check_vm(struct store *s, const char *name, struct err *e)
{
	return store_unread_check(&s->unread, name, NULL, e);
}

void store_each_unread(struct store *s, void (*found)(void *opaque, const char *name, const char *sentence),
	void *opaque)
{
	store_unread_each(&s->unread, found, opaque);
}

static void unread_found(void *opaque, const char *name, const char *sentence)
{
	(void)name;
	(void)sentence;
	*(bool *)opaque = true;
}

bool store_has_unread(struct store *s)
{
	bool any = false;

	store_unread_each(&s->unread, unread_found, &any);
	return any;
}

/* Note the VM's other files that a newer Cairn wrote. Do this when the VM is loaded: the daemon reads these files later
 * or, for some, only checks that they exist. */
static void versions_check(struct store *s, const char *name)
{
	const char *file;

	for (unsigned i = 0; (file = store_version_of_vm(i)); i++) {
		CLEANUP_JS struct json_object *o = NULL;
		char path[PATH_MAX];
		struct err e;

		if (vm_path(s, name, file, path, NULL) == 0 && access(path, F_OK) == 0 &&
			js_read(path, STORE_FILE_MAX, &o, NULL) == 0 && store_version_lift(path, o, &e) == -ENOTSUP)
			newer_note(s, name, path, e.msg);
	}
}

/* Note a damaged definition that was put aside, unless this daemon has noted it already. */
static void damaged_still(struct store *s, const char *name)
{
	char path[PATH_MAX];

	if (vm_path(s, name, "definition.json", path, NULL) == 0 && !store_unread_knows(&s->unread, path))
		store_unread_note(&s->unread, name, path, STORE_DAMAGED, "found at an earlier start");
}

bool store_is_damaged_since(struct store *s, const char *name, const char *uuid, uint64_t since_ns)
{
	CLEANUP_JS struct json_object *o = NULL;
	char path[PATH_MAX];

	if (!since_ns || store_has_file(s, name, "definition.json") || store_file_time(s, name, "definition.json.damaged") < since_ns ||
		store_check_vm(s, name, NULL) < 0 || vm_path(s, name, "definition.json.damaged", path, NULL) < 0)
		return false;
	js_read(path, STORE_FILE_MAX, &o, NULL);
	return !strcmp(js_get_str_or(o, "uuid", uuid), uuid);
}

/* Remove a folder without a definition, unless it has a damaged one: an earlier daemon ended while it created or
 * removed the VM. */
static void leftovers_remove(struct store *s, const char *name)
{
	struct err e;

	if (store_has_file(s, name, "definition.json"))
		return;
	if (store_has_file(s, name, "definition.json.damaged")) {
		damaged_still(s, name);
		return;
	}
	if (store_remove(s, name, NULL, &e) < 0)
		log_warn("store", "%s", e.msg);
}

void store_load(struct store *s, void (*found)(void *opaque, const char *name,
	struct json_object *definition, struct json_object *state), void *opaque)
{
	char path[PATH_MAX];
	struct dirent *de;
	DIR *dir;

	if (snprintf(path, sizeof(path), "%s/vms", s->dir) >= (int)sizeof(path))
		return;
	dir = opendir(path);
	while (dir && (de = readdir(dir))) {
		CLEANUP_JS struct json_object *definition = NULL, *state = NULL;

		if (de->d_name[0] == '.')
			continue;
		definition = store_load_file(s, de->d_name, "definition.json");
		if (!definition) {
			leftovers_remove(s, de->d_name);
			continue;
		}
		state = store_load_file(s, de->d_name, "state.json");
		versions_check(s, de->d_name);
		if (store_check_vm(s, de->d_name, NULL) == 0)
			found(opaque, de->d_name, definition, state);
	}
	if (dir)
		closedir(dir);
}

/* ---- files in folders beside the VMs' ---- */

void store_each_file(struct store *s, const char *folder, void (*found)(void *opaque, const char *name),
	void *opaque)
{
	char path[PATH_MAX];

	if (side_path(s, folder, path, NULL) == 0)
		store_folder_each(path, found, opaque);
}

/* ---- definitions ---- */

static int draft_path(struct store *s, const struct store_work *w, char out[PATH_MAX], struct err *e)
{
	if (snprintf(out, PATH_MAX, "%s/vms/" DRAFT "%u", s->dir, w->draft) >= PATH_MAX)
		return err_set_errno(e, -ENAMETOOLONG, "%s/vms", s->dir);
	return 0;
}

void store_write_draft(struct store *s, struct store_work *w, struct json_object *definition)
{
	char path[PATH_MAX];

	w->draft = ++s->drafts;
	draft_path(s, w, path, NULL);
	store_writer_work(&s->writer, PENDING_DRAFT, path, text_of("definition.json", definition, JSON_C_TO_STRING_NOSLASHESCAPE), w);
}

/* Print the path of a VM's folder, after removals and renames under way. */
static int folder_path(struct store *s, const char *name, char path[PATH_MAX], struct err *e)
{
	int r = vm_path(s, name, "", path, e);

	if (r < 0)
		return r;
	*strrchr(path, '/') = 0;
	store_writer_drain_leaving(&s->writer, path);
	return 0;
}

/* Wait until a VM that was removed or renamed has left the folder: a pending removal must not remove a new VM.
 * is_new: refuse the folder of a VM whose rename has failed, and which takes its old name back soon. */
static int folder_wait(struct store *s, const char *name, bool is_new, struct err *e)
{
	char path[PATH_MAX];
	int r = store_check_vm(s, name, e);

	if (!r)
		r = folder_path(s, name, path, e);
	if (r < 0)
		return r;
	if (is_new && store_has_file(s, name, "definition.json"))
		r = err_set(e, -EEXIST, ERR_EXISTS, "there is a VM '%s' still, which could not be renamed; choose another name", name);
	return r;
}

int store_keep_draft(struct store *s, const struct store_work *w, const char *name, bool is_new, struct err *e)
{
	char draft[PATH_MAX], path[PATH_MAX];
	int r = draft_path(s, w, draft, e);

	if (!r)
		r = folder_wait(s, name, is_new, e);
	if (!r)
		r = vm_path(s, name, "", path, e);
	if (!r)
		r = mkdir_all(path, 0700, e);
	if (!r)
		r = vm_path(s, name, "definition.json", path, e);
	if (!r && rename(draft, path) < 0)
		r = err_set_errno(e, -errno, "%s", path);
	return r;
}

void store_drop_draft(struct store *s, const struct store_work *w)
{
	char path[PATH_MAX];

	if (draft_path(s, w, path, NULL) == 0 && unlink(path) < 0 && errno != ENOENT)
		log_warn("store", "%s is left: %s", path, strerror(errno));
}

void store_sync_file(struct store *s, struct store_work *w, const char *name, const char *file)
{
	char path[PATH_MAX];

	vm_path(s, name, file, path, NULL);
	store_writer_work(&s->writer, PENDING_SYNC_NEW_FILE, path, NULL, w);
}

void store_copy_file(struct store *s, struct store_work *w, const char *from, const char *to, const char *file)
{
	char path[PATH_MAX], copy[PATH_MAX];

	vm_path(s, from, file, path, NULL);
	vm_path(s, to, file, copy, NULL);
	store_writer_work_to(&s->writer, PENDING_COPY, path, copy, NULL, w);
}

/* Write the marker, then the definition, so that a killed daemon does not leave the definition without its marker.
 * marker: NULL: none. */
static int definition_put(struct store *s, const char *name, const char *text, const char *marker,
	char definition[PATH_MAX], struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, "", path, e);

	if (!r)
		r = place_check(s, e);
	if (!r)
		r = mkdir_all(path, 0700, e);
	if (!r && marker)
		r = vm_path(s, name, marker, path, e);
	if (!r && marker)
		r = store_file_put(path, "", false, e);
	if (!r)
		r = vm_path(s, name, "definition.json", definition, e);
	return r ? r : store_file_switch(definition, text, e);
}

int store_save_definition_soon(struct store *s, const char *name, struct json_object *definition, bool is_new,
	const char *marker, struct err *e)
{
	CLEANUP_FREE char *text = text_of("definition.json", definition, JSON_C_TO_STRING_NOSLASHESCAPE);
	char path[PATH_MAX];
	int r = store_size_check(name, text, e);

	if (!r)
		r = folder_wait(s, name, is_new, e);
	if (r < 0)
		return r;
	r = definition_put(s, name, text, marker, path, e);
	if (r < 0) {
		store_remove(s, name, NULL, NULL);
		return r;
	}
	store_writer_put(&s->writer, PENDING_SYNC_NEW_FILE, path, NULL);
	return 0;
}

int store_remove_marker(struct store *s, const char *name, const char *marker, struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, marker, path, e);

	if (!r && unlink(path) < 0 && errno != ENOENT)
		r = err_set_errno(e, -errno, "%s", path);
	if (r < 0)
		return r;
	*strrchr(path, '/') = 0;
	store_writer_put(&s->writer, PENDING_SYNC_FOLDER, path, NULL);
	return 0;
}

static int vm_remove_behind(struct store *s, const char *name, struct store_work *w, struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, "definition.json", path, e);

	if (!r && unlink(path) < 0 && errno != ENOENT)
		r = err_set_errno(e, -errno, "%s", path);
	if (r < 0)
		return r;
	*(strrchr(path, '/') + 1) = 0;
	store_writer_drop(&s->writer, path);
	*strrchr(path, '/') = 0;
	store_writer_work(&s->writer, PENDING_CLEAR, path, NULL, w);
	return 0;
}

int store_remove(struct store *s, const char *name, struct store_work *w, struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, "", path, e);

	if (w)
		return vm_remove_behind(s, name, w, e);
	store_drain(s);
	if (!r)
		r = store_folder_clear(path, e);
	if (!r)
		store_unread_forget_damaged(&s->unread, name);
	return r;
}

int store_rename(struct store *s, struct store_work *w, const char *name, const char *to,
	struct json_object *definition, struct err *e)
{
	char path[PATH_MAX], new[PATH_MAX];
	int r = store_check_vm(s, to, e);

	if (!r)
		r = vm_path(s, name, "", path, e);
	if (!r)
		r = vm_path(s, to, STORE_RENAMED, new, e);
	if (r < 0)
		return r;
	*strrchr(path, '/') = 0;
	*strrchr(new, '/') = 0;
	store_writer_work_to(&s->writer, PENDING_RENAME, path, new, text_of("definition.json", definition, JSON_C_TO_STRING_NOSLASHESCAPE), w);
	return 0;
}

void store_rename_end(struct store *s, struct store_work *w, const char *name)
{
	char path[PATH_MAX], to[PATH_MAX];

	vm_path(s, name, STORE_RENAMED, path, NULL);
	vm_path(s, name, "definition.json", to, NULL);
	store_writer_work_to(&s->writer, PENDING_MOVE, path, to, NULL, w);
}

void store_each_with(struct store *s, const char *file, void (*found)(void *opaque, const char *name),
	void *opaque)
{
	char path[PATH_MAX];
	struct dirent *de;
	DIR *dir = NULL;

	if (snprintf(path, sizeof(path), "%s/vms", s->dir) < (int)sizeof(path))
		dir = opendir(path);
	while (dir && (de = readdir(dir)))
		if (de->d_name[0] != '.' && store_has_file(s, de->d_name, file))
			found(opaque, de->d_name);
	if (dir)
		closedir(dir);
}

bool store_has_folder(struct store *s, const char *name)
{
	char path[PATH_MAX];

	return folder_path(s, name, path, NULL) == 0 && access(path, F_OK) == 0;
}

bool store_has_file(struct store *s, const char *name, const char *file)
{
	char path[PATH_MAX];

	return vm_path(s, name, file, path, NULL) == 0 && access(path, F_OK) == 0;
}

static int vm_folder_sync(struct store *s, const char *name, struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, "", path, e);

	if (r < 0)
		return r;
	r = store_folder_sync(path);
	return r < 0 ? err_set_errno(e, r, "%s", path) : 0;
}

int store_remove_file(struct store *s, const char *vm, const char *file, enum store_durability d,
	struct store_work *w, struct err *e)
{
	char path[PATH_MAX];
	int r = file_path(s, vm, file, path, e);

	if (r < 0)
		return r;
	if (d == STORE_WITH_WORK) {
		store_writer_work(&s->writer, PENDING_REMOVE, path, NULL, w);
		return 0;
	}
	r = store_unread_check(&s->unread, NULL, path, e);
	if (r < 0)
		return r;
	if (d == STORE_NOW)
		return store_file_remove(path, e);
	r = store_file_unlink(AT_FDCWD, path);
	if (r < 0 && r != -ENOENT)
		return err_set_errno(e, r, "%s", path);
	*strrchr(path, '/') = 0;
	if (d == STORE_SOON && w)
		store_writer_work_ahead(&s->writer, PENDING_SYNC_FOLDER, path, NULL, NULL, w);
	else if (d == STORE_SOON)
		store_writer_put(&s->writer, PENDING_SYNC_FOLDER, path, NULL);
	return 0;
}

int store_end_file(struct store *s, const char *file, const char *from, const char *to, struct store_work *w, struct err *e)
{
	char path[PATH_MAX];
	int r = side_path(s, file, path, e);

	if (!r)
		store_writer_work_ahead(&s->writer, PENDING_END, path, to, must_alloc(strdup(from)), w);
	return r;
}

int store_rename_file(struct store *s, const char *name, const char *from, const char *to,
	enum store_durability d, struct store_work *w, struct err *e)
{
	char old[PATH_MAX], new[PATH_MAX], folder[PATH_MAX];
	int r = vm_path(s, name, from, old, e);

	if (!r)
		r = vm_path(s, name, to, new, e);
	if (!r)
		r = vm_path(s, name, "", folder, e);
	if (r < 0)
		return r;
	if (d == STORE_WITH_WORK) {
		store_writer_work_to(&s->writer, PENDING_MOVE, old, new, NULL, w);
		return 0;
	}
	r = store_file_rename(old, new);
	if (r < 0)
		return err_set_errno(e, r, "%s", new);
	if (d == STORE_NOW)
		return vm_folder_sync(s, name, e);
	store_writer_put(&s->writer, PENDING_SYNC_FOLDER, folder, NULL);
	return 0;
}

int store_open_file(struct store *s, const char *name, const char *file, int flags, struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, file, path, e), fd;

	if (!r && flags & O_CREAT)
		r = place_check(s, e);
	if (r < 0)
		return r;
	fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? err_set_errno(e, -errno, "%s", path) : fd;
}

uint64_t store_file_time(struct store *s, const char *name, const char *file)
{
	char path[PATH_MAX];
	struct stat st;

	if (file_path(s, name, file, path, NULL) < 0 || lstat(path, &st) < 0)
		return 0;
	return (uint64_t)st.st_mtim.tv_sec * 1000000000ULL + (uint64_t)st.st_mtim.tv_nsec;
}

int store_open_folder(struct store *s, const char *name, const char *folder, char *path, size_t size,
	struct err *e)
{
	int fd;

	if (snprintf(path, size, "%s/vms/%s/%s", s->dir, name, folder) >= (int)size)
		return err_set_errno(e, -ENAMETOOLONG, "%s/vms/%s", s->dir, name);
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_set_errno(e, -errno, "%s", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? err_set_errno(e, -errno, "%s", path) : fd;
}
