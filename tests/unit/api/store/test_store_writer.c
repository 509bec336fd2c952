/* The store's thread runs operations in their order, but an urgent one before states that wait to be written. In
 * most tests the thread starts when all operations are queued. */
#include "api/store/store.h"
#include "api/store/store_file.h"
#include "api/store/store_unread.h"
#include "api/store/store_writer.h"
#include "base/err.h"
#include "base/file.h"
#include "base/loop.h"
#include "base/util.h"
#include "tests/unit/tmp.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	char dir[4096], a[4200], b[4200], c[4200];
	struct loop *loop;
	struct store_unread unread;
	struct store_writer writer;
	struct store_work work;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err e;

	assert_non_null(f);
	snprintf(f->dir, sizeof(f->dir), "%s/cairn-test-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->a, sizeof(f->a), "%s/a", f->dir);
	snprintf(f->b, sizeof(f->b), "%s/b", f->dir);
	snprintf(f->c, sizeof(f->c), "%s/c", f->dir);
	assert_int_equal(loop_new(8, &f->loop, &e), 0);
	store_unread_init(&f->unread);
	store_writer_init(&f->writer, "store", &f->unread);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unlink(f->a);
	unlink(f->b);
	unlink(f->c);
	rmdir(f->dir);
	store_unread_done(&f->unread);
	loop_free(f->loop);
	free(f);
	return 0;
}

static void work_done(struct store_work *w)
{
	w->done = NULL;
}

/* Queue the renaming of a file as an urgent operation. */
static void move_ahead(struct fixture *f, const char *from, const char *to)
{
	f->work = (struct store_work){ .loop = f->loop, .done = work_done };
	store_writer_work_ahead(&f->writer, PENDING_MOVE, from, to, NULL, &f->work);
}

static void run_all(struct fixture *f)
{
	struct err e;

	assert_int_equal(store_writer_start(&f->writer, &e), 0);
	while (f->work.done)
		loop_run_once(f->loop, UINT64_MAX);
	assert_int_equal(f->work.r, 0);
	store_writer_done(&f->writer);
}

static void assert_content(const char *path, const char *want)
{
	char buf[16] = "";
	FILE *file = fopen(path, "r");

	assert_non_null(file);
	assert_non_null(fgets(buf, sizeof(buf), file));
	fclose(file);
	assert_string_equal(buf, want);
}

static void write_now(const char *path, const char *text)
{
	struct err e;

	assert_int_equal(file_write_atomic(path, text, strlen(text), 0600, &e), 0);
}

static void test_copy_waits_for_its_turn_and_needs_no_source(void **state)
{
	struct fixture *f = *state;

	write_now(f->a, "old");
	write_now(f->b, "before");
	store_writer_put(&f->writer, PENDING_WRITE, f->a, strdup("new"));
	f->work = (struct store_work){ .loop = f->loop, .done = work_done };
	store_writer_work_to(&f->writer, PENDING_COPY, f->a, f->b, NULL, &f->work);
	run_all(f);
	assert_content(f->a, "new");
	assert_content(f->b, "new");
	unlink(f->a);
	store_writer_init(&f->writer, "store", &f->unread);
	f->work = (struct store_work){ .loop = f->loop, .done = work_done };
	store_writer_work_to(&f->writer, PENDING_COPY, f->a, f->c, NULL, &f->work);
	run_all(f);
	assert_int_equal(access(f->c, F_OK), -1);
}

static void test_urgent_operation_overtakes_states(void **state)
{
	struct fixture *f = *state;

	write_now(f->a, "old");
	store_writer_put(&f->writer, PENDING_WRITE, f->c, strdup("other"));
	store_writer_put(&f->writer, PENDING_WRITE, f->a, strdup("new"));
	move_ahead(f, f->a, f->b);
	run_all(f);
	assert_content(f->b, "old");
	assert_content(f->a, "new");
	assert_content(f->c, "other");
}

/* A state that says `saved` is not stored before the save has its name, although an older state was queued first. */
static void test_newer_state_stays_behind_a_renaming(void **state)
{
	struct fixture *f = *state;

	f->work = (struct store_work){ .loop = f->loop, .done = work_done };
	store_writer_put(&f->writer, PENDING_WRITE, f->a, strdup("old"));
	store_writer_work_to(&f->writer, PENDING_MOVE, f->a, f->b, NULL, &f->work);
	store_writer_put(&f->writer, PENDING_WRITE, f->a, strdup("new"));
	store_writer_put(&f->writer, PENDING_WRITE, f->a, strdup("newest"));
	run_all(f);
	assert_content(f->b, "old");
	assert_content(f->a, "newest");
}

