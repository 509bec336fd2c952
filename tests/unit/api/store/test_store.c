/* The state folder: saved data is loaded again, damaged files are quarantined without harm to
 * others, and a second daemon is refused. */
#include "api/wire/json.h"
#include "api/store/store.h"
#include "api/store/store_file.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define HOLDER_WAITS 3

struct seen {
	unsigned count, with_state;
	char names[256];
	int64_t last_n;
};

static void note(void *opaque, const char *name, struct json_object *definition,
	struct json_object *state)
{
	struct seen *s = opaque;

	assert_non_null(definition);
	s->count++;
	s->with_state += state != NULL;
	s->last_n = js_get_int(state, "n", -1);
	strcat(strcat(s->names, name), " ");
}

static int setup(void **state)
{
	char *dir;

	assert_true(asprintf(&dir, "%s/cairn-test-XXXXXX", tmp_folder()) > 0);
	*state = mkdtemp(dir);
	log_set_fd(open("/dev/null", O_WRONLY));
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	char command[128];
	int r;

	snprintf(command, sizeof(command), "rm -r %s", (char *)*state);
	r = system(command);
	free(*state);
	return r;
}

static struct store *opened(const char *dir)
{
	struct store *s = NULL;
	struct err e;

	if (store_open(dir, NULL, &s, &e) < 0)
		fail_msg("%s", e.msg);
	return s;
}

static void work_done(struct store_work *w)
{
	w->done = NULL; /* once only */
}

/* For work that is passed to the store. */
static void begin(struct store_work *w, struct loop *l)
{
	w->loop = l;
	w->done = work_done;
	w->r = 1;
}

static int finish(struct store *s, struct store_work *w)
{
	while (store_owes(s))
		loop_run_once(w->loop, UINT64_MAX);
	assert_null(w->done);
	return w->r;
}

static void draft(struct store *s, struct store_work *w, struct loop *l, const char *name)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();

	js_put_str(o, "name", name);
	begin(w, l);
	store_write_draft(s, w, o);
}

static void define(struct store *s, const char *name)
{
	struct store_work w;
	struct loop *l;
	struct err e;

	assert_int_equal(loop_new(8, &l, &e), 0);
	draft(s, &w, l, name);
	assert_int_equal(finish(s, &w), 0);
	assert_int_equal(store_keep_draft(s, &w, name, true, &e), 0);
	begin(&w, l);
	store_sync_file(s, &w, name, "definition.json");
	assert_int_equal(finish(s, &w), 0);
	loop_free(l);
}

static void put(const char *dir, const char *name, const char *text)
{
	char path[128];
	struct err e;

	snprintf(path, sizeof(path), "%s/vms/%s", dir, name);
	assert_int_equal(file_write_atomic(path, text, strlen(text), 0600, &e), 0);
}

static bool there(const char *dir, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/vms/%s", dir, name);
	return access(path, F_OK) == 0;
}

static void test_saved_state_loads_again(void **state)
{
	struct store *s = opened(*state);
	struct seen seen = { 0 };

	define(s, "vm1");
	define(s, "vm2");
	for (int i = 0; i < 100; i++) {
		CLEANUP_JS struct json_object *o = json_object_new_object();

		js_put_int(o, "n", i);
		store_put(s, "vm1", "state.json", o, STORE_EVENTUALLY, NULL, NULL);
	}
	store_close(s); /* writes what is queued */
	s = opened(*state);
	store_load(s, note, &seen);
	assert_int_equal(seen.count, 2);
	assert_int_equal(seen.with_state, 1);
	seen = (struct seen){ 0 };
	assert_int_equal(store_remove(s, "vm2", NULL, NULL), 0);
	assert_false(there(*state, "vm2"));
	store_load(s, note, &seen);
	assert_string_equal(seen.names, "vm1 ");
	assert_int_equal(seen.last_n, 99);
	store_close(s);
}

