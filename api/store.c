#include "api/store.h"
#include "api/js.h"
#include "api/store_file.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define STORE_VERSION 1
#define LOCK_TRIES 300
#define LOCK_TRY_US 10000
#define DRAFT ".draft-" /* and a number: beside the VMs, where none is called so */

enum pending_kind {
	PENDING_WRITE,	/* in one step */
	PENDING_DRAFT,	/* the file alone */
	PENDING_SETTLE, /* it is written, and has to reach stable storage with the folders that it lies in */
	PENDING_CLEAR,	/* path is a VM's folder */
	PENDING_RENAME, /* path is a VM's folder; text lies in it as STORE_RENAMED, and it becomes `to` */
	PENDING_MOVE,	/* path becomes `to`, beside it */
	PENDING_REMOVE, /* the file, if it is there */
	PENDING_SYNC,	/* path is a VM's folder */
	PENDING_NONE,	/* but what was queued before it is done */
};

struct pending {
	struct pending *next;
	enum pending_kind kind;
	char *path, *text, *to;
	struct store_work *work; /* NULL: nobody waits */
};

struct store {
	char *dir;
	int lock_fd;
	pthread_t writer;
	bool writer_runs;
	pthread_mutex_t mutex;
	pthread_cond_t changed; /* work, idleness or the end */
	struct pending *first;
	bool writing, stop;
	unsigned leaving; /* VMs' folders that are to be cleared or renamed; the mutex guards it, too */
	/* Of the loop's thread. */
	unsigned owed; /* works that are not done */
	unsigned drafts; /* made so far */
};

static int vm_path(struct store *s, const char *name, const char *file, char out[PATH_MAX],
	struct err *e)
{
	if (snprintf(out, PATH_MAX, "%s/vms/%s/%s", s->dir, name, file) >= PATH_MAX)
		return err_set_errno(e, -ENAMETOOLONG, "%s/vms/%s", s->dir, name);
	return 0;
}

/* Beside the VMs' folder. */
static int side_path(struct store *s, const char *file, char out[PATH_MAX], struct err *e)
{
	return snprintf(out, PATH_MAX, "%s/%s", s->dir, file) >= PATH_MAX ?
		err_set_errno(e, -ENAMETOOLONG, "%s/%s", s->dir, file) : 0;
}

/* ---- the writer ---- */

/* Of a VM's folder, which may have been removed since. */
static int folder_settle(const char *path, struct err *e)
{
	int r = store_folder_sync(path);

	return r < 0 && r != -ENOENT ? err_set_errno(e, r, "%s", path) : 0;
}

static int pending_do(const struct pending *p, struct err *e)
{
	int r = p->text ? store_size_check(p->path, p->text, e) : 0;

	if (r < 0)
		return r;
	switch (p->kind) {
	case PENDING_WRITE:
		return file_write_atomic(p->path, p->text, strlen(p->text), 0600, e);
	case PENDING_DRAFT:
		return store_file_put(p->path, p->text, true, e);
	case PENDING_SETTLE:
		r = store_file_settle(p->path);
		return r < 0 ? err_set_errno(e, r, "%s", p->path) : 0;
	case PENDING_CLEAR:
		return store_folder_clear_for_good(p->path, e);
	case PENDING_RENAME:
		return store_folder_rename(p->path, p->text, p->to, e);
	case PENDING_MOVE:
		return store_move(p->path, p->to, e);
	case PENDING_REMOVE:
		return store_file_remove(p->path, e);
	case PENDING_SYNC:
		return folder_settle(p->path, e);
	case PENDING_NONE:
		return 0;
	}
	return 0;
}

static void work_run(struct loop_task *t)
{
	struct store_work *w = container_of(t, struct store_work, task);

	w->store->owed--;
	w->done(w);
}

static void pending_finish(struct pending *p)
{
	struct err e;
	int r = pending_do(p, &e);

	if (r < 0)
		log_error("store", "%s is not kept: %s", p->path, e.msg);
	if (!p->work)
		return;
	p->work->r = r;
	if (r < 0)
		p->work->e = e;
	loop_post(p->work->loop, &p->work->task);
}

static void pending_free(struct pending *p)
{
	free(p->path);
	free(p->text);
	free(p->to);
	free(p);
}

/* Then the folder that has this name is not that of who gets the name next. */
static bool is_leaving(enum pending_kind kind)
{
	return kind == PENDING_CLEAR || kind == PENDING_RENAME;
}

