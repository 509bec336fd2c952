/* notify: sends states to a service manager like sd_notify(3), one datagram per message. (Cairn
 * does not use libsystemd here: libsystemd has no static library, and the socket must be open
 * before the sandbox closes.) */
#ifndef CAIRN_BASE_NOTIFY_H
#define CAIRN_BASE_NOTIFY_H

/* Connect to the socket that NOTIFY_SOCKET names.
 * Returns an owned fd; -1: the variable is not set, or the connection failed. */
int notify_open(void);
/* Send one message. fd -1: do nothing. text: "READY=1\nSTATUS=…". */
void notify_send(int fd, const char *text);

#endif
