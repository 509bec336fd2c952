/* forward_change: adds forwards to a running VM, and removes them. The definition for the next start does not change;
 * vm-define changes that. The port is opened with the rights of the user who adds it. Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_FORWARD_CHANGE_H
#define CAIRN_API_NET_FORWARD_CHANGE_H

struct call;

/* Handle forward-add and forward-remove: answer the call, whose vm is set, at once or later. */
void forward_add(struct call *c);
void forward_remove(struct call *c);

#endif
