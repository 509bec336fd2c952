/* sandbox: restricts the process that reads layers: no capabilities, no files besides the open ones, no programs, no
 * sockets, and a limit of memory. */
#ifndef CAIRN_TOOLS_ROOT_SANDBOX_H
#define CAIRN_TOOLS_ROOT_SANDBOX_H

struct err;

/* Returns 0; -errno with a sentence. */
int root_sandbox(struct err *e);

#endif
