/* worker: a thread for long or blocking work. It sleeps until work is submitted. A VM has one for saves, snapshots and
 * dumps; most VMs never need it, and with its filter it costs a start 0.1 ms of processor time. A screenshot has one of
 * its own. */
#ifndef CAIRN_VMM_MACHINE_WORKER_H
#define CAIRN_VMM_MACHINE_WORKER_H

#include "base/loop.h"

#include <stdint.h>

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

/* Create a worker without its thread.
 * k: borrowed; says whether the thread installs a filter (vmm/kvm/thread_filter.h).
 * name: of the thread, at most 15 bytes; borrowed.
 * Returns NULL: no memory. */
struct worker *worker_new(const struct kvm *k, const char *name);
/* Start the thread, if it does not run yet. Call it before worker_submit(), on the thread that created the worker.
 * Returns 0 or -errno. */
int worker_start(struct worker *w, struct err *e);
/* Queue work; the worker runs one after the other, in order. */
void worker_submit(struct worker *w, struct loop *home, struct work *work);
/* Wait for running and queued work, then end the thread. For work that was still queued, done() is not called. NULL
 * allowed. */
void worker_free(struct worker *w);

#endif
