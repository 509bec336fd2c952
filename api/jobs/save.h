/* save: the job that saves a VM's state into a file: one that the caller opened, or the managed save in the VM's
 * folder, from which the next start continues.
 *
 * managed.save.tmp is being written. This daemon or the next renames it to managed.save when the VM's process has ended
 * with its state on disk. A start renames it to managed.save.used and removes it once the VM runs. */
#ifndef CAIRN_API_JOBS_SAVE_H
#define CAIRN_API_JOBS_SAVE_H

struct call;
struct definition;
struct err;
struct job;
struct store_work;
struct vm;
struct vm_observer;

extern const struct vm_observer save_observer;

enum save_then {
	SAVE_THEN_AS_IT_WAS,
	SAVE_THEN_RUNNING,
	SAVE_THEN_PAUSED,
};

/* Save into a file. fd: borrowed; a regular, empty file opened O_RDWR. job_id: NULL: generated. Returns 0 or -errno. */
int save_to_file(struct vm *vm, int fd, const char *job_id, struct job **ret_j, struct err *e);
/* Save into the VM's folder. call: answered with the job's id once the VM's process has the request; NULL allowed.
 * Returns 0; -errno, and then the caller keeps call. */
int save_managed(struct vm *vm, enum save_then then, const char *job_id, struct call *call,
	struct job **ret_j, struct err *e);
/* Save into the VM's folder for the job, which owns the VM, and start the VM again at once
 * (restart_process.h). Returns as save_managed(). */
int save_managed_for(struct job *j, struct call *call, struct err *e);
/* Remove the managed save of a VM that is off. The VM is busy until w is done and save_dropped() was called.
 * Returns 0; -errno, and then the caller keeps w. */
int save_drop_managed(struct vm *vm, struct store_work *w, struct err *e);
void save_dropped(struct vm *vm, int r);

/* Check whether a state saved with the definition `then` fits the definition `now`. Returns 0; -errno: the error names
 * the difference. */
int save_check_fits(const struct definition *then, const struct definition *now, struct err *e);

#endif
