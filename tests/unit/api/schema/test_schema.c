/* The schema: the types reported to clients equal the types that the daemon checks. */
#include "api/wire/json.h"
#include "api/schema/schema.h"
#include "base/err.h"
#include "base/util.h"
#include "base/vm_reason.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int check(const char *command, const char *args, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;

	assert_int_equal(js_parse(args, strlen(args), "args", &o, e), 0);
	return schema_check_args(schema_find(DIALECT_DAEMON, command), o, e);
}

static void refuse(const char *command, const char *args, const char *words)
{
	struct err e = { 0 };

	assert_int_equal(check(command, args, &e), -22);
	assert_string_equal(e.msg, words);
}

static void test_arguments_are_checked(void **state)
{
	struct err e;

	(void)state;
	assert_int_equal(check("vm-start", "{\"vm\":\"a\"}", &e), 0);
	assert_int_equal(check("vm-start", "{\"vm\":\"a\",\"paused\":true}", &e), 0);
	assert_int_equal(check("query-version", "{}", &e), 0);
	refuse("vm-start", "{}", "Parameter 'vm' is missing");
	refuse("vm-start", "{\"vm\":1}", "Invalid parameter type for 'vm', expected: string");
	refuse("vm-start", "{\"vm\":\"a\\u0000b\"}",
		"Invalid parameter type for 'vm', expected: string");
	refuse("vm-start", "{\"vm\":\"a\",\"paused\":1}",
		"Invalid parameter type for 'paused', expected: boolean");
	refuse("vm-start", "{\"vm\":\"a\",\"pause\":true}", "Parameter 'pause' is unexpected");
	refuse("vm-list", "{\"limit\":\"5\"}",
		"Invalid parameter type for 'limit', expected: integer");
	refuse("vm-list", "{\"limit\":9223372036854775808}", "limit: 9223372036854775808 is too large");
	refuse("vm-define", "{\"definition\":[]}",
		"Invalid parameter type for 'definition', expected: object");
	refuse("query-version", "{\"x\":null}", "Parameter 'x' is unexpected");
	assert_null(schema_find(DIALECT_DAEMON, "human-monitor-command"));
}

/* An argument with a fixed set of words accepts only these. */
static void test_argument_words_are_checked(void **state)
{
	struct err e;

	(void)state;
	assert_int_equal(check("vm-shutdown", "{\"vm\":\"a\",\"mode\":\"agent\"}", &e), 0);
	refuse("vm-shutdown", "{\"vm\":\"a\",\"mode\":\"nmi\"}",
		"mode: \"nmi\" is not one of the choices; use acpi or agent");
	refuse("vm-shutdown", "{\"vm\":\"a\",\"then\":\"\"}",
		"then: \"\" is not one of the choices; use leave, destroy or save");
	refuse("vm-shutdown", "{\"vm\":\"a\",\"mode\":1}", "Invalid parameter type for 'mode', expected: string");
	for (unsigned t = FIELD_WORDS; t < FIELD_ALTERNATES; t++) {
		assert_non_null(field_type_name(t));
		assert_int_equal(field_type_index(t, field_type_word(t, 1)), 1);
	}
	assert_null(field_type_word(FIELD_STRING, 0));
	assert_int_equal(field_type_index(FIELD_ROLE, NULL), -1);
}

static void check_typed(const struct field *f)
{
	/* Objects and values whose type depends on something else, such as the name of an event. */
	static const char *const of_any[] = { "data", "result", "arguments", "default", "timed_stats", "file", "backing", "cache", "wwn" };

	for (; f && f->name; f++) {
		unsigned of = (unsigned)f->type & ~(unsigned)(FIELD_LIST | FIELD_MAP);
		bool is_any = of == FIELD_OBJECT || of == FIELD_ANY;

		assert_non_null(field_type_name(of));
		assert_int_not_equal(of, FIELD_ARRAY);
		for (size_t i = 0; is_any && i < ARRAY_SIZE(of_any); i++)
			if (!strcmp(f->name, of_any[i]))
				is_any = false;
		if (is_any)
			fail_msg("%s: has no type", f->name);
	}
}

/* Lists and objects are typed down to the last member. */
static void test_every_list_and_object_is_typed(void **state)
{
	const struct command *c;

	(void)state;
	for (unsigned d = 0; d < 2; d++)
		for (size_t i = 0; (c = schema_command(d, i)); i++) {
			check_typed(c->args);
			check_typed(c->returns);
		}
	for (unsigned t = FIELD_OBJECTS; t < FIELD_TYPE_COUNT; t++) {
		assert_non_null(field_type_members(t));
		assert_string_not_equal(field_type_name(t), "");
		check_typed(field_type_members(t));
	}
	for (unsigned id = 0; id < EVENT_ID_COUNT; id++)
		for (unsigned d = 0; d < 2; d++)
			if (schema_event(d, id))
				check_typed(schema_event(d, id)->data);
	for (size_t i = 0; (c = schema_command(DIALECT_DAEMON, i)); i++) {
		const struct job_result *r = schema_job_result(c->name);

		assert_true(!r == !(c->flags & COMMAND_JOB));
		if (r)
			check_typed(r->members);
	}
}

