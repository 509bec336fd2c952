#include "api/wire/conn.h"
#include "api/wire/close_async.h"
#include "api/wire/conn_internal.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define READ_BYTES 16384
/* Events to watch while the connection neither reads nor writes: only the hang-up, which poll() always reports. */
#define EVENTS_NONE POLLPRI
#define ACCEPTS_PER_ROUND 64
#define RETRY_NS 1000000000ULL
#define ANSWER_BYTES 65536 /* no answer is longer */
#define UNSENT_FDS_MAX 8   /* open files in answers that a client has not read; the daemon's fds are for all users */
/* Time for which commands run before the sockets are polled again. A client of root waits that long, and for one
 * command more. */
#define TURNS_NS 500000

static size_t unsent_bytes(const struct conn *c)
{
	return c->out.bytes + c->held.bytes;
}

/* ---- the end of a connection ---- */

static void conn_release(struct conn *c)
{
	out_queue_done(&c->out);
	out_queue_done(&c->held);
	wire_done(&c->wire);
	c->server->ops->file_free(c->file_in);
	conn_files_free(c);
	account_leave(&c->member);
	free(c->in);
	free(c->groups);
	free(c);
}

/* A client whose socket cannot be closed yet keeps its place, so that one user cannot take all fds. */
static void dead_release(struct server *s, struct conn *list)
{
	while (list) {
		struct conn *c = list;

		list = c->next;
		if (closer_take(s->closer, c->fd) < 0) {
			c->deaf = false; /* dropped() has been called for it */
			s->count += !c->unclosed;
			c->unclosed = true;
			c->next = s->dead;
			s->dead = c;
			loop_timer_arm(s->close_retry, loop_now_ns() + RETRY_NS);
			continue;
		}
		s->count -= c->unclosed;
		conn_release(c);
	}
}

static void reap_run(struct loop_task *t)
{
	struct server *s = container_of(t, struct server, reap);
	struct conn *list = s->dead;

	s->dead = NULL;
	s->reaping = false;
	/* conn_drop() does not call dropped(): it may run inside a broadcast, and dropped() may broadcast, too. */
	for (struct conn *c = list; c; c = c->next)
		if (c->deaf)
			s->ops->dropped(s->opaque, c, unsent_bytes(c));
	dead_release(s, list);
}

static void reap_soon(void *opaque)
{
	struct server *s = opaque;

	if (s->reaping)
		return;
	s->reaping = true;
	loop_post(s->loop, &s->reap);
}

static void receiving_end(struct conn *c)
{
	c->server->ops->file_free(STEAL_PTR(c->receiving));
	account_call_end(&c->receiving_call);
}

/* Close the connection. Its memory stays until the loop's next iteration, because callers up the stack still use it. */
static void conn_drop(struct conn *c)
{
	struct server *s = c->server;

	if (c->dead)
		return;
	c->dead = true;
	if (c->call)
		*c->call = NULL;
	account_wait_end(&c->member);
	if (c->receiving)
		receiving_end(c);
	loop_unwatch(c->watch);
	shutdown(c->fd, SHUT_RDWR); /* nothing can be queued from here on */
	if (c->prev)
		c->prev->next = c->next;
	else
		s->conns = c->next;
	if (c->next)
		c->next->prev = c->prev;
	s->count--;
	c->next = s->dead;
	s->dead = c;
	reap_soon(s);
}

/* ---- sending to clients ---- */

/* Return whether there is room for an answer. Without room, the client's commands wait until it has read. */
static bool conn_has_room(const struct conn *c)
{
	return unsent_bytes(c) + ANSWER_BYTES <= account_limits(&c->member)->client_out_bytes && c->out.fds + c->held.fds < UNSENT_FDS_MAX;
}

static bool conn_may_read(const struct conn *c)
{
	return !c->eof && c->from && !c->closing && !c->call && !c->files_wait && !c->receiving && c->in_at == c->in_len &&
		conn_has_room(c);
}

/* Return whether all received data is handled. */
static bool conn_is_done(const struct conn *c)
{
	return !c->call && !c->receiving && !c->files_wait && c->in_at == c->in_len;
}

