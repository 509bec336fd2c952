/* notify: what sd_notify(3) does: tell a service manager how it goes, one datagram a message.
 * (libsystemd is no static library, and the socket has to be open before a sandbox.) */
#ifndef CAIRN_BASE_NOTIFY_H
#define CAIRN_BASE_NOTIFY_H

/* Connects to what NOTIFY_SOCKET names. Returns an owned fd; -1: nobody wants to know. */
int notify_open(void);
/* text: "READY=1\nSTATUS=…". fd -1: nothing happens. */
void notify_send(int fd, const char *text);

#endif
