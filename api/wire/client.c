#include "api/wire/client.h"
#include "api/wire/json.h"
#include "api/wire/wire.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fd_send.h"
#include "base/unix_socket.h"
#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <time.h>

#define READ_BYTES 16384
/* Longest wait for a greeting; after this time without an answer, find out whether the daemon still works. */
#define GREETING_TIMEOUT_S 60
#define GREETING_TIMEOUT_NS (GREETING_TIMEOUT_S * 1000000000ULL)

struct client {
	char *path; /* of the daemon's socket; NULL: not known */
	int sock;
	struct wire wire;
	char buf[READ_BYTES];
	size_t len, at;
	struct json_object *version;
	struct json_object *events; /* array: queued while an answer was awaited */
	void (*told)(void *opaque, struct json_object *ev); /* NULL: none */
	void *told_opaque;
	int asker; /* client_serve(); -1: none */
	uint64_t deadline_ns; /* of all that the client does; UINT64_MAX: none */
	uint64_t next_id;
	int fd; /* came with the current answer; -1: none */
};

#define SYSTEM_SOCKET "/run/cairn/cairn.sock"

/* ---- reading and writing the socket ---- */

/* Return whether root's daemon listens at another path, where this user may connect to it. geteuid() would be a system
 * call, which the filters of cairn-web and cairn-metrics forbid; getauxval() is none. */
static bool has_system_daemon(const char *path)
{
	CLEANUP_CLOSE int fd = getauxval(AT_EUID) && strcmp(path, SYSTEM_SOCKET) ? unix_connect(SYSTEM_SOCKET, SOCK_NONBLOCK) : -1;

	return fd >= 0;
}

static int connect_failed(const char *path, int error, struct err *e)
{
	if (error == ENOENT || error == ECONNREFUSED)
		return err_set(e, -error, ERR_HOST, "no daemon listens on %s; start one with: cairnd & (see cairnd --help)%s", path,
			has_system_daemon(path) ? ", or use root's daemon: export CAIRN_SOCKET=" SYSTEM_SOCKET : "");
	if (error == EACCES)
		return err_set(e, -error, ERR_PERMISSION,
			"no permission to connect to %s; let root give you a role (cairn grant operator --user NAME), or start "
			"your own daemon with: cairnd &",
			path);
	return err_set_errno(e, -error, "cannot connect to %s", path);
}

int client_socket(const char *path, int *ret_fd, struct err *e)
{
	int fd = unix_connect(path, 0);

	if (fd == -ENAMETOOLONG)
		return err_set(e, fd, ERR_INVALID, "%.200s: a socket's path has at most %d bytes", path, UNIX_PATH_MAX);
	if (fd < 0)
		return connect_failed(path, -fd, e);
	*ret_fd = fd;
	return 0;
}

static int connection_lost(struct err *e)
{
	return err_set(e, -EPIPE, ERR_GENERIC, "the daemon closed the connection; check whether cairnd still runs");
}

static int asker_gone(struct err *e)
{
	return err_set(e, -ECANCELED, ERR_GENERIC, "the program that asked has disconnected");
}

static int deadline_over(struct err *e)
{
	return err_set(e, -ETIMEDOUT, ERR_TIMEOUT, "the daemon has not answered in time; check whether cairnd is stopped and what its log says");
}

/* Wait for bytes and take at most one fd with them. */
static int client_read(struct client *c, uint64_t deadline_ns, struct err *e)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { c->buf, sizeof(c->buf) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
		.msg_controllen = sizeof(control) };
	struct pollfd p[] = { { .fd = c->sock, .events = POLLIN }, { .fd = c->asker, .events = POLLRDHUP } };
	uint64_t now = clock_monotonic_ns();
	struct timespec left = { 0, 0 };
	struct cmsghdr *h;
	ssize_t n;

	deadline_ns = MIN(deadline_ns, c->deadline_ns);
	if (deadline_ns > now) {
		left.tv_sec = (time_t)((deadline_ns - now) / 1000000000ULL);
		left.tv_nsec = (long)((deadline_ns - now) % 1000000000ULL);
	}
	n = ppoll(p, ARRAY_SIZE(p), deadline_ns == UINT64_MAX ? NULL : &left, NULL);
	if (n < 0)
		return errno == EINTR ? 0 : err_set_errno(e, -errno, "poll");
	if (!n)
		return -ETIMEDOUT;
	if (p[1].revents)
		return asker_gone(e);
	n = recvmsg(c->sock, &m, MSG_CMSG_CLOEXEC);
	if (n < 0 && errno == EINTR)
		return 0;
	if (n <= 0)
		return connection_lost(e);
	h = CMSG_FIRSTHDR(&m);
	if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS) {
		if (c->fd >= 0)
			close(c->fd);
		memcpy(&c->fd, CMSG_DATA(h), sizeof(int));
	}
	c->len = (size_t)n;
	c->at = 0;
	return 0;
}

