/* batch_sched: puts a thread under the policy SCHED_BATCH as long as it moves bulk data. If no processor is idle, a
 * thread that wakes up preempts at once a thread that has used more processor time, such as the vCPU that rang the
 * doorbell. So the vCPU would give one frame at a time, and each frame would cost two switches and an interrupt.
 * Under SCHED_BATCH the thread waits until a processor is idle or the other thread's slice ends, and finds several
 * frames. While little data moves, the policy is SCHED_OTHER, and each frame passes at once.
 *
 * Threading: the thread whose policy it is. */
#ifndef CAIRN_BASE_BATCH_SCHED_H
#define CAIRN_BASE_BATCH_SCHED_H

#include <stdbool.h>
#include <stdint.h>

/* The rate is measured over at least this time. */
#define BATCH_SCHED_PERIOD_NS 10000000u
/* Bulk data begins at the first rate and ends below the second one. */
#define BATCH_SCHED_BEGIN_BYTES_S (16u << 20)
#define BATCH_SCHED_END_BYTES_S (4u << 20)

/* The initial state is all zeros: no bulk data. */
struct batch_sched {
	uint64_t since_ns; /* begin of the period; 0: none has begun */
	uint64_t bytes;	   /* the total at that time */
	bool on;
};

/* Learn the total of bytes that have been moved until now_ns. Returns whether they are bulk data. */
bool batch_sched_record(struct batch_sched *b, uint64_t now_ns, uint64_t bytes);
/* The same, and give the calling thread the policy that fits. A thread with another policy than these two keeps it: an
 * administrator has chosen it. */
void batch_sched_update(struct batch_sched *b, uint64_t now_ns, uint64_t bytes);

#endif