static void conn_update(struct conn *c)
{
	unsigned events = 0;

	if (c->dead || c->running) /* conn_turn() calls this function at its end */
		return;
	account_set_bytes(&c->member, c->in_len + c->wire.cap, unsent_bytes(c));
	if (!c->out.first && (c->closing || ((c->eof || !c->from) && conn_is_done(c)))) {
		conn_drop(c);
		return;
	}
	if (c->out.first)
		events |= POLLOUT;
	if (conn_may_read(c))
		events |= POLLIN;
	/* While the client waits for its turn or its files, its hang-up must not be reported again and again. */
	loop_watch_events(c->watch, events || c->member.waits || c->receiving ? events : EVENTS_NONE);
}

static void conn_flush(struct conn *c)
{
	if (!c->dead && out_queue_flush(&c->out, c->fd) < 0)
		conn_drop(c);
}

/* Return the line of an error in place of an answer that no client could get. */
static char *too_long_line(const struct conn *c, struct json_object *answer, size_t *ret_len)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *id = js_get(answer, "id");
	struct err e;

	err_set(&e, -EMSGSIZE, c->dialect == DIALECT_QEMU ? ERR_GENERIC : ERR_UNSUPPORTED, "the answer has %zu bytes, and a client can get %zu; "
		"shorten the paths or names in it", *ret_len, account_limits(&c->member)->client_out_bytes);
	o = js_error(err_class_name(e.cls), e.msg);
	if (id)
		js_put(o, "id", json_object_get(id));
	return js_line(o, ret_len);
}

void conn_send(struct conn *c, struct json_object *o, int fd)
{
	char *line = NULL;
	size_t len = 0;

	if (!c->dead)
		line = js_line(o, &len);
	if (line && len > account_limits(&c->member)->client_out_bytes && js_get(o, "return")) {
		free(line);
		line = too_long_line(c, o, &len);
	}
	if (!line || unsent_bytes(c) + len > account_limits(&c->member)->client_out_bytes ||
		(c->out.first && account_out_exceeded(&c->member))) {
		if (line) {
			log_warn("socket", "client (pid %d) does not read its answers; disconnected", (int)c->pid);
			c->deaf = true;
		}
		if (fd >= 0)
			closer_close(c->server->closer, fd);
		free(line);
		conn_drop(c);
		return;
	}
	out_queue_add(c->holds ? &c->held : &c->out, line, len, fd);
	if (!c->holds)
		conn_flush(c);
	conn_update(c);
}

void conn_hold(struct conn *c)
{
	c->holds = true;
}

void conn_answer(struct conn *c, struct json_object *o, int fd)
{
	c->holds = false;
	conn_send(c, o, fd);
	if (!c->held.first)
		return;
	out_queue_append(&c->out, &c->held);
	conn_flush(c);
	conn_update(c);
}

/* ---- receiving from clients ---- */

bool conn_id_fits(struct json_object *id)
{
	size_t len;

	if (json_object_is_type(id, json_type_string))
		return json_object_get_string_len(id) <= ID_BYTES_MAX;
	/* Numbers, too: json-c keeps all digits of a fraction. */
	return json_object_to_json_string_length(id, JSON_C_TO_STRING_PLAIN, &len) && len <= ID_BYTES_MAX;
}

/* Return whether the id of a refused command is a string, or a number that is surely the one that the client sent
 * (wire.h). */
static bool id_is_known(struct json_object *id)
{
	if (json_object_is_type(id, json_type_int))
		return json_object_get_int64(id) > INT64_MIN && json_object_get_uint64(id) < UINT64_MAX;
	return json_object_is_type(id, json_type_string);
}

/* text: what is refused; NULL: it could not be read. */
static void conn_refuse(struct conn *c, struct json_object *text, const struct err *e)
{
	struct json_object *id = js_get(text, "id");
	/* QMP clients may know only QEMU's classes. */
	const char *class_name = err_class_name(c->dialect == DIALECT_QEMU ? ERR_GENERIC : e->cls);
	CLEANUP_JS struct json_object *o = js_error(class_name, e->msg);

	if (id_is_known(id) && conn_id_fits(id))
		js_put(o, "id", json_object_get(id));
	conn_send(c, o, -1);
}

/* Send an error, and drop the client after it. */
static void conn_hang_up(struct conn *c, const struct err *e)
{
	c->closing = true;
	conn_refuse(c, NULL, e);
}

/* Free the received bytes if no command is left in them, or let the client wait for its next turn. */
static void conn_continue(struct conn *c)
{
	if (c->dead)
		return;
	if ((c->in_at == c->in_len && !c->files_wait) || !c->from) {
		account_wait_end(&c->member);
		free(c->in);
		c->in = NULL;
		c->in_at = c->in_len = 0;
		c->files_wait = false;
	} else if (!c->call && !c->closing && conn_has_room(c)) {
		account_wait(&c->member);
	}
	conn_update(c);
}

