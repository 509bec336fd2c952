#include "base/batch_sched.h"

#include <sched.h>

bool batch_sched_record(struct batch_sched *b, uint64_t now_ns, uint64_t bytes)
{
	uint64_t period_ns = now_ns - b->since_ns;
	double rate;

	if (b->since_ns && period_ns < BATCH_SCHED_PERIOD_NS)
		return b->on;
	rate = b->since_ns ? (double)(bytes - b->bytes) * 1e9 / (double)period_ns : 0;
	b->on = rate >= (b->on ? BATCH_SCHED_END_BYTES_S : BATCH_SCHED_BEGIN_BYTES_S);
	b->since_ns = now_ns;
	b->bytes = bytes;
	return b->on;
}

void batch_sched_update(struct batch_sched *b, uint64_t now_ns, uint64_t bytes)
{
	static const struct sched_param none = { .sched_priority = 0 };
	bool was = b->on;

	if (batch_sched_record(b, now_ns, bytes) != was && sched_getscheduler(0) == (was ? SCHED_BATCH : SCHED_OTHER))
		sched_setscheduler(0, was ? SCHED_OTHER : SCHED_BATCH, &none);
}
