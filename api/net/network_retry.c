#include "api/net/network_retry.h"
#include "api/net/network.h"
#include "api/vm/vm_host.h"
#include "base/loop.h"
#include "base/util.h"

#include <stdlib.h>

#define SECOND_NS 1000000000ULL
#define DELAY_MAX_S 60

struct network_retry {
	struct network *network;
	unsigned delay_s; /* of the last retry; 0: nothing has failed */
	bool waits;	  /* the timer is armed */
	struct loop_timer *timer;
	bool (*check)(struct network *n);
};

static void retry_arm(struct network_retry *r)
{
	loop_timer_arm(r->timer, loop_now_ns() + r->delay_s * SECOND_NS);
	r->waits = true;
}

static void retry_due(void *opaque)
{
	struct network_retry *r = opaque;

	r->waits = false;
	if (r->network->state == NETWORK_ACTIVE && !r->check(r->network))
		retry_arm(r);
}

bool network_retry_later(struct network *n, bool (*check)(struct network *n))
{
	struct network_retry *r = n->retry;
	bool first;

	if (!r) {
		n->retry = r = must_alloc(calloc(1, sizeof(*r)));
		r->network = n;
		if (loop_timer_new(n->host->loop, retry_due, r, &r->timer) < 0)
			abort();
	}
	first = !r->delay_s;
	r->check = check;
	r->delay_s = first ? 1 : MIN(2 * r->delay_s, DELAY_MAX_S);
	retry_arm(r);
	return first;
}

bool network_retry_waits(const struct network *n)
{
	return n->retry && n->retry->waits;
}

bool network_retry_end(struct network *n)
{
	struct network_retry *r = n->retry;
	bool failed = r && r->delay_s;

	if (failed) {
		loop_timer_disarm(r->timer);
		r->waits = false;
		r->delay_s = 0;
	}
	return failed;
}

void network_retry_free(struct network_retry *r)
{
	if (!r)
		return;
	loop_timer_free(r->timer);
	free(r);
}