/* Refuse an unfinished command for which the account has no room. */
static void conn_check_room(struct conn *c)
{
	struct err e;

	account_set_bytes(&c->member, c->in_len + c->wire.cap, unsent_bytes(c));
	if (c->wire.cap <= WIRE_KEEP_BYTES || !account_in_exceeded(&c->member))
		return;
	err_set(&e, -ENOBUFS, ERR_BUSY, "the unfinished commands of your clients have more than %zu bytes; "
					"send fewer large commands at a time",
		account_limits(&c->member)->in_bytes);
	conn_hang_up(c, &e);
}

/* Let another process receive the files that are queued in the socket. */
static void files_receive(struct conn *c)
{
	struct server *s = c->server;
	struct err e;
	int r;

	c->files_wait = false;
	r = s->ops->file_receive(s->opaque, c, c->fd, &c->receiving, &e);
	if (r < 0)
		conn_hang_up(c, &e);
	else
		account_call_begin(&c->member, &c->receiving_call, READ_BYTES);
}

/* Handle the received bytes up to the end of the first command. */
static void conn_turn(struct conn *c)
{
	CLEANUP_JS struct json_object *text = NULL;
	struct err e;
	size_t used = 0;

	c->running = true;
	if (c->files_wait) {
		files_receive(c);
		c->running = false;
		conn_continue(c);
		return;
	}
	switch (wire_feed(&c->wire, c->in + c->in_at, c->in_len - c->in_at, &used, &text, &e)) {
	case WIRE_TEXT:
		c->server->ops->dispatch(c->server->opaque, c, text);
		break;
	case WIRE_FATAL:
		conn_hang_up(c, &e);
		break;
	case WIRE_ERROR:
		conn_refuse(c, text, &e);
		break;
	case WIRE_MORE:
		conn_check_room(c);
		break;
	}
	c->in_at += used;
	c->running = false;
	conn_continue(c);
}

/* Give turns to clients for TURNS_NS. */
static void turns_run(struct loop_task *t)
{
	struct server *s = container_of(t, struct server, turns);
	uint64_t begin = loop_now_ns(), now = begin;
	struct account_member *m;

	while (now - begin < TURNS_NS && (m = accounts_next(s->accounts))) {
		uint64_t before = now;

		conn_turn(container_of(m, struct conn, member));
		now = loop_now_ns();
		account_spend(m, now - before, now);
	}
	s->turning = accounts_wait(s->accounts);
	if (s->turning)
		loop_post(s->loop, &s->turns);
}

static void turns_wake(void *opaque)
{
	struct server *s = opaque;

	if (s->turning)
		return;
	s->turning = true;
	loop_post(s->loop, &s->turns);
}

void conn_call_begin(struct conn *c, struct conn **back, struct account_call *account)
{
	c->call = back;
	account_call_begin(&c->member, account, c->wire.cost);
}

void conn_call_end(struct conn *c)
{
	c->call = NULL;
	if (!c->running)
		conn_continue(c);
}

struct client_file *conn_take_file(struct conn *c)
{
	return STEAL_PTR(c->file_in);
}

/* The first turn comes at once if the client is root: posting a task costs a third of a short command's time. */
static void turn_begin(struct conn *c)
{
	if (account_kind(&c->member) == ACCOUNT_MASTER)
		conn_turn(c);
	else
		conn_continue(c);
}

/* bytes: copied. */
static void input_take(struct conn *c, const void *bytes, size_t n)
{
	if (!n || !c->from) {
		c->eof = true;
		conn_continue(c);
		return;
	}
	c->in = malloc(n);
	if (!c->in) {
		conn_drop(c);
		return;
	}
	memcpy(c->in, bytes, n);
	c->in_len = n; /* in_at is 0 */
	turn_begin(c);
}

void conn_received(struct conn *c, int r, const void *bytes, size_t n, bool has_file, const struct err *e)
{
	if (!r && has_file) {
		c->server->ops->file_free(c->file_in);
		c->file_in = STEAL_PTR(c->receiving);
	}
	receiving_end(c);
	if (r < 0)
		conn_hang_up(c, e);
	else
		input_take(c, bytes, n);
}