/* Every command has the fields that other code relies on. */
static void check_rows(enum dialect d)
{
	const struct command *c;

	for (size_t i = 0; (c = schema_command(d, i)); i++) {
		assert_non_null(c->doc);
		assert_ptr_equal(schema_find(d, c->name), c);
		if (c->flags & COMMAND_CONCERNS_VM)
			assert_string_equal(c->args[0].name, "vm");
		/* A user without a role may request one, and withdraw that. The request decides which role approves. */
		if (c->flags & COMMAND_MUTATES && strncmp(c->name, "request-", 8) != 0)
			assert_true(c->role >= ROLE_GUEST);
		/* A VM's own socket has no argument that names a VM. */
		if (d == DIALECT_QEMU)
			assert_false(c->flags & (COMMAND_CONCERNS_VM | COMMAND_FILTERS));
	}
}

static void test_every_command_row_is_complete(void **state)
{
	(void)state;
	check_rows(DIALECT_DAEMON);
	check_rows(DIALECT_QEMU);
	for (unsigned i = 0; i < EVENT_ID_COUNT; i++)
		assert_true(schema_event(DIALECT_DAEMON, i) || schema_event(DIALECT_QEMU, i));
	assert_null(schema_event(DIALECT_DAEMON, EVENT_BLOCK_JOB_READY));
	assert_non_null(schema_event(DIALECT_QEMU, EVENT_STOP));
	assert_null(schema_event(DIALECT_QEMU, EVENT_VM_STATE_CHANGE));
	assert_null(schema_event(DIALECT_QEMU, EVENT_ID_COUNT));
	assert_null(schema_find(DIALECT_QEMU, "vm-start"));
	assert_null(schema_find(DIALECT_DAEMON, "stop"));
}

static struct json_object *by_name(struct json_object *all, const char *name)
{
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);

		if (!strcmp(js_get_str(o, "name"), name))
			return o;
	}
	return NULL;
}

static void check_names_are_unique(struct json_object *all)
{
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);

		assert_ptr_equal(by_name(all, js_get_str(o, "name")), o);
	}
}

/* The type has these members, whichever row it is named after. */
static void check_members(struct json_object *all, const char *type, const struct field *f)
{
	struct json_object *members = js_get_array(by_name(all, type), "members");
	size_t n = 0;

	for (; f && f->name; f++, n++)
		assert_string_equal(js_get_str(json_object_array_get_idx(members, n), "name"), f->name);
	assert_int_equal(json_object_array_length(members), n);
}

#define LINE_MAX_BYTES (255 * 256) /* 63.75 KiB: some clients read lines of 64 KiB */

static struct json_object *line_parse(struct json_object *printed)
{
	struct json_object *o;
	size_t len;
	char *line = js_line(printed, &len);

	assert_true(len < LINE_MAX_BYTES);
	o = json_tokener_parse(line);
	assert_non_null(o);
	free(line);
	return o;
}

/* Clients get all commands and events, and their arguments, in lines that each client can read. */
static void check_printed(enum dialect d)
{
	CLEANUP_JS struct json_object *printed = schema_printed(d), *is = line_parse(printed);
	const struct command *c;
	struct json_object *o;

	for (size_t i = 0; (c = schema_command(d, i)); i++) {
		o = by_name(is, c->name);
		check_members(is, js_get_str(o, "arg-type"), c->args);
		assert_non_null(by_name(is, js_get_str(o, "ret-type")));
		assert_null(js_get_str(o, "doc"));
	}
	for (unsigned id = 0; id < EVENT_ID_COUNT; id++)
		if (schema_event(d, id))
			check_members(is, js_get_str(by_name(is, schema_event(d, id)->name), "arg-type"), schema_event(d, id)->data);
}

static void test_pages_join_to_the_schema_with_descriptions(void **state)
{
	CLEANUP_JS struct json_object *all = schema_to_json(DIALECT_DAEMON);
	size_t at = 0, n = 1;
	unsigned pages = 0;

	(void)state;
	for (; n; pages++) {
		CLEANUP_JS struct json_object *printed = schema_page_printed(pages), *page = line_parse(printed);

		n = json_object_array_length(page);
		for (size_t i = 0; i < n; i++)
			assert_true(json_object_equal(json_object_array_get_idx(page, i), json_object_array_get_idx(all, at++)));
	}
	assert_int_equal(at, json_object_array_length(all));
	assert_true(pages > 2); /* more than one, and the empty one */
	assert_int_equal(schema_pages(), pages - 1);
	CLEANUP_JS struct json_object *last = schema_page_printed(~0u), *empty = line_parse(last);
	assert_int_equal(json_object_array_length(empty), 0);
}

