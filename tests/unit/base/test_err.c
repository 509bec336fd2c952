/* err: class, message, prefix, and truncation. */
#include "base/err.h"
#include "base/utf8.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void test_set_returns_what_it_was_given(void **state)
{
	struct err e;

	(void)state;
	assert_int_equal(err_set(&e, -EBUSY, ERR_BUSY, "disk %s is locked", "vda"), -EBUSY);
	assert_int_equal(e.cls, ERR_BUSY);
	assert_string_equal(e.msg, "disk vda is locked");
	assert_int_equal(err_set(NULL, -EBUSY, ERR_BUSY, "nobody listens"), -EBUSY);
	assert_int_equal(err_set_errno(NULL, -EIO, "nobody listens"), -EIO);
	err_prefix(NULL, "nobody listens");
}

static void test_errno_gives_class_and_reason(void **state)
{
	struct err e;

	(void)state;
	assert_int_equal(err_set_errno(&e, -ENOENT, "kernel %d", 1), -ENOENT);
	assert_int_equal(e.cls, ERR_NOT_FOUND);
	assert_string_equal(e.msg, "kernel 1: No such file or directory");
	err_prefix(&e, "vm %s", "one");
	assert_string_equal(e.msg, "vm one: kernel 1: No such file or directory");
	assert_int_equal(e.cls, ERR_NOT_FOUND);
}

static void test_sentence_has_no_control_characters(void **state)
{
	struct err e;

	(void)state;
	err_set(&e, -EINVAL, ERR_INVALID, "%s: bad", "a\x1b]0;\x07 \xc2\x9b \xc3\xa4");
	assert_string_equal(e.msg, "a?]0;? ?? \xc3\xa4: bad");
	err_set_errno(&e, -ENOENT, "\x1b");
	err_prefix(&e, "\x1b");
	assert_string_equal(e.msg, "?: ?: No such file or directory");
}

static void test_both_signs_of_errno(void **state)
{
	static const struct {
		int error;
		enum err_class cls;
	} rows[] = { { EINVAL, ERR_INVALID }, { ENOENT, ERR_NOT_FOUND }, { EEXIST, ERR_EXISTS },
		{ EACCES, ERR_PERMISSION }, { EPERM, ERR_PERMISSION }, { EBUSY, ERR_BUSY },
		{ ENOMEM, ERR_HOST }, { EMFILE, ERR_HOST }, { ENOSPC, ERR_NO_SPACE },
		{ EDQUOT, ERR_NO_SPACE }, { EIO, ERR_IO }, { ENOTSUP, ERR_UNSUPPORTED },
		{ ETIMEDOUT, ERR_TIMEOUT }, { ECANCELED, ERR_CANCELLED }, { EXDEV, ERR_GENERIC },
		{ 0, ERR_GENERIC } };

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(err_class_of_errno(rows[i].error), rows[i].cls);
		assert_int_equal(err_class_of_errno(-rows[i].error), rows[i].cls);
	}
}

/* The sentence says what to do about a limit that the user can raise. */
static void test_reached_limit_names_the_remedy(void **state)
{
	struct err e;

	(void)state;
	assert_int_equal(err_set_errno(&e, -EMFILE, "the socket"), -EMFILE);
	assert_string_equal(e.msg, "the socket: Too many open files; raise this process's limit of open files (ulimit -n, or LimitNOFILE= of its service)");
	assert_int_equal(err_set_errno(&e, -EAGAIN, "cannot start a thread"), -EAGAIN);
	assert_string_equal(e.msg, "cannot start a thread: Resource temporarily unavailable; the limit of processes and threads may be reached: "
		"raise it (ulimit -u, pids.max, or TasksMax= of the service)");
	assert_int_equal(err_set_errno(&e, -EROFS, "vda"), -EROFS);
	assert_string_equal(e.msg, "vda: Read-only file system; mount it for writing again; after an error of the disk, the kernel's log (dmesg) "
		"says why it is read-only");
}

/* Programs switch on the class names: each class has a distinct one. */
static void test_class_names(void **state)
{
	(void)state;
	for (int i = 0; i < ERR_CLASS_COUNT; i++) {
		assert_non_null(err_class_name((enum err_class)i));
		for (int k = 0; k < i; k++)
			assert_string_not_equal(err_class_name((enum err_class)i),
				err_class_name((enum err_class)k));
	}
	assert_string_equal(err_class_name((enum err_class)(-1)), "GenericError");
	assert_string_equal(err_class_name((enum err_class)ERR_CLASS_COUNT), "GenericError");
}

static void test_sentence_too_long_is_cut(void **state)
{
	char text[2 * ERR_SENTENCE_MAX];
	struct {
		struct err e;
		char guard[16];
	} s;

	(void)state;
	memset(s.guard, 0x5a, sizeof(s.guard));
	memset(text, 'a', sizeof(text));
	text[sizeof(text) - 1] = 0;
	err_set(&s.e, -EIO, ERR_IO, "%s", text);
	assert_int_equal(strlen(s.e.msg), ERR_SENTENCE_MAX - 1);
	err_set_errno(&s.e, -EIO, "%s", text);
	assert_int_equal(strlen(s.e.msg), ERR_SENTENCE_MAX - 1);
	err_set(&s.e, -EIO, ERR_IO, "x");
	err_prefix(&s.e, "%s", text);
	assert_int_equal(strlen(s.e.msg), ERR_SENTENCE_MAX - 1);
	text[ERR_SENTENCE_MAX - 3] = 0;
	err_set(&s.e, -EIO, ERR_IO, "tail");
	err_prefix(&s.e, "%s", text);
	assert_int_equal(strlen(s.e.msg), ERR_SENTENCE_MAX - 1);
	for (size_t i = 0; i < sizeof(s.guard); i++)
		assert_int_equal(s.guard[i], 0x5a);
}

static void test_sentence_is_not_cut_within_a_character(void **state)
{
	char text[ERR_SENTENCE_MAX];
	struct err e;

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		memset(text, 'a', sizeof(text));
		text[ERR_SENTENCE_MAX - 5 - i] = 0;
		err_set(&e, -EIO, ERR_IO, "\xe2\x82\xac");
		err_prefix(&e, "%s", text);
		assert_true(utf8_is_clean(e.msg));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set_returns_what_it_was_given),
		cmocka_unit_test(test_errno_gives_class_and_reason),
		cmocka_unit_test(test_sentence_has_no_control_characters),
		cmocka_unit_test(test_both_signs_of_errno), cmocka_unit_test(test_reached_limit_names_the_remedy),
		cmocka_unit_test(test_class_names),
		cmocka_unit_test(test_sentence_too_long_is_cut),
		cmocka_unit_test(test_sentence_is_not_cut_within_a_character),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
