#include "vmm/kvm/throttle.h"
#include "base/loop.h"
#include "vmm/kvm/thread_filter.h"
#include "vmm/kvm/vcpu.h"

#include <signal.h>
#include <stdint.h>
#include <time.h>

#define PERIOD_NS 20000000ULL

static void *throttle_thread(void *opaque)
{
	struct throttle *t = opaque;

	pthread_setname_np(pthread_self(), "throttle");
	thread_filter_enter(t->vcpus->cfg.kvm, THREAD_THROTTLE, NULL, -1);
	pthread_mutex_lock(&t->lock);
	while (t->percent) {
		uint64_t now = loop_now_ns(), end = now + PERIOD_NS;
		struct timespec at = { .tv_sec = (time_t)(end / 1000000000), .tv_nsec = (long)(end % 1000000000) };

		vcpus_nap(t->vcpus, now + PERIOD_NS * t->percent / 100);
		pthread_cond_timedwait(&t->changed, &t->lock, &at);
	}
	pthread_mutex_unlock(&t->lock);
	vcpus_nap(t->vcpus, 0);
	return NULL;
}

static void throttle_start(struct throttle *t, unsigned percent)
{
	pthread_condattr_t monotonic;
	sigset_t all, old;

	t->percent = percent;
	pthread_mutex_init(&t->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&t->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	t->thread_made = !pthread_create(&t->thread, NULL, throttle_thread, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void throttle_set(struct throttle *t, unsigned percent)
{
	if (!t->thread_made) {
		if (percent)
			throttle_start(t, percent);
		return;
	}
	pthread_mutex_lock(&t->lock);
	t->percent = percent;
	pthread_cond_signal(&t->changed);
	pthread_mutex_unlock(&t->lock);
	if (percent)
		return;
	pthread_join(t->thread, NULL);
	t->thread_made = false;
}
