/* limit: how much one user may have written down of what was refused: some, then a count. Else
 * whoever may nothing could push all else out of logs of a fixed size. */
#ifndef CAIRN_API_LIMIT_H
#define CAIRN_API_LIMIT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define LIMIT_USERS 64 /* users whose numbers fall together share one */
#define LIMIT_BURST 20
#define LIMIT_WINDOW_NS (10 * 1000000000ULL)

struct limit {
	struct {
		uint64_t since_ns; /* begin of the window; 0: none yet */
		unsigned n;
		uint64_t left_out; /* since one was let through */
	} users[LIMIT_USERS];
};

/* Is this one to be told? *ret_left_out: how many were not, since the last that was. */
bool limit_take(struct limit *l, uid_t uid, uint64_t now_ns, uint64_t *ret_left_out);

#endif
