/* Print JSON as qemu-img does. */
#include "img.h"

#include <json-c/json.h>
#include <stdio.h>

/* Print a text of JSON. Escape the control characters that json-c leaves: a terminal obeys DEL and those from U+0080 to
 * U+009F, too, and names in images are whatever somebody has written there. */
static void text_print(const char *s)
{
	for (; *s; s++) {
		const unsigned char *c = (const unsigned char *)s;

		if (*s == '\t') /* a tab within a string is escaped */
			fputs("    ", stdout);
		else if (*c == 0x7f)
			fputs("\\u007f", stdout);
		else if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0)
			printf("\\u%04x", (unsigned)*(const unsigned char *)++s);
		else
			putchar(*s);
	}
}

void img_json_print(struct json_object *o)
{
	text_print(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_PRETTY_TAB |
		JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE));
	putchar('\n');
}