/* A definition that was not committed exists neither for this daemon nor for the next. */
static void test_uncommitted_definition_is_dropped(void **state)
{
	struct store *s = opened(*state);
	struct store_work w[3];
	struct seen seen = { 0 };
	struct loop *l;
	struct err e;

	assert_int_equal(loop_new(8, &l, &e), 0);
	for (unsigned i = 0; i < 3; i++)
		draft(s, &w[i], l, i ? "b" : "a");
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(finish(s, &w[i]), 0);
	store_drop_draft(s, &w[1]);
	assert_int_equal(store_keep_draft(s, &w[1], "b", true, &e), -ENOENT);
	assert_int_equal(store_keep_draft(s, &w[0], "a", true, &e), 0);
	store_load(s, note, &seen);
	assert_string_equal(seen.names, "a ");
	assert_true(there(*state, ".draft-3"));
	store_close(s);
	s = opened(*state);
	assert_false(there(*state, ".draft-3"));
	store_close(s);
	loop_free(l);
}

/* Writes queued for a deleted VM do not reach the folder of a new VM of that name. */
static void test_queued_writes_do_not_reach_new_vm(void **state)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct store *s = opened(*state);
	struct seen seen = { 0 };
	struct store_work old, new;
	struct loop *l;
	struct err e;

	assert_int_equal(loop_new(8, &l, &e), 0);
	define(s, "vm1");
	put(*state, "vm1/managed.save", "state");
	for (unsigned i = 0; i < 100; i++) /* the last one waits for the others */
		store_put(s, NULL, i % 2 ? "a.json" : "b.json", o, STORE_EVENTUALLY, NULL, NULL);
	store_put(s, "vm1", "state.json", o, STORE_EVENTUALLY, NULL, NULL);
	draft(s, &new, l, "vm1");
	begin(&old, l);
	assert_int_equal(store_remove(s, "vm1", &old, &e), 0);
	assert_false(there(*state, "vm1/definition.json"));
	while (new.done)
		loop_run_once(l, UINT64_MAX);
	assert_int_equal(store_keep_draft(s, &new, "vm1", true, &e), 0);
	assert_int_equal(finish(s, &old), 0);
	store_drain(s);
	assert_true(there(*state, "vm1/definition.json"));
	assert_false(there(*state, "vm1/state.json"));
	assert_false(there(*state, "vm1/managed.save"));
	begin(&old, l);
	assert_int_equal(store_remove(s, "vm1", &old, &e), 0);
	assert_int_equal(finish(s, &old), 0);
	assert_false(there(*state, "vm1"));
	store_load(s, note, &seen);
	assert_int_equal(seen.count, 0);
	store_close(s);
	loop_free(l);
}

/* A VM that takes the old name of a renamed VM does not get its folder. */
static void test_vm_with_old_name_does_not_get_renamed_folder(void **state)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct store *s = opened(*state);
	struct store_work old, new;
	struct loop *l;
	struct err e;

	assert_int_equal(loop_new(8, &l, &e), 0);
	define(s, "vm1");
	put(*state, "vm1/managed.save", "state");
	draft(s, &new, l, "vm1");
	while (new.done)
		loop_run_once(l, UINT64_MAX);
	for (unsigned i = 0; i < 100; i++)
		store_put(s, NULL, i % 2 ? "a.json" : "b.json", o, STORE_EVENTUALLY, NULL, NULL);
	begin(&old, l);
	assert_int_equal(store_rename(s, &old, "vm1", "vm2", o, &e), 0);
	assert_int_equal(store_keep_draft(s, &new, "vm1", true, &e), 0);
	assert_int_equal(finish(s, &old), 0);
	assert_true(there(*state, "vm1/definition.json"));
	assert_false(there(*state, "vm1/managed.save"));
	assert_true(there(*state, "vm2/definition.json"));
	assert_true(there(*state, "vm2/managed.save"));
	store_close(s);
	loop_free(l);
}

