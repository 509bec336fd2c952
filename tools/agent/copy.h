/* copy: the agent's side of `cairn cp`, in a process of its own. */
#ifndef CAIRN_TOOLS_AGENT_COPY_H
#define CAIRN_TOOLS_AGENT_COPY_H

/* Write the tree that standard input has to a path. Errors go to standard error. Returns an exit status. */
int copy_receive(const char *path);
/* Write a file or folder to standard output. */
int copy_send(const char *path);

#endif
