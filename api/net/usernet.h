/* usernet: what interfaces of type user are plugged into: for each a process, cairn-slirp (tools/slirp), with the rights
 * of whoever defined the VM. Frames go between it and the VM's process alone. It ends with that process, and outlives
 * a daemon. */
#ifndef CAIRN_API_NET_USERNET_H
#define CAIRN_API_NET_USERNET_H

#include "vmm/vm_msg.h"

#include <sys/types.h>

struct config;
struct definition;
struct definition_forward;
struct err;

/* Returns a socket that listens there; -errno with a sentence that begins with the key. */
int forward_listen(const struct definition_forward *f, const char *key, struct err *e);

struct usernet_process {
	unsigned at;	/* of the interface */
	pid_t pid;	/* the caller waits for it */
	int control;	/* owned; what tools/slirp/control.h says passes here. -1: without a run folder */
};

struct usernets {
	struct usernet_process list[VM_INTERFACES_MAX];
	unsigned n;
};

/* A process for each interface of type user whose link is up, into c (as config_prepare() made it of d). Its last files,
 * the forwards' sockets, are the processes' from here on, and not the VM's.
 * program: the path of cairn-slirp. log_fd: borrowed, the processes' stderr; -1: the caller's. run_dir: borrowed, the
 * folder that they listen in for whoever comes after this daemon; -1: nobody does.
 * Returns 0; -errno with a sentence. *ret has those that were started, in either case; without a VM they end. */
int usernets_start(struct config *c, const struct definition *d, const char *program, int log_fd, int run_dir,
	struct usernets *ret, struct err *e);

/* To the process of a VM's interface, whoever started it. Returns 0 and an owned fd; -ENOENT, -ECONNREFUSED: none listens;
 * -errno. */
int usernet_connect(int run_dir, const char *vm, unsigned at, int *ret_fd);
/* The process at the other end of what usernet_connect() has made. Returns an owned pidfd; -1: it is not known which. */
int usernet_pidfd(int control);
/* It has ended: what it listened at. */
void usernet_forget(int run_dir, const char *vm, unsigned at);

#endif
