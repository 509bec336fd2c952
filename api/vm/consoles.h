/* consoles: the clients of the consoles of running VMs. Console data never passes through the daemon, so the VM's
 * process has the sockets. The daemon tells the process which user each socket belongs to, and, when roles have
 * changed, which users may still use the consoles; the process detaches all other clients. So a new daemon needs no
 * list of the consoles that an earlier one opened. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_CONSOLES_H
#define CAIRN_API_VM_CONSOLES_H

#include <stddef.h>
#include <stdint.h>

struct json_object;
struct peer;
struct vm;
struct vm_console;
struct vm_host;
struct vm_info;
struct vm_vsock;

/* Fill in the user for whom the daemon is about to open the console. Returns the length of the body that the VM's
 * process expects. */
size_t consoles_give(struct vm *vm, const struct peer *who, struct vm_console *body);
/* The same for a connection to a vsock port, which ends together with the consoles: both need the same role.
 * body->agent: the connection is one to cairn-agent, which needs the role guest only. */
void consoles_give_vsock(struct vm *vm, const struct peer *who, struct vm_vsock *body);
/* Take note of the consoles of a VM that an earlier daemon started. If the daemon listens, let the VM's process detach
 * the clients that have no role for it any more. */
void consoles_adopted(struct vm *vm, const struct vm_info *info);
/* Let the processes of all VMs detach the clients of consoles that have no role for them any more. The daemon repeats
 * the message until the process answers. An older process lacks the message; the daemon sends it when a new process
 * has taken over the VM. Call this function after permissions have changed. Does nothing while the daemon does not
 * listen. */
void consoles_check_all(struct vm_host *host);
/* The same for the adopted VMs, once the daemon listens. */
void consoles_begin(struct vm_host *host);
/* A new process has taken the VM over from an older one. */
void consoles_handed_over(struct vm *vm);
/* Return sentences about VMs whose process an older version of Cairn started, which cannot detach clients, and that may
 * have some. uuid: about this VM; NULL: about all. The caller owns the array; NULL: there is no such VM. */
struct json_object *consoles_left(const struct vm_host *host, const uint8_t *uuid);

#endif
