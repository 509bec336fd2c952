/* sandbox: restrict the process that reads a guest's packets: it may use the network as its user may, but not listen,
 * and read files below /etc and below the folder of the real resolv.conf. */
#ifndef CAIRN_TOOLS_SLIRP_SANDBOX_H
#define CAIRN_TOOLS_SLIRP_SANDBOX_H

struct err;

/* Call after all files are open. Root becomes the user nobody, unless its user namespace lacks that
 * user. Returns 0; -errno with a sentence. */
int slirp_sandbox(struct err *e);

#endif