/* A VM that could not be renamed keeps its folder, though its old name was free meanwhile. */
static void test_new_vm_does_not_get_folder_of_failed_rename(void **state)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct store *s = opened(*state);
	struct store_work old, new;
	char path[128];
	struct loop *l;
	struct err e;

	assert_int_equal(loop_new(8, &l, &e), 0);
	define(s, "vm1");
	snprintf(path, sizeof(path), "%s/vms/vm2", (char *)*state);
	assert_int_equal(mkdir(path, 0700), 0);
	put(*state, "vm2/file", "in the way");
	draft(s, &new, l, "vm1");
	while (new.done)
		loop_run_once(l, UINT64_MAX);
	begin(&old, l);
	assert_int_equal(store_rename(s, &old, "vm1", "vm2", o, &e), 0);
	assert_int_equal(store_keep_draft(s, &new, "vm1", true, &e), -EEXIST);
	assert_int_equal(store_save_definition_soon(s, "vm1", o, true, "fork.pending", &e), -EEXIST);
	assert_true(finish(s, &old) < 0);
	assert_true(there(*state, "vm1/definition.json"));
	assert_false(there(*state, "vm1/fork.pending"));
	store_close(s);
	loop_free(l);
}

/* The daemon was killed during an undefine. */
static void test_interrupted_undefine_is_completed(void **state)
{
	struct store *s = opened(*state);
	struct seen seen = { 0 };
	char path[128];

	for (unsigned i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "vm%u", i);
		define(s, path);
		snprintf(path, sizeof(path), "vm%u/undefine.json", i);
		put(*state, path, "{}");
	}
	snprintf(path, sizeof(path), "%s/vms/vm0/definition.json", (char *)*state);
	assert_int_equal(unlink(path), 0);
	put(*state, "vm1/definition.json", "damaged");
	store_load(s, note, &seen);
	assert_string_equal(seen.names, "vm2 ");
	assert_false(there(*state, "vm0"));
	assert_true(there(*state, "vm1/undefine.json"));
	assert_true(there(*state, "vm2/undefine.json"));
	store_close(s);
}

/* A file that would be quarantined at load is not saved. */
static void test_too_large_file_is_not_saved(void **state)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	const size_t size = 4 * 1024 * 1024;
	struct store *s = opened(*state);
	char *text = malloc(size + 1);
	struct store_work w;
	struct loop *l;
	struct err e;

	assert_non_null(text);
	memset(text, 'x', size);
	text[size] = 0;
	assert_int_equal(loop_new(8, &l, &e), 0);
	js_put_str(o, "text", text);
	free(text);
	begin(&w, l);
	store_write_draft(s, &w, o);
	assert_int_equal(finish(s, &w), -EFBIG);
	assert_int_equal(store_put(s, NULL, "x.json", o, STORE_NOW, NULL, &e), -EFBIG);
	begin(&w, l);
	store_put(s, NULL, "x.json", o, STORE_WITH_WORK, &w, NULL);
	assert_int_equal(finish(s, &w), -EFBIG);
	assert_int_equal(store_save_definition_soon(s, "vm1", o, true, "fork.pending", &e), -EFBIG);
	assert_null(store_load_file(s, NULL, "x.json"));
	assert_false(there(*state, "vm1"));
	store_close(s);
	loop_free(l);
}

/* A clone exists with its marker or not at all, whatever an earlier run left behind. */
static void test_clone_exists_with_marker_or_not_at_all(void **state)
{
	struct json_object *o = json_object_new_object();
	struct seen seen = { 0 };
	struct store *s = opened(*state);
	struct err e;

	js_put_str(o, "name", "c1");
	js_put_int(o, "version", 1);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(store_save_definition_soon(s, "c1", o, i == 0, "fork.pending", &e), 0);
		assert_true(store_has_file(s, "c1", "definition.json"));
		assert_true(store_has_file(s, "c1", "fork.pending"));
	}
	store_close(s); /* queued durable writes are done, and nothing else is written */
	s = opened(*state);
	store_load(s, note, &seen);
	assert_int_equal(seen.count, 1);
	assert_int_equal(store_remove_marker(s, "c1", "fork.pending", &e), 0);
	assert_false(store_has_file(s, "c1", "fork.pending"));
	assert_int_equal(store_save_definition_soon(s, "c2", o, true, "fork.pending", &e), 0);
	assert_int_equal(store_remove(s, "c2", NULL, &e), 0);
	assert_false(store_has_file(s, "c2", "fork.pending"));
	/* A folder that cannot be created leaves nothing behind. */
	assert_true(store_save_definition_soon(s, "c3/x", o, true, "no/such/folder", &e) < 0);
	assert_false(store_has_file(s, "c3/x", "definition.json"));
	store_close(s);
	json_object_put(o);
}

