/* The daemon's schema as C, for `cairn`: that shows it and has none of the handlers to which its rows point.
 * A program of the build, which is not installed. */
#include "api/wire/json.h"
#include "api/schema/schema.h"

#include <stdio.h>

#define LINE_BYTES 100

int main(void)
{
	CLEANUP_JS struct json_object *schema = schema_to_json(DIALECT_DAEMON);
	const char *p = json_object_to_json_string_ext(schema, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);

	printf("static const char schema_text[] =");
	for (unsigned n = 0; *p; p++, n++) {
		if (n % LINE_BYTES == 0)
			printf("%s\n\t\"", n ? "\"" : "");
		printf("%s%c", *p == '"' || *p == '\\' ? "\\" : "", *p);
	}
	printf("\";\n");
	return fflush(stdout) || ferror(stdout);
}
