/* sandbox: the system calls and files that cairn-vnc may use once its sockets are open. */
#ifndef CAIRN_TOOLS_VNC_SANDBOX_H
#define CAIRN_TOOLS_VNC_SANDBOX_H

struct err;

/* Open sockets at most, so that select() can serve them. */
#define VNC_FDS_MAX 64

/* Drop all rights except those to serve open sockets and to accept clients. Returns 0; -errno with a sentence. */
int vnc_sandbox(struct err *e);

#endif
