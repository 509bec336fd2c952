/* reading: members of the request's JSON objects with their types checked. Each error names the key by its path
 * ("network.ipv4.address"). A member that is null counts as absent. */
#ifndef CAIRN_TOOLS_NET_READING_H
#define CAIRN_TOOLS_NET_READING_H

#include "tools/net/address.h"

#include <stdbool.h>
#include <stdint.h>

#include <json-c/json.h>

struct err;

/* An object and the path that errors name. */
struct reading {
	struct json_object *o;
	char path[128];
};

/* Check that the object has no other keys than those in the list, which ends with NULL. Returns 0; -EINVAL. */
int reading_keys(const struct reading *r, const char *const *keys, struct err *e);
/* Get a member. needed: its absence is an error; otherwise *ret stays as it is. Return 0; -EINVAL. */
int reading_text(const struct reading *r, const char *key, bool needed, const char **ret, struct err *e);
int reading_bool(const struct reading *r, const char *key, bool *ret, struct err *e);
int reading_number(const struct reading *r, const char *key, bool needed, uint32_t min, uint32_t max, uint32_t *ret,
	struct err *e);
/* family: AF_UNSPEC for either. */
int reading_address(const struct reading *r, const char *key, bool needed, int family, struct address *ret, struct err *e);
/* A name as DNS has it: letters, digits, - _ and . If it is absent, *ret stays as it is. */
int reading_host_name(const struct reading *r, const char *key, const char **ret, struct err *e);
/* Get an object. ret->o is NULL if it is absent. */
int reading_object(const struct reading *r, const char *key, struct reading *ret, struct err *e);
/* Get an array; *ret is NULL if it is absent. max: of its members. */
int reading_array(const struct reading *r, const char *key, size_t max, struct json_object **ret, struct err *e);
/* Member `at` of the array `key`, which must be an object. */
int reading_member(const struct reading *r, const char *key, struct json_object *array, size_t at, struct reading *ret,
	struct err *e);
/* Member `at` of the array `key`, which must be a string. */
int reading_text_at(const struct reading *r, const char *key, struct json_object *array, size_t at, const char **ret,
	struct err *e);

/* Return whether the text is a name as DNS has it. */
bool host_name_is_valid(const char *name);

#endif
