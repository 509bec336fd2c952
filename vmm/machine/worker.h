/* worker: one thread for long or blocking work, such as saves, snapshots and dumps. It sleeps until
 * work is submitted. */
#ifndef CAIRN_VMM_MACHINE_WORKER_H
#define CAIRN_VMM_MACHINE_WORKER_H

#include "base/loop.h"

struct err;
struct kvm;
struct worker;

/* A unit of work, embedded in the job; borrowed until done() runs. */
struct work {
	void (*run)(struct work *w);  /* called on the worker's thread */
	void (*done)(struct work *w); /* called afterwards on the home loop's thread */
	struct work *next;
	struct loop *home;
	struct loop_task task;
};

/* k: borrowed; says whether the thread installs a filter (vmm/kvm/thread_filter.h). Returns 0 or -errno. */
int worker_new(const struct kvm *k, struct worker **ret_w, struct err *e);
/* Queue work; the worker runs one after the other, in order. */
void worker_submit(struct worker *w, struct loop *home, struct work *work);
/* Wait until the worker has nothing to run. */
void worker_drain(struct worker *w);
/* Wait for running and queued work, then end the thread. For work that was still queued, done() is not called. NULL
 * allowed. */
void worker_free(struct worker *w);

#endif
