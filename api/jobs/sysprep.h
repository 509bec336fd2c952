/* sysprep: a clone's own identity in its images: machine-id, SSH host keys, host name, network names. Done by
 * libguestfs' virt-sysprep, which is started with the rights of whoever defined the VM; no file system is touched
 * by code of ours. */
#ifndef CAIRN_API_JOBS_SYSPREP_H
#define CAIRN_API_JOBS_SYSPREP_H

struct definition;
struct err;
struct fork_as;
struct fork_as_result;
struct loop;

/* Is the program there? Returns 0; -ENOENT, naming its package. */
int sysprep_check(struct err *e);
/* Returns 0; -errno, and done() is not called. */
int sysprep_begin(struct loop *l, const struct definition *def,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct fork_as **ret, struct err *e);
/* It fails soon. NULL allowed. */
void sysprep_cancel(struct fork_as *x);

#endif
