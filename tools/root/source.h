/* source: makes the image of the source that the user names.
 *
 * Threading: one thread. */
#ifndef CAIRN_TOOLS_ROOT_SOURCE_H
#define CAIRN_TOOLS_ROOT_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

struct cache;
struct err;
struct json_object;

struct source_options {
	bool pull;     /* fetch an image even if its name is known */
	bool insecure; /* accept a registry without TLS */
	uint32_t files_max;
};

/* Find the image in the cache, or make it. The process then holds the lock of its key.
 * name: see the usage in main.c.
 * *ret: image, digest, size, config; owned.
 * Returns 0; -errno with a sentence, and nothing stays in the cache. */
int source_make(struct cache *c, const char *name, const struct source_options *o, struct json_object **ret, struct err *e);

#endif
