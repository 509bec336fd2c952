/* schema-print: prints the input from which the build makes files for clients (generate.py): the schemas of both
 * sockets, the JSON Schemas of definitions, and the classes of errors. Not installed. */
#include "api/definition/definition_schema.h"
#include "api/schema/schema.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <stdio.h>

int main(void)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *errors = json_object_new_array();

	for (unsigned i = 0; i < ERR_CLASS_COUNT; i++)
		json_object_array_add(errors, json_object_new_string(err_class_name(i)));
	js_put(o, "errors", errors);

	js_put_str(o, "version", CAIRN_VERSION);
	js_put(o, "daemon", schema_to_json(DIALECT_DAEMON));
	js_put(o, "vm", schema_to_json(DIALECT_QEMU));
	js_put(o, "definition", definition_schema());
	js_put(o, "network-definition", network_definition_schema());
	return puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)) < 0;
}
