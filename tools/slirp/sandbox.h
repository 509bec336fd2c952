/* sandbox: what a process that reads a guest's packets still can: talk to the network as its user
 * could, but listen nowhere, and read the folder of /etc/resolv.conf. */
#ifndef CAIRN_TOOLS_SLIRP_SANDBOX_H
#define CAIRN_TOOLS_SLIRP_SANDBOX_H

struct err;

/* After all that has to be opened is. Root becomes nobody. Returns 0; -errno. */
int slirp_sandbox(struct err *e);

#endif
