#include "api/store/store_writer.h"
#include "api/store/store.h"
#include "api/store/store_file.h"
#include "api/store/store_unread.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A VM's state is written this much later. An operation that somebody waits for, such as the end of a fork, is often
 * queued within a millisecond of it, and would have to wait for the two syncs of that write. */
#define WRITE_DELAY_NS 2000000u
/* Files that are synced at a time, threads besides the store's, and how many more files are worth a thread. */
#define GROUP_MAX 128u
#define GROUP_THREADS 7u
#define GROUP_FILES_EACH 4u

struct pending {
	struct pending *next;
	uint64_t due_ns; /* when a delayed operation begins; 0: it is not delayed */
	enum pending_kind kind;
	char *path, *text, *to;
	struct store_work *work; /* NULL: no completion */
};

/* Return the length of the path of the file's folder's folder. */
static size_t upper_len(const char *path)
{
	const char *slash = strrchr(path, '/');

	return (size_t)((const char *)memrchr(path, '/', (size_t)(slash - path)) - path);
}

/* Sync the folder of the file's folder, if it still exists. */
static int upper_sync(const char *path, struct err *e)
{
	CLEANUP_FREE char *up = strndup(path, upper_len(path));

	return up ? store_folder_sync_err(up, e) : err_set_errno(e, -ENOMEM, "%s", path);
}

/* Return whether a sync of the file brings the names of the file and its folders to stable storage. */
static bool names_are_ordered(const struct store_writer *w, const char *path)
{
	struct stat st;

	return w->ordered_device && stat(path, &st) == 0 && st.st_dev == w->ordered_device;
}

static int file_sync(const struct store_writer *w, const struct pending *p, struct err *e)
{
	int r;

	if (names_are_ordered(w, p->path))
		return store_file_sync(p->path, e);
	r = store_file_sync_named(p->path, e);
	return !r && p->kind == PENDING_SYNC_NEW_FILE ? upper_sync(p->path, e) : r;
}

/* Log the failure of an operation, and remember that of a sync without completion for store_writer_failures(). */
static void failure_note(struct store_writer *w, bool is_sync, const struct err *e)
{
	log_error("store", "not stored: %s", e->msg);
	if (!is_sync)
		return;
	pthread_mutex_lock(&w->mutex);
	w->failures++;
	w->last_failure = *e;
	pthread_mutex_unlock(&w->mutex);
}

unsigned store_writer_failures(struct store_writer *w, struct err *ret_last)
{
	unsigned n;

	pthread_mutex_lock(&w->mutex);
	n = w->failures;
	if (ret_last)
		*ret_last = w->last_failure;
	pthread_mutex_unlock(&w->mutex);
	return n;
}

static bool is_of_sync(enum pending_kind kind)
{
	return kind == PENDING_SYNC_FILE || kind == PENDING_SYNC_NEW_FILE || kind == PENDING_SYNC_FOLDER;
}

static int pending_do(struct store_writer *w, const struct pending *p, struct err *e)
{
	int r = p->text ? store_size_check(p->path, p->text, e) : 0;

	if (!r && w->dir && p->kind != PENDING_NONE)
		r = store_place_check(w->dir_fd, w->dir, e);
	if (!r && p->kind == PENDING_WRITE)
		r = store_unread_check(w->unread, NULL, p->path, e);
	if (r < 0)
		return r;
	switch (p->kind) {
	case PENDING_WRITE:
		return file_write_atomic(p->path, p->text, strlen(p->text), 0600, e);
	case PENDING_DRAFT:
		return store_file_put(p->path, p->text, true, e);
	case PENDING_SYNC_FILE:
	case PENDING_SYNC_NEW_FILE:
		return file_sync(w, p, e);
	case PENDING_CLEAR:
		return store_folder_clear_for_good(p->path, e);
	case PENDING_RENAME:
		return store_folder_rename(p->path, p->text, p->to, e);
	case PENDING_MOVE:
		return store_move(p->path, p->to, e);
	case PENDING_COPY:
		return store_file_copy(p->path, p->to, e);
	case PENDING_REMOVE:
		return store_file_remove(p->path, e);
	case PENDING_SYNC_FOLDER:
		return store_folder_sync_err(p->path, e);
	case PENDING_END:
		return store_file_end(p->path, p->text, p->to, e);
	case PENDING_NONE:
		return 0;
	case PENDING_RUN:
		p->work->run(p->work);
		return 0;
	}
	return 0;
}

static void work_run(struct loop_task *t)
{
	struct store_work *work = container_of(t, struct store_work, task);

	work->writer->owed--;
	work->done(work);
}