static void conn_read(struct conn *c)
{
	char buf[READ_BYTES];
	ssize_t n = close_async_recv(c->fd, buf, sizeof(buf));
	struct err e;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0 && errno == EPERM && account_limits(&c->member)->may_send_fds) {
		c->files_wait = true;
		turn_begin(c);
		return;
	}
	if (n < 0 && errno == EPERM) {
		err_set(&e, -EPERM, ERR_PERMISSION, "you have no role, so you cannot send open files; "
						    "an admin can change your role with cairn grant");
		conn_hang_up(c, &e);
		return;
	}
	if (n < 0)
		conn_drop(c);
	else
		input_take(c, buf, (size_t)n);
}

static void conn_ready(void *opaque, unsigned revents)
{
	struct conn *c = opaque;

	if (revents & POLLERR) {
		conn_drop(c);
		return;
	}
	if (revents & POLLOUT)
		conn_flush(c);
	if (!c->dead && (revents & (POLLIN | POLLHUP)) && conn_may_read(c))
		conn_read(c);
	else if (!c->dead && (revents & POLLHUP) && !c->member.waits && !c->receiving)
		conn_drop(c); /* both directions are closed, so nobody waits for the answer */
	conn_continue(c);
}

/* ---- accepting clients ---- */

/* Returns false if the client is to be refused. Root needs no groups. */
static bool groups_take(struct conn *c)
{
	socklen_t len = 0;

	/* With an empty buffer the kernel returns the size needed. */
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &len) == 0 || errno != ERANGE || !len || uid_is_root_or_own(c->uid))
		return true;
	if (len > CONN_GROUPS_MAX * sizeof(gid_t))
		return false;
	c->groups = malloc(len);
	if (c->groups && getsockopt(c->fd, SOL_SOCKET, SO_PEERGROUPS, c->groups, &len) == 0)
		c->ngroups = len / sizeof(gid_t);
	return true;
}

struct peer conn_peer(const struct conn *c)
{
	return (struct peer){ c->uid, c->gid, c->groups, c->ngroups };
}

gid_t server_operators(const struct server *s)
{
	return s->operators;
}

enum role server_role(const struct server *s, const struct peer *who, const uint8_t *uuid)
{
	enum role role;

	if (uid_is_root_or_own(who->uid))
		return ROLE_ADMIN;
	role = s->ops->role(s->opaque, who, uuid);
	return MAX(role, s->operators != (gid_t)-1 && peer_is_in_group(who, s->operators) ? ROLE_OPERATOR : ROLE_NONE);
}

static enum role role_look_up(const struct conn *c, const uint8_t *uuid)
{
	struct peer who = conn_peer(c);

	return server_role(c->server, &who, uuid);
}

/* Look up the client's role and its account. */
static void conn_rank(struct conn *c)
{
	enum account_kind kind = ACCOUNT_MASTER;

	c->role = role_look_up(c, NULL);
	if (!uid_is_root_or_own(c->uid)) {
		struct peer who = conn_peer(c);

		c->roles_mark = c->server->ops->mark(c->server->opaque, &who);
		kind = conn_known(c) ? ACCOUNT_USER : ACCOUNT_STRANGERS;
	}
	account_join(c->server->accounts, &c->member, kind, c->uid, loop_now_ns());
	c->wire.limits = &account_limits(&c->member)->text;
}

/* Return whether the limits allow this client. Every local user may connect as soon as any permission entry exists, and
 * without limits one user could take all connections. */
static bool has_place(const struct conn *c)
{
	unsigned same = 0, strangers = 0, others = 0;
	enum account_kind kind = account_kind(&c->member);

	if (kind == ACCOUNT_MASTER)
		return true;
	for (unsigned dead = 0; dead < 2; dead++) {
		for (const struct conn *o = dead ? c->server->dead : c->server->conns; o; o = o->next) {
			if (o->dead && !o->unclosed)
				continue;
			same += o->uid == c->uid;
			strangers += kind == ACCOUNT_STRANGERS && account_kind(&o->member) == kind;
			others += account_kind(&o->member) != ACCOUNT_MASTER;
		}
	}
	return same <= CONN_USER_MAX && strangers <= CONN_STRANGERS_MAX && others <= CONN_OTHERS_MAX;
}

static void client_refuse(struct conn *c, const char *class_name, const char *why)
{
	CLEANUP_JS struct json_object *o = js_error(class_name, why);

	c->closing = true;
	conn_send(c, o, -1);
}

