#include "base/wait_fds.h"
#include "base/busy_poll.h"
#include "base/clock.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>

/* With more fds, a call of poll() takes about as long as a wake-up. */
#define FDS_MAX 64

static int poll_errno(struct pollfd *fds, nfds_t nfds, int timeout)
{
	int r = poll(fds, nfds, timeout);

	return r < 0 ? -errno : r;
}

/* Poll until an fd has an event or the window is over. Other threads of this processor run between two polls; if one of
 * them runs for long, the polls end. Returns as poll_errno(). */
static int poll_busily(struct busy_poll *b, struct pollfd *fds, nfds_t nfds)
{
	uint64_t began_ns = clock_monotonic_ns(), now_ns = began_ns;
	bool contended = false;
	int r = poll_errno(fds, nfds, 0);

	if (r)
		return r; /* says nothing about the window */
	while (!r && !contended && now_ns - began_ns < b->window_ns) {
		uint64_t before_ns = clock_monotonic_ns();

		sched_yield();
		now_ns = clock_monotonic_ns();
		contended = now_ns - before_ns > BUSY_POLL_CONTENDED_NS;
		r = poll_errno(fds, nfds, 0);
	}
	busy_poll_ended(b, r > 0, contended);
	return r;
}

int wait_fds(struct busy_poll *b, struct pollfd *fds, nfds_t nfds, int timeout)
{
	int r = b->window_ns && timeout && nfds <= FDS_MAX ? poll_busily(b, fds, nfds) : 0;
	uint64_t began_ns;

	if (r)
		return r;
	began_ns = clock_monotonic_ns();
	r = poll_errno(fds, nfds, timeout);
	if (timeout)
		busy_poll_slept(b, clock_monotonic_ns() - began_ns);
	return r;
}