static int client_next(struct client *c, uint64_t deadline_ns, struct json_object **ret_o,
	struct err *e)
{
	for (;;) {
		enum wire_result w = WIRE_MORE;
		size_t used;
		int r;

		if (c->at < c->len) {
			w = wire_feed(&c->wire, c->buf + c->at, c->len - c->at, &used, ret_o, e);
			c->at += used;
		}
		if (w == WIRE_TEXT)
			return 0;
		if (w != WIRE_MORE) {
			json_object_put(*ret_o);
			*ret_o = NULL;
			return err_set(e, -EPROTO, ERR_GENERIC, "the program that listens there is not a Cairn daemon");
		}
		r = c->at < c->len ? 0 : client_read(c, deadline_ns, e);
		if (r < 0)
			return r;
	}
}

static int client_send(struct client *c, struct json_object *o, int fd, struct err *e)
{
	CLEANUP_FREE char *line = NULL;
	size_t len, at = 0;

	line = js_line(o, &len);
	while (line && at < len) {
		ssize_t n = fd_send(c->sock, line + at, len - at, at ? -1 : fd, 0);

		if (n < 0 && errno != EINTR)
			return connection_lost(e);
		at += n > 0 ? (size_t)n : 0;
	}
	return line ? 0 : err_set_errno(e, -ENOMEM, "client");
}

/* ---- commands ---- */

enum err_class client_error_class(const char *name)
{
	for (unsigned i = 0; name && i < ERR_CLASS_COUNT; i++)
		if (!strcmp(err_class_name(i), name))
			return i;
	return ERR_GENERIC;
}

/* Clients send only what a daemon of their own version knows. */
static bool is_older_daemon(const char *desc)
{
	return (!strncmp(desc, "Parameter '", 11) && strstr(desc, "' is unexpected")) ||
		(!strncmp(desc, "The command ", 12) && strstr(desc, " has not been found"));
}

static int answer_take(struct json_object *o, struct json_object **ret_v, struct err *e)
{
	struct json_object *error = js_get(o, "error");
	const char *desc = js_get_str_or(error, "desc", "the daemon gave no reason");

	if (error)
		return err_set(e, -EREMOTEIO, client_error_class(js_get_str(error, "class")), "%.900s%s", desc,
			is_older_daemon(desc) ? "; the daemon may be of an older version: restart cairnd" : "");
	if (ret_v)
		*ret_v = json_object_get(js_get(o, "return"));
	return 0;
}

static int command_send(struct client *c, const char *command, struct json_object *args, int fd,
	uint64_t *ret_id, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct pollfd asker = { .fd = c->asker, .events = POLLRDHUP };

	js_put_str(o, "execute", command);
	if (args)
		js_put(o, "arguments", args);
	*ret_id = ++c->next_id;
	js_put_uint(o, "id", *ret_id);
	return c->asker >= 0 && poll(&asker, 1, 0) > 0 ? asker_gone(e) : client_send(c, o, fd, e);
}

/* Return whether the daemon greets or refuses a new client within GREETING_TIMEOUT_S. */
static bool daemon_works(const struct client *c)
{
	CLEANUP_CLOSE int fd = -1;
	struct timespec limit = { GREETING_TIMEOUT_S, 0 };

	if (!c->path)
		return true;
	return client_socket(c->path, &fd, NULL) == 0 &&
		ppoll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, &limit, NULL) != 0;
}

/* event: taken. */
static void event_take(struct client *c, struct json_object *event)
{
	if (c->told)
		c->told(c->told_opaque, event);
	if (c->asker >= 0)
		json_object_put(event);
	else
		json_object_array_add(c->events, event);
}

/* Wait for an answer. Some commands take long, so give up only when the daemon no longer works. */
static int answer_await(struct client *c, uint64_t id, struct json_object **ret_v, struct err *e)
{
	uint64_t deadline = clock_monotonic_ns() + GREETING_TIMEOUT_NS;

	for (;;) {
		CLEANUP_JS struct json_object *o = NULL;
		int r = client_next(c, deadline, &o, e);

		if (r == -ETIMEDOUT && clock_monotonic_ns() >= c->deadline_ns)
			return deadline_over(e);
		if (r == -ETIMEDOUT && daemon_works(c)) {
			deadline = clock_monotonic_ns() + GREETING_TIMEOUT_NS;
			continue;
		}
		if (r == -ETIMEDOUT)
			return err_set(e, r, ERR_TIMEOUT, "the daemon answers neither this command nor new clients; check "
				"whether cairnd is stopped and what its log says; it may still carry out the command");
		if (r < 0)
			return r;
		if (js_get(o, "event"))
			event_take(c, STEAL_PTR(o));
		else if (js_get_int(o, "id", -1) == (int64_t)id || !js_get(o, "id"))
			return answer_take(o, ret_v, e);
	}
}

