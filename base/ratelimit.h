/* ratelimit: limits the messages of one kind, and counts the suppressed ones. Without it, a user
 * (by denied commands) or a guest (by repeated messages) could push everything else out of logs of
 * fixed size. */
#ifndef CAIRN_BASE_RATELIMIT_H
#define CAIRN_BASE_RATELIMIT_H

#include <stdbool.h>
#include <stdint.h>

#define RATELIMIT_BURST 20
#define RATELIMIT_WINDOW_NS (10 * 1000000000ULL)

struct ratelimit {
	uint64_t since_ns; /* start of the window; 0: none yet */
	unsigned n;
	uint64_t left_out; /* suppressed since the last message that passed */
};

/* Count a message and decide whether it passes.
 * ret_left_out: number of suppressed messages since the last one that passed; set only if the
 * result is true.
 * Returns true if the message passes. */
bool ratelimit_take(struct ratelimit *l, uint64_t now_ns, uint64_t *ret_left_out);

#endif
