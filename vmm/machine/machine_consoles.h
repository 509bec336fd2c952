/* machine_consoles: the clients of a machine's consoles. Threading: main thread. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_CONSOLES_H
#define CAIRN_VMM_MACHINE_MACHINE_CONSOLES_H

#include <stddef.h>

struct err;
struct machine;
struct vm_console;
struct vm_console_end;

/* Attach a client. fd: a stream socket; taken on success only. Returns 0; -EINVAL; -ENOENT: the machine has no such
 * console; otherwise as console_attach(). */
int machine_console_attach(struct machine *m, const struct vm_console *want, int fd, struct err *e);
/* Detach the clients whose user and group are not in a message of len bytes. Returns 0; -EINVAL: it is malformed. */
int machine_consoles_end(struct machine *m, const struct vm_console_end *stay, size_t len, struct err *e);
/* Write a line to all consoles, in brackets because it does not come from the guest. */
void machine_consoles_tell(const struct machine *m, const char *text);

#endif
