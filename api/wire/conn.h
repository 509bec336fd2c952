/* conn: the daemon's socket, the VMs' own, and their clients: framing, negotiation, order of
 * replies, bounds. The owner of the server runs commands and knows permissions (struct server_ops). */
#ifndef CAIRN_API_WIRE_CONN_H
#define CAIRN_API_WIRE_CONN_H

#include "api/wire/peer.h"

#include <stdbool.h>

struct conn;
struct err;
struct json_object;
struct listener;
struct loop;
struct server;
struct vm;

/* Clients at once, of all sockets. One more is told so and hung up on. */
#define CONN_MAX 2000
/* Of these, but for root and the daemon's own user: of one user; of all whom no permission names; of all together. */
#define CONN_USER_MAX 500
#define CONN_STRANGERS_MAX 500
#define CONN_OTHERS_MAX 1800
/* Bytes a client may leave unread; beyond it is dropped. */
#define CONN_OUT_MAX (1024 * 1024)

/* What a server asks of its owner. Root and the daemon's own user are never looked up. */
struct server_ops {
	/* Run a client's command. Borrows text. */
	void (*dispatch)(void *opaque, struct conn *c, struct json_object *text);
	/* Return the first line for a new client; the server puts it. */
	struct json_object *(*greeting)(void *opaque);
	/* Return the role that permissions give. vm: a VM's name; NULL: for all VMs. */
	enum role (*role)(void *opaque, const struct peer *who, const char *vm);
	/* Whether any permission names the user or one of the groups; who NULL: whether there is any permission. */
	bool (*known)(void *opaque, const struct peer *who);
	/* A client was dropped because it left too much unread. */
	void (*dropped)(void *opaque, const struct conn *c, size_t unread_bytes);
};

/* Listen for clients of the daemon. ops, opaque, path (of the daemon's socket): borrowed for good. listening: taken.
 * operators: the group whose members are operators; -1: none. */
int server_new(struct loop *loop, const struct server_ops *ops, void *opaque, const char *path, int listening,
	gid_t operators, struct server **ret_s, struct err *e);
/* Hangs up on all. NULL allowed. */
void server_free(struct server *s);
/* Add a socket whose clients speak QEMU's dialect, with one VM alone. vm: what conn_vm() returns. name: the VM's,
 * copied; path: borrowed; listening: taken. */
int listener_new(struct server *s, struct vm *vm, const char *name, const char *path, int listening,
	struct listener **ret_l, struct err *e);
/* Closes it; who is connected gets the answers that are due, then the end of the stream. NULL
 * allowed. */
void listener_free(struct listener *l);

/* One line to every negotiated client of the daemon's socket that may see it. vm: whom it is
 * about; NULL: none. Borrows o. */
void server_broadcast(struct server *s, struct json_object *o, const char *vm);
/* The same to those of a VM's own. */
void listener_broadcast(struct listener *l, struct json_object *o);
/* The same to every negotiated admin of all VMs. */
void server_tell_admins(struct server *s, struct json_object *o);
/* What those connected may is looked up again, and who may connect. */
void server_permissions_changed(struct server *s);

/* NULL: it talks to the daemon, or its VM has ended. */
struct vm *conn_vm(const struct conn *c);
enum dialect conn_dialect(const struct conn *c);
/* For all VMs. */
enum role conn_role(const struct conn *c);
/* For one of them, by name; NULL: for all. */
enum role conn_role_for(const struct conn *c, const char *vm);
/* Has it a role for any VM at all? */
bool conn_known(const struct conn *c);
/* Borrowed of c. */
struct peer conn_peer(const struct conn *c);
uid_t conn_uid(const struct conn *c);
pid_t conn_pid(const struct conn *c);
bool conn_negotiated(const struct conn *c);
void conn_set_negotiated(struct conn *c);
/* Borrows o. fd: taken, -1: none. */
void conn_send(struct conn *c, struct json_object *o, int fd);
/* The fd that came with a command, or with one before that did not take it. Owned; -1: none
 * came. */
int conn_take_fd(struct conn *c);
/* A call of this client begins; the connection takes no other until conn_call_end(). *back is set to NULL when the
 * client goes first. */
void conn_call_begin(struct conn *c, struct conn **back);
void conn_call_end(struct conn *c);

/* {"error": {"class", "desc"}}. The caller puts it. */
struct json_object *error_to_json(const char *class_name, const char *desc);

#endif
