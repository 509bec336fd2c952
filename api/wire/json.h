/* json: short helpers on top of json-c for api/ and tools/.
 *
 * The put functions take ownership of the value, as json-c's do. A returned string lives as long as its
 * object. */
#ifndef CAIRN_API_WIRE_JSON_H
#define CAIRN_API_WIRE_JSON_H

#include "base/uuid.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <json-c/json.h>

struct err;

#define JS_DEPTH_MAX 64

/* Parse one JSON text; only white space may follow it.
 * text:  text[len] must be NUL.
 * name:  names the text in the error ("vm.json").
 * Returns 0; -EINVAL with line and column. */
int js_parse(const char *text, size_t len, const char *name, struct json_object **ret_o,
	struct err *e);
/* Parse a file of at most max bytes. Returns 0 or -errno. */
int js_read(const char *path, size_t max, struct json_object **ret_o, struct err *e);

/* Refuse a duplicate key, whose last value json-c would use silently. Keys that are written differently, with escapes,
 * are not equal here.
 * text: JSON that the parser accepts; strings may have single quotes.
 * Returns 0; -EINVAL with the line and the key. */
int js_keys_check(const char *text, size_t len, const char *name, struct err *e);
/* Refuse a number that json-c would keep although no JSON has it, such as 1., NaN and 1e999, or would silently clamp:
 * an integer below -2^63 or above 2^64 - 1.
 * text: as in js_keys_check(); its last character is a bracket, or text[len] is NUL. Returns 0; -ERANGE. */
int js_numbers_check(const char *text, size_t len, const char *name, struct err *e);
/* Return the first character from p on that is no white space, or end. */
const char *js_space_skip(const char *p, const char *end);

void js_put(struct json_object *o, const char *key, struct json_object *v);
/* Add a string member. v: NULL: add nothing. */
void js_put_str(struct json_object *o, const char *key, const char *v);
void js_put_int(struct json_object *o, const char *key, int64_t v);
void js_put_uint(struct json_object *o, const char *key, uint64_t v);
void js_put_bool(struct json_object *o, const char *key, bool v);
void js_put_uuid(struct json_object *o, const char *key, const uint8_t uuid[UUID_BYTES]);

/* Return {"error": {"class", "desc"}}. The caller owns it. */
struct json_object *js_error(const char *class_name, const char *desc);

/* Get a member of o; o may be NULL or no object. If the member is absent, or has another type than the function's name
 * says: NULL, or the fallback. */
struct json_object *js_get(struct json_object *o, const char *key);
struct json_object *js_get_array(struct json_object *o, const char *key);
const char *js_get_str(struct json_object *o, const char *key);
const char *js_get_str_or(struct json_object *o, const char *key, const char *fallback);
int64_t js_get_int(struct json_object *o, const char *key, int64_t fallback);
bool js_get_bool(struct json_object *o, const char *key, bool fallback);
/* Get a time of a state file, in seconds since 1970. Returns 0 also for one that is negative or does not fit into 64
 * bits as nanoseconds. */
int64_t js_get_time_s(struct json_object *o, const char *key);

/* Return a value that prints as `text`, which is copied: JSON without white space. No function can look inside the
 * value. The caller owns it. */
struct json_object *js_text(const char *text);

/* Return the value's type as words for an error: "a string", "an object", … */
const char *js_type_words(struct json_object *o);
/* Return the string if it has no NUL inside; else NULL. */
const char *js_plain_string(struct json_object *o);

/* Print the object as QMP sends it: one line of ASCII with CRLF. Other code points become \u escapes, invalid
 * UTF-8 becomes U+FFFD. The caller frees the line; NULL: no memory. */
char *js_line(struct json_object *o, size_t *ret_len);
/* Return the length that a part of that line has, from the part as UTF-8. */
size_t js_escaped_bytes(const char *text, size_t len);
/* Return the length of that line in bytes. */
size_t js_line_bytes(struct json_object *o);

/* Limit for the return value of an answer. The whole line with the value stays below 64 KiB, the longest line that some
 * clients read. */
#define JS_ANSWER_MAX (62 * 1024)

static inline void cleanup_js_p(struct json_object **o)
{
	json_object_put(*o);
}
#define CLEANUP_JS __attribute__((cleanup(cleanup_js_p)))

#endif
