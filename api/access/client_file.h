/* client_file: an open file of a client, which a process with the client's rights holds. The daemon neither receives
 * nor closes such files, because a user's file system may hang: close() waits for FUSE, even in a process that has
 * only a copy. So the process receives them from the client's connection, or opens them, and hands them to the process
 * that needs them (base/relay.h).
 * Threading: the daemon's loop, except for run(). */
#ifndef CAIRN_API_ACCESS_CLIENT_FILE_H
#define CAIRN_API_ACCESS_CLIENT_FILE_H

#include <stdbool.h>

struct client_file;
struct err;
struct fork_as_file;
struct fork_as_result;
struct helpers;
struct peer;
struct relay_message;
struct rights;

/* Start a process that runs run(), which keeps files in out->held or none (fork_as.h), and holds this file
 * afterwards.
 * rights: NULL: the daemon's own. of_author: they are those of a definition's author, not of a client. copy, drop: as
 * in fork_as_spec. who: static text for errors, about the user; NULL: the text that fits of_author.
 * input: for out->input; 0: none. arg, input: borrowed for the call.
 * done: called once from the loop, unless client_file_free() comes first; res is borrowed.
 * *ret: freed by the caller, also after a failure that done() reports.
 * Returns 0; -EBUSY; -errno, and then done() is not called. */
struct client_file_spec {
	const struct rights *rights;
	bool of_author;
	const char *who;
	int (*run)(const void *arg, struct fork_as_result *out, struct err *e);
	const void *arg;
	void *(*copy)(const void *arg);
	void (*drop)(void *copy);
	int input;
	const char *what; /* static text for errors: "opening the file" */
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e);
	void *opaque;
};
int client_file_new(struct helpers *h, const struct client_file_spec *s, struct client_file **ret, struct err *e);
/* Receive once from the client's socket, in a process with the client's rights. done() gets the bytes in res->data; 0
 * at the end of the stream. Of several files that come with them, the process holds the last one.
 * sock: borrowed for the call. */
int client_file_receive(struct helpers *h, int sock, const struct peer *who,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct client_file **ret, struct err *e);
/* End the process, which closes the file. Processes that took the file keep it. NULL allowed. */
void client_file_free(struct client_file *f);

/* The file as it was when the process got it. */
const struct fork_as_file *client_file_facts(const struct client_file *f);
/* Return the socket from which another process may take the file with relay_take(), into a list of one. Borrowed. */
int client_file_relay(const struct client_file *f);
/* Let the process send a message with the file, once.
 * x: borrowed for the call. done: called once from the loop, unless client_file_free() comes first. r: 0: the message
 * was sent; -EIO: the process ended, and whether it sent the message is not known; -ETIMEDOUT; -errno of sending it. */
void client_file_send(struct client_file *f, const struct relay_message *x, void (*done)(void *opaque, int r), void *opaque);

#endif
