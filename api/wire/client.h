/* client: a blocking client of the daemon's socket, for the CLI and for other programs in C.
 * Threading: one thread at a time uses a struct client. */
#ifndef CAIRN_API_WIRE_CLIENT_H
#define CAIRN_API_WIRE_CLIENT_H

#include "base/err.h"

#include <stdint.h>

struct client;
struct json_object;

/* Connect and negotiate. socket: a path of at most 107 bytes.
 * Returns 0; -errno. If no daemon listens, or the client may not connect, the error says what to do. */
int client_connect(const char *socket, struct client **ret_c, struct err *e);
/* The same for a caller that must not wait for a daemon that hangs: what takes longer than until deadline_ns
 * (CLOCK_MONOTONIC) fails with -ETIMEDOUT, also each later command. */
int client_connect_until(const char *socket, uint64_t deadline_ns, struct client **ret_c, struct err *e);
/* The two steps of client_connect(). Connect only. Returns 0 and an fd that the caller owns; -errno. */
int client_socket(const char *socket, int *ret_fd, struct err *e);
/* Negotiate on a connected socket. The client cannot find out whether a daemon that is silent works, and waits for it.
 * sock: taken, on errors, too. Returns 0; -errno. */
int client_attach(int sock, struct client **ret_c, struct err *e);
/* Disconnect and free the client. NULL allowed. */
void client_free(struct client *c);

/* Run one command and wait for its answer, as long as the daemon greets new clients: some commands take minutes. Events
 * that arrive meanwhile are queued.
 * args: taken; NULL: none.
 * ret_v:   the result, owned by the caller; NULL allowed.
 * ret_fd:  the fd that came with the answer, owned by the caller, or -1; NULL allowed.
 * Returns 0; -EREMOTEIO with the daemon's error; -ETIMEDOUT: the daemon no longer works; -errno. */
int client_execute(struct client *c, const char *command, struct json_object *args,
	struct json_object **ret_v, int *ret_fd, struct err *e);

/* Run one command and send fd (borrowed; -1: none) with it. */
int client_execute_with_fd(struct client *c, const char *command, struct json_object *args, int fd,
	struct json_object **ret_v, int *ret_fd, struct err *e);

/* Have told() called by client_execute() for each event that arrives while it waits. The event also stays queued.
 * told: NULL: none. ev: borrowed. */
void client_on_event(struct client *c, void (*told)(void *opaque, struct json_object *ev), void *opaque);

/* Serve another program's request: queue no event from now on, because nobody asks for them, fail with -ECANCELED once
 * the other end of `asker` has disconnected, and with -ETIMEDOUT after the deadline (CLOCK_MONOTONIC).
 * asker: a connected socket; borrowed. deadline_ns: UINT64_MAX: none. */
void client_serve(struct client *c, int asker, uint64_t deadline_ns);

/* Get the next event: a queued one, or wait for one. deadline_ns: CLOCK_MONOTONIC; UINT64_MAX: none.
 * Returns 0 and an object owned by the caller; -ETIMEDOUT, which sets no error; -errno. */
int client_next_event(struct client *c, uint64_t deadline_ns, struct json_object **ret_ev,
	struct err *e);

/* Return the fd for poll(): readable when an event or an answer arrives. Drain client_next_event() first, since
 * queued events do not make the fd readable. */
int client_fd(const struct client *c);

/* Return the error class for its name in an answer; NULL allowed. */
enum err_class client_error_class(const char *name);

/* Return the greeting's "version" member; borrowed. */
struct json_object *client_version(struct client *c);

#endif
