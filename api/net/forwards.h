/* forwards: manages the cairn-slirp processes of interfaces of type user and the cairn-publish ones of type network
 * (usernet.h), and the host's ports that lead to VMs. The comments below say cairn-slirp for both.
 *
 * A client that connects to a forward wakes a VM that sleeps. While the VM is suspended, its cairn-slirp accepts the
 * client and reports it to the daemon over a control socket in the run folder, which a later daemon can connect to,
 * too. While the VM is saved, the daemon itself holds the listening sockets, and passes them with the waiting clients
 * to the cairn-slirp of the next start. If the VM's idle policy is to save it, the daemon that starts the VM holds the
 * sockets from the start on, so that no client is refused while the VM is being saved. (A daemon that adopts the VM
 * does not have them.) Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_FORWARDS_H
#define CAIRN_API_NET_FORWARDS_H

#include <stdbool.h>
#include <stdint.h>

struct config;
struct definition;
struct definition_forward;
struct definition_interface;
struct err;
struct vm;
struct vm_host;
struct vm_observer;

/* Placeholder, until the definition is parsed, for a port that the kernel is to choose: the parser refuses 0. */
#define FORWARD_SOME_PORT 65535

extern const struct vm_observer forwards_observer;

/* Open, watch or close the sockets after a change of the VM's state. */
void forwards_on_state_change(struct vm *vm);
/* Connect to the cairn-slirp processes of an adopted VM, so that their clients wake it. */
void forwards_adopted(struct vm *vm);
/* Ask the VM's cairn-slirp processes to accept no more clients, because the VM is about to be saved. Once they have
 * answered, new clients wait in the listening sockets, which the daemon holds, too. Such a client cancels the save if
 * possible, or else wakes the VM after the save.
 * Returns false if no process has to answer. Otherwise the observers' forwards_held() is called when all processes have
 * answered. As the processes are not trusted, that may never happen. */
bool forwards_hold(struct vm *vm);
/* Undo forwards_hold() if no save follows or the save failed: let the VM's cairn-slirp processes accept clients
 * again. */
void forwards_release(struct vm *vm);
/* Check that no other VM has one of the forwards of d, a definition of this VM. Returns 0; -EBUSY. */
int forwards_check_others(const struct vm *vm, const struct definition *d, struct err *e);
/* Check that no other program has one of the ports of the VM, which is off: the daemon binds a socket to each for a
 * moment. Ports that the daemon holds for the VM are free, and while a process of a VM ends, all count as free.
 * Returns 0; -errno. */
int forwards_check_ports(const struct vm *vm, struct err *e);
/* Return whether an interface can have forwards: it is of type user or network, and its link is up. */
bool forwards_may_lead_to(const struct definition_interface *i);
/* Find an interface that can have forwards. id: NULL: the first of type user, else the first of type network.
 * Returns its index; -1. */
int forwards_interface_find(const struct definition *d, const char *id);
/* Start the cairn-publish of interface `at`, of type network, of a running VM, if there is none. fds: sockets of the
 * interface's first n forwards; borrowed. Returns 0; -errno. */
int forwards_publish(struct vm *vm, unsigned at, const int *fds, unsigned n, struct err *e);
/* Return whether the interface has a cairn-slirp or cairn-publish. */
bool forwards_has_process(const struct vm *vm, unsigned at);
/* Make the tap or the cairn-slirp of an interface that is attached to the running VM.
 * only: a definition with this interface alone, without forwards. c: of `only`; gets the files.
 * Returns 0; -errno, and c may have files. The process ends when they are closed. */
int forwards_plug(struct vm *vm, const struct definition *only, struct config *c, struct err *e);
/* Tell the cairn-publish of interface `at`, if there is one, the guest's address and the VM's tap. */
void forwards_lead(struct vm *vm, unsigned at, const char *address, const char *tap);
/* Ask the cairn-slirp of interface `at` to change its forwards (tools/slirp/control.h). text: the message. fd: a
 * socket that goes with it, borrowed; -1: none.
 * done: called once from the loop unless an error is returned. r: 0; -EREMOTEIO: the process refused; -EPIPE: the
 * process has ended, or the VM has started again with another one. The VM may be gone by then. If the process does not
 * answer in time, done() is first called with -ETIMEDOUT; it may still make the change. The second call has
 * -EREMOTEIO if the process has answered a later message, so that none comes for this one.
 * Returns 0; -ENOENT: no such process runs; -EBUSY: another change is under way; -ETIMEDOUT: the process has not
 * answered an earlier one; -errno. */
int forwards_order(struct vm *vm, unsigned at, const char *text, int fd, void (*done)(void *opaque, int r), void *opaque);
/* If the daemon holds the socket of this forward, which is no longer one of the VM's, close all sockets that it holds
 * for the VM. It opens those of the definition when the VM sleeps: call forwards_on_state_change() if it does already.
 * what: NULL: close them in any case. */
void forwards_unhold(struct vm *vm, const struct definition_forward *what);
/* Return how many packets and DNS questions the egress rules of interface `at` have denied since the VM's start, as its
 * cairn-slirp last reported them (untrusted). Returns false if no such process runs. */
bool forwards_denied(const struct vm *vm, unsigned at, uint64_t ret_denied[2]);
/* Free the daemon's objects for all cairn-slirp processes. The processes keep running. */
void forwards_processes_free(struct vm_host *host);

#endif