static void greeting_send(struct conn *c)
{
	CLEANUP_JS struct json_object *o = c->server->ops->greeting(c->server->opaque);

	conn_send(c, o, -1);
}

/* Create the connection of an accepted client. fd: taken. */
static void conn_new(struct listener *l, int fd)
{
	struct server *s = l->server;
	struct conn *c = calloc(1, sizeof(*c));
	struct ucred cred = { .pid = 0, .uid = (uid_t)-1, .gid = (gid_t)-1 };
	socklen_t len = sizeof(cred);
	bool has_groups;

	if (!c || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 ||
		loop_watch(s->loop, fd, POLLIN, conn_ready, c, &c->watch) < 0) {
		free(c);
		closer_drop(s->closer, fd);
		return;
	}
	c->server = s;
	c->from = l;
	c->dialect = l->vm ? DIALECT_QEMU : DIALECT_DAEMON;
	c->fd = fd;
	out_queue_init(&c->out, s->closer);
	out_queue_init(&c->held, s->closer);
	c->pid = cred.pid;
	c->uid = cred.uid;
	c->gid = cred.gid;
	has_groups = groups_take(c);
	wire_init(&c->wire, NULL);
	conn_rank(c);
	c->next = s->conns;
	if (c->next)
		c->next->prev = c;
	s->conns = c;
	s->count++;
	if (!has_place(c))
		client_refuse(c, "Busy", "too many clients of your user; close some connections");
	else if (!has_groups)
		client_refuse(c, "Unsupported", "your process has more than 1024 supplementary groups; have root start it with fewer, as with setpriv --groups");
	else
		greeting_send(c);
}

