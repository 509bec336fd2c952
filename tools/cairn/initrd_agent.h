/* initrd_agent: put cairn-agent into the initramfs of a VM that is about to run. */
#ifndef CAIRN_TOOLS_INITRD_AGENT_H
#define CAIRN_TOOLS_INITRD_AGENT_H

struct config;
struct err;

/* Replace the initrd by a copy in memory with /cairn-agent behind it, and let the kernel start that first; it then
 * becomes the init that the command line named, or /init. Returns 0; -errno with a sentence. */
int initrd_agent_add(struct config *c, struct err *e);

#endif
