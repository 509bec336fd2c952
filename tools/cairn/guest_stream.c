#include "tools/cairn/guest_stream.h"
#include "api/wire/json.h"
#include "base/base64.h"
#include "base/cleanup.h"
#include "base/utf8.h"
#include "base/util.h"

#include <stdio.h>
#include <string.h>

void guest_stream_hide_controls(char *data, size_t len, struct utf8_stream *stream)
{
	utf8_stream_clean(stream ? stream : &(struct utf8_stream){ 0 }, data, len, "\n\t\r");
}

/* Return whether a text is valid UTF-8 without control characters other than newlines and tabs. */
static bool is_plain(const char *text)
{
	CLEANUP_FREE char *copy = must_alloc(strdup(text));

	for (char *p = copy; *p; p++)
		if (strchr("\n\t\r", *p))
			*p = ' ';
	return utf8_is_clean(copy);
}

void guest_stream_put(struct json_object *o, const char *name, const char *data, size_t len)
{
	CLEANUP_FREE char *text = NULL;
	char other[32];

	if (strlen(data) == len && is_plain(data)) {
		js_put_str(o, name, data);
		return;
	}
	text = base64_encode(data, len);
	snprintf(other, sizeof(other), "%s-base64", name);
	js_put_str(o, other, text);
}