static void conn_too_many(struct server *s, int fd)
{
	static const char line[] = "{\"error\": {\"class\": \"Busy\", \"desc\": "
				   "\"too many clients; close some connections\"}}\r\n";

	if (send(fd, line, sizeof(line) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("socket", "a refused client had already disconnected");
	closer_drop(s->closer, fd);
}

static void listener_retry(void *opaque)
{
	struct listener *l = opaque;

	loop_watch_events(l->watch, POLLIN);
}

static void listener_ready(void *opaque, unsigned revents)
{
	struct listener *l = opaque;

	(void)revents;
	for (unsigned i = 0; i < ACCEPTS_PER_ROUND; i++) {
		int fd = close_async_accept(l->fd, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
			log_warn("socket", "cannot accept clients: %s; trying again in a second",
				strerror(errno));
			loop_watch_events(l->watch, 0);
			loop_timer_arm(l->retry, loop_now_ns() + RETRY_NS);
			return;
		}
		if (fd < 0)
			return;
		if (l->server->count >= CONN_MAX)
			conn_too_many(l->server, fd);
		else
			conn_new(l, fd);
	}
}

/* ---- listening sockets ---- */

/* Set the socket's mode. With any permission entry every user may connect, because entries may name any user or group;
 * each command is checked. */
static void listener_chmod(const struct listener *l)
{
	const struct server *s = l->server;
	mode_t mode = s->ops->known(s->opaque, NULL) ? 0666 : s->operators != (gid_t)-1 ? 0660 : 0600;

	if (chmod(l->path, mode) < 0)
		log_warn("socket", "%s: %s", l->path, strerror(errno));
}

/* Close the connections in the listening socket's queue. Further connects fail at once. */
static void queue_close(const struct listener *l)
{
	int fd;

	shutdown(l->fd, SHUT_RDWR);
	while ((fd = close_async_accept(l->fd, SOCK_CLOEXEC)) >= 0)
		closer_drop(l->server->closer, fd);
}

static void listener_close(struct listener *l)
{
	loop_unwatch(l->watch);
	loop_timer_free(l->retry);
	if (l->vm) /* otherwise the service manager may pass the same socket to the next daemon */
		queue_close(l);
	close(l->fd);
	free(l);
}

int listener_new(struct server *s, struct vm *vm, const uint8_t uuid[16], const char *path, int listening,
	struct listener **ret_l, struct err *e)
{
	struct listener *l = calloc(1, sizeof(*l));
	int r;

	if (!l) {
		close(listening);
		return err_set_errno(e, -ENOMEM, "socket");
	}
	*l = (struct listener){ .server = s, .vm = vm, .path = path, .fd = listening };
	if (vm)
		memcpy(l->uuid, uuid, sizeof(l->uuid));
	r = loop_timer_new(s->loop, listener_retry, l, &l->retry);
	if (!r)
		r = loop_watch(s->loop, listening, POLLIN, listener_ready, l, &l->watch);
	if (r < 0) {
		listener_close(l);
		return err_set_errno(e, r, "socket");
	}
	l->next = s->listeners;
	s->listeners = l;
	listener_chmod(l);
	*ret_l = l;
	return 0;
}

void listener_free(struct listener *l)
{
	struct listener **at;
	struct server *s;

	if (!l)
		return;
	s = l->server;
	for (at = &s->listeners; *at != l; at = &(*at)->next)
		;
	*at = l->next;
	for (struct conn *c = s->conns, *next; c; c = next) {
		next = c->next;
		if (c->from != l)
			continue;
		c->from = NULL;
		if (!c->running)
			conn_continue(c);
	}
	listener_close(l);
}

int server_new(struct loop *loop, const struct server_ops *ops, void *opaque, const char *path, int listening,
	gid_t operators, struct closer *closer, struct server **ret_s, struct err *e)
{
	struct server *s = calloc(1, sizeof(*s));
	struct listener *l;
	int r;

	if (!s || loop_timer_new(loop, reap_soon, s, &s->close_retry) < 0) {
		free(s);
		close(listening);
		return err_set_errno(e, -ENOMEM, "socket");
	}
	s->closer = closer;
	s->loop = loop;
	s->ops = ops;
	s->opaque = opaque;
	s->operators = operators;
	s->reap.run = reap_run;
	s->turns.run = turns_run;
	s->accounts = accounts_new(turns_wake, s);
	r = listener_new(s, NULL, NULL, path, listening, &l, e);
	if (r < 0) {
		accounts_free(s->accounts);
		loop_timer_free(s->close_retry);
		free(s);
		return r;
	}
	*ret_s = s;
	return 0;
}

int server_listen(struct server *s, int listening, struct err *e)
{
	struct listener *l = s->listeners;
	struct loop_watch *watch;
	int r;

	while (l->vm)
		l = l->next;
	r = loop_watch(s->loop, listening, POLLIN, listener_ready, l, &watch);
	if (r < 0) {
		close(listening);
		return err_set_errno(e, r, "socket");
	}
	loop_unwatch(l->watch);
	close(l->fd);
	l->watch = watch;
	l->fd = listening;
	listener_chmod(l);
	return 0;
}

void server_free(struct server *s)
{
	if (!s)
		return;
	while (s->conns)
		conn_drop(s->conns);
	/* The loop does not run any more, so free the dropped connections here. */
	dead_release(s, STEAL_PTR(s->dead));
	while (s->dead) { /* the kernel closes these at the daemon's end */
		struct conn *c = s->dead;

		s->dead = c->next;
		conn_release(c);
	}
	while (s->listeners) {
		struct listener *l = s->listeners;

		s->listeners = l->next;
		listener_close(l);
	}
	accounts_free(s->accounts);
	loop_timer_free(s->close_retry);
	free(s);
}

struct vm *conn_vm(const struct conn *c)
{
	return c->from ? c->from->vm : NULL;
}

enum dialect conn_dialect(const struct conn *c)
{
	return c->dialect;
}

enum role conn_role(const struct conn *c)
{
	return c->role;
}

enum role conn_role_for(const struct conn *c, const uint8_t *uuid)
{
	return c->role == ROLE_ADMIN || !uuid ? c->role : role_look_up(c, uuid);
}

bool conn_known(const struct conn *c)
{
	struct peer who = conn_peer(c);

	return c->role > ROLE_NONE || c->server->ops->known(c->server->opaque, &who);
}

void server_permissions_changed(struct server *s, struct json_object *o)
{
	for (struct conn *c = s->conns, *next; c; c = next) {
		uint64_t mark = c->roles_mark;

		next = c->next;
		conn_rank(c);
		if (mark != c->roles_mark && c->negotiated && c->from && !c->from->vm)
			conn_send(c, o, -1);
	}
	for (const struct listener *l = s->listeners; l; l = l->next)
		listener_chmod(l);
}

uid_t conn_uid(const struct conn *c)
{
	return c->uid;
}

pid_t conn_pid(const struct conn *c)
{
	return c->pid;
}

bool conn_negotiated(const struct conn *c)
{
	return c->negotiated;
}

void conn_set_negotiated(struct conn *c)
{
	c->negotiated = true;
}
