/* sandbox: what a VM process gives up before the first guest instruction. */
#ifndef CAIRN_VMM_SANDBOX_H
#define CAIRN_VMM_SANDBOX_H

struct err;

/* A seccomp allow-list over all threads; any other system call kills the process. After all
 * threads are made, all files opened. Returns 0 or -errno. */
int sandbox_seal(struct err *e);

#endif