static void *writer_main(void *opaque)
{
	struct store *s = opaque;

	pthread_setname_np(pthread_self(), "store");
	pthread_mutex_lock(&s->mutex);
	while (!s->stop || s->first) {
		struct pending *p = s->first;

		if (!p) {
			pthread_cond_wait(&s->changed, &s->mutex);
			continue;
		}
		s->first = p->next;
		s->writing = true;
		pthread_mutex_unlock(&s->mutex);
		pending_finish(p);
		pthread_mutex_lock(&s->mutex);
		s->leaving -= is_leaving(p->kind);
		pending_free(p);
		s->writing = false;
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->mutex);
	return NULL;
}

/* path: copied; text: taken. */
static struct pending *pending_new(enum pending_kind kind, const char *path, char *text, struct store_work *w)
{
	struct pending *p = calloc(1, sizeof(*p));

	if (!p)
		abort(); /* a state that is silently not kept is worse */
	*p = (struct pending){ .kind = kind, .path = strdup(path), .text = text, .work = w };
	if (!p->path)
		abort();
	return p;
}

/* p: taken. Replaces what waits for the same file, and nobody waits for: only the newest matters. */
static void pending_put(struct store *s, struct pending *p)
{
	enum pending_kind kind = p->kind;
	struct pending **at;

	LOCK_GUARD(&s->mutex);
	for (at = &s->first; *at; at = &(*at)->next)
		if (!p->work && !(*at)->work && (*at)->kind == kind && !strcmp((*at)->path, p->path)) {
			p->next = (*at)->next;
			pending_free(*at);
			*at = p;
			return;
		}
	*at = p;
	s->leaving += is_leaving(kind);
	pthread_cond_broadcast(&s->changed);
}

static void file_put_behind(struct store *s, enum pending_kind kind, const char *path, char *text)
{
	pending_put(s, pending_new(kind, path, text, NULL));
}

static void work_put_to(struct store *s, enum pending_kind kind, const char *path, const char *to, char *text,
	struct store_work *w)
{
	struct pending *p = pending_new(kind, path, text, w);

	p->to = to ? strdup(to) : NULL;
	if (to && !p->to)
		abort();
	w->store = s;
	w->task.run = work_run;
	s->owed++;
	pending_put(s, p);
}

static void work_put(struct store *s, enum pending_kind kind, const char *path, char *text,
	struct store_work *w)
{
	work_put_to(s, kind, path, NULL, text, w);
}

bool store_owes(const struct store *s)
{
	return s && s->owed;
}

static char *text_of(struct json_object *o, int more_flags)
{
	char *text;

	js_put_int(o, "version", STORE_VERSION);
	text = strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | more_flags));
	if (!text)
		abort();
	return text;
}

static void file_queue(struct store *s, const char *path, struct json_object *o)
{
	file_put_behind(s, PENDING_WRITE, path, text_of(o, 0));
}

void store_save_state(struct store *s, const char *name, struct json_object *state)
{
	char path[PATH_MAX];
	struct err e;

	if (vm_path(s, name, "state.json", path, &e) < 0)
		log_error("store", "%s", e.msg);
	else
		file_queue(s, path, state);
}

void store_save_file(struct store *s, const char *file, struct json_object *o)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/%s", s->dir, file) >= (int)sizeof(path))
		log_error("store", "%s/%s is too long a path", s->dir, file);
	else
		file_queue(s, path, o);
}

void store_write_file_behind(struct store *s, struct store_work *w, const char *file, struct json_object *o)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", s->dir, file); /* one too long cannot be written, which is told */
	work_put(s, PENDING_WRITE, path, text_of(o, 0), w);
}

static int file_write(const char *path, struct json_object *o, struct err *e)
{
	CLEANUP_FREE char *text = text_of(o, 0);
	int r = store_size_check(path, text, e);

	return r < 0 ? r : file_write_atomic(path, text, strlen(text), 0600, e);
}

int store_write_file(struct store *s, const char *file, struct json_object *o, struct err *e)
{
	char path[PATH_MAX];
	int r = side_path(s, file, path, e);

	return r < 0 ? r : file_write(path, o, e);
}

int store_write_vm_file(struct store *s, const char *name, const char *file, struct json_object *o,
	struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, file, path, e);

	return r < 0 ? r : file_write(path, o, e);
}

int store_write_vm_file_behind(struct store *s, struct store_work *w, const char *name, const char *file,
	struct json_object *o, struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, file, path, e);

	if (!r)
		work_put(s, PENDING_WRITE, path, text_of(o, 0), w);
	return r;
}