static void name_note(void *opaque, const char *name)
{
	char *names = opaque;

	strcat(names, name);
	strcat(names, " ");
}

/* Files beside the VMs' folders: each is written in one step, and a partial file is ignored. */
static void test_files_beside_vms_are_written_atomically(void **state)
{
	struct json_object *o = json_object_new_object(), *is;
	struct store *s = opened(*state);
	char names[100] = "", path[PATH_MAX];
	struct err e;

	store_each_file(s, "batches", name_note, names);
	assert_string_equal(names, "");
	js_put_str(o, "a", "1");
	assert_int_equal(store_put(s, NULL, "batches/x.json", o, STORE_SOON, NULL, &e), 0);
	js_put_str(o, "a", "2");
	assert_int_equal(store_put(s, NULL, "batches/x.json", o, STORE_SOON, NULL, &e), 0);
	assert_int_equal(store_put(s, NULL, "lock/x.json", o, STORE_SOON, NULL, &e), -ENOTDIR);
	snprintf(path, sizeof(path), "%s/batches/y.json.tmp", (const char *)*state);
	assert_int_equal(file_write_atomic(path, "{", 1, 0600, &e), 0);
	store_each_file(s, "batches", name_note, names);
	assert_string_equal(names, "x.json ");
	assert_int_equal(access(path, F_OK), -1);
	is = store_load_file(s, NULL, "batches/x.json");
	assert_string_equal(js_get_str(is, "a"), "2");
	json_object_put(is);
	assert_int_equal(store_remove_file(s, NULL, "batches/x.json", STORE_SOON, NULL, &e), 0);
	assert_int_equal(store_remove_file(s, NULL, "batches/x.json", STORE_SOON, NULL, &e), 0);
	store_each_file(s, "batches", name_note, names);
	assert_string_equal(names, "x.json ");
	store_close(s);
	json_object_put(o);
}

/* The text changes in the file itself, so that the file system's structure stays as it is; then the file is removed. */
static void test_file_is_ended_in_place(void **state)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	char path[PATH_MAX], other[PATH_MAX];
	struct store *s = opened(*state);
	CLEANUP_FREE char *text = NULL;
	struct store_work w;
	struct loop *l;
	struct err e;
	size_t len;

	assert_int_equal(loop_new(8, &l, &e), 0);
	js_put_str(o, "vms", "\"vms\"");
	assert_int_equal(store_put(s, NULL, "batches/x.json", o, STORE_SOON, NULL, &e), 0);
	snprintf(path, sizeof(path), "%s/batches/x.json", (const char *)*state);
	snprintf(other, sizeof(other), "%s/other", (const char *)*state);
	assert_int_equal(link(path, other), 0);
	begin(&w, l);
	assert_int_equal(store_end_file(s, "batches/x.json", "\"vms\"", "\"end\"", &w, &e), 0);
	assert_int_equal(finish(s, &w), 0);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(file_read(other, 1000, &text, &len, &e), 0);
	assert_string_equal(text, "{\n  \"end\":\"\\\"vms\\\"\",\n  \"version\":1\n}");
	begin(&w, l);
	assert_int_equal(store_end_file(s, "batches/x.json", "\"vms\"", "\"end\"", &w, &e), 0);
	assert_int_equal(finish(s, &w), -ENOENT);
	store_close(s);
	loop_free(l);
}

