/* conn: listens on the daemon's socket and the VMs' QMP sockets, and serves their clients: framing, negotiation, order
 * of replies, limits. A client's commands run in turns (account.h), so that the daemon polls its sockets between the
 * commands of one client. The owner of the server runs the commands and knows the permissions (struct server_ops).
 *
 * Threading: the loop's thread. */
#ifndef CAIRN_API_WIRE_CONN_H
#define CAIRN_API_WIRE_CONN_H

#include "api/wire/peer.h"

#include <stdbool.h>
#include <stdint.h>

struct account_call;
struct client_file;
struct closer;
struct conn;
struct err;
struct json_object;
struct listener;
struct loop;
struct server;
struct vm;

/* Maximum number of clients on all sockets. A further client gets an error and is disconnected. */
#define CONN_MAX 2000
/* Limits that do not apply to root and the daemon's own user. */
#define CONN_USER_MAX 500      /* clients of one user */
#define CONN_GROUPS_MAX 1024   /* supplementary groups of a client; the kernel allows 65,536 */
#define CONN_STRANGERS_MAX 500 /* clients of all users without a role for any VM */
#define CONN_OTHERS_MAX 1800   /* clients of all users to whom these limits apply */
#define ID_BYTES_MAX 1024      /* of a command's id */
#define CONN_EVENTS_MAX 128

/* Callbacks to the server's owner. The server calls role(), mark() and known() only for users other than root and the
 * daemon's own user. */
struct server_ops {
	/* Run a client's command. Borrows text. */
	void (*dispatch)(void *opaque, struct conn *c, struct json_object *text);
	/* Return the first line for a new client; the server owns it. */
	struct json_object *(*greeting)(void *opaque);
	/* Return the role that permissions give. uuid: a VM's; NULL: for all VMs. */
	enum role (*role)(void *opaque, const struct peer *who, const uint8_t *uuid);
	/* Return a number that changes when the user's roles change. */
	uint64_t (*mark)(void *opaque, const struct peer *who);
	/* Return whether a permission entry names the user or one of the groups. who NULL: whether any entry exists. */
	bool (*known)(void *opaque, const struct peer *who);
	/* Receive from the client's socket in another process, because files come with the bytes; then call
	 * conn_received() once from the loop, unless file_free() comes first. Returns 0 and the file, which the server
	 * owns; -errno. */
	int (*file_receive)(void *opaque, struct conn *c, int sock, struct client_file **ret, struct err *e);
	void (*file_free)(struct client_file *f);
	/* Called after a client was dropped because it left too much unread. */
	void (*dropped)(void *opaque, const struct conn *c, size_t unread_bytes);
};

/* Listen for clients of the daemon.
 * ops, opaque, path (of the daemon's socket): borrowed until server_free(). listening: taken, also on errors.
 * operators: the group whose members are operators; -1: none. closer: borrowed.
 * Returns 0; -errno. */
int server_new(struct loop *loop, const struct server_ops *ops, void *opaque, const char *path, int listening,
	gid_t operators, struct closer *closer, struct server **ret_s, struct err *e);
/* Listen on another socket in place of the daemon's, whose path is gone. Its clients stay connected. listening: taken,
 * also on errors. Returns 0; -errno: the earlier socket stays. */
int server_listen(struct server *s, int listening, struct err *e);
/* Return the group whose members are operators; -1: none. */
gid_t server_operators(const struct server *s);
/* Return the role that a user has now. uuid: a VM's; NULL: for all VMs. */
enum role server_role(const struct server *s, const struct peer *who, const uint8_t *uuid);
/* Disconnect all clients and stop listening. NULL allowed. */
void server_free(struct server *s);
/* Listen on a VM's QMP socket. Its clients speak QEMU's dialect and see only that VM.
 * vm: borrowed until listener_free(); conn_vm() returns it. uuid: the VM's; copied. path: borrowed until
 * listener_free(). listening: taken, also on errors.
 * Returns 0; -errno. */
int listener_new(struct server *s, struct vm *vm, const uint8_t uuid[16], const char *path, int listening,
	struct listener **ret_l, struct err *e);
/* Stop listening. Connected clients get their outstanding answers, then the end of the stream. NULL allowed. */
void listener_free(struct listener *l);

