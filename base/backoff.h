/* backoff: again, but not for ever and not at full speed. Pure: the clock is an argument.
 *
 * Attempts are counted in a window that begins with the first; one that comes after its end
 * begins another. */
#ifndef CAIRN_BASE_BACKOFF_H
#define CAIRN_BASE_BACKOFF_H

#include <stdbool.h>
#include <stdint.h>

struct backoff_rule {
	uint32_t delay_s, max_delay_s; /* doubled each time, from the one to the other */
	uint32_t tries;		       /* in a window; 0: without an end, and then the window begins
					* with the last one */
	uint32_t window_s;
};

struct backoff {
	uint64_t window_ns; /* where the window begins */
	uint32_t n;	    /* attempts in it; 0: none */
};

/* One more attempt is wanted: the first of a window at once, the others after growing waits.
 * Returns true, having counted it; false: those of this window are used up. */
bool backoff_again(const struct backoff_rule *r, struct backoff *b, uint64_t now_ns,
	uint64_t *ret_wait_ns);
/* The same for what cannot be refused: `tries` of a window at once, those beyond them after growing
 * waits. Returns the wait. */
uint64_t backoff_slow(const struct backoff_rule *r, struct backoff *b, uint64_t now_ns);

#endif
