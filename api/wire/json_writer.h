/* json_writer: prints JSON without building objects. For answers with many members: json-c takes some 0.3 us for each.
 *
 * A function for a member takes its key; inside an array the key is NULL. Keys are plain ASCII and are not escaped.
 * The text has no white space. Bytes above 0x7e stay as they are; js_line() handles them.
 * Threading: one thread at a time uses a writer. */
#ifndef CAIRN_API_WIRE_JSON_WRITER_H
#define CAIRN_API_WIRE_JSON_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_object;

/* Begins as all zeros. The owner frees `text`. */
struct json_writer {
	char *text; /* NUL-terminated once something was written */
	size_t length, size;
};

void jw_object(struct json_writer *w, const char *key);
void jw_object_end(struct json_writer *w);
void jw_array(struct json_writer *w, const char *key);
void jw_array_end(struct json_writer *w);
/* v: NULL: write nothing. */
void jw_str(struct json_writer *w, const char *key, const char *v);
void jw_int(struct json_writer *w, const char *key, int64_t v);
void jw_uint(struct json_writer *w, const char *key, uint64_t v);
void jw_bool(struct json_writer *w, const char *key, bool v);
/* Write a value that json-c prints. o: taken; NULL: write nothing. */
void jw_json(struct json_writer *w, const char *key, struct json_object *o);
/* Write the members of an object into the object that is open. o: taken. */
void jw_members(struct json_writer *w, struct json_object *o);
/* Write a text that another writer has printed. */
void jw_text(struct json_writer *w, const char *key, const char *text, size_t length);
/* Free the writer's text and return it as a value for json-c (js_text()). The caller owns the value. */
struct json_object *jw_value(struct json_writer *w);

#endif
