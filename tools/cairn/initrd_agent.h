/* initrd_agent: put cairn-agent into the initramfs of a VM that is about to run. */
#ifndef CAIRN_TOOLS_INITRD_AGENT_H
#define CAIRN_TOOLS_INITRD_AGENT_H

struct config;
struct err;

/* Replace the initrd by a copy in memory with /cairn-agent appended, which the kernel starts first. The agent then
 * executes the init that the command line named, or /init.
 * root: words for the kernel's command line, if the first disk has the root (run_root_words()): there is no other
 * initrd, and the agent is the init. NULL: there is no such root.
 * Returns 0; -errno with a sentence. */
int initrd_agent_add(struct config *c, const char *root, struct err *e);
/* Returns the host name that the agent gives a guest whose init it is: the VM's name, if that is one. */
const char *agent_host_name(const char *vm);

#endif
