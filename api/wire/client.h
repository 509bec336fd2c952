/* client: the daemon's socket from the other side. Blocking; for the CLI and for programs
 * in C. One thread per client. */
#ifndef CAIRN_API_WIRE_CLIENT_H
#define CAIRN_API_WIRE_CLIENT_H

#include "base/err.h"

#include <stdint.h>

struct client;
struct json_object;

/* Connect and negotiate. socket: a path of at most 107 bytes.
 * Returns 0; -errno with a sentence that says what to do. */
int client_connect(const char *socket, struct client **ret_c, struct err *e);
/* NULL allowed. */
void client_free(struct client *c);

/* Run one command and wait for its answer; events that come meanwhile are kept.
 * args: taken; NULL: none. ret_v (NULL allowed): the caller puts it. ret_fd (NULL allowed):
 * what came along, -1: nothing.
 * Returns 0; -EREMOTEIO with the daemon's class and sentence; -errno. */
int client_execute(struct client *c, const char *command, struct json_object *args,
	struct json_object **ret_v, int *ret_fd, struct err *e);

/* The same, and `fd` (borrowed; -1: none) goes along. */
int client_execute_with_fd(struct client *c, const char *command, struct json_object *args, int fd,
	struct json_object **ret_v, int *ret_fd, struct err *e);

/* The next event, kept or awaited. deadline_ns: CLOCK_MONOTONIC; UINT64_MAX: none.
 * Returns 0 and an object the caller puts; -ETIMEDOUT without a sentence; -errno. */
int client_next_event(struct client *c, uint64_t deadline_ns, struct json_object **ret_ev,
	struct err *e);

/* For poll(): readable when an event or an answer comes. Look at client_next_event() before
 * waiting for it. */
int client_fd(const struct client *c);

/* The class that a word in an answer stands for; NULL allowed. */
enum err_class client_error_class(const char *name);

/* What the greeting said under "version"; borrowed. */
struct json_object *client_version(struct client *c);

#endif
