/* denial_log: denials are counted for each user separately, also when there are too many users for
 * the table. */
#include "api/access/denial_log.h"
#include "api/access/audit.h"
#include "api/schema/event.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/ratelimit.h"
#include "tests/unit/tmp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define USERS 80
#define EACH (RATELIMIT_BURST + 2)
#define APART 63 /* api/access/denial_log.c */

static void dir_remove(const char *dir)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/audit.log", dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/audit-users.log", dir);
	unlink(path);
	rmdir(dir);
}

static void lines_check(struct audit *a, unsigned *ret_apart, unsigned *ret_together)
{
	struct audit_query q = { .uid = -1 };
	bool more = true;

	while (more) {
		CLEANUP_JS struct json_object *page = audit_page(a, &q);
		struct json_object *lines = js_get_array(page, "lines");

		for (size_t i = 0; i < json_object_array_length(lines); i++) {
			struct json_object *o = json_object_array_get_idx(lines, i);
			bool is_apart = js_get(o, "uid");

			assert_true(js_get_int(o, "since", 0) > 0);
			assert_int_equal(js_get_int(o, "left-out", 0),
				is_apart ? EACH - RATELIMIT_BURST : (USERS - APART) * EACH - RATELIMIT_BURST);
			++*(is_apart ? ret_apart : ret_together);
		}
		q.from = (uint64_t)js_get_int(page, "next", 0);
		more = js_get_bool(page, "more", false);
	}
}

/* Uids that a hash table would put into one slot. */
static void test_denials_are_counted_per_user(void **state)
{
	char dir[96];
	struct event_sink sink = { 0 };
	struct denial_log *denials;
	struct audit *audit;
	struct loop *loop;
	unsigned told = 0, apart = 0, together = 0;
	struct err e;

	(void)state;
	snprintf(dir, sizeof(dir), "%s/cairn-denials-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(dir));
	assert_int_equal(loop_new(8, &loop, &e), 0);
	assert_int_equal(audit_open(loop, dir, &audit, &e), 0);
	assert_int_equal(denial_log_open(loop, &sink, audit, &denials, &e), 0);
	for (unsigned n = 0; n < EACH; n++)
		for (uid_t i = 0; i < USERS; i++) {
			uid_t uid = i ? 64 * i : (uid_t)-1;

			if (denial_log_report(denials, EVENT_PERMISSION_DENIED, uid, 1, json_object_new_object()))
				told++;
			else
				denial_log_unaudited(denials, uid);
		}
	denial_log_close(denials);
	assert_int_equal(told, (APART + 1) * RATELIMIT_BURST);
	lines_check(audit, &apart, &together);
	assert_int_equal(apart, APART);
	assert_int_equal(together, 1);
	audit_close(audit);
	loop_free(loop);
	dir_remove(dir);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_denials_are_counted_per_user),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
