/* bridge: passes commands of the page to the daemon. */
#ifndef CAIRN_TOOLS_WEB_BRIDGE_H
#define CAIRN_TOOLS_WEB_BRIDGE_H

#include <stddef.h>

struct json_object;
struct links;

/* Run {"execute", "arguments"}, or an array of at most 64 of them one after the other. body[len] is NUL.
 * Returns the answer: {"return"} or {"error"}, or an array of them; the caller frees it. */
struct json_object *bridge_execute(const struct links *links, const char *body, size_t len);

#endif