static void put_is_refused(struct store *s, struct loop *l)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct store_work w;
	struct err e;

	js_put_str(o, "a", "1");
	assert_int_equal(store_put(s, NULL, "jobs.json", o, STORE_NOW, NULL, &e), -EIO);
	assert_non_null(strstr(e.msg, "put it back, or restart cairnd"));
	assert_int_equal(store_put(s, NULL, "batches/x.json", o, STORE_SOON, NULL, &e), -EIO);
	begin(&w, l);
	store_put(s, NULL, "jobs.json", o, STORE_WITH_WORK, &w, &e);
	assert_int_equal(finish(s, &w), -EIO);
	assert_int_equal(w.e.cls, ERR_IO);
	draft(s, &w, l, "a");
	assert_int_equal(finish(s, &w), -EIO);
	assert_int_equal(store_save_definition_soon(s, "a", o, true, NULL, &e), -EIO);
	assert_int_equal(store_open_file(s, "vm", "log", O_WRONLY | O_CREAT, &e), -EIO);
}

/* Nothing is written to another folder of that name, such as the one below a file system that was unmounted. */
static void test_state_folder_that_is_gone_is_not_replaced(void **state)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	char dir[PATH_MAX], away[PATH_MAX];
	struct store *s;
	struct loop *l;
	struct err e;

	snprintf(dir, sizeof(dir), "%s/state", (const char *)*state);
	snprintf(away, sizeof(away), "%s/away", (const char *)*state);
	s = opened(dir);
	define(s, "vm");
	assert_int_equal(loop_new(8, &l, &e), 0);
	assert_int_equal(rename(dir, away), 0);
	put_is_refused(s, l);
	assert_int_equal(mkdir(dir, 0700), 0);
	put_is_refused(s, l);
	assert_int_equal(rmdir(dir), 0); /* it is empty */
	assert_int_equal(rename(away, dir), 0);
	js_put_str(o, "a", "1");
	assert_int_equal(store_put(s, NULL, "jobs.json", o, STORE_NOW, NULL, &e), 0);
	store_close(s);
	loop_free(l);
}

static void test_order_of_names_is_unknown_without_a_disk(void **state)
{
	(void)state;
	assert_int_equal(store_ordered_device("/proc"), 0);
	assert_int_equal(store_ordered_device("/no/such/folder"), 0);
}

static void test_file_without_text_is_not_ended(void **state)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct store *s = opened(*state);
	struct store_work w;
	struct loop *l;
	struct err e;

	assert_int_equal(loop_new(8, &l, &e), 0);
	js_put_str(o, "other", "x");
	assert_int_equal(store_put(s, NULL, "batches/x.json", o, STORE_SOON, NULL, &e), 0);
	begin(&w, l);
	assert_int_equal(store_end_file(s, "batches/x.json", "\"vms\"", "\"end\"", &w, &e), 0);
	assert_int_equal(finish(s, &w), -EBADMSG);
	assert_null(store_load_file(s, NULL, "batches/x.json"));
	store_close(s);
	loop_free(l);
}

static void test_damaged_files_are_quarantined(void **state)
{
	static const char *const damages[] = { "", "{", "not json", "[]", "{\"version\":0}", "{}",
		"{\"version\":\"1\"}" };
	struct store *s = opened(*state);

	define(s, "good");
	for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
		struct seen seen = { 0 };

		define(s, "bad");
		put(*state, "bad/definition.json", damages[i]);
		put(*state, "good/state.json", damages[i]);
		store_load(s, note, &seen);
		assert_string_equal(seen.names, "good ");
		assert_int_equal(seen.with_state, 0);
		assert_true(there(*state, "bad/definition.json.damaged"));
		assert_false(there(*state, "bad/definition.json"));
		assert_true(there(*state, "good/state.json.damaged"));
	}
	store_close(s);
}

