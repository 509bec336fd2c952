#include "base/busy_poll.h"
#include "base/util.h"

#define WINDOW_FIRST_NS 12500u
/* Polls in sequence that may find nothing; afterwards, twice as many sleeps pass without a poll after each one. */
#define FAILED_MAX 3
#define SKIP_SHIFT_MAX 8

static uint32_t window_max(const struct busy_poll *b)
{
	return b->max_ns ? b->max_ns : BUSY_POLL_NS;
}

static void back_off(struct busy_poll *b)
{
	b->failed = (uint16_t)MIN(b->failed + 1, FAILED_MAX + SKIP_SHIFT_MAX);
	if (b->failed <= FAILED_MAX)
		return;
	b->window_ns = 0;
	b->skip = (uint16_t)(4u << (b->failed - FAILED_MAX));
}

void busy_poll_ended(struct busy_poll *b, bool found, bool contended)
{
	if (found && !contended) {
		b->failed = 0;
		return;
	}
	if (contended)
		b->failed = MAX(b->failed, (uint16_t)FAILED_MAX);
	if (contended || b->window_ns == window_max(b))
		back_off(b);
}

void busy_poll_slept(struct busy_poll *b, uint64_t ns)
{
	if (ns > BUSY_POLL_SLEEPS * (uint64_t)window_max(b))
		b->window_ns = 0;
	else if (b->skip)
		b->skip--;
	else
		b->window_ns = MIN(b->window_ns ? 2 * b->window_ns : WINDOW_FIRST_NS, window_max(b));
}
