/* Event numbers continue after a restart; truncated and malformed lines are skipped; pages are
 * bounded and filtered. */
#include "api/store/event_log.h"
#include "api/schema/schema.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tests/unit/tmp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	char dir[96];
	struct event_log *log;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "%s/cairn-events-XXXXXX", tmp_folder());
	*state = f;
	return mkdtemp(f->dir) ? event_log_open(f->dir, &f->log, NULL) : -1;
}

static void path_of(const struct fixture *f, const char *name, char buf[128])
{
	snprintf(buf, 128, "%s/%s", f->dir, name);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char path[128];

	event_log_close(f->log);
	path_of(f, "events.jsonl", path);
	unlink(path);
	path_of(f, "events.old.jsonl", path);
	unlink(path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static void reopen(struct fixture *f)
{
	event_log_close(f->log);
	f->log = NULL;
	assert_int_equal(event_log_open(f->dir, &f->log, NULL), 0);
}

static int64_t add(struct fixture *f, const char *name)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();

	js_put_str(o, "event", name);
	event_log_add(f->log, o);
	return js_get_int(o, "seq", -1);
}

static void append(struct fixture *f, const char *text)
{
	char path[128];
	FILE *file;

	path_of(f, "events.jsonl", path);
	file = fopen(path, "a");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static bool all(void *opaque, const struct event_log_subject *s)
{
	(void)opaque;
	(void)s;
	return true;
}

static bool named(void *opaque, const struct event_log_subject *s)
{
	return !strcmp(s->event, opaque);
}

static bool of_vm(void *opaque, const struct event_log_subject *s)
{
	return s->vm ? !strcmp(s->vm, opaque) : !*(const char *)opaque;
}

static bool of_uuid(void *opaque, const struct event_log_subject *s)
{
	return s->uuid && !strcmp(s->uuid, opaque);
}

static bool none(void *opaque, const struct event_log_subject *s)
{
	++*(unsigned *)opaque;
	return !all(NULL, s);
}

static size_t count(struct fixture *f, uint64_t since, bool (*wanted)(void *, const struct event_log_subject *),
	void *opaque)
{
	size_t n = 0;

	for (bool more = true; more;) {
		CLEANUP_JS struct json_object *page = event_log_page(f->log, since, wanted, opaque);
		const char *text = json_object_to_json_string_ext(page, JSON_C_TO_STRING_PLAIN);

		assert_true(strlen(text) < 60 * 1024);
		n += json_object_array_length(js_get_array(page, "events"));
		since = (uint64_t)js_get_int(page, "next", 0);
		more = js_get_bool(page, "more", false);
	}
	return n;
}

static void test_event_numbers_continue_after_restart(void **state)
{
	struct fixture *f = *state;

	for (int i = 1; i <= 5; i++)
		assert_int_equal(add(f, "A"), i);
	reopen(f);
	assert_int_equal(add(f, "B"), 6);
	assert_int_equal(count(f, 0, all, NULL), 6);
	assert_int_equal(count(f, 4, all, NULL), 2);
	assert_int_equal(count(f, 6, all, NULL), 0);
	assert_int_equal(count(f, UINT64_MAX / 2, all, NULL), 0);
	assert_int_equal(count(f, 0, named, "B"), 1);
}

static void test_malformed_lines_are_skipped(void **state)
{
	struct fixture *f = *state;

	add(f, "A");
	append(f, "nonsense\n{}\n{\"seq\":\"x\",\"event\":\"A\"}\n{\"seq\":-5,\"event\":\"A\"}\n[]\n\n"
		  "{\"seq\":1,\"event\":\"again\"}\n{\"seq\":9}\n{\"seq\":3,\"event\":\"C\"}\n"
		  "{\"seq\":2,\"event\":\"back\"}\n{\"seq\":77,\"ev");
	reopen(f);
	assert_int_equal(count(f, 0, all, NULL), 2);
	assert_int_equal(count(f, 0, named, "A"), 1);
	assert_int_equal(count(f, 0, named, "C"), 1);
	/* Numbers only grow, even if the file has larger ones. */
	assert_int_equal(add(f, "D"), 4);
}

static void test_oldest_events_are_dropped(void **state)
{
	struct fixture *f = *state;
	char path[128];
	struct stat st;

	for (int i = 0; i < EVENT_LOG_MAX + 50; i++)
		add(f, i % 100 ? "A" : "B");
	assert_int_equal(count(f, 0, all, NULL), EVENT_LOG_MAX);
	assert_int_equal(count(f, 0, named, "B"), EVENT_LOG_MAX / 100);
	path_of(f, "events.old.jsonl", path);
	assert_int_equal(stat(path, &st), 0);
	reopen(f);
	assert_int_equal(count(f, 0, all, NULL), EVENT_LOG_MAX);
	assert_int_equal(add(f, "last"), EVENT_LOG_MAX + 51);
}

static void add_named_of(struct fixture *f, const char *event, const char *uuid, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		CLEANUP_JS struct json_object *o = json_object_new_object();
		struct json_object *data = json_object_new_object();

		if (uuid)
			js_put_str(data, VM_UUID_KEY, uuid);
		js_put_str(o, "event", event);
		js_put(o, "data", data);
		event_log_add(f->log, o);
	}
}

static void add_of(struct fixture *f, const char *uuid, unsigned n)
{
	add_named_of(f, "E", uuid, n);
}

static bool is_lost(struct fixture *f, uint64_t since)
{
	CLEANUP_JS struct json_object *page = event_log_page(f->log, since, all, NULL);

	return js_get_bool(page, "lost", false);
}

/* The events of one VM displace none of another VM, also after restarts at any time. */
static void test_vm_with_many_events_displaces_none_of_others(void **state)
{
	struct fixture *f = *state;
	uint64_t last = 0;

	for (unsigned i = 0; i < 7; i++) {
		add_of(f, "few", 5);
		add_of(f, "many", 6000);
		last += 6005;
		if (i % 3 == 2)
			reopen(f);
		assert_int_equal(count(f, 0, of_uuid, "few"), 5 * (i + 1));
		assert_in_range(count(f, 0, of_uuid, "many"), EVENT_LOG_MAX / 2, EVENT_LOG_MAX);
		assert_int_equal(is_lost(f, 0), i > 0);
		assert_false(is_lost(f, last - 2500));
	}
}

/* Nor do those of no VM, such as denied commands of users without a role. */
static void test_events_of_no_vm_displace_none_of_vms(void **state)
{
	struct fixture *f = *state;

	add_of(f, "few", 5);
	add_of(f, NULL, EVENT_LOG_MAX + 5000);
	assert_int_equal(count(f, 0, of_uuid, "few"), 5);
}

/* Nor do those of VMs that a user defines and undefines again and again. */
static void test_events_of_undefined_vms_displace_none_of_others(void **state)
{
	struct fixture *f = *state;
	char uuid[16];

	add_of(f, "few", 5);
	for (unsigned i = 0; i < EVENT_LOG_MAX; i++) {
		snprintf(uuid, sizeof(uuid), "u%u", i);
		add_of(f, uuid, 2);
		add_named_of(f, "VM_UNDEFINED", uuid, 1);
	}
	assert_int_equal(count(f, 0, of_uuid, "few"), 5);
	assert_in_range(count(f, 0, all, NULL), EVENT_LOG_MAX / 2, EVENT_LOG_MAX);
}

/* VMs that share the log evenly keep as many events as fit. */
static void test_events_of_many_vms_go_in_their_order(void **state)
{
	static const char *const uuids[] = { "a", "b", "c", "d", "e" };
	struct fixture *f = *state;

	for (unsigned i = 0; i < EVENT_LOG_MAX + 5000; i++)
		add_of(f, uuids[i % ARRAY_SIZE(uuids)], 1);
	assert_int_equal(count(f, 0, all, NULL), EVENT_LOG_MAX);
	assert_true(is_lost(f, 4999));
	assert_false(is_lost(f, 5000));
}

static void test_filters_get_event_and_vm(void **state)
{
	static const char *const vms[] = { "a", "b\xc3\xa4", "" };
	struct fixture *f = *state;

	add(f, "N"); /* about no VM */
	for (unsigned i = 0; i < 6; i++) {
		CLEANUP_JS struct json_object *o = json_object_new_object();
		struct json_object *data = json_object_new_object();

		js_put_str(o, "event", i % 2 ? "ODD" : "EVEN");
		js_put_str(data, "vm", vms[i % 2]);
		if (i < 4)
			js_put_str(data, VM_UUID_KEY, i < 3 ? "u" : "v");
		js_put(o, "data", data);
		event_log_add(f->log, o);
	}
	for (unsigned restart = 0; restart < 2; restart++) {
		assert_int_equal(count(f, 0, of_vm, "a"), 3);
		assert_int_equal(count(f, 0, of_vm, "b\xc3\xa4"), 3);
		assert_int_equal(count(f, 0, of_vm, ""), 1);
		assert_int_equal(count(f, 0, of_uuid, "u"), 3);
		assert_int_equal(count(f, 0, of_uuid, "v"), 1);
		assert_int_equal(count(f, 2, named, "ODD"), 3);
		reopen(f);
	}
}

/* A line may have white space, and members in any order; the page has the event all the same. */
static void test_page_prints_events_as_they_are_in_the_file(void **state)
{
	CLEANUP_JS struct json_object *page = NULL;
	struct fixture *f = *state;

	append(f, "{ \"data\": {\"vm\": \"a\", \"x\": \"/\"}, \"event\": \"A\", \"seq\": 4 }\n");
	reopen(f);
	page = event_log_page(f->log, 0, of_vm, "a");
	assert_string_equal(json_object_to_json_string_ext(page, JSON_C_TO_STRING_PLAIN),
		"{\"lost\":true,\"events\":[{\"data\":{\"vm\":\"a\",\"x\":\"/\"},\"event\":\"A\",\"seq\":4}],"
		"\"next\":4,\"last\":4,\"more\":false}");
}

/* A client that knows higher numbers, from a log that was lost, learns that, and continues after the last event. */
static void test_page_beyond_the_last_event_is_lost(void **state)
{
	CLEANUP_JS struct json_object *page = NULL, *last = NULL;
	struct fixture *f = *state;

	append(f, "{\"data\":{\"vm\":\"a\"},\"event\":\"A\",\"seq\":1}\n");
	reopen(f);
	page = event_log_page(f->log, 2, of_vm, "a");
	assert_true(js_get_bool(page, "lost", false));
	assert_int_equal(json_object_array_length(js_get_array(page, "events")), 0);
	assert_int_equal(js_get_int(page, "next", 0), 1);
	last = event_log_page(f->log, 1, of_vm, "a");
	assert_false(js_get_bool(last, "lost", true));
	assert_int_equal(js_get_int(last, "next", 0), 1);
}

static void test_page_looks_at_a_limited_number_of_events(void **state)
{
	CLEANUP_JS struct json_object *page = NULL;
	struct fixture *f = *state;
	unsigned looked = 0;

	for (unsigned i = 0; i < EVENT_LOG_MAX; i++)
		add(f, "A");
	page = event_log_page(f->log, 0, none, &looked);
	assert_true(looked <= 500 && js_get_bool(page, "more", false));
	assert_int_equal(js_get_int(page, "next", 0), looked);
	assert_int_equal(count(f, 0, none, &looked), 0);
}

/* Write the log's files as a power cut may leave them. Each file then has another boot, or none. */
static void files_write(struct fixture *f, const char *old, const char *new)
{
	const char *const names[] = { "events.old.jsonl", "events.jsonl" }, *const texts[] = { old, new };
	char path[128];

	for (unsigned i = 0; i < 2; i++) {
		FILE *file;

		path_of(f, names[i], path);
		unlink(path);
		file = texts[i] ? fopen(path, "w") : NULL;
		assert_true(!texts[i] || file);
		if (file) {
			fputs(texts[i], file);
			fclose(file);
		}
	}
}

#define GAP (1 << 20)
#define OLD_LINES "{\"boot\":\"other\",\"seq\":5}\n{\"seq\":7,\"event\":\"A\"}\n"

static void test_boot_of_the_host_skips_numbers_whatever_is_left(void **state)
{
	static const struct {
		const char *old, *new;
		int next;
	} cuts[] = {
		{ NULL, OLD_LINES, GAP + 8 },
		{ OLD_LINES, "", GAP + 8 }, /* the new file's lines are lost */
		{ OLD_LINES, NULL, GAP + 8 },
		{ "", "", GAP + 1 },
		{ NULL, "", GAP + 1 },
		{ NULL, "{\"boot\":\"other\"}\n", GAP + 1 }, /* of an older Cairn */
		{ NULL, "{\"boot\":\"other\",\"seq\":9}\n{\"seq\":10,\"ev", GAP + 10 },
		{ NULL, NULL, 1 },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts); i++) {
		files_write(f, cuts[i].old, cuts[i].new);
		reopen(f);
		assert_int_equal(add(f, "B"), cuts[i].next);
		reopen(f);
		assert_int_equal(add(f, "C"), cuts[i].next + 1);
	}
}