static void test_urgent_operation_overtakes_nothing_else(void **state)
{
	struct fixture *f = *state;
	struct store_work first = { .loop = f->loop, .done = work_done };

	store_writer_put(&f->writer, PENDING_WRITE, f->a, strdup("text"));
	store_writer_work_to(&f->writer, PENDING_MOVE, f->a, f->b, NULL, &first);
	move_ahead(f, f->b, f->c);
	run_all(f);
	assert_null(first.done);
	assert_int_equal(first.r, 0);
	assert_content(f->c, "text");
}

static void test_urgent_operation_overtakes_no_awaited_write(void **state)
{
	struct fixture *f = *state;
	struct store_work first = { .loop = f->loop, .done = work_done };

	store_writer_work(&f->writer, PENDING_WRITE, f->a, strdup("text"), &first);
	move_ahead(f, f->a, f->b);
	run_all(f);
	assert_null(first.done);
	assert_content(f->b, "text");
}

/* ---- syncs of folders ---- */

#define MEET_S 60

/* The paths that the store's threads have synced, in order: the last part of each, after a space. */
static char synced[4096];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t met = PTHREAD_COND_INITIALIZER;
static unsigned syncing, most_syncing; /* threads in fsync(), now and at most */
static bool meets; /* the first sync waits for a second one at the same time */

static struct store_writer *_Atomic awaits; /* a sync waits until somebody waits for this writer; NULL: it does not */

static void await_wait(void)
{
	struct store_writer *w;
	bool awaited = false;

	while (!awaited && (w = awaits)) {
		pthread_mutex_lock(&w->mutex);
		awaited = w->awaited;
		pthread_mutex_unlock(&w->mutex);
		sched_yield();
	}
}

static void sync_meet(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += MEET_S;
	while (meets && most_syncing < 2 && pthread_cond_timedwait(&met, &mutex, &until) == 0)
		;
	meets = false;
}

/* Replaces the C library's function in this program. */
int fsync(int fd)
{
	char link[64], path[4200] = "";

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	assert_true(readlink(link, path, sizeof(path) - 1) > 0);
	*strrchr(path, '/') = ' ';
	pthread_mutex_lock(&mutex);
	strcat(synced, strrchr(path, ' '));
	syncing++;
	most_syncing = MAX(most_syncing, syncing);
	pthread_cond_broadcast(&met);
	sync_meet();
	syncing--;
	pthread_mutex_unlock(&mutex);
	await_wait();
	return (int)syscall(SYS_fsync, fd);
}

#define NEVER_NS (UINT64_MAX / 4)

static void test_operation_overtakes_a_write_that_the_running_thread_has_seen(void **state)
{
	struct fixture *f = *state;
	struct err e;

	write_now(f->b, "moved");
	f->writer.write_delay_ns = NEVER_NS;
	assert_int_equal(store_writer_start(&f->writer, &e), 0);
	store_writer_put(&f->writer, PENDING_WRITE, f->a, strdup("text"));
	store_writer_put(&f->writer, PENDING_WRITE, f->a, strdup("newer"));
	move_ahead(f, f->b, f->c);
	while (f->work.done)
		loop_run_once(f->loop, UINT64_MAX);
	assert_int_equal(f->work.r, 0);
	assert_content(f->c, "moved");
	assert_int_equal(access(f->a, F_OK), -1);
	store_writer_drain(&f->writer);
	assert_content(f->a, "newer");
	store_writer_put(&f->writer, PENDING_WRITE, f->a, strdup("next"));
	store_writer_drain_path(&f->writer, f->a);
	assert_content(f->a, "next");
	store_writer_put(&f->writer, PENDING_WRITE, f->a, strdup("last"));
	store_writer_done(&f->writer);
	assert_content(f->a, "last");
}

static void test_write_begins_by_itself(void **state)
{
	struct fixture *f = *state;
	struct err e;

	assert_int_equal(store_writer_start(&f->writer, &e), 0);
	store_writer_put(&f->writer, PENDING_WRITE, f->a, strdup("text"));
	while (access(f->a, F_OK) < 0)
		sched_yield();
	store_writer_done(&f->writer);
	assert_content(f->a, "text");
}