int client_execute_with_fd(struct client *c, const char *command, struct json_object *args, int fd,
	struct json_object **ret_v, int *ret_fd, struct err *e)
{
	uint64_t id;
	int r = command_send(c, command, args, fd, &id, e);

	if (!r)
		r = answer_await(c, id, ret_v, e);
	if (!r && ret_fd)
		*ret_fd = steal_fd(&c->fd);
	return r;
}

int client_execute(struct client *c, const char *command, struct json_object *args,
	struct json_object **ret_v, int *ret_fd, struct err *e)
{
	return client_execute_with_fd(c, command, args, -1, ret_v, ret_fd, e);
}

void client_on_event(struct client *c, void (*told)(void *opaque, struct json_object *ev), void *opaque)
{
	c->told = told;
	c->told_opaque = opaque;
}

void client_serve(struct client *c, int asker, uint64_t deadline_ns)
{
	c->asker = asker;
	c->deadline_ns = deadline_ns;
}

int client_fd(const struct client *c)
{
	return c->sock;
}

int client_next_event(struct client *c, uint64_t deadline_ns, struct json_object **ret_ev,
	struct err *e)
{
	if (json_object_array_length(c->events)) {
		*ret_ev = json_object_get(json_object_array_get_idx(c->events, 0));
		json_object_array_del_idx(c->events, 0, 1);
		return 0;
	}
	for (;;) {
		CLEANUP_JS struct json_object *o = NULL;
		int r = client_next(c, deadline_ns, &o, e);

		if (r < 0)
			return r;
		if (!js_get(o, "event"))
			continue;
		*ret_ev = STEAL_PTR(o);
		return 0;
	}
}

struct json_object *client_version(struct client *c)
{
	return c->version;
}

/* ---- connecting ---- */

static int greeting_take(struct client *c, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	int r = client_next(c, clock_monotonic_ns() + GREETING_TIMEOUT_NS, &o, e);

	if (r == -ETIMEDOUT && clock_monotonic_ns() >= c->deadline_ns)
		return deadline_over(e);
	if (r == -ETIMEDOUT)
		return err_set(e, r, ERR_TIMEOUT, "the daemon did not greet this client within %d s; check whether cairnd is "
			"stopped and what its log says", GREETING_TIMEOUT_S);
	if (r < 0)
		return r;
	if (js_get(o, "error"))
		return answer_take(o, NULL, e);
	c->version = json_object_get(js_get(js_get(o, "QMP"), "version"));
	return c->version ? 0 :
		err_set(e, -EPROTO, ERR_GENERIC, "the program that listens there is not a Cairn daemon");
}

/* path: of the socket; copied; NULL: not known. */
static int negotiate(int sock, const char *path, uint64_t deadline_ns, struct client **ret_c, struct err *e)
{
	struct client *c = calloc(1, sizeof(*c));
	int r;

	if (!c || (path && !(c->path = strdup(path)))) {
		free(c);
		close(sock);
		return err_set_errno(e, -ENOMEM, "client");
	}
	c->sock = sock;
	c->fd = -1;
	c->asker = -1;
	c->deadline_ns = deadline_ns;
	wire_init(&c->wire, NULL);
	c->events = json_object_new_array();
	r = greeting_take(c, e);
	if (!r)
		r = client_execute(c, "qmp_capabilities", NULL, NULL, NULL, e);
	if (r < 0) {
		client_free(c);
		return r;
	}
	*ret_c = c;
	return 0;
}

int client_attach(int sock, struct client **ret_c, struct err *e)
{
	return negotiate(sock, NULL, UINT64_MAX, ret_c, e);
}

int client_connect_until(const char *socket, uint64_t deadline_ns, struct client **ret_c, struct err *e)
{
	int fd, r = client_socket(socket, &fd, e);

	return r < 0 ? r : negotiate(fd, socket, deadline_ns, ret_c, e);
}

int client_connect(const char *socket, struct client **ret_c, struct err *e)
{
	return client_connect_until(socket, UINT64_MAX, ret_c, e);
}

void client_free(struct client *c)
{
	if (!c)
		return;
	if (c->sock >= 0)
		close(c->sock);
	if (c->fd >= 0)
		close(c->fd);
	wire_done(&c->wire);
	json_object_put(c->version);
	json_object_put(c->events);
	free(c->path);
	free(c);
}
