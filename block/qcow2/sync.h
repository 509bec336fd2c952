/* sync: waits in the few functions that may run the loop. */
#ifndef CAIRN_BLOCK_QCOW2_SYNC_H
#define CAIRN_BLOCK_QCOW2_SYNC_H

#include "block/qcow2/impl.h"

#include <errno.h>

struct qcow2_sync {
	struct wait wait;
	bool done;
	int res;
};

static inline void qcow2_sync_run(struct wait *w, int res)
{
	struct qcow2_sync *s = (struct qcow2_sync *)((char *)w - offsetof(struct qcow2_sync, wait));

	s->done = true;
	s->res = res;
}

static inline int qcow2_sync_wait(struct qcow2 *q, struct qcow2_sync *s)
{
	while (!s->done)
		loop_run_once(q->base.loop, UINT64_MAX);
	return s->res;
}

/* Repeat a transaction until it does not wait; `call` uses &sync.wait. */
#define QCOW2_SYNC(q, call)                                                                        \
	({                                                                                         \
		int sync_r_;                                                                       \
		for (;;) {                                                                         \
			struct qcow2_sync sync = { .wait.run = qcow2_sync_run };                   \
			sync_r_ = (call);                                                          \
			if (sync_r_ != -EINPROGRESS)                                               \
				break;                                                             \
			sync_r_ = qcow2_sync_wait(q, &sync);                                       \
			if (sync_r_ < 0)                                                           \
				break;                                                             \
		}                                                                                  \
		sync_r_;                                                                           \
	})

/* Make all changes so far durable. Returns 0 or -errno. */
static inline int qcow2_sync_flush(struct qcow2 *q)
{
	struct qcow2_sync s = { .wait.run = qcow2_sync_run };

	commit_flush(q, &s.wait);
	return qcow2_sync_wait(q, &s);
}

/* Free the L2 tables of an empty part of the disk, and what they name: those from the size on that is new, up to the
 * old one. Returns 0 or -errno. */
int qcow2_tables_cut(struct qcow2 *q, uint64_t size, uint64_t old);

static inline int qcow2_sync_gate(struct qcow2 *q)
{
	return QCOW2_SYNC(q, gate_wait(q, &sync.wait) ? -EINPROGRESS : 0);
}

#endif