/* No event was added between two boots of the host, or all were lost. */
static void test_each_boot_skips_other_numbers(void **state)
{
	struct fixture *f = *state;
	char path[128], command[300];

	files_write(f, NULL, OLD_LINES);
	path_of(f, "events.jsonl", path);
	snprintf(command, sizeof(command), "sed -i 's/\"boot\":\"/&another/' %s", path);
	for (int i = 1; i <= 3; i++) {
		reopen(f);
		assert_int_equal(count(f, 0, all, NULL), 1);
		assert_int_equal(system(command), 0);
	}
	reopen(f);
	assert_int_equal(add(f, "B"), 4 * GAP + 8);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_event_numbers_continue_after_restart, setup, teardown),
		cmocka_unit_test_setup_teardown(test_malformed_lines_are_skipped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_oldest_events_are_dropped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_vm_with_many_events_displaces_none_of_others, setup, teardown),
		cmocka_unit_test_setup_teardown(test_events_of_undefined_vms_displace_none_of_others, setup, teardown),
		cmocka_unit_test_setup_teardown(test_events_of_no_vm_displace_none_of_vms, setup, teardown),
		cmocka_unit_test_setup_teardown(test_events_of_many_vms_go_in_their_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_filters_get_event_and_vm, setup, teardown),
		cmocka_unit_test_setup_teardown(test_page_prints_events_as_they_are_in_the_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_page_beyond_the_last_event_is_lost, setup, teardown),
		cmocka_unit_test_setup_teardown(test_page_looks_at_a_limited_number_of_events, setup, teardown),
		cmocka_unit_test_setup_teardown(test_boot_of_the_host_skips_numbers_whatever_is_left, setup, teardown),
		cmocka_unit_test_setup_teardown(test_each_boot_skips_other_numbers, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
