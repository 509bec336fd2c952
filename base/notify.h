/* notify: sends states to a service manager like sd_notify(3), one datagram per message. (Cairn
 * does not use libsystemd here: libsystemd has no static library, and it opens the socket for each
 * message, which the VM process's sandbox forbids.) */
#ifndef CAIRN_BASE_NOTIFY_H
#define CAIRN_BASE_NOTIFY_H

/* Connect to the socket that NOTIFY_SOCKET names.
 * Returns an fd that the caller owns; -1: the variable is not set or invalid, or the connection failed. */
int notify_open(void);
/* Send one message. fd -1: do nothing. text: "READY=1\nSTATUS=…". */
void notify_send(int fd, const char *text);

#endif