/* Create a file with the name `name` in a folder. */
static void file_make(const char *folder, const char *name)
{
	char path[4300];
	struct err e;

	assert_true(mkdir(folder, 0700) == 0 || access(folder, F_OK) == 0);
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	assert_int_equal(store_file_put(path, "text", false, &e), 0);
}

/* Queue the sync of a file of file_make(). */
static void sync_queue(struct fixture *f, const char *folder, const char *name, struct store_work *work)
{
	char path[4300];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	if (work)
		store_writer_work(&f->writer, PENDING_SYNC_NEW_FILE, path, NULL, work);
	else
		store_writer_put(&f->writer, PENDING_SYNC_NEW_FILE, path, NULL);
}

static void folders_remove(const struct fixture *f)
{
	const char *folders[] = { f->a, f->b, f->c };

	for (unsigned i = 0; i < ARRAY_SIZE(folders); i++) {
		char path[4300];

		snprintf(path, sizeof(path), "%s/%c", folders[i], 'x' + (char)i);
		unlink(path);
		rmdir(folders[i]);
	}
}

/* Run all, and compare what was synced. want: the fixture's folder is written as "all", and the folder that holds it as
 * "top". */
static void assert_synced(struct fixture *f, const char *want)
{
	char text[4096] = "", top[4096], *all;

	snprintf(top, sizeof(top), "%s", f->dir);
	all = strrchr(top, '/');
	*all++ = 0;
	synced[0] = 0;
	f->work = (struct store_work){ .loop = f->loop, .done = work_done };
	store_writer_work(&f->writer, PENDING_NONE, f->dir, NULL, &f->work);
	run_all(f);
	for (char *part = strtok(synced, " "); part; part = strtok(NULL, " "))
		snprintf(text + strlen(text), sizeof(text) - strlen(text), " %s",
			!strcmp(part, all) ? "all" : !strcmp(part, strrchr(top, '/') + 1) ? "top" : part);
	assert_string_equal(text, want);
	folders_remove(f);
}

static void test_files_synced_in_a_row_sync_their_common_folder_once(void **state)
{
	struct fixture *f = *state;

	file_make(f->a, "x");
	file_make(f->b, "y");
	file_make(f->c, "z");
	sync_queue(f, f->a, "x", NULL);
	sync_queue(f, f->b, "y", NULL);
	sync_queue(f, f->c, "z", NULL);
	assert_synced(f, " x y z a b c all");
}

#define MANY 50

/* A fork's definitions: each file before its folder, and the common folder once, after all of them. */
static void test_many_files_in_a_row_are_synced_together(void **state)
{
	struct fixture *f = *state;
	char folder[4300], path[4400], want[16];

	for (unsigned i = 0; i < MANY; i++) {
		snprintf(folder, sizeof(folder), "%s/v%02u", f->dir, i);
		snprintf(path, sizeof(path), "f%02u", i);
		file_make(folder, path);
		sync_queue(f, folder, path, NULL);
	}
	store_writer_put(&f->writer, PENDING_SYNC_FOLDER, f->dir, NULL);
	synced[0] = 0;
	most_syncing = 0;
	meets = true;
	f->work = (struct store_work){ .loop = f->loop, .done = work_done };
	store_writer_work(&f->writer, PENDING_NONE, f->dir, NULL, &f->work);
	run_all(f);
	assert_true(most_syncing >= 2);
	for (unsigned i = 0; i < MANY; i++) {
		const char *file, *in;

		snprintf(want, sizeof(want), " f%02u", i);
		file = strstr(synced, want);
		snprintf(want, sizeof(want), " v%02u", i);
		in = strstr(synced, want);
		assert_non_null(file);
		assert_true(in > file);
		snprintf(path, sizeof(path), "%s/v%02u/f%02u", f->dir, i, i);
		unlink(path);
		*strrchr(path, '/') = 0;
		rmdir(path);
	}
	assert_int_equal(strlen(synced), MANY * 8 + 2 * strlen(strrchr(f->dir, '/')));
	snprintf(path, sizeof(path), " %s", strrchr(f->dir, '/') + 1);
	assert_string_equal(strstr(synced, path) + strlen(path), path); /* for the group, then for PENDING_SYNC_FOLDER */
}

