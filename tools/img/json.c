/* Print JSON as qemu-img does. */
#include "base/utf8.h"
#include "img.h"

#include <json-c/json.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Print a text of JSON. Escape the control characters that json-c leaves: names in images are untrusted. */
static void text_print(const char *s)
{
	for (size_t left = strlen(s), n; left; s += n, left -= n) {
		uint32_t c = (unsigned char)*s;

		n = 1;
		if (c >= 0x80)
			c = utf8_next((const unsigned char *)s, left, &n);
		if (c == '\t') /* a tab within a string is escaped */
			fputs("    ", stdout);
		else if (c >= 0x7f && utf8_is_control(c))
			printf("\\u%04x", (unsigned)c);
		else
			fwrite(s, n, 1, stdout);
	}
}

void img_json_print(struct json_object *o)
{
	text_print(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_PRETTY_TAB |
		JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE));
	putchar('\n');
}
