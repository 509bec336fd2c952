/* trends: records the load of the VMs, for years (api/store/trend_row.h).
 *
 * Once a second, while any VM runs, a timer reads the counters that each VM's process shares with the daemon, and its
 * processor time, which takes one system call; no process wakes up. Each minute's rows of a VM go to its file `trends`
 * (api/store/trend_file.h) on the store's thread; a VM that did nothing has no new row. The first rows of a VM are
 * written after a minute, or when it ends, so a VM that runs for a second has no file.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_TRENDS_H
#define CAIRN_API_POLICY_TRENDS_H

#include "api/store/trend_view.h"

struct err;
struct vm;
struct vm_host;
struct vm_observer;

extern const struct vm_observer trends_observer;

/* Read the points from `from` on. done: called once, from the loop, also if the VM is removed meanwhile. v: borrowed;
 * NULL: *e is set. */
void trends_query(struct vm *vm, uint32_t from, uint32_t step_s, size_t npoints,
	void (*done)(void *opaque, const struct trend_view *v, const struct err *e), void *opaque);
/* Return how long the VM's vCPUs ran, and waited for a processor, in the last minutes. Returns false if that is
 * unknown: the process is younger than a minute, or shares no page. */
struct trends_waited {
	double span_s, ran_s, waited_s;
};
bool trends_waited(struct vm *vm, struct trends_waited *ret);
/* Return the processors that the VM's process kept busy in about the last minute; 0: it has just started, or is off. */
double trends_cpus(const struct vm *vm);
/* Return the resident memory of the VM's process, some seconds old; 0: not known. */
uint64_t trends_resident(const struct vm *vm);
/* The daemon ends: queue the rows that are not written yet. The caller then waits for the store. */
void trends_finish(struct vm_host *host);
void trends_free(struct vm_host *host);

#endif
