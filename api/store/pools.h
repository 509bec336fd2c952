/* pools: folders for images that have a name, stored in pools.json. The daemon opens no file in them: a process
 * with the client's rights lists, creates, changes and removes images there (api/jobs/pool_volumes.h).
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_STORE_POOLS_H
#define CAIRN_API_STORE_POOLS_H

#include "api/store/change_queue.h"

#include <stddef.h>

struct err;
struct json_object;
struct loop;
struct store;

#define POOLS_FILE "pools.json"
#define POOLS_MAX 256
#define POOL_NAME_MAX 63
#define POOL_TARGET_MAX 1024

struct pool {
	char name[POOL_NAME_MAX + 1];
	char target[POOL_TARGET_MAX + 1]; /* absolute path */
};

struct pools {
	struct pool *list; /* owned; in the order of their definition */
	size_t n;
	struct change_queue changes;
};

/* Read the pools at the daemon's start. Entries that are malformed are left out. */
void pools_load(struct pools *p, struct store *s);
void pools_done(struct pools *p);
/* Return the index of a pool; -1: none. */
int pool_find(const struct pools *p, const char *name);
/* Add a pool, or remove it if target is NULL. This takes effect when it is on stable storage.
 * done: called once, perhaps inside the call: 0; -EINVAL; -EEXIST: the name or the folder is taken; -ENOSPC: there are
 * too many; -ENOENT; -errno: it is not stored, and nothing has changed. */
void pool_change(struct pools *p, struct loop *l, struct store *s, const char *name, const char *target,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque);

#endif
