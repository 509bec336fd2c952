/* save: the job that saves a VM's state into a file: one that the caller opened, or the managed save in the VM's
 * folder, from which the next start continues.
 *
 * For a managed save, the VM's process writes managed.save.tmp. When the process has ended with its state on disk, this
 * daemon or the next renames the file to managed.save. A start renames that file to managed.save.used, and removes it
 * once the VM runs.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_SAVE_H
#define CAIRN_API_JOBS_SAVE_H

struct call;
struct client_file;
struct err;
struct job;
struct store_work;
struct vm;
struct vm_observer;

extern const struct vm_observer save_observer;

/* Whether the VM is to run or to be paused when it starts from the saved state. */
enum save_then {
	SAVE_THEN_AS_IT_WAS,
	SAVE_THEN_RUNNING,
	SAVE_THEN_PAUSED,
};

/* Save into a file. file: a regular, empty file opened O_RDWR; taken on success, and then NULL. job_id: NULL:
 * generated. Returns 0 or -errno. */
int save_to_file(struct vm *vm, struct client_file **file, const char *job_id, struct job **ret_j, struct err *e);
/* Save into the VM's folder. call: answered with the job's id once the request to save was sent, or the job has ended
 * before that; NULL allowed.
 * Returns 0; -errno, and then the caller keeps call. */
int save_managed(struct vm *vm, enum save_then then, const char *job_id, struct call *call,
	struct job **ret_j, struct err *e);
/* Save into the VM's folder for job j, which owns the VM. After the save, restart_process_saved() starts the VM again.
 * Returns as save_managed(). */
int save_managed_for(struct job *j, struct call *call, struct err *e);
/* Remove the managed save of a VM that is off. When w is done, the caller calls save_dropped(); until then the VM has
 * the owner VM_OP_DROP_SAVED.
 * Returns 0; -errno, and then the caller keeps w. */
int save_drop_managed(struct vm *vm, struct store_work *w, struct err *e);
/* Finish save_drop_managed(): release the VM, and unless r < 0, move it to "shut off". */
void save_dropped(struct vm *vm, int r);

#endif