/* The schema that clients get is consistent. */
static void check_introspection(enum dialect d)
{
	CLEANUP_JS struct json_object *all = schema_to_json(d);
	CLEANUP_JS struct json_object *names = schema_commands_to_json(d);
	const struct command *c;

	check_printed(d);
	for (size_t i = 0; (c = schema_command(d, i)); i++) {
		struct json_object *o = by_name(all, c->name), *returns;
		const char *element;

		assert_string_equal(js_get_str(o, "meta-type"), "command");
		check_members(all, js_get_str(o, "arg-type"), c->args);
		returns = by_name(all, js_get_str(o, "ret-type"));
		assert_non_null(returns);
		element = js_get_str(returns, "element-type");
		assert_true(!element == !(c->flags & COMMAND_RETURNS_LIST));
		assert_true(!element || by_name(all, element));
		if (c->returns)
			check_members(all, element ? element : js_get_str(o, "ret-type"), c->returns);
		assert_non_null(by_name(names, c->name));
	}
	for (unsigned id = 0; id < EVENT_ID_COUNT; id++)
		if (schema_event(d, id))
			check_members(all, js_get_str(by_name(all, schema_event(d, id)->name), "arg-type"),
				schema_event(d, id)->data);
	check_names_are_unique(all);
	assert_string_equal(js_get_str(by_name(all, "STOP"), "meta-type"), "event");
}

static void test_introspection_is_consistent_and_short(void **state)
{
	CLEANUP_JS struct json_object *all = schema_to_json(DIALECT_DAEMON);
	CLEANUP_JS struct json_object *qemu = schema_to_json(DIALECT_QEMU);
	struct json_object *o, *members;

	(void)state;
	check_introspection(DIALECT_DAEMON);
	check_introspection(DIALECT_QEMU);
	o = by_name(all, "vm-start");
	assert_string_equal(js_get_str(o, "states"), "shutoff,saved,crashed");
	assert_string_equal(js_get_str(o, "role"), "operator");
	members = js_get_array(by_name(all, js_get_str(o, "arg-type")), "members");
	assert_int_equal(json_object_array_length(members), 9);
	/* Equal members, written down twice, are one type. */
	assert_string_equal(js_get_str(by_name(all, "net-list"), "arg-type"), js_get_str(by_name(all, "vm-stats"), "arg-type"));
	o = by_name(all, "shutdown-mode");
	assert_string_equal(js_get_str(o, "meta-type"), "enum");
	assert_int_equal(json_object_array_length(js_get_array(o, "values")), 2);
	assert_null(by_name(qemu, "shutdown-mode"));
	/* QEMU's schema format has no place for these. */
	assert_null(js_get_str(by_name(qemu, "stop"), "role"));
	assert_null(js_get_str(by_name(qemu, "stop"), "doc"));
	assert_string_equal(js_get_str(by_name(qemu, "human-monitor-command"), "ret-type"), "str");
}

static void check_reasons(enum vm_reason first, enum vm_reason end)
{
	for (unsigned r = first; r < end; r++)
		if (field_type_index(FIELD_VM_REASON, vm_reason_name(r)) < 0)
			fail_msg("vm-reason lacks \"%s\"", vm_reason_name(r));
}

/* The daemon and VM processes have no other reasons, because the code passes reasons as numbers. */
static void test_every_reason_is_in_the_schema(void **state)
{
	CLEANUP_JS struct json_object *all = schema_to_json(DIALECT_DAEMON), *line = schema_printed(DIALECT_DAEMON);
	struct json_object *values = js_get_array(by_name(all, "vm-reason"), "values");

	(void)state;
	check_reasons(VM_REASON_NONE, VM_REASON_COUNT);
	check_reasons(VM_REASON_OF_DAEMON, VM_REASON_KEEP);
	assert_int_equal(json_object_array_length(values), VM_REASON_COUNT + VM_REASON_KEEP - VM_REASON_OF_DAEMON);
	assert_int_equal(field_type_plain(FIELD_VM_REASON), FIELD_STRING);
	assert_null(strstr(json_object_get_string(line), "vm-reason"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_arguments_are_checked),
		cmocka_unit_test(test_argument_words_are_checked),
		cmocka_unit_test(test_every_reason_is_in_the_schema),
		cmocka_unit_test(test_every_command_row_is_complete),
		cmocka_unit_test(test_every_list_and_object_is_typed),
		cmocka_unit_test(test_introspection_is_consistent_and_short),
		cmocka_unit_test(test_pages_join_to_the_schema_with_descriptions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