int store_remove_file_behind(struct store *s, struct store_work *w, const char *name, const char *file,
	struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, file, path, e);

	if (!r)
		work_put(s, PENDING_REMOVE, path, NULL, w);
	return r;
}

int store_rename_file_behind(struct store *s, struct store_work *w, const char *name, const char *from,
	const char *to, struct err *e)
{
	char old[PATH_MAX], new[PATH_MAX];
	int r = vm_path(s, name, from, old, e);

	if (!r)
		r = vm_path(s, name, to, new, e);
	if (!r)
		work_put_to(s, PENDING_MOVE, old, new, NULL, w);
	return r;
}

void store_after(struct store *s, struct store_work *w)
{
	work_put(s, PENDING_NONE, s->dir, NULL, w);
}

void store_settle(struct store *s)
{
	LOCK_GUARD(&s->mutex);
	while (s->first || s->writing)
		pthread_cond_wait(&s->changed, &s->mutex);
}

/* ---- open and close ---- */

static void owner_read(int fd, char *buf, size_t size)
{
	ssize_t n = pread(fd, buf, size - 1, 0);

	buf[n > 0 ? n : 0] = 0;
	buf[strcspn(buf, "\n")] = 0;
}

static bool owner_is_gone(const char *owner)
{
	long pid = strtol(owner, NULL, 10);

	return pid > 0 && kill((pid_t)pid, 0) < 0 && errno == ESRCH;
}

/* What a daemon was just starting when it was killed has its lock until it is that program. */
static int lock_try(int fd, char *owner, size_t size)
{
	for (unsigned i = 0;; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		owner_read(fd, owner, size);
		if (i == LOCK_TRIES || !owner_is_gone(owner))
			return -EBUSY;
		usleep(LOCK_TRY_US);
	}
}

static int lock_take(struct store *s, struct err *e)
{
	char path[PATH_MAX], owner[32] = "";

	if (side_path(s, "lock", path, e) < 0)
		return -ENAMETOOLONG;
	s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->lock_fd < 0)
		return err_set_errno(e, -errno, "%s", path);
	if (lock_try(s->lock_fd, owner, sizeof(owner)) < 0)
		return err_set(e, -EBUSY, ERR_BUSY,
			"another cairnd (pid %s) serves %s; stop it, or use --state-dir",
			owner[0] ? owner : "unknown", s->dir);
	snprintf(owner, sizeof(owner), "%d\n", (int)getpid());
	if (ftruncate(s->lock_fd, 0) < 0 || pwrite_full(s->lock_fd, owner, strlen(owner), 0) < 0)
		return err_set_errno(e, -errno, "%s", path);
	return 0;
}

static int folder_make(struct store *s, struct err *e)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/vms", s->dir) >= (int)sizeof(path))
		return err_set_errno(e, -ENAMETOOLONG, "%s", s->dir);
	return mkdir_all(path, 0700, e);
}

/* Of an earlier daemon, which told nobody that they were kept. */
static void drafts_remove(struct store *s)
{
	char path[PATH_MAX];
	DIR *dir = vm_path(s, "", "", path, NULL) == 0 ? opendir(path) : NULL;
	struct dirent *de;

	while (dir && (de = readdir(dir)))
		if (!strncmp(de->d_name, DRAFT, strlen(DRAFT)))
			unlinkat(dirfd(dir), de->d_name, 0);
	if (dir)
		closedir(dir);
}

int store_open(const char *dir, struct store **ret_s, struct err *e)
{
	struct store *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_set_errno(e, -ENOMEM, "%s", dir);
	s->lock_fd = -1;
	pthread_mutex_init(&s->mutex, NULL);
	pthread_cond_init(&s->changed, NULL);
	s->dir = strdup(dir);
	r = s->dir ? folder_make(s, e) : err_set_errno(e, -ENOMEM, "%s", dir);
	if (!r)
		r = lock_take(s, e);
	if (!r) {
		drafts_remove(s);
		r = -pthread_create(&s->writer, NULL, writer_main, s);
		s->writer_runs = !r;
		if (r < 0)
			err_set_errno(e, r, "cannot make a thread");
	}
	if (r < 0) {
		store_close(s);
		return r;
	}
	*ret_s = s;
	return 0;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	if (s->writer_runs) {
		pthread_mutex_lock(&s->mutex);
		s->stop = true;
		pthread_cond_broadcast(&s->changed);
		pthread_mutex_unlock(&s->mutex);
		pthread_join(s->writer, NULL);
	}
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->mutex);
	free(s->dir);
	free(s);
}