/* A crash left a partial temporary file: the previous content is loaded. */
static void test_partial_temporary_file_is_ignored(void **state)
{
	struct store *s = opened(*state);
	struct seen seen = { 0 };

	define(s, "vm1");
	put(*state, "vm1/definition.json.tmp", "{\"version\":1,\"na");
	store_load(s, note, &seen);
	assert_string_equal(seen.names, "vm1 ");
	store_close(s);
}

static void test_second_daemon_is_refused(void **state)
{
	struct store *s = opened(*state), *second = NULL;
	struct err e;

	assert_int_equal(store_open(*state, NULL, &second, &e), -16);
	assert_int_equal(e.cls, ERR_BUSY);
	assert_non_null(strstr(e.msg, "another cairnd (pid"));
	assert_null(second);
	store_close(s);
	store_close(opened(*state));
}

/* The process that holds the lock of a killed daemon; 0: none. It ends when its pipe does, which is while a store waits
 * for the lock, or with the test. */
static pid_t holder;
static int holder_pipe = -1;
static unsigned holder_waits;

int __real_usleep(useconds_t us);
int __wrap_usleep(useconds_t us);

int __wrap_usleep(useconds_t us)
{
	if (!holder)
		return __real_usleep(us);
	if (++holder_waits == HOLDER_WAITS) {
		close(holder_pipe);
		assert_int_equal(waitpid(holder, NULL, 0), holder);
		holder = 0;
	}
	return 0;
}

/* The daemon was killed while it started a process, which holds the lock for a moment longer. */
static void test_lock_of_dying_process_is_waited_for(void **state)
{
	int status, pids[2], end[2];
	pid_t pid;

	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); /* the holder becomes a child of this process */
	assert_int_equal(pipe(pids) | pipe(end), 0);
	pid = fork();
	if (!pid) {
		close(end[1]);
		opened(*state);
		pid = fork();
		if (!pid)
			_exit((int)read(end[0], &pid, 1));
		_exit(write(pids[1], &pid, sizeof(pid)) != sizeof(pid));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(read(pids[0], &holder, sizeof(holder)), sizeof(holder));
	close(pids[0]);
	close(pids[1]);
	close(end[0]);
	holder_pipe = end[1];
	holder_waits = 0;
	store_close(opened(*state));
	assert_int_equal(holder_waits, HOLDER_WAITS);
	assert_int_equal(holder, 0);
}

/* ---- large files ---- */

/* The files that the store gives to the threads that close them. */
static struct stat given[4];
static size_t ngiven;

void __real_file_close_async(int fd);
void __wrap_file_close_async(int fd);

void __wrap_file_close_async(int fd)
{
	if (fd >= 0) {
		assert_true(ngiven < sizeof(given) / sizeof(*given));
		assert_int_equal(fstat(fd, &given[ngiven++]), 0);
	}
	__real_file_close_async(fd);
}

/* Create a file of this size in a folder. Returns its inode. */
static ino_t file_make(const char *folder, const char *name, size_t bytes)
{
	char path[PATH_MAX], *content = malloc(bytes);
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
	assert_true(fd >= 0);
	for (size_t i = 0; i < bytes; i++)
		content[i] = (char)rand(); /* nothing that a file system could compress */
	assert_int_equal(write_full(fd, content, bytes), 0);
	assert_int_equal(fsync(fd), 0); /* some file systems count blocks only then */
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	free(content);
	return st.st_ino;
}

/* Check that the last file that was given is this one, without a name, and forget all of them. */
static void assert_given(ino_t file)
{
	assert_int_equal(ngiven, 1);
	assert_int_equal(given[0].st_ino, file);
	assert_int_equal(given[0].st_nlink, 0);
	ngiven = 0;
}

#define LARGE (2 * MIB)

