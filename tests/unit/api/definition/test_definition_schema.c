/* The key tables have all that the JSON Schema needs. */
#include "api/definition/definition_key.h"
#include "api/definition/definition_schema.h"
#include "api/wire/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void key_check(const struct key *k)
{
	/* For a number, the name may be description enough. */
	if (!k->about && k->kind != KEY_NUMBER)
		fail_msg("%s: .about is missing", k->name);
	if ((k->kind == KEY_CUSTOM || k->kind == KEY_LIST) && !k->form)
		fail_msg("%s: .form is missing", k->name);
	if ((k->kind == KEY_OBJECT || k->kind == KEY_OBJECT_OWNED || k->kind == KEY_ARRAY) && !k->of)
		fail_msg("%s: .of is missing", k->name);
	if (k->kind == KEY_CHOICE && !k->choices)
		fail_msg("%s: .choices is missing", k->name);
	if ((k->kind == KEY_CUSTOM || k->kind == KEY_LIST || k->kind == KEY_ARRAY) && !k->parse)
		fail_msg("%s: .parse is missing", k->name);
}

static void keys_check(const struct keys *keys)
{
	for (size_t i = 0; i < keys->n; i++) {
		key_check(&keys->list[i]);
		for (size_t k = 0; k < i; k++)
			assert_string_not_equal(keys->list[i].name, keys->list[k].name);
		if (keys->list[i].of)
			keys_check(keys->list[i].of);
	}
}

static void test_every_key_has_a_description(void **state)
{
	(void)state;
	keys_check(&definition_keys);
	keys_check(&network_definition_keys);
}

/* All texts in the tables are valid JSON; otherwise the functions abort. */
static void test_schema_is_valid_json(void **state)
{
	CLEANUP_JS struct json_object *s = definition_schema(), *network = network_definition_schema();
	struct json_object *disk = js_get(js_get(js_get(s, "properties"), "disks"), "items");

	(void)state;
	assert_non_null(disk);
	assert_non_null(js_get(js_get(js_get(disk, "properties"), "backing"), "items"));
	assert_int_equal(json_object_array_length(js_get(s, "required")), 2);
	assert_non_null(js_get(js_get(js_get(js_get(network, "properties"), "users"), "items"), "minimum"));
	assert_int_equal(json_object_array_length(js_get(network, "required")), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_key_has_a_description),
		cmocka_unit_test(test_schema_is_valid_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
