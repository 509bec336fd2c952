/* worker: one thread for what takes long and may block: saving, restoring, dumping. Made
 * before the sandbox is sealed, asleep until there is work. */
#ifndef CAIRN_VMM_MACHINE_WORKER_H
#define CAIRN_VMM_MACHINE_WORKER_H

#include "base/loop.h"

struct err;
struct worker;

/* Embedded in the job; borrowed until done() runs. */
struct work {
	void (*run)(struct work *w);  /* on the worker's thread */
	void (*done)(struct work *w); /* afterwards, on the home loop's */
	struct work *next;
	struct loop *home;
	struct loop_task task;
};

int worker_new(struct worker **ret_w, struct err *e);
/* One after the other, in order. */
void worker_submit(struct worker *w, struct loop *home, struct work *work);
/* Waits for what runs; what is queued is run, too, but no done() any more. NULL allowed. */
void worker_free(struct worker *w);

#endif