/* Events that a client of the daemon's socket does not want. */
struct conn_filter {
	bool one_vm; /* it wants only those of the VM with this UUID */
	uint8_t uuid[16];
	bool left_out[CONN_EVENTS_MAX];
};

/* Send only these events from now on. All zeros, as at the begin: all. f: copied. */
void conn_set_filter(struct conn *c, const struct conn_filter *f);
/* Send an event to all negotiated clients of the daemon's socket with at least the role viewer that want it.
 * o: borrowed. uuid: the VM that the event is about: viewers of that VM get it, too; NULL: none. event: its number,
 * below CONN_EVENTS_MAX. */
void server_broadcast(struct server *s, struct json_object *o, const uint8_t *uuid, unsigned event);
/* Send a line to all negotiated clients of a VM's socket with at least the role viewer for the VM. o: borrowed. */
void listener_broadcast(struct listener *l, struct json_object *o);
/* Send an event to those that are admins for all VMs and want it. Arguments as of server_broadcast(). */
void server_notify_admins(struct server *s, struct json_object *o, const uint8_t *uuid, unsigned event);
/* Look up the roles of all clients again, set the modes of the sockets, and send a line to the negotiated clients of
 * the daemon's socket whose roles have changed. Call this function after permissions have changed. o: borrowed. */
void server_permissions_changed(struct server *s, struct json_object *o);

/* Return the VM of a client on a VM's socket. NULL: a client of the daemon's socket, or the VM's socket was closed. */
struct vm *conn_vm(const struct conn *c);
enum dialect conn_dialect(const struct conn *c);
/* Return the client's role for all VMs. */
enum role conn_role(const struct conn *c);
/* Return the client's role for one VM. uuid: NULL: for all VMs. */
enum role conn_role_for(const struct conn *c, const uint8_t *uuid);
/* Return whether the client has a role for any VM. */
bool conn_known(const struct conn *c);
/* Return the client's credentials. The array of groups is borrowed from c. */
struct peer conn_peer(const struct conn *c);
uid_t conn_uid(const struct conn *c);
pid_t conn_pid(const struct conn *c);
bool conn_negotiated(const struct conn *c);
void conn_set_negotiated(struct conn *c);
/* Return whether the id of a command, repeated in the answer, takes at most ID_BYTES_MAX. NULL: the id null. */
bool conn_id_fits(struct json_object *id);
/* Send a line, and an fd with it. Drops a client that leaves too much unread.
 * o: borrowed. fd: taken; -1: none. */
void conn_send(struct conn *c, struct json_object *o, int fd);
/* Keep the lines that are sent from now on until conn_answer(): the answer is known, but is sent later, and events that
 * come after it must not overtake it. */
void conn_hold(struct conn *c);
/* Send the answer of the open call as conn_send() does, then the lines that conn_hold() has kept. */
void conn_answer(struct conn *c, struct json_object *o, int fd);
/* Take the file that came with this or an earlier command (api/access/client_file.h). Returns an owned file; NULL: none
 * came, or it was taken already. */
struct client_file *conn_take_file(struct conn *c);
/* Store a file by name until the client disconnects; a stored file of that name is freed first, also on errors. Other
 * clients cannot reach it. file: taken on success. Returns 0; -EINVAL: the name is invalid; -EMFILE; -ENOMEM. */
int conn_file_store(struct conn *c, const char *name, struct client_file *file, struct err *e);
/* Take a stored file. Returns an owned file; NULL: there is none of that name. */
struct client_file *conn_file_take(struct conn *c, const char *name);
/* Take data that another process has received for the client: n bytes and perhaps a file. has_file: false: no file
 * came. r: -errno, and e is set: the client is disconnected. */
void conn_received(struct conn *c, int r, const void *bytes, size_t n, bool has_file, const struct err *e);
/* Begin a call that is answered later. The connection handles no other command until conn_call_end(). *back is set to
 * NULL if the client disconnects first.
 * account: set; the caller ends it with account_call_end(), also if the client has disconnected. */
void conn_call_begin(struct conn *c, struct conn **back, struct account_call *account);
void conn_call_end(struct conn *c);

#endif
