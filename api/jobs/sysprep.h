/* sysprep: gives a clone's images an identity of their own: machine-id, SSH host keys, host name, network names.
 * libguestfs' virt-sysprep does the work with the rights of the user who defined the VM; Cairn itself never parses the
 * guest's file systems. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_SYSPREP_H
#define CAIRN_API_JOBS_SYSPREP_H

struct definition;
struct err;
struct fork_as;
struct fork_as_result;
struct helpers;

/* Check that virt-sysprep is in the daemon's PATH. Returns 0; -ENOENT: the error names the package to install. */
int sysprep_check(struct err *e);
/* Start virt-sysprep on a VM's images. Returns 0; -errno, and then done() is not called. */
int sysprep_begin(struct helpers *h, const struct definition *def,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct fork_as **ret, struct err *e);
/* Kill virt-sysprep; done() reports a failure. NULL allowed. */
void sysprep_cancel(struct fork_as *x);

#endif
