/* sandbox: the privileges and system calls that a VM process gives up before the first guest
 * instruction. */
#ifndef CAIRN_VMM_SANDBOX_H
#define CAIRN_VMM_SANDBOX_H

struct err;
struct loop;

/* Restrict all threads to an allow-list of system calls; any other kills the process. Call after
 * all files are open; threads may be created later.
 * l: a loop of this process; all of them have its back end, whose system calls stay allowed.
 * Returns 0 or -errno. */
int sandbox_seal(struct loop *l, struct err *e);

#endif
