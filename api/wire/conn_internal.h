/* conn_internal: the parts of conn.c: clients and their listening sockets. */
#ifndef CAIRN_API_WIRE_CONN_INTERNAL_H
#define CAIRN_API_WIRE_CONN_INTERNAL_H

#include "api/wire/account.h"
#include "api/wire/conn.h"
#include "api/wire/out_queue.h"
#include "api/wire/wire.h"
#include "base/loop.h"

/* A listening socket. */
struct listener {
	struct listener *next;
	struct server *server;
	struct vm *vm; /* NULL: the daemon's socket */
	uint8_t uuid[16]; /* the VM's */
	const char *path;
	int fd;
	struct loop_watch *watch;
	struct loop_timer *retry; /* accepts clients again, a second after fds or memory ran out */
};

struct conn {
	struct conn *prev, *next;
	struct server *server;
	/* NULL: the listener is closed; outstanding answers are sent, then the client is dropped */
	struct listener *from;
	enum dialect dialect;
	int fd;
	struct loop_watch *watch;
	struct wire wire;
	struct out_queue out;
	bool holds; /* conn_hold(): lines go to `held`, behind the answer */
	struct out_queue held;
	struct client_file *file_in; /* received, not taken by a command yet; NULL: none */
	struct conn_file *files; /* owned array of stored files; NULL: none was stored yet */
	bool files_wait; /* files are queued in the socket; another process receives them in the client's next turn */
	struct client_file *receiving; /* the process that works for this connection; NULL: none */
	struct account_call receiving_call; /* bounds the number of such processes of an account */
	char *in; /* received bytes; parsed in turns, but not while a call is open */
	size_t in_len, in_at;
	struct conn **call; /* the open call's pointer to this connection; NULL: none */
	pid_t pid;
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	size_t ngroups;
	enum role role;
	uint64_t roles_mark; /* of server_ops.mark() */
	struct account_member member;
	bool negotiated;
	bool running; /* conn_turn() is on the stack */
	bool eof;     /* the client has shut down its sending side */
	bool closing; /* drop the client once all output is sent */
	bool deaf;    /* dropped because the client left too much unread */
	bool dead;
	bool unclosed; /* disconnected, but the closer had no room for the socket */
	struct conn_filter filter;
};

/* Free the stored files and their array. */
void conn_files_free(struct conn *c);

struct server {
	struct loop *loop;
	const struct server_ops *ops;
	void *opaque;
	struct listener *listeners; /* the daemon's is the last */
	struct conn *conns, *dead;
	struct accounts *accounts;
	struct closer *closer;
	struct loop_timer *close_retry; /* closes sockets again, a second after the closer had too many */
	struct loop_task reap, turns;
	bool reaping, turning; /* the task is posted or runs */
	unsigned count;
	gid_t operators;
};

#endif
