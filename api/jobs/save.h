/* save: a VM's state into a file, as a job: one that the caller opened, or the managed save in
 * the VM's own folder, from which the next start goes on.
 *
 * managed.save.tmp is being written; renamed to managed.save when the VM's process has ended
 * with its state on disk (by this daemon or the next); renamed to managed.save.used when a
 * start goes on from it, and removed once the VM runs. */
#ifndef CAIRN_API_JOBS_SAVE_H
#define CAIRN_API_JOBS_SAVE_H

#include <stdbool.h>

struct call;
struct definition;
struct err;
struct job;
struct store_work;
struct vm;
struct vm_observer;

extern const struct vm_observer save_observer;

enum save_then { SAVE_THEN_AS_IT_WAS, SAVE_THEN_RUNNING, SAVE_THEN_PAUSED };

/* fd: borrowed: a regular, empty file open for reading and writing. job_id: NULL: one is made. */
int save_to_file(struct vm *vm, int fd, const char *job_id, struct job **ret_j, struct err *e);
/* The same; call (NULL: nobody waits) is answered with the job's id once the VM's process was asked. -errno: it
 * stays the caller's. */
int save_managed(struct vm *vm, enum save_then then, const char *job_id, struct call *call,
	struct job **ret_j, struct err *e);
/* The VM is off: forget its managed save. Until w is done, and save_dropped() has been told how, the VM is busy.
 * -errno: w stays the caller's. */
int save_drop_managed(struct vm *vm, struct store_work *w, struct err *e);
void save_dropped(struct vm *vm, int r);

/* May a state that was saved with `then` be loaded into what is `now`? Says what differs. */
int save_check_fits(const struct definition *then, const struct definition *now, struct err *e);

#endif
