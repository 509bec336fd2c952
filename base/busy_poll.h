/* busy_poll: decides how long a loop polls for work before it sleeps. To wake a sleeping thread costs some 15 us, three
 * times as much as to send a frame. So the loop polls as long as work has come soon after each sleep. If sleeps are
 * long, or polls find nothing, the loop does not poll: an idle VM uses no processor time.
 *
 * Threading: the owner's. Times are ns. */
#ifndef CAIRN_BASE_BUSY_POLL_H
#define CAIRN_BASE_BUSY_POLL_H

#include <stdbool.h>
#include <stdint.h>

/* Longest poll without work, unless the owner chooses another one. */
#define BUSY_POLL_NS 50000u
/* Work that ends a sleep of at most so many times the longest poll might have come within that poll: a sleep includes
 * the wake-up. */
#define BUSY_POLL_SLEEPS 4u
/* A poll that other threads of the processor delay by this much takes time that they need. */
#define BUSY_POLL_CONTENDED_NS 20000u

/* The initial state is all zeros: no polls. */
struct busy_poll {
	uint32_t window_ns; /* length of the next poll; 0: none */
	uint16_t failed;    /* polls in sequence that found nothing or delayed other threads */
	uint16_t skip;	    /* short sleeps that are to pass before the window opens again */
	uint32_t max_ns;    /* constant: longest poll without work; 0: BUSY_POLL_NS */
};

/* Learn from a poll that has ended. contended: another thread wanted the processor. */
void busy_poll_ended(struct busy_poll *b, bool found, bool contended);
/* Learn from a sleep that has ended. */
void busy_poll_slept(struct busy_poll *b, uint64_t ns);

#endif
