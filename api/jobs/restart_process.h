/* restart_process: the job that gives a running VM a new process, for example one of a newer version of Cairn: it saves
 * the VM's state (a managed save) and starts the VM from it. If the job fails, the VM still runs or is saved. If the
 * daemon ends meanwhile, the next daemon continues the job (VM_FACT_CONTINUES). */
#ifndef CAIRN_API_JOBS_RESTART_PROCESS_H
#define CAIRN_API_JOBS_RESTART_PROCESS_H

struct call;
struct err;
struct vm;
struct vm_observer;

extern const struct vm_observer restart_process_observer;

/* Begin the job. call: answered with the job's id once the VM's process has the request.
 * Returns 0; -errno, and then the caller keeps call. */
int restart_process(struct vm *vm, const char *job_id, struct call *call, struct err *e);
/* The job's managed save is on stable storage: start the VM from it. */
void restart_process_saved(struct vm *vm);
/* The save has failed, so that no start follows. Does nothing for other saves. */
void restart_process_forget(struct vm *vm);
/* Continue the job of an earlier daemon, if there is one. Call it when all VMs are loaded. */
void restart_process_resume(struct vm *vm);

#endif
