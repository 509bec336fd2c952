/* sandbox: the privileges that cairn-webhook drops before it reads data of a server. */
#ifndef CAIRN_TOOLS_WEBHOOK_SANDBOX_H
#define CAIRN_TOOLS_WEBHOOK_SANDBOX_H

struct err;

/* If root runs this process, become the user cairn-hook, or nobody if there is no such user. Drop all capabilities,
 * lower limits, and leave of the files those of the system, to read, which name services and certificates need. Forbid
 * system calls that start programs or reach other processes. Returns 0; -errno with a sentence. */
int webhook_sandbox(struct err *e);

#endif
