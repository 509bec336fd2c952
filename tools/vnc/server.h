/* server: the VNC server, by libvncserver. */
#ifndef CAIRN_TOOLS_VNC_SERVER_H
#define CAIRN_TOOLS_VNC_SERVER_H

struct err;
struct link;
struct pollfd;
struct server;

#define SERVER_CLIENTS_MAX 16
#define SERVER_PASSWORD_MAX 8 /* VNC's passwords have no more bytes */

/* Create the server. name: of the screen; password: NULL: clients need none; link: borrowed. All three stay valid.
 * Returns 0; -ENOMEM. */
int server_new(const char *name, const char *password, const struct link *link, struct server **ret, struct err *e);
/* Serve a client. fd: a connected stream socket; taken. */
void server_accept(struct server *s, int fd);
/* Add the clients' sockets for poll(). Returns their number, at most SERVER_CLIENTS_MAX. */
unsigned server_poll_add(struct server *s, struct pollfd *fds);
/* Read the clients' messages, and send them the changes of the screen. Returns for how many milliseconds poll() may
 * wait then; -1: for ever. */
int server_run(struct server *s);

#endif
