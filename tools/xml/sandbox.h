/* sandbox: what a process that reads XML still can: compute, and write its answer. */
#ifndef CAIRN_TOOLS_XML_SANDBOX_H
#define CAIRN_TOOLS_XML_SANDBOX_H

struct err;

/* Bounds on time and memory, no file, socket or process any more. Returns 0; -errno. */
int xml_sandbox(struct err *e);

#endif
