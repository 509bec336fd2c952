/* sandbox: the privileges and system calls that a VM process gives up, in two steps: before it reads its configuration,
 * and before the first guest instruction. */
#ifndef CAIRN_VMM_SANDBOX_H
#define CAIRN_VMM_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct err;
struct host_files;

/* The sandbox options of the command line. */
struct sandbox_options {
	int spaces_fd;	 /* the first of the fds of namespaces to enter; they follow one another */
	unsigned spaces; /* their number */
	bool own_ipc_uts; /* make own namespaces of IPC and UTS */
	bool own_all; /* make all namespaces, because no daemon has prepared any: `cairn run` */
	uid_t uid; /* user and group to become; 0: none */
	bool required; /* main() fails if a part is missing */
	bool spare; /* allow the process to replace its stdout and stderr, until sandbox_seal() */
};

/* The parts of the sandbox that some hosts lack. */
struct sandbox_report {
	int landlock; /* see lockdown_outside() */
	char lacks[300]; /* the namespaces that the process could not enter or make, with the reasons; "": none */
};

/* Give up all capabilities, new files, and all system calls that building a VM does not need; any other ends
 * the process with SIGSYS, and the log names it. Call it before the process creates threads and reads anything
 * from outside.
 * host: host_files_open() has opened it; gets the pagemap.
 * o: its fds are closed.
 * ret: zero; set on errors, too.
 * Returns 0 or -errno. */
int sandbox_enter(struct host_files *host, const struct sandbox_options *o, struct sandbox_report *ret, struct err *e);

/* Limit the size of files that the process writes. Writes beyond the limit fail with -EFBIG, because main() calls
 * program_outlive_file_limit(). Call it before sandbox_seal(). bytes: RLIM_INFINITY: as much as the daemon's own limit
 * allows. Returns 0 or -errno. */
int sandbox_limit_files(uint64_t bytes, struct err *e);

/* Restrict all threads to the system calls of a running VM. Call after sandbox_enter(), when all files are open and all
 * loops exist, and before a thread installs a filter of its own (vmm/kvm/thread_filter.h). Returns 0 or -errno. */
int sandbox_seal(struct err *e);

#endif