/* Freeing saved memory with many extents takes a file system seconds. */
static void test_large_files_are_closed_beside_the_loop(void **state)
{
	char vm[PATH_MAX], old[PATH_MAX + 16], new[PATH_MAX + 16];
	struct store *s = opened(*state);
	struct err e;
	ino_t file;

	ngiven = 0;
	snprintf(vm, sizeof(vm), "%s/vms/vm1", (char *)*state);
	assert_int_equal(mkdir(vm, 0700), 0);
	file = file_make(vm, "managed.save", LARGE);
	assert_int_equal(store_remove_file(s, "vm1", "managed.save", STORE_EVENTUALLY, NULL, &e), 0);
	assert_given(file);
	file = file_make(vm, "managed.save", LARGE);
	assert_int_equal(store_remove_file(s, "vm1", "managed.save", STORE_NOW, NULL, &e), 0);
	assert_given(file);

	/* replaced by another file */
	file_make(vm, "managed.save", LARGE);
	file = file_make(vm, "managed.save.used", LARGE);
	assert_int_equal(store_rename_file(s, "vm1", "managed.save", "managed.save.used", STORE_NOW, NULL, &e), 0);
	assert_given(file);
	snprintf(old, sizeof(old), "%s/%s", vm, "old");
	snprintf(new, sizeof(new), "%s/%s", vm, "managed.save");
	file_make(vm, "old", LARGE);
	file = file_make(vm, "managed.save", LARGE);
	assert_int_equal(store_move(old, new, &e), 0);
	assert_given(file);

	/* with the whole VM: two saves and a dump */
	snprintf(old, sizeof(old), "%s/%s", vm, DUMPS_FOLDER);
	assert_int_equal(mkdir(old, 0700), 0);
	file_make(old, "vm1.core", LARGE);
	assert_int_equal(store_folder_clear(vm, &e), 0);
	assert_int_equal(ngiven, 3);
	assert_int_equal(access(vm, F_OK), -1);
	ngiven = 0;
	store_close(s);
}

static void test_small_file_is_removed_at_once(void **state)
{
	struct store *s = opened(*state);
	char vm[PATH_MAX];
	struct err e;

	ngiven = 0;
	snprintf(vm, sizeof(vm), "%s/vms/vm1", (char *)*state);
	assert_int_equal(mkdir(vm, 0700), 0);
	file_make(vm, "managed.save", 4096);
	assert_int_equal(store_remove_file(s, "vm1", "managed.save", STORE_EVENTUALLY, NULL, &e), 0);
	assert_int_equal(store_remove_file(s, "vm1", "managed.save", STORE_EVENTUALLY, NULL, &e), 0);
	assert_int_equal(ngiven, 0);
	assert_false(store_has_file(s, "vm1", "managed.save"));
	assert_int_equal(rmdir(vm), 0);
	store_close(s);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_saved_state_loads_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_uncommitted_definition_is_dropped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_queued_writes_do_not_reach_new_vm, setup, teardown),
		cmocka_unit_test_setup_teardown(test_new_vm_does_not_get_folder_of_failed_rename, setup, teardown),
		cmocka_unit_test_setup_teardown(test_vm_with_old_name_does_not_get_renamed_folder, setup, teardown),
		cmocka_unit_test_setup_teardown(test_interrupted_undefine_is_completed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_large_file_is_not_saved, setup, teardown),
		cmocka_unit_test_setup_teardown(test_files_beside_vms_are_written_atomically, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_is_ended_in_place, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state_folder_that_is_gone_is_not_replaced, setup, teardown),
		cmocka_unit_test(test_order_of_names_is_unknown_without_a_disk),
		cmocka_unit_test_setup_teardown(test_file_without_text_is_not_ended, setup, teardown),
		cmocka_unit_test_setup_teardown(test_clone_exists_with_marker_or_not_at_all, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_files_are_quarantined, setup, teardown),
		cmocka_unit_test_setup_teardown(test_partial_temporary_file_is_ignored, setup, teardown),
		cmocka_unit_test_setup_teardown(test_second_daemon_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_large_files_are_closed_beside_the_loop, setup, teardown),
		cmocka_unit_test_setup_teardown(test_small_file_is_removed_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lock_of_dying_process_is_waited_for, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
