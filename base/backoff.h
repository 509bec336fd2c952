/* backoff: computes delays between retries, with a limit of attempts per window. Pure: the caller passes the
 * time.
 *
 * The first attempt opens a window. An attempt after the window's end opens a new one. */
#ifndef CAIRN_BASE_BACKOFF_H
#define CAIRN_BASE_BACKOFF_H

#include <stdbool.h>
#include <stdint.h>

struct backoff_rule {
	/* delay_s: the first delay that is not 0; each further one is twice as long, up to max_delay_s */
	uint32_t delay_s, max_delay_s;
	uint32_t tries;		       /* per window; 0: unlimited, and every backoff_again() restarts the window */
	uint32_t window_s;
};

struct backoff {
	uint64_t window_ns; /* start of the window; with tries 0: time of the last backoff_again() */
	uint32_t n;	    /* attempts in the window; 0: no window yet */
};

/* Count an attempt. The first attempt of a window waits 0, the second delay_s, each further one twice as long.
 * ret_wait_ns: the delay before the attempt; set only if the result is true.
 * Returns true; false if the window's attempts are used up (nothing is counted). */
bool backoff_again(const struct backoff_rule *r, struct backoff *b, uint64_t now_ns,
	uint64_t *ret_wait_ns);
/* Count an attempt that is always allowed. The first `tries` attempts of a window wait 0, the next delay_s, each
 * further one twice as long. With tries 0, no attempt waits.
 * Returns the delay in ns. */
uint64_t backoff_slow(const struct backoff_rule *r, struct backoff *b, uint64_t now_ns);

#endif