/* ---- loading ---- */

static void quarantine(const char *path, const char *why)
{
	char away[PATH_MAX];

	if (snprintf(away, sizeof(away), "%s.damaged", path) >= (int)sizeof(away))
		return;
	if (rename(path, away) < 0)
		log_error("store", "%s is damaged (%s), and cannot be renamed: %s", path, why,
			strerror(errno));
	else
		log_error("store", "%s is damaged (%s); it is now %s", path, why, away);
}

void store_quarantine(struct store *s, const char *name, const char *why)
{
	char path[PATH_MAX];

	if (vm_path(s, name, "definition.json", path, NULL) == 0)
		quarantine(path, why);
}

/* NULL when it is not there or damaged. */
static struct json_object *path_load(const char *path)
{
	struct json_object *o = NULL;
	struct err e;
	int r;

	r = js_read(path, STORE_FILE_MAX, &o, &e);
	if (r == -ENOENT)
		return NULL;
	if (r == 0 && js_get_int(o, "version", 0) == STORE_VERSION)
		return o;
	if (r == 0)
		err_set(&e, -EINVAL, ERR_CORRUPT, "no version that is known here");
	if (r == 0 || r == -EINVAL || r == -EFBIG)
		quarantine(path, e.msg);
	else
		log_error("store", "%s", e.msg);
	json_object_put(o);
	return NULL;
}

struct json_object *store_load_vm_file(struct store *s, const char *name, const char *file)
{
	char path[PATH_MAX];

	return vm_path(s, name, file, path, NULL) < 0 ? NULL : path_load(path);
}

struct json_object *store_load_file(struct store *s, const char *file)
{
	char path[PATH_MAX];

	return side_path(s, file, path, NULL) < 0 ? NULL : path_load(path);
}

/* Of a VM that was being forgotten, or made, when a daemon ended: without a definition it is none. */
static void leftovers_remove(struct store *s, const char *name)
{
	struct err e;

	if (store_has_file(s, name, "definition.json") || store_has_file(s, name, "definition.json.damaged"))
		return;
	if (store_remove(s, name, &e) < 0)
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
		definition = store_load_vm_file(s, de->d_name, "definition.json");
		if (!definition) {
			leftovers_remove(s, de->d_name);
			continue;
		}
		state = store_load_vm_file(s, de->d_name, "state.json");
		found(opaque, de->d_name, definition, state);
	}
	if (dir)
		closedir(dir);
}

/* ---- files in folders beside the VMs' ---- */

int store_put_soon(struct store *s, const char *file, struct json_object *o, struct err *e)
{
	CLEANUP_FREE char *text = text_of(o, 0);
	char path[PATH_MAX];
	int r = side_path(s, file, path, e);

	if (!r)
		r = store_size_check(path, text, e);
	if (!r)
		r = store_file_switch(path, text, e);
	if (!r)
		file_put_behind(s, PENDING_SETTLE, path, NULL);
	return r;
}

int store_remove_soon(struct store *s, const char *file, struct err *e)
{
	char path[PATH_MAX];
	int r = side_path(s, file, path, e);

	if (!r && unlink(path) < 0 && errno != ENOENT)
		r = err_set_errno(e, -errno, "%s", path);
	if (r < 0)
		return r;
	*strrchr(path, '/') = 0;
	file_put_behind(s, PENDING_SYNC, path, NULL);
	return 0;
}

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
	work_put(s, PENDING_DRAFT, path, text_of(definition, JSON_C_TO_STRING_NOSLASHESCAPE), w);
}

/* What still goes of a VM of the same name is not taken for the new one's. */
static void leaving_wait(struct store *s)
{
	LOCK_GUARD(&s->mutex);
	while (s->leaving)
		pthread_cond_wait(&s->changed, &s->mutex);
}

