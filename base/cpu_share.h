/* cpu_share: limits the processor time of one kind of work to a share of one processor. The work is done first and
 * charged afterwards; when the share is used up, the owner lets the work rest. Threading: the owner's. */
#ifndef CAIRN_BASE_CPU_SHARE_H
#define CAIRN_BASE_CPU_SHARE_H

#include <stdint.h>

/* After idle time, the work may use this much at once. */
#define CPU_SHARE_BURST_NS 50000000ULL

/* The initial state is all zeros. */
struct cpu_share {
	uint64_t spent_ns; /* used and not yet earned back */
	uint64_t at_ns;	   /* monotonic time of the last charge */
};

/* Charge used_ns of processor time. percent: the share, 1 to 100.
 * Returns 0, or how long the work has to rest from now_ns on: until half of the burst is earned back. */
static inline uint64_t cpu_share_charge(struct cpu_share *s, unsigned percent, uint64_t now_ns, uint64_t used_ns)
{
	uint64_t earned_ns = (now_ns - s->at_ns) / 100 * percent;

	s->spent_ns = (s->spent_ns > earned_ns ? s->spent_ns - earned_ns : 0) + used_ns;
	s->at_ns = now_ns;
	return s->spent_ns > CPU_SHARE_BURST_NS ? (s->spent_ns - CPU_SHARE_BURST_NS / 2) / percent * 100 : 0;
}

#endif
