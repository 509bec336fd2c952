/* js: what api and the tools ask of json-c, in the fewest words.
 *
 * Values handed to the put functions are taken, as json-c does. Strings that are
 * returned live as long as their object. */
#ifndef CAIRN_API_WIRE_JSON_H
#define CAIRN_API_WIRE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <json-c/json.h>

struct err;

#define JS_DEPTH_MAX 64

/* Parse one whole text; anything behind it but white space is an error. text[len] is NUL.
 * name: stands in the sentence ("vm.json"). Returns 0; -EINVAL with line and column. */
int js_parse(const char *text, size_t len, const char *name, struct json_object **ret_o,
	struct err *e);
/* The same for a file of at most max bytes. */
int js_read(const char *path, size_t max, struct json_object **ret_o, struct err *e);

void js_put(struct json_object *o, const char *key, struct json_object *v);
void js_put_str(struct json_object *o, const char *key, const char *v);
void js_put_int(struct json_object *o, const char *key, int64_t v);
void js_put_uint(struct json_object *o, const char *key, uint64_t v);
void js_put_bool(struct json_object *o, const char *key, bool v);

/* A member, or NULL (0, false, the fallback) when it is absent or of another type. */
struct json_object *js_get(struct json_object *o, const char *key);
struct json_object *js_get_array(struct json_object *o, const char *key);
const char *js_get_str(struct json_object *o, const char *key);
int64_t js_get_int(struct json_object *o, const char *key, int64_t fallback);
bool js_get_bool(struct json_object *o, const char *key, bool fallback);

/* "a string", "an object", …, for sentences. */
const char *js_type_words(struct json_object *o);
/* A string with no NUL inside; NULL otherwise. */
const char *js_plain_string(struct json_object *o);

/* One line of pure ASCII (code points beyond it as \u escapes) with CRLF at the end, as
 * QMP sends it. Invalid UTF-8 becomes U+FFFD. The caller frees it; NULL: no memory. */
char *js_line(struct json_object *o, size_t *ret_len);
/* As many bytes as that line has. */
size_t js_line_bytes(struct json_object *o);

/* Some clients read lines of at most 64 KiB: an answer's value stays below that, with room for what is around it. */
#define JS_ANSWER_MAX (62 * 1024)

static inline void cleanup_js_p(struct json_object **o)
{
	json_object_put(*o);
}
#define CLEANUP_JS __attribute__((cleanup(cleanup_js_p)))

#endif
