/* staged_run: starts or stops VMs in stages, by their order, with delays and a limit of parallel steps;
 * api/policy/policy.h chooses the next step. A failed step does not stop the run. Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_STAGED_RUN_H
#define CAIRN_API_POLICY_STAGED_RUN_H

#include <stddef.h>
#include <stdint.h>

struct staged_run;
struct vm;
struct vm_host;
struct vm_observer;

extern const struct vm_observer staged_run_observer;

struct staged_run_ops {
	/* Begin a VM's step. The callee calls staged_run_over() at once or from the loop. VMs undefined meanwhile are
	 * skipped; one that was renamed has its turn. */
	void (*begin)(void *opaque, struct vm *vm, size_t i);
	/* Called when all steps have ended, from the loop, staged_run_go() or staged_run_over(); may free the run. */
	void (*over)(void *opaque);
};

/* Create a run. Aborts without memory. parallel: most steps at a time, at least 1. */
struct staged_run *staged_run_new(struct vm_host *host, unsigned parallel, const struct staged_run_ops *ops, void *opaque);
/* Free a run. Nobody may call staged_run_over() for it afterwards. NULL allowed. */
void staged_run_free(struct staged_run *s);
/* Add a VM; only before staged_run_go(). */
void staged_run_add(struct staged_run *s, struct vm *vm, uint32_t order, uint32_t delay_s);
void staged_run_go(struct staged_run *s);
void staged_run_over(struct staged_run *s, size_t i);
/* Return the VM of entry i; NULL: undefined meanwhile. */
struct vm *staged_run_vm(const struct staged_run *s, size_t i);
size_t staged_run_count(const struct staged_run *s);

#endif