static void pending_finish(struct store_writer *w, struct pending *p)
{
	struct err e;
	int r = pending_do(w, p, &e);

	if (r < 0)
		failure_note(w, !p->work && is_of_sync(p->kind), &e);
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

static void pendings_free(struct pending *p)
{
	while (p) {
		struct pending *next = p->next;

		pending_free(p);
		p = next;
	}
}

/* Return whether the operation removes the folder, or renames it or another one to its name. p: NULL: none. */
static bool leaves(const struct pending *p, const char *folder)
{
	return p && (p->kind == PENDING_CLEAR || p->kind == PENDING_RENAME) && (!strcmp(p->path, folder) || (p->to && !strcmp(p->to, folder)));
}

/* ---- syncing files together ---- */

static bool is_sync(const struct pending *p, enum pending_kind kind)
{
	return p->kind == kind && !p->work;
}

/* Return the last operation of those that are done together with p, which follow it in the queue: files, then new
 * files, then files. */
static struct pending *group_end(struct pending *p)
{
	static const enum pending_kind kinds[] = { PENDING_SYNC_FILE, PENDING_SYNC_NEW_FILE, PENDING_SYNC_FILE };
	struct pending *last = p;
	unsigned kind = 0;

	for (unsigned n = 0; n < GROUP_MAX && p; n++, p = p->next) {
		while (kind < ARRAY_SIZE(kinds) && !is_sync(p, kinds[kind]))
			kind++;
		if (kind == ARRAY_SIZE(kinds))
			break;
		last = p;
	}
	return last;
}

/* Files, or folders, to sync. Owns the paths. */
struct group {
	struct store_writer *writer;
	char *paths[GROUP_MAX];
	unsigned n;
	atomic_uint next;
	int (*sync)(const char *path, struct err *e);
};

/* Add the first len bytes of a path, unless they are the path that was added last. */
static void group_add(struct group *g, const char *path, size_t len)
{
	const char *last = g->n ? g->paths[g->n - 1] : "";

	if (strlen(last) == len && !strncmp(last, path, len))
		return;
	g->paths[g->n] = strndup(path, len);
	if (!g->paths[g->n++])
		abort();
}

static void *group_main(void *opaque)
{
	struct group *g = opaque;
	struct err e;
	unsigned k;

	while ((k = atomic_fetch_add(&g->next, 1)) < g->n)
		if (g->sync(g->paths[k], &e) < 0)
			failure_note(g->writer, true, &e);
	return NULL;
}

/* Sync all of a group, several at a time if they are many. */
static void group_sync(struct group *g, int (*sync)(const char *path, struct err *e))
{
	pthread_t threads[GROUP_THREADS];
	unsigned n = 0;

	g->sync = sync;
	if (!g->n)
		return;
	while (n < MIN((g->n - 1) / GROUP_FILES_EACH, GROUP_THREADS) && !pthread_create(&threads[n], NULL, group_main, g))
		n++;
	group_main(g);
	while (n)
		pthread_join(threads[--n], NULL);
	while (g->n)
		free(g->paths[--g->n]);
}

/* Sync the files of a list to stable storage. Each file's content is on the way to the disk before the first sync, so
 * that one commit of the file system's journal and one flush of the disk serve many files. The files before the first
 * new one come first, each with its folder, because a batch's file has to be on stable storage before the definitions
 * that it names; then all other files, their folders, and the folders of those that may be new. */
static void list_sync(struct store_writer *w, const struct pending *list)
{
	struct group files = { .writer = w }, folders = { .writer = w }, uppers = { .writer = w };
	struct err e;

	for (const struct pending *p = list; p; p = p->next)
		store_file_sync_start(p->path);
	for (; list && list->kind == PENDING_SYNC_FILE; list = list->next)
		if (file_sync(w, list, &e) < 0)
			failure_note(w, true, &e);
	for (const struct pending *p = list; p; p = p->next) {
		group_add(&files, p->path, strlen(p->path));
		if (names_are_ordered(w, p->path))
			continue;
		group_add(&folders, p->path, (size_t)(strrchr(p->path, '/') - p->path));
		if (p->kind == PENDING_SYNC_NEW_FILE)
			group_add(&uppers, p->path, upper_len(p->path));
	}
	group_sync(&files, store_file_sync);
	group_sync(&folders, store_folder_sync_err);
	group_sync(&uppers, store_folder_sync_err);
}

/* ---- the thread ---- */

/* If all queued operations are delayed, return when the first one begins; else 0. Called with the mutex held. */
static uint64_t delayed_until(const struct store_writer *w)
{
	if (w->stop || w->awaited)
		return 0;
	for (const struct pending *p = w->first; p; p = p->next)
		if (!p->due_ns)
			return 0;
	return w->first ? w->first->due_ns : 0;
}

/* Wait until an operation is queued, or until due_ns if it is not 0. Called with the mutex held. */
static void change_wait(struct store_writer *w, uint64_t due_ns)
{
	struct timespec at = { .tv_sec = (time_t)(due_ns / CLOCK_NS_PER_S), .tv_nsec = (long)(due_ns % CLOCK_NS_PER_S) };

	if (due_ns)
		pthread_cond_timedwait(&w->changed, &w->mutex, &at);
	else
		pthread_cond_wait(&w->changed, &w->mutex);
}

static void *writer_main(void *opaque)
{
	struct store_writer *w = opaque;

	pthread_setname_np(pthread_self(), w->name);
	pthread_mutex_lock(&w->mutex);
	while (!w->stop || w->first) {
		struct pending *p = w->first, *last;
		uint64_t due_ns = delayed_until(w);

		if (!p || due_ns > clock_monotonic_ns() || (w->held && !w->awaited && !w->stop)) {
			change_wait(w, w->held ? 0 : due_ns);
			continue;
		}
		last = group_end(p);
		w->first = last->next;
		last->next = NULL;
		w->writing = p;
		pthread_mutex_unlock(&w->mutex);
		if (p == last)
			pending_finish(w, p);
		else
			list_sync(w, p);
		pthread_mutex_lock(&w->mutex);
		w->writing = NULL;
		pendings_free(p);
		pthread_cond_broadcast(&w->changed);
	}
	pthread_mutex_unlock(&w->mutex);
	return NULL;
}

/* Create an operation. path: copied; text: taken. */
static struct pending *pending_new(const struct store_writer *w, enum pending_kind kind, const char *path, char *text,
	struct store_work *work)
{
	struct pending *p = calloc(1, sizeof(*p));

	if (!p)
		abort(); /* otherwise a state would be lost silently */
	*p = (struct pending){ .kind = kind, .path = strdup(path), .text = text, .work = work };
	if (kind == PENDING_WRITE && !work)
		p->due_ns = clock_monotonic_ns() + w->write_delay_ns;
	if (!p->path)
		abort();
	return p;
}

/* Release the mutex, and wake the thread after an operation was queued. In the other order, the thread would often run
 * at once, on this CPU, and wait for the mutex. */
static void change_signal(struct store_writer *w)
{
	bool wakes = !w->held;

	pthread_mutex_unlock(&w->mutex);
	if (wakes)
		pthread_cond_broadcast(&w->changed);
}

/* Whether p has to stay behind the queued operation: a state that says `saved` must not be stored before the save has
 * its name, after a renaming of the folder, the path is another VM's, and of two contents, the newer one is last. */
static bool stays_behind(const struct pending *queued, const struct pending *p)
{
	size_t folder = (size_t)(strrchr(p->path, '/') - p->path) + 1;

	if (queued->kind == PENDING_WRITE)
		return !strcmp(queued->path, p->path);
	if (queued->kind == PENDING_RENAME)
		return strlen(queued->path) == folder - 1 && !strncmp(queued->path, p->path, folder - 1);
	return (queued->kind == PENDING_MOVE || queued->kind == PENDING_REMOVE) && !strncmp(queued->path, p->path, folder);
}

/* Queue p (taken); see store_writer_put(). */
static void pending_put(struct store_writer *w, struct pending *p)
{
	enum pending_kind kind = p->kind;
	struct pending **at, **same = NULL;

	pthread_mutex_lock(&w->mutex);
	for (at = &w->first; *at; at = &(*at)->next)
		if (!(*at)->work && (*at)->kind == kind && (!p->work || kind == PENDING_WRITE) && !strcmp((*at)->path, p->path))
			same = at;
		else if (same && (stays_behind(*at, p) || (p->work && (*at)->work)))
			same = NULL;
	if (same && p->work) { /* p has a newer content, and nobody awaits the older one */
		struct pending *older = *same;

		if (at == &older->next)
			at = same;
		*same = older->next;
		pending_free(older);
	} else if (same) {
		p->next = (*same)->next;
		p->due_ns = (*same)->due_ns;
		pending_free(*same);
		*same = p;
		pthread_mutex_unlock(&w->mutex);
		return;
	}
	*at = p;
	change_signal(w);
}

void store_writer_put(struct store_writer *w, enum pending_kind kind, const char *path, char *text)
{
	pending_put(w, pending_new(w, kind, path, text, NULL));
}

static struct pending *work_new(struct store_writer *w, enum pending_kind kind, const char *path, const char *to,
	char *text, struct store_work *work)
{
	struct pending *p = pending_new(w, kind, path, text, work);

	p->to = to ? strdup(to) : NULL;
	if (to && !p->to)
		abort();
	work->writer = w;
	work->task.run = work_run;
	w->owed++;
	return p;
}

void store_writer_work_to(struct store_writer *w, enum pending_kind kind, const char *path, const char *to, char *text,
	struct store_work *work)
{
	pending_put(w, work_new(w, kind, path, to, text, work));
}

void store_writer_work_ahead(struct store_writer *w, enum pending_kind kind, const char *path, const char *to, char *text,
	struct store_work *work)
{
	struct pending *p = work_new(w, kind, path, to, text, work), **at = &w->first;

	pthread_mutex_lock(&w->mutex);
	for (struct pending **k = &w->first; *k; k = &(*k)->next)
		if ((*k)->kind != PENDING_WRITE || (*k)->work)
			at = &(*k)->next;
	p->next = *at;
	*at = p;
	change_signal(w);
}

void store_writer_work(struct store_writer *w, enum pending_kind kind, const char *path, char *text,
	struct store_work *work)
{
	store_writer_work_to(w, kind, path, NULL, text, work);
}

/* ---- waiting for operations ---- */

void store_writer_hold(struct store_writer *w)
{
	LOCK_GUARD(&w->mutex);
	w->held = true;
}

void store_writer_release(struct store_writer *w)
{
	pthread_mutex_lock(&w->mutex);
	w->held = false;
	change_signal(w);
}

/* Begin delayed writes at once while the caller waits. Called with the mutex held. */
static void delays_end(struct store_writer *w, bool end)
{
	w->awaited = end;
	pthread_cond_broadcast(&w->changed);
}

void store_writer_drain(struct store_writer *w)
{
	LOCK_GUARD(&w->mutex);
	delays_end(w, true);
	while (w->first || w->writing)
		pthread_cond_wait(&w->changed, &w->mutex);
	delays_end(w, false);
}

static bool has_path(const struct pending *p, const char *path)
{
	while (p && strcmp(p->path, path))
		p = p->next;
	return p != NULL;
}

/* Return whether an operation on the path is queued or running. Called with the mutex held. */
static bool is_queued(const struct store_writer *w, const char *path)
{
	return has_path(w->first, path) || has_path(w->writing, path);
}

void store_writer_drain_path(struct store_writer *w, const char *path)
{
	LOCK_GUARD(&w->mutex);
	delays_end(w, true);
	while (is_queued(w, path))
		pthread_cond_wait(&w->changed, &w->mutex);
	delays_end(w, false);
}

/* Called with the mutex held. */
static bool is_leaving(const struct store_writer *w, const char *folder)
{
	const struct pending *p = w->first;

	while (p && !leaves(p, folder))
		p = p->next;
	return p || leaves(w->writing, folder);
}

void store_writer_drain_leaving(struct store_writer *w, const char *folder)
{
	LOCK_GUARD(&w->mutex);
	if (!is_leaving(w, folder))
		return;
	delays_end(w, true);
	while (is_leaving(w, folder))
		pthread_cond_wait(&w->changed, &w->mutex);
	delays_end(w, false);
}

void store_writer_drop(struct store_writer *w, const char *folder)
{
	struct pending **at = &w->first;

	LOCK_GUARD(&w->mutex);
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

/* ---- start and end of the thread ---- */

void store_writer_init(struct store_writer *w, const char *name, struct store_unread *unread)
{
	pthread_condattr_t monotonic;

	*w = (struct store_writer){ .name = name, .unread = unread, .write_delay_ns = WRITE_DELAY_NS };
	pthread_mutex_init(&w->mutex, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&w->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

int store_writer_start(struct store_writer *w, struct err *e)
{
	int r = -pthread_create(&w->thread, NULL, writer_main, w);

	w->runs = !r;
	return r < 0 ? err_set_errno(e, r, "cannot make a thread") : 0;
}

void store_writer_done(struct store_writer *w)
{
	if (w->runs) {
		pthread_mutex_lock(&w->mutex);
		w->stop = true;
		pthread_cond_broadcast(&w->changed);
		pthread_mutex_unlock(&w->mutex);
		pthread_join(w->thread, NULL);
	}
	pthread_cond_destroy(&w->changed);
	pthread_mutex_destroy(&w->mutex);
}
