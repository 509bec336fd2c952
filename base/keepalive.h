/* keepalive: ends TCP connections whose peer's host has vanished without closing them. Any thread. */
#ifndef CAIRN_BASE_KEEPALIVE_H
#define CAIRN_BASE_KEEPALIVE_H

/* Let the kernel probe the peer after a minute without data, and end the connection after another minute without an
 * answer. Sockets that a listening socket accepts inherit this. Other kinds of sockets ignore it. */
void keepalive_set(int fd);

#endif
