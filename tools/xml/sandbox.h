/* sandbox: restrict the process that parses XML: it can only compute and write its answer. */
#ifndef CAIRN_TOOLS_XML_SANDBOX_H
#define CAIRN_TOOLS_XML_SANDBOX_H

struct err;

/* Limit time and memory, and forbid files, sockets and processes. Returns 0; -errno with a sentence. */
int xml_sandbox(struct err *e);

#endif
