/* usernet: the processes behind interfaces of type user: one cairn-slirp (tools/slirp) for each, with the rights of the
 * user who defined the VM. Frames travel between cairn-slirp and the VM's process only. cairn-slirp ends with the VM's
 * process and keeps running when the daemon ends. For the forwards of an interface of type network there is a
 * cairn-publish (tools/publish), which ends with the VM's tap and keeps running likewise; both have the same control
 * socket. Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_USERNET_H
#define CAIRN_API_NET_USERNET_H

#include "vmm/vm_msg.h"

#include <sys/types.h>

struct config;
struct definition;
struct err;

struct usernet_process {
	unsigned at;	/* index of the interface */
	pid_t pid;	/* the caller reaps the process */
	int control;	/* connection to the process, owned; protocol: tools/slirp/control.h. -1: no run folder */
};

struct usernets {
	struct usernet_process list[VM_INTERFACES_MAX];
	unsigned n;
};

/* Start a cairn-slirp for each interface of type user whose link is up, and a cairn-publish for each of type network
 * that has forwards, and add the sockets for frames to c, which config_prepare()
 * made from d. The sockets of forwards, which are c's last files, move from c to the processes.
 * slirp, publish: paths of the programs. publish: NULL: there are no networks.
 * log_fd:   borrowed; the processes' stderr. -1: the caller's.
 * run_dir:  borrowed; folder of their control sockets, through which a later daemon finds them. -1: none.
 * Returns 0 or -errno. *ret lists the started processes in both cases; without a VM they end by themselves. */
int usernets_start(struct config *c, const struct definition *d, const char *slirp, const char *publish, int log_fd, int run_dir,
	struct usernets *ret, struct err *e);
/* Start a cairn-publish for interface `at` of a running VM. fds: sockets of the interface's first n forwards;
 * borrowed. Returns 0; -errno. */
int usernet_publish(const struct definition *d, unsigned at, const char *publish, const int *fds, unsigned n, int log_fd, int run_dir,
	struct usernet_process *ret, struct err *e);

/* Connect to the control socket of the cairn-slirp of a VM's interface; an earlier daemon may have started the process.
 * at: index of the interface, by which earlier releases named the socket.
 * Returns 0 and an owned fd; -ENOENT, -ECONNREFUSED: no such process runs; -errno. */
int usernet_connect(int run_dir, const char *vm, const char *id, unsigned at, int *ret_fd);
/* Return an owned pidfd of the process at the other end of a usernet_connect() fd; -1: unknown. */
int usernet_pidfd(int control);
/* Remove the control socket of a cairn-slirp that has ended, if there is one.
 * usernet_remove_old_socket: the one that an earlier release named by the index. */
void usernet_remove_socket(int run_dir, const char *vm, const char *id);
void usernet_remove_old_socket(int run_dir, const char *vm, unsigned at);
/* Give the control socket of an interface of VM `from`, if it has one, the name of that of VM `to`, too. Any thread. */
void usernet_link(int run_dir, const char *from, const char *to, const char *id);
/* Set the error of an order that such a process did not carry out (forwards_order()). program: cairn-slirp or
 * cairn-publish. id: of the interface. Returns r; -ENOENT if the program has ended. */
int usernet_order_failed(const char *program, const char *id, int r, struct err *e);

#endif
