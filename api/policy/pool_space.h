/* pool_space: measures the file systems of pools every ten minutes, keeps the figures of two weeks in pool-space.json,
 * and emits POOL_SPACE when space gets low and when it is enough again. A thread asks the file system
 * (api/access/fork_as.h), since it may hang; one that hangs is not asked again before it answers.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_POOL_SPACE_H
#define CAIRN_API_POLICY_POOL_SPACE_H

#include "api/store/pool_history.h"

struct pool_space;
struct vm_host;

/* Known facts about a pool's file system. Borrowed until the loop's next turn. */
struct pool_state {
	const struct pool_history *history;
	bool low;
};

struct pool_space *pool_space_new(struct vm_host *host);
void pool_space_free(struct pool_space *s); /* NULL allowed */
/* The pools have changed: look soon. */
void pool_space_soon(struct pool_space *s);
/* Returns false if nothing is known yet. */
bool pool_space_state(const struct pool_space *s, const char *pool, struct pool_state *ret);

#endif