/* The store waits for a file that is synced with others. */
static void test_file_of_a_group_is_awaited(void **state)
{
	struct fixture *f = *state;
	char path[4300];
	struct err e;
	bool done;

	file_make(f->a, "x");
	file_make(f->b, "y");
	file_make(f->c, "z");
	sync_queue(f, f->a, "x", NULL);
	sync_queue(f, f->b, "y", NULL);
	sync_queue(f, f->c, "z", NULL);
	synced[0] = 0;
	most_syncing = 0;
	awaits = &f->writer;
	assert_int_equal(store_writer_start(&f->writer, &e), 0);
	pthread_mutex_lock(&mutex);
	while (!most_syncing) /* until the group has begun */
		pthread_cond_wait(&met, &mutex);
	pthread_mutex_unlock(&mutex);
	snprintf(path, sizeof(path), "%s/z", f->c);
	store_writer_drain_path(&f->writer, path);
	pthread_mutex_lock(&mutex);
	done = strstr(synced, " z a b c");
	pthread_mutex_unlock(&mutex);
	awaits = NULL;
	store_writer_done(&f->writer);
	assert_true(done);
	folders_remove(f);
}

static void test_common_folder_is_synced_before_another_operation(void **state)
{
	struct fixture *f = *state;

	file_make(f->a, "x");
	file_make(f->b, "y");
	sync_queue(f, f->a, "x", NULL);
	store_writer_put(&f->writer, PENDING_SYNC_FOLDER, f->b, NULL);
	sync_queue(f, f->b, "y", NULL);
	assert_synced(f, " x a all b y b all");
}

static void test_common_folder_is_synced_before_completion(void **state)
{
	struct fixture *f = *state;
	struct store_work first = { .loop = f->loop, .done = work_done };

	file_make(f->a, "x");
	file_make(f->b, "y");
	sync_queue(f, f->a, "x", &first);
	sync_queue(f, f->b, "y", NULL);
	assert_synced(f, " x a all y b all");
	assert_int_equal(first.r, 0);
}

/* The second file is gone: the folder that holds the first one's is synced all the same. */
static void test_common_folder_is_synced_when_the_last_file_is_gone(void **state)
{
	struct fixture *f = *state;

	file_make(f->a, "x");
	sync_queue(f, f->a, "x", NULL);
	sync_queue(f, f->b, "y", NULL);
	assert_synced(f, " x a all");
}

static void test_file_in_an_old_folder_syncs_that_folder_only(void **state)
{
	struct fixture *f = *state;
	char path[4300];

	file_make(f->a, "x");
	snprintf(path, sizeof(path), "%s/x", f->a);
	store_writer_put(&f->writer, PENDING_SYNC_FILE, path, NULL);
	assert_synced(f, " x a");
}

static void test_files_of_other_folders_sync_each_folder(void **state)
{
	struct fixture *f = *state;

	file_make(f->a, "x");
	sync_queue(f, f->a, "x", NULL);
	sync_queue(f, f->dir, "a", NULL);
	assert_synced(f, " x a a all all top");
}

/* A fork's definitions, then its list of pins; the batch's file is on stable storage before them. */
static void test_file_behind_new_ones_joins_them_and_one_before_them_is_synced_first(void **state)
{
	struct fixture *f = *state;
	char batch[4300], list[4300];

	file_make(f->a, "batch");
	file_make(f->b, "y");
	file_make(f->c, "list");
	snprintf(batch, sizeof(batch), "%s/batch", f->a);
	snprintf(list, sizeof(list), "%s/list", f->c);
	store_writer_put(&f->writer, PENDING_SYNC_FILE, batch, NULL);
	sync_queue(f, f->b, "y", NULL);
	store_writer_put(&f->writer, PENDING_SYNC_FILE, list, NULL);
	sync_queue(f, f->b, "y2", NULL);
	assert_synced(f, " batch a y list b c all b all");
	unlink(batch);
	unlink(list);
	rmdir(f->a);
	rmdir(f->c);
}

/* On a file system that keeps the order of names, a file's sync is enough; one elsewhere still needs its folders. */
static void test_folders_are_not_synced_where_names_are_ordered(void **state)
{
	struct fixture *f = *state;
	char list[4300];
	struct stat st;

	for (unsigned elsewhere = 0; elsewhere < 2; elsewhere++) {
		file_make(f->a, "x");
		file_make(f->b, "y");
		file_make(f->c, "list");
		snprintf(list, sizeof(list), "%s/list", f->c);
		assert_int_equal(stat(f->a, &st), 0);
		f->writer.ordered_device = st.st_dev + elsewhere;
		store_writer_put(&f->writer, PENDING_SYNC_FILE, list, NULL);
		sync_queue(f, f->a, "x", NULL);
		sync_queue(f, f->b, "y", NULL);
		assert_synced(f, elsewhere ? " list c x y a b all" : " list x y");
		unlink(list);
		rmdir(f->c);
	}
}

