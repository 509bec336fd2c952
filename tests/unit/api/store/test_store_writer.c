/* The store's thread runs operations in their order, but an urgent one before states that wait to be written. The
 * thread starts when all operations are queued. */
#include "api/store/store.h"
#include "api/store/store_unread.h"
#include "api/store/store_writer.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/loop.h"
#include "base/util.h"
#include "tests/unit/tmp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
	store_writer_init(&f->writer, &f->unread);
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
	store_writer_work_ahead(&f->writer, PENDING_MOVE, from, to, &f->work);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_urgent_operation_overtakes_states, setup, teardown),
		cmocka_unit_test_setup_teardown(test_urgent_operation_overtakes_nothing_else, setup, teardown),
		cmocka_unit_test_setup_teardown(test_urgent_operation_overtakes_no_awaited_write, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
