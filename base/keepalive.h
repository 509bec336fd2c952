/* keepalive: ends TCP connections whose other end's host has vanished without a word. Any thread. */
#ifndef CAIRN_BASE_KEEPALIVE_H
#define CAIRN_BASE_KEEPALIVE_H

/* Let the kernel ask after a minute of silence, and end the connection after another minute without an answer. Sockets
 * that a listening socket accepts inherit this. Other kinds of sockets ignore it. */
void keepalive_set(int fd);

#endif
