/* display_link: the connection to the process that shows the VM's screen. That process gets the framebuffer, which it
 * can only read, and sends input for the guest.
 * Threading: main thread. */
#ifndef CAIRN_VMM_MACHINE_DISPLAY_LINK_H
#define CAIRN_VMM_MACHINE_DISPLAY_LINK_H

struct display_link;
struct err;
struct machine;

/* Send the screen's memory to the process, and take input from it until it ends.
 * fd: a SOCK_SEQPACKET socket; taken on success.
 * Returns 0; -ENOTSUP: the machine has no screen; -errno. */
int display_link_new(struct machine *m, int fd, struct display_link **ret, struct err *e);
/* Close the connection, and release the keys that the process has pressed. NULL allowed. */
void display_link_free(struct display_link *l);
/* Return the socket, for a handover; borrowed. -1: the process has ended. */
int display_link_fd(const struct display_link *l);

#endif
