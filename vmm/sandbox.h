/* sandbox: the privileges and system calls that a VM process gives up, in two steps: before it reads its configuration,
 * and before the first guest instruction. */
#ifndef CAIRN_VMM_SANDBOX_H
#define CAIRN_VMM_SANDBOX_H

struct err;
struct host_files;
struct loop;

/* Give up all capabilities, new files, and all system calls that building a VM does not need; any other kills
 * the process. Call it before the process creates threads and reads anything from outside.
 * l: a loop of this process; all of them have its back end.
 * host: host_files_open() has opened it; gets the pagemap.
 * ret_landlock: see lockdown_outside().
 * Returns 0 or -errno. */
int sandbox_enter(struct loop *l, struct host_files *host, int *ret_landlock, struct err *e);

/* Restrict all threads to the system calls of a running VM. Call after sandbox_enter(), when all files are open;
 * threads may be created later. Returns 0 or -errno. */
int sandbox_seal(struct err *e);

#endif
