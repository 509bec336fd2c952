/* copy: the agent's side of `cairn cp`, in a process of its own. Errors go to standard error. Both return an exit
 * status. */
#ifndef CAIRN_TOOLS_AGENT_COPY_H
#define CAIRN_TOOLS_AGENT_COPY_H

/* Write the tree of standard input (base/tree_stream.h) to a path, or, if that is a folder, to the name in it. */
int copy_receive(const char *path, const char *name);
/* Write a file or folder to standard output. */
int copy_send(const char *path);

#endif
