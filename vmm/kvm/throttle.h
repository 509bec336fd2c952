/* throttle: slows the vCPUs down, for a copy of memory that the guest would otherwise outrun. In each period of 20 ms,
 * the vCPUs are stopped for a part of the period. A thread keeps the time; it exists only while the vCPUs are slowed
 * down.
 *
 * Threading: throttle_set() on one thread at a time. */
#ifndef CAIRN_VMM_KVM_THROTTLE_H
#define CAIRN_VMM_KVM_THROTTLE_H

#include <pthread.h>
#include <stdbool.h>

struct vcpus;

struct throttle {
	struct vcpus *vcpus; /* borrowed */
	pthread_t thread;
	bool thread_made;
	pthread_mutex_t lock; /* protects percent; initialised while thread_made is set */
	pthread_cond_t changed;
	unsigned percent; /* part of the time for which the vCPUs are stopped; 0: the thread ends */
};

/* Stop the vCPUs for `percent` of the time. With 0, they run freely from the return on. If no thread can be created,
 * they run freely as well. */
void throttle_set(struct throttle *t, unsigned percent);

#endif