int store_keep_draft(struct store *s, const struct store_work *w, const char *name, struct err *e)
{
	char draft[PATH_MAX], path[PATH_MAX];
	int r = draft_path(s, w, draft, e);

	leaving_wait(s);
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

void store_sync_definition(struct store *s, struct store_work *w, const char *name)
{
	char path[PATH_MAX];

	vm_path(s, name, "definition.json", path, NULL);
	work_put(s, PENDING_SETTLE, path, NULL, w);
}

/* The marker first: there is never a definition without it. NULL: none is wanted. */
static int definition_put(struct store *s, const char *name, const char *text, const char *marker,
	char definition[PATH_MAX], struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, "", path, e);

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

int store_save_definition_soon(struct store *s, const char *name, struct json_object *definition,
	const char *marker, struct err *e)
{
	CLEANUP_FREE char *text = text_of(definition, JSON_C_TO_STRING_NOSLASHESCAPE);
	char path[PATH_MAX];
	int r = store_size_check(name, text, e);

	if (r < 0)
		return r;
	leaving_wait(s);
	r = definition_put(s, name, text, marker, path, e);
	if (r < 0) {
		store_remove(s, name, NULL);
		return r;
	}
	file_put_behind(s, PENDING_SETTLE, path, NULL);
	return 0;
}

int store_remove_marker(struct store *s, const char *name, const char *marker, struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, marker, path, e);

	if (!r && unlink(path) < 0 && errno != ENOENT)
		r = err_set_errno(e, -errno, "%s", path);
	if (!r)
		r = vm_path(s, name, "definition.json", path, e);
	if (!r)
		file_put_behind(s, PENDING_SETTLE, path, NULL);
	return r;
}

int store_remove(struct store *s, const char *name, struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, "", path, e);

	store_settle(s);
	return r < 0 ? r : store_folder_clear(path, e);
}

/* What waits to be written into the VM's folder, and nobody waits for. */
static void pending_drop(struct store *s, const char *folder)
{
	struct pending **at = &s->first;

	LOCK_GUARD(&s->mutex);
	while (*at) {
		struct pending *p = *at;

		if (p->work || strncmp(p->path, folder, strlen(folder))) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		pending_free(p);
	}
}

int store_remove_behind(struct store *s, struct store_work *w, const char *name, struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, "definition.json", path, e);

	if (!r && unlink(path) < 0 && errno != ENOENT)
		r = err_set_errno(e, -errno, "%s", path);
	if (r < 0)
		return r;
	*(strrchr(path, '/') + 1) = 0;
	pending_drop(s, path);
	*strrchr(path, '/') = 0;
	work_put(s, PENDING_CLEAR, path, NULL, w);
	return 0;
}

int store_rename(struct store *s, struct store_work *w, const char *name, const char *to,
	struct json_object *definition, struct err *e)
{
	char path[PATH_MAX], new[PATH_MAX];
	int r = vm_path(s, name, "", path, e);

	if (!r)
		r = vm_path(s, to, STORE_RENAMED, new, e);
	if (r < 0)
		return r;
	*strrchr(path, '/') = 0;
	*strrchr(new, '/') = 0;
	work_put_to(s, PENDING_RENAME, path, new, text_of(definition, JSON_C_TO_STRING_NOSLASHESCAPE), w);
	return 0;
}

void store_rename_end(struct store *s, struct store_work *w, const char *name)
{
	char path[PATH_MAX], to[PATH_MAX];

	vm_path(s, name, STORE_RENAMED, path, NULL);
	vm_path(s, name, "definition.json", to, NULL);
	work_put_to(s, PENDING_MOVE, path, to, NULL, w);
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

int store_drop_file(struct store *s, const char *name, const char *file, struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, file, path, e);

	if (!r && unlink(path) < 0 && errno != ENOENT)
		r = err_set_errno(e, -errno, "%s", path);
	return r;
}

int store_remove_file(struct store *s, const char *name, const char *file, struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, file, path, e);

	return r < 0 ? r : store_file_remove(path, e);
}

static int file_rename(struct store *s, const char *name, const char *from, const char *to, struct err *e)
{
	char old[PATH_MAX], new[PATH_MAX];
	int r = vm_path(s, name, from, old, e);

	if (!r)
		r = vm_path(s, name, to, new, e);
	if (!r && rename(old, new) < 0)
		r = err_set_errno(e, -errno, "%s", new);
	return r;
}

int store_rename_file(struct store *s, const char *name, const char *from, const char *to,
	struct err *e)
{
	int r = file_rename(s, name, from, to, e);

	return r < 0 ? r : vm_folder_sync(s, name, e);
}

int store_rename_file_soon(struct store *s, const char *name, const char *from, const char *to, struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, "", path, e);

	if (!r)
		r = file_rename(s, name, from, to, e);
	if (!r)
		file_put_behind(s, PENDING_SYNC, path, NULL);
	return r;
}

int store_open_file(struct store *s, const char *name, const char *file, int flags, struct err *e)
{
	char path[PATH_MAX];
	int r = vm_path(s, name, file, path, e), fd;

	if (r < 0)
		return r;
	fd = open(path, flags | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? err_set_errno(e, -errno, "%s", path) : fd;
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