/* ---- holding ---- */

/* Otherwise the thread would begin the first operation while the later ones are queued. */
static void test_held_operations_begin_at_release(void **state)
{
	struct fixture *f = *state;
	struct err e;

	synced[0] = 0;
	assert_int_equal(store_writer_start(&f->writer, &e), 0);
	for (unsigned i = 0; i < 1000; i++) {
		store_writer_hold(&f->writer);
		store_writer_put(&f->writer, PENDING_SYNC_FOLDER, f->dir, NULL);
		sched_yield();
		store_writer_drop(&f->writer, f->dir); /* all that has not begun */
		store_writer_release(&f->writer);
	}
	assert_string_equal(synced, "");
	store_writer_hold(&f->writer);
	store_writer_put(&f->writer, PENDING_SYNC_FOLDER, f->dir, NULL);
	store_writer_release(&f->writer);
	store_writer_drain(&f->writer);
	assert_non_null(strstr(synced, strrchr(f->dir, '/') + 1));
	store_writer_done(&f->writer);
}

static void test_held_operations_begin_when_the_loop_waits(void **state)
{
	struct fixture *f = *state;
	struct err e;

	assert_int_equal(store_writer_start(&f->writer, &e), 0);
	store_writer_hold(&f->writer);
	store_writer_put(&f->writer, PENDING_WRITE, f->a, strdup("one"));
	store_writer_drain_path(&f->writer, f->a);
	assert_content(f->a, "one");
	store_writer_put(&f->writer, PENDING_WRITE, f->b, strdup("two"));
	store_writer_drain(&f->writer);
	assert_content(f->b, "two");
	store_writer_put(&f->writer, PENDING_CLEAR, f->c, NULL);
	store_writer_drain_leaving(&f->writer, f->a); /* another folder: the loop need not wait */
	assert_non_null(f->writer.first);
	store_writer_drain_leaving(&f->writer, f->c);
	assert_null(f->writer.first);
	store_writer_put(&f->writer, PENDING_WRITE, f->c, strdup("three"));
	store_writer_done(&f->writer);
	assert_content(f->c, "three");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_copy_waits_for_its_turn_and_needs_no_source, setup, teardown),
		cmocka_unit_test_setup_teardown(test_urgent_operation_overtakes_states, setup, teardown),
		cmocka_unit_test_setup_teardown(test_newer_state_stays_behind_a_renaming, setup, teardown),
		cmocka_unit_test_setup_teardown(test_urgent_operation_overtakes_nothing_else, setup, teardown),
		cmocka_unit_test_setup_teardown(test_urgent_operation_overtakes_no_awaited_write, setup, teardown),
		cmocka_unit_test_setup_teardown(test_operation_overtakes_a_write_that_the_running_thread_has_seen, setup,
			teardown),
		cmocka_unit_test_setup_teardown(test_write_begins_by_itself, setup, teardown),
		cmocka_unit_test_setup_teardown(test_files_synced_in_a_row_sync_their_common_folder_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many_files_in_a_row_are_synced_together, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_of_a_group_is_awaited, setup, teardown),
		cmocka_unit_test_setup_teardown(test_common_folder_is_synced_before_another_operation, setup, teardown),
		cmocka_unit_test_setup_teardown(test_common_folder_is_synced_before_completion, setup, teardown),
		cmocka_unit_test_setup_teardown(test_common_folder_is_synced_when_the_last_file_is_gone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_in_an_old_folder_syncs_that_folder_only, setup, teardown),
		cmocka_unit_test_setup_teardown(test_files_of_other_folders_sync_each_folder, setup, teardown),
		cmocka_unit_test_setup_teardown(test_folders_are_not_synced_where_names_are_ordered, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_behind_new_ones_joins_them_and_one_before_them_is_synced_first, setup,
			teardown),
		cmocka_unit_test_setup_teardown(test_held_operations_begin_at_release, setup, teardown),
		cmocka_unit_test_setup_teardown(test_held_operations_begin_when_the_loop_waits, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
