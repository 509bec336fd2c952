/* Web hooks: checks, the queue and its retries, and the stored form. */
#include "api/policy/web_hook.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include <cmocka.h>

#define NOW_S 1800000000

static struct web_hook *hook_new(void)
{
	struct web_hook *w = must_alloc(calloc(1, sizeof(*w)));

	snprintf(w->name, sizeof(w->name), "h");
	w->url = must_alloc(strdup("https://example.org/"));
	w->secret = web_hook_secret_new();
	w->events = 1;
	w->uid = geteuid();
	return w;
}

static struct web_delivery *event_add(struct web_hook *w)
{
	CLEANUP_JS struct json_object *event = json_tokener_parse("{\"event\":\"X\",\"data\":{}}");

	return web_hook_add(w, "started", event, NOW_S);
}

static void test_urls_and_secrets_are_checked(void **state)
{
	static const char *const good[] = { "https://example.org", "http://[::1]:80/a?b=%20#c", "https://a/x@y" };
	static const char *const bad[] = { "", "https:/a", "HTTPS://a/", "https://", "https:///a", "https://:80/", "https://u@a/", "https://a b/", "https://a/\n",
		"https://a/\x80", "file:///etc/passwd" };
	/* 24 and 64 bytes are the bounds; "!" is no base64, and a text without its '=' neither. */
	static const char *const keys[] = { "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZg==" };
	static const char *const no_keys[] = { "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY=", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZjA=",
		"whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY!", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3OA", "whsec_a-secret-of-one-s-own-making" };
	char *secret = web_hook_secret_new(), *other = web_hook_secret_new();
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(web_hook_check_url(good[i], true, &e), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_true(web_hook_check_url(bad[i], true, &e) < 0);
	assert_int_equal(web_hook_check_secret(secret, &e), 0);
	assert_string_not_equal(secret, other);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		assert_int_equal(web_hook_check_secret(keys[i], &e), 0);
	for (size_t i = 0; i < ARRAY_SIZE(no_keys); i++)
		assert_true(web_hook_check_secret(no_keys[i], &e) < 0);
	assert_int_equal(web_hook_check_secret("a-secret-of-one-s-own-making", &e), 0);
	assert_true(web_hook_check_secret("short", &e) < 0);
	assert_true(web_hook_check_secret("a key with blanks and length", &e) < 0);
	free(secret);
	free(other);
}

/* An earlier version took any text after whsec_. */
static void test_stored_secret_of_an_earlier_version_is_kept(void **state)
{
	struct web_hook *w = hook_new(), *back;
	CLEANUP_JS struct json_object *o = web_hook_to_json(w);

	(void)state;
	js_put_str(o, "secret", "whsec_this-is-no-base64-text");
	back = web_hook_from_json(o);
	assert_non_null(back);
	web_hook_free(back);
	web_hook_free(w);
}

static void test_done(void *opaque, bool delivered, const char *outcome)
{
	(void)opaque;
	(void)delivered;
	(void)outcome;
}

static void test_retries_take_longer_and_end(void **state)
{
	struct web_hook *w = hook_new();
	struct web_delivery *d = event_add(w);
	int64_t now = NOW_S;

	(void)state;
	assert_ptr_equal(web_hook_next(w), d);
	for (int i = 1; i < WEB_HOOK_TRIES_MAX; i++) {
		web_hook_tried(w, d, EX_TEMPFAIL, "HTTP 500", now);
		assert_ptr_equal(web_hook_next(w), d);
		assert_int_equal(d->due_s - now, 1 << i);
		now = d->due_s;
	}
	web_hook_tried(w, d, EX_TEMPFAIL, "HTTP 500", now);
	assert_null(web_hook_next(w));
	assert_true(w->failed == 1 && !w->nwaiting && w->last_s == now);
	web_hook_tried(w, event_add(w), 0, "HTTP 200", now);
	assert_true(w->delivered == 1 && !w->first);
	web_hook_free(w);
}

/* Each try of whatever event prolongs the rest, and an answer ends it. */
static void test_server_that_fails_gets_fewer_tries(void **state)
{
	struct web_hook *w = hook_new();
	struct web_delivery test = { .due_s = NOW_S, .done = test_done };
	int64_t now = NOW_S;

	(void)state;
	for (unsigned i = 0; i < WEB_HOOK_QUEUE_MAX; i++)
		event_add(w);
	for (unsigned i = 1; i < WEB_HOOK_QUEUE_MAX; i++) {
		struct web_delivery *d = web_hook_next(w);

		assert_true(web_hook_due_s(w, d) == now);
		web_hook_tried(w, d, EX_TEMPFAIL, "no answer", now);
		d = web_hook_next(w);
		assert_int_equal(web_hook_due_s(w, d) - now, i < 9 ? 1 << i : WEB_HOOK_REST_MAX_S);
		assert_true(web_hook_due_s(w, &test) == NOW_S);
		now = web_hook_due_s(w, d);
	}
	web_hook_tried(w, web_hook_next(w), 0, "HTTP 200", now);
	assert_true(web_hook_due_s(w, web_hook_next(w)) <= now);
	web_hook_free(w);
}

static void test_queue_is_bounded_and_one_try_is_under_way(void **state)
{
	struct web_hook *w = hook_new();
	struct web_delivery *first = event_add(w);

	(void)state;
	for (int i = 1; i < WEB_HOOK_QUEUE_MAX; i++)
		assert_non_null(event_add(w));
	assert_null(event_add(w));
	assert_true(w->dropped == 1 && w->nwaiting == WEB_HOOK_QUEUE_MAX);
	assert_ptr_equal(web_hook_next(w), first);
	w->busy = true;
	assert_null(web_hook_next(w));
	web_hook_free(w);
}

static void test_stored_form_is_read_back(void **state)
{
	struct web_hook *w = hook_new(), *back;
	CLEANUP_JS struct json_object *o = NULL, *progress = NULL, *again = NULL;

	(void)state;
	w->of_vm = true;
	w->uuid[3] = 7;
	web_hook_tried(w, event_add(w), EX_TEMPFAIL, "HTTP 500", NOW_S);
	event_add(w);
	w->dropped = 5;
	o = web_hook_to_json(w);
	progress = web_hook_progress_to_json(w);
	back = web_hook_from_json(o);
	assert_non_null(back);
	web_hook_progress_from_json(back, progress);
	again = web_hook_progress_to_json(back);
	assert_true(json_object_equal(progress, again));
	assert_true(back->nwaiting == 2 && back->first->tries == 1 && back->dropped == 5 && !memcmp(back->uuid, w->uuid, 16));
	assert_string_equal(back->secret, w->secret);
	web_hook_free(back);
	web_hook_free(w);
}

static void test_malformed_queue_is_left_out(void **state)
{
	static const char text[] = "{\"delivered\":-3,\"last\":7,\"queue\":[1,{},{\"id\":\"\",\"body\":\"x\"},{\"id\":\"msg_1\\n\",\"body\":\"x\"},{\"id\":\"msg_1\"},"
				   "{\"id\":\"msg_00000000000000000000000000000000000000\",\"body\":\"x\"},{\"id\":\"msg_2\",\"body\":\"x\",\"tries\":-1},"
				   "{\"id\":\"msg_3\",\"body\":\"y\",\"tries\":99999}]}";
	CLEANUP_JS struct json_object *o = json_tokener_parse(text);
	struct web_hook *w = hook_new();

	(void)state;
	web_hook_progress_from_json(w, o);
	assert_true(w->nwaiting == 2 && !w->delivered && !w->last[0]);
	assert_true(!w->first->tries && w->first->next->tries < WEB_HOOK_TRIES_MAX);
	web_hook_free(w);
}

static int64_t last_try_read(const char *text)
{
	CLEANUP_JS struct json_object *o = json_tokener_parse(text);
	struct web_hook *w = hook_new();
	int64_t last_s;

	web_hook_progress_from_json(w, o);
	last_s = w->last_s;
	web_hook_free(w);
	return last_s;
}

/* The list of web hooks has the time in nanoseconds. */
static void test_time_of_last_try_out_of_range_is_none(void **state)
{
	(void)state;
	assert_int_equal(last_try_read("{\"last_s\":-9223372036854775808}"), 0);
	assert_int_equal(last_try_read("{\"last_s\":-1}"), 0);
	assert_int_equal(last_try_read("{\"last_s\":9223372037}"), 0);
	assert_int_equal(last_try_read("{\"last_s\":9223372036}"), 9223372036);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_urls_and_secrets_are_checked),
		cmocka_unit_test(test_stored_secret_of_an_earlier_version_is_kept),
		cmocka_unit_test(test_retries_take_longer_and_end),
		cmocka_unit_test(test_server_that_fails_gets_fewer_tries),
		cmocka_unit_test(test_queue_is_bounded_and_one_try_is_under_way),
		cmocka_unit_test(test_stored_form_is_read_back),
		cmocka_unit_test(test_malformed_queue_is_left_out),
		cmocka_unit_test(test_time_of_last_try_out_of_range_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
