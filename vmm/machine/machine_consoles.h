/* machine_consoles: the clients of a machine's consoles, and of its vsock device. Threading: main thread. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_CONSOLES_H
#define CAIRN_VMM_MACHINE_MACHINE_CONSOLES_H

#include <stddef.h>
#include <stdint.h>

struct channel_msg;
struct err;
struct machine;
struct vm_console;
struct vm_console_end;

/* Attach a client. fd: a stream socket; taken on success only. Returns 0; -EINVAL; -ENOENT: the machine has no such
 * console; otherwise as console_attach(). */
int machine_console_attach(struct machine *m, const struct vm_console *want, int fd, struct err *e);
/* Connect to a vsock port of the guest. msg: VM_MSG_VSOCK; its fd is taken on success. done: called with the message's
 * seq, as that of virtio_vsock_connect(). Returns 0; -EINVAL; -ENOTSUP: the machine has no vsock device; otherwise as
 * virtio_vsock_connect(). */
int machine_vsock_connect(struct machine *m, struct channel_msg *msg,
	void (*done)(void *opaque, uint64_t seq, int r, const struct err *e), void *opaque, struct err *e);
/* Detach the clients, also those of the vsock device, whose user and group are not in a message of len bytes. Returns
 * 0; -EINVAL: it is malformed. */
int machine_consoles_end(struct machine *m, const struct vm_console_end *stay, size_t len, struct err *e);
/* Write a line to all consoles, in brackets because it does not come from the guest. */
void machine_consoles_print(const struct machine *m, const char *text);

#endif
