/* restart_process: the job that gives a running VM a new process, for example one of a newer version of Cairn. If the
 * VM's process can, it hands the VM over to the new process (api/vm/vm_handover.h). Otherwise the job saves the VM's
 * state (a managed save) and starts the VM from it; if the daemon ends after the save has begun, the next daemon
 * continues (VM_FACT_CONTINUES). Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_RESTART_PROCESS_H
#define CAIRN_API_JOBS_RESTART_PROCESS_H

struct call;
struct err;
struct vm;
struct vm_observer;

extern const struct vm_observer restart_process_observer;

/* Begin the job. call: answered with the job's id once the request for the handover or the save was sent, or the job
 * has failed before that.
 * Returns 0; -errno, and then the caller keeps call. */
int restart_process(struct vm *vm, const char *job_id, struct call *call, struct err *e);
/* Start the VM, because the job's managed save is on stable storage. If a client's start already waits for the save,
 * end the job instead. */
void restart_process_saved(struct vm *vm);
/* Clear VM_FACT_CONTINUES, and save that: no start has to follow any more. Does nothing if the fact is not set. */
void restart_process_clear(struct vm *vm);
/* Start the VM if an earlier daemon's job has saved it and not started it yet. Call it when all VMs are loaded. */
void restart_process_resume(struct vm *vm);

#endif
