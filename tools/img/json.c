/* Print JSON as qemu-img does. */
#include "img.h"

#include <json-c/json.h>
#include <stdio.h>

void img_json_print(struct json_object *o)
{
	const char *s = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_PRETTY_TAB |
		JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE);

	for (; *s; s++) /* a tab within a string is escaped */
		fputs(*s == '\t' ? "    " : (char[]){ *s, 0 }, stdout);
	putchar('\n');
}
