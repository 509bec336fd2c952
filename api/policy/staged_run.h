/* sequence: VMs that are started, or stopped, one after the other: by their order, with delays between them,
 * so many at a time (api/policy/policy.h decides). One that fails holds nobody up. Runs on the daemon's loop. */
#ifndef CAIRN_API_POLICY_STAGED_RUN_H
#define CAIRN_API_POLICY_STAGED_RUN_H

#include <stddef.h>
#include <stdint.h>

struct staged_run;
struct vm;
struct vm_host;

struct staged_run_ops {
	/* Its turn: staged_run_over() follows, at once or from the loop. VMs that are gone by then have
	 * none. */
	void (*begin)(void *opaque, struct vm *vm, size_t i);
	/* All are over; it may be freed. From the loop, or from staged_run_go(). */
	void (*over)(void *opaque);
};

/* parallel: at a time; at least 1. */
struct staged_run *staged_run_new(struct vm_host *host, unsigned parallel, const struct staged_run_ops *ops, void *opaque);
/* NULL allowed. What is under way goes on, and nobody hears of it. */
void staged_run_free(struct staged_run *s);
/* Before it goes. */
void staged_run_add(struct staged_run *s, const struct vm *vm, uint32_t order, uint32_t delay_s);
void staged_run_go(struct staged_run *s);
void staged_run_over(struct staged_run *s, size_t i);
/* The VM at that place now; NULL: it is gone. */
struct vm *staged_run_vm(const struct staged_run *s, size_t i);
size_t staged_run_count(const struct staged_run *s);

#endif
