#include "tools/web/server.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/util.h"
#include "tools/web/pages.h"
#include "tools/web/streams.h"

#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of headers; a body has memory of its own. */
#define CLIENT_BYTES 16384
#define BODY_BYTES (1 * MIB)
#define LOGIN_BYTES 1024
#define STACK_BYTES (256 * KIB)
#define FILES_MAX (4 * CONNECTIONS_MAX)
/* Stacks of CONNECTIONS_MAX threads, bodies of CONNECTIONS_CROWD requests, REQUESTS_MAX answers, and reserve. */
#define MEMORY_BYTES (2 * GIB)

#define SESSION_OVER "This session has ended; log in again.\n"

#define TLS_VERSIONS "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

/* Everything is the page's own, scripts are files, and no other page may show this one in a frame. */
#define CONTENT_POLICY                                                                             \
	"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " \
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

/* No exec, no open file, no process. It makes Unix sockets for the daemon; sockets of networks are open already. */
static const int allowed[] = {
	SYS_read, SYS_write, SYS_close, SYS_poll, SYS_ppoll, SYS_select, SYS_pselect6, SYS_accept, SYS_accept4, SYS_connect, SYS_shutdown,
	SYS_sendto, SYS_sendmsg, SYS_recvfrom, SYS_recvmsg, SYS_setsockopt, SYS_getsockopt, SYS_getsockname, SYS_getpeername, SYS_fcntl, SYS_brk,
	SYS_munmap, SYS_mremap, SYS_madvise, SYS_futex, SYS_clock_gettime, SYS_gettimeofday, SYS_exit, SYS_exit_group,
	SYS_rt_sigreturn, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_restart_syscall, SYS_getpid, SYS_epoll_wait, SYS_epoll_pwait, SYS_epoll_ctl,
	SYS_epoll_create1, SYS_writev, SYS_getrandom, SYS_eventfd2, SYS_pipe2, SYS_set_robust_list, SYS_rseq, SYS_sched_yield,
	SYS_clock_nanosleep, SYS_nanosleep, SYS_fstat, SYS_newfstatat, SYS_gettid, SYS_sched_getaffinity,
};

static int sandbox(struct err *e)
{
	static const struct lockdown_limit limits[] = { { RLIMIT_NOFILE, FILES_MAX },
		{ RLIMIT_AS, LOCKDOWN_SANITIZED ? RLIM_INFINITY : MEMORY_BYTES } };
	struct call_filter f;
	int r = lockdown_begin(LOCKDOWN_OUTSIDE, limits, ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	/* With more arenas, malloc() reads files: the number of processors, and whether memory is overcommitted. */
	mallopt(M_ARENA_MAX, 1);
	call_filter_init(&f);
	lockdown_allow_memory(&f);
	lockdown_allow_threads(&f);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
	call_filter_value(&f, SYS_socket, SECCOMP_RET_ALLOW, 0, AF_UNIX);
	call_filter_value(&f, SYS_socketpair, SECCOMP_RET_ALLOW, 0, AF_UNIX);
	call_filter_value(&f, SYS_prctl, SECCOMP_RET_ALLOW, 0, PR_SET_NAME);
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}

/* ---- answers ---- */

struct request {
	int session; /* its id; -1: none */
	struct links links; /* of the session; owns the delegate's socket */
	int row; /* in the table of requests; -1: none */
	char *body; /* body[len] is NUL */
	size_t len, max;
};

static enum MHD_Result response_send(struct MHD_Connection *c, unsigned status, const char *type, struct MHD_Response *r)
{
	enum MHD_Result done;

	MHD_add_response_header(r, "Content-Type", type);
	MHD_add_response_header(r, "Cache-Control", "no-store");
	MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
	MHD_add_response_header(r, "Referrer-Policy", "no-referrer");
	MHD_add_response_header(r, "Cross-Origin-Opener-Policy", "same-origin");
	MHD_add_response_header(r, "Cross-Origin-Resource-Policy", "same-origin");
	MHD_add_response_header(r, "X-Frame-Options", "DENY");
	MHD_add_response_header(r, "Content-Security-Policy", CONTENT_POLICY);
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(r, "Allow", "GET, POST");
	/* The time before the answer does not count. */
	MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)CLIENT_SECONDS);
	done = MHD_queue_response(c, status, r);
	MHD_destroy_response(r);
	return done;
}

static struct MHD_Response *text_response(const char *text, enum MHD_ResponseMemoryMode mode)
{
	return must_alloc(MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, mode));
}

static enum MHD_Result refuse(struct MHD_Connection *c, unsigned status, const char *why)
{
	return response_send(c, status, "text/plain; charset=utf-8", text_response(why, MHD_RESPMEM_MUST_COPY));
}

/* o: taken. */
static struct MHD_Response *json_response(struct json_object *o)
{
	struct MHD_Response *r = text_response(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN), MHD_RESPMEM_MUST_COPY);

	json_object_put(o);
	return r;
}

static const char *header_find(struct MHD_Connection *c, const char *name)
{
	return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

/* Returns the connection's row in the table, or -1. */
static int row_of(struct MHD_Connection *c)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info ? (int)(intptr_t)info->socket_context - 1 : -1;
}

/* Close the connections of a session. */
static void session_over(struct server *s, int session, int except)
{
	guard_logout(&s->guard, session);
	connections_end(&s->connections, session, except);
}

/* ---- logins ---- */

/* Begin a session, and tell the browser. delegate: taken. */
static enum MHD_Result session_answer(struct server *s, struct MHD_Connection *c, int id, const char *user, int delegate)
{
	struct session session;
	struct MHD_Response *r;
	struct json_object *o;
	char cookie[SECRET_BYTES + COOKIE_NAME_BYTES + 64];
	int ended;

	if (guard_session_begin(&s->guard, id, user, delegate, &session, &ended) < 0) {
		login_end(&s->logins, id);
		close(delegate);
		return refuse(c, MHD_HTTP_SERVICE_UNAVAILABLE, "Too many users are logged in; try again later.\n");
	}
	connections_end(&s->connections, ended, -1);
	o = json_object_new_object();
	js_put_str(o, "key", session.key);
	r = json_response(o);
	snprintf(cookie, sizeof(cookie), "%s=%s; Path=/; HttpOnly; SameSite=Strict%s", s->guard.cookie_name, session.cookie,
		s->tls.key ? "; Secure" : "");
	MHD_add_response_header(r, "Set-Cookie", cookie);
	return response_send(c, MHD_HTTP_OK, "application/json", r);
}

/* Write the address of the browser; on this host, its user. */
static void address_write(struct server *s, struct MHD_Connection *c, char address[LOGIN_ADDRESS_BYTES])
{
	const struct sockaddr *a = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr;
	const struct in_addr *four = NULL;
	uid_t uid;

	address[0] = 0;
	if (a && a->sa_family == AF_INET) {
		four = &((const struct sockaddr_in *)(const void *)a)->sin_addr;
	} else if (a && a->sa_family == AF_INET6) {
		const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;

		if (IN6_IS_ADDR_V4MAPPED(six))
			four = (const struct in_addr *)(const void *)&six->s6_addr[12];
		else if (!IN6_IS_ADDR_LOOPBACK(six))
			inet_ntop(AF_INET6, six, address, LOGIN_ADDRESS_BYTES);
	}
	if (four && ntohl(four->s_addr) >> 24 != IN_LOOPBACKNET)
		inet_ntop(AF_INET, four, address, LOGIN_ADDRESS_BYTES);
	if (!address[0] && peer_find(&s->peers, stream_browser_fd(c), &uid))
		snprintf(address, LOGIN_ADDRESS_BYTES, LOGIN_LOCAL "%u", (unsigned)uid);
}

static enum MHD_Result login_refuse(struct MHD_Connection *c, const struct login_answer *a)
{
	char text[128], wait[16];
	struct MHD_Response *r;

	switch (a->verdict) {
	case LOGIN_WRONG:
		return refuse(c, MHD_HTTP_FORBIDDEN, "The user or the password is wrong, or this user may not log in here.\n");
	case LOGIN_OLD_PASSWORD:
		return refuse(c, MHD_HTTP_FORBIDDEN, "This password has expired: change it on the host with passwd, and log in again.\n");
	case LOGIN_EXPIRED:
		return refuse(c, MHD_HTTP_FORBIDDEN, "This account has expired; ask the administrator of the host.\n");
	case LOGIN_MORE:
		return refuse(c, MHD_HTTP_FORBIDDEN, "This host asks for more than a password, such as a second factor, which this page cannot take; run cairn web as your own user on the host.\n");
	case LOGIN_BUSY:
		return refuse(c, MHD_HTTP_SERVICE_UNAVAILABLE, "Too many logins at once; try again.\n");
	case LOGIN_LIMITED:
		snprintf(text, sizeof(text), "Too many logins have failed; try again in %u s.\n", a->wait_s);
		snprintf(wait, sizeof(wait), "%u", a->wait_s);
		r = text_response(text, MHD_RESPMEM_MUST_COPY);
		MHD_add_response_header(r, "Retry-After", wait);
		return response_send(c, MHD_HTTP_TOO_MANY_REQUESTS, "text/plain; charset=utf-8", r);
	default:
		return refuse(c, MHD_HTTP_SERVICE_UNAVAILABLE, "The login could not be checked; the log of cairn-web on the host says why.\n");
	}
}

/* Split a body USER NEWLINE PASSWORD. Returns false if it is none. */
static bool ask_parse(const char *body, struct login_ask *a)
{
	size_t user = strcspn(body, "\n"), password = body[user] ? strlen(body + user + 1) : 0;

	if (!user || !body[user] || user >= sizeof(a->user) || password >= sizeof(a->password))
		return false;
	memcpy(a->user, body, user);
	memcpy(a->password, body + user + 1, password);
	return login_ask_is_valid(a);
}

static enum MHD_Result login_by_password(struct server *s, struct MHD_Connection *c, struct request *q)
{
	struct login_answer answer = { 0 };
	struct login_ask ask = { 0 };
	int id = guard_session_id(&s->guard), delegate = -1;
	bool valid = strlen(q->body) == q->len && ask_parse(q->body, &ask);

	address_write(s, c, ask.address);
	if (valid)
		login_check(&s->logins, id, &ask, &answer, &delegate);
	explicit_bzero(&ask, sizeof(ask));
	if (!valid)
		return refuse(c, MHD_HTTP_BAD_REQUEST, "A login is a user and a password, on two lines.\n");
	if (answer.verdict == LOGIN_OK && delegate < 0)
		answer.verdict = LOGIN_FAILED;
	if (answer.verdict != LOGIN_OK) {
		if (delegate >= 0)
			close(delegate);
		return login_refuse(c, &answer);
	}
	if (q->session > 0) /* of the same browser */
		session_over(s, q->session, row_of(c));
	return session_answer(s, c, id, answer.user, delegate);
}

static enum MHD_Result login(struct server *s, struct MHD_Connection *c, struct request *q)
{
	if (s->logins.channel >= 0)
		return login_by_password(s, c, q);
	if (!guard_token_take(&s->guard, q->body))
		return refuse(c, MHD_HTTP_FORBIDDEN, "This address has been used, or is not from this server. cairn web prints a new one after each login.\n");
	server_address_print(s);
	return session_answer(s, c, guard_session_id(&s->guard), "", -1);
}

/* Send the page the way to log in, and the user who has logged in. */
static enum MHD_Result session_info_send(struct server *s, struct MHD_Connection *c, struct request *q)
{
	struct json_object *o = json_object_new_object();
	char user[LOGIN_USER_BYTES];

	js_put_str(o, "login", s->logins.channel >= 0 ? "password" : "address");
	if (guard_session_get(&s->guard, q->session, user, NULL) == 0 && user[0])
		js_put_str(o, "user", user);
	return response_send(c, MHD_HTTP_OK, "application/json", json_response(o));
}

static enum MHD_Result logout(struct server *s, struct MHD_Connection *c, struct request *q)
{
	session_over(s, q->session, row_of(c));
	return refuse(c, MHD_HTTP_OK, "Logged out.\n");
}

/* ---- paths ---- */

static const char *argument(struct MHD_Connection *c, const char *name)
{
	const char *value = MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, name);

	return value ? value : "";
}

static enum MHD_Result api(struct server *s, struct MHD_Connection *c, struct request *q)
{
	char user[LOGIN_USER_BYTES], *text;
	struct err e;
	size_t len;
	unsigned long seconds = strtoul(argument(c, "seconds"), NULL, 10);

	if (guard_session_get(&s->guard, q->session, user, NULL) < 0)
		return refuse(c, MHD_HTTP_UNAUTHORIZED, SESSION_OVER);
	q->row = requests_begin(&s->requests, user, &e);
	if (q->row < 0)
		return refuse(c, MHD_HTTP_SERVICE_UNAVAILABLE, e.msg);
	text = bridge_execute(&q->links, stream_browser_fd(c), (unsigned)MIN(seconds, 3600UL), q->body, q->len, &len);
	return response_send(c, MHD_HTTP_OK, "application/json", must_alloc(MHD_create_response_from_buffer(len, text, MHD_RESPMEM_MUST_FREE)));
}

static enum MHD_Result events(struct server *s, struct MHD_Connection *c, struct request *q)
{
	struct MHD_Response *r;
	struct err e;

	(void)s;
	if (stream_events(&q->links, c, &r, &e) < 0)
		return refuse(c, MHD_HTTP_SERVICE_UNAVAILABLE, e.msg);
	return response_send(c, MHD_HTTP_OK, "application/x-ndjson", r);
}

static enum MHD_Result stream_answer(struct server *s, struct MHD_Connection *c, const struct request *q, enum link_kind kind)
{
	const char *id = argument(c, "id");
	char user[LOGIN_USER_BYTES];
	struct MHD_Response *r;
	struct err e;

	if (guard_session_get(&s->guard, q->session, user, NULL) < 0)
		return refuse(c, MHD_HTTP_UNAUTHORIZED, SESSION_OVER);
	if (!id[0] || strlen(id) >= CONSOLE_ID_BYTES)
		return refuse(c, MHD_HTTP_BAD_REQUEST, "id has 1 to 32 characters\n");
	if (console_open(&s->consoles, &q->links, kind, q->session, user, argument(c, "vm"), id, c, &r, &e) < 0)
		return refuse(c, MHD_HTTP_SERVICE_UNAVAILABLE, e.msg);
	return response_send(c, MHD_HTTP_OK, "application/octet-stream", r);
}

static enum MHD_Result console_output(struct server *s, struct MHD_Connection *c, struct request *q)
{
	return stream_answer(s, c, q, LINK_CONSOLE);
}

static enum MHD_Result screen_output(struct server *s, struct MHD_Connection *c, struct request *q)
{
	return stream_answer(s, c, q, LINK_SCREEN);
}

static enum MHD_Result console_input(struct server *s, struct MHD_Connection *c, struct request *q)
{
	struct err e;

	if (console_write(&s->consoles, q->session, argument(c, "id"), q->body, q->len, &e) < 0)
		return refuse(c, MHD_HTTP_SERVICE_UNAVAILABLE, e.msg);
	return refuse(c, MHD_HTTP_OK, "");
}

static const struct route {
	const char *method, *path;
	size_t body_bytes; /* the most */
	bool open;	   /* without a session */
	enum MHD_Result (*answer)(struct server *s, struct MHD_Connection *c, struct request *q);
} routes[] = {
	{ "POST", "/login", LOGIN_BYTES, true, login },
	{ "GET", "/session", 0, true, session_info_send },
	{ "POST", "/logout", 0, false, logout },
	{ "POST", "/api", BODY_BYTES, false, api },
	{ "GET", "/events", 0, false, events },
	{ "GET", "/console", 0, false, console_output },
	{ "GET", "/screen", 0, false, screen_output },
	{ "POST", "/console", BODY_BYTES, false, console_input },
};

static const struct route *route_find(const char *method, const char *path)
{
	for (size_t i = 0; i < ARRAY_SIZE(routes); i++)
		if (!strcmp(method, routes[i].method) && !strcmp(path, routes[i].path))
			return &routes[i];
	return NULL;
}

/* ---- requests ---- */

static enum MHD_Result header_count(void *opaque, enum MHD_ValueKind kind, const char *name, const char *value)
{
	unsigned *lengths = opaque;

	(void)kind;
	(void)value;
	*lengths += !strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH);
	return MHD_YES;
}

/* Judge how the length of the body is given (RFC 9112, section 6.3). Returns 0; or a status and a sentence. */
static unsigned length_check(struct MHD_Connection *c, size_t max, const char **ret_why)
{
	const char *length = header_find(c, MHD_HTTP_HEADER_CONTENT_LENGTH);
	unsigned lengths = 0;

	MHD_get_connection_values(c, MHD_HEADER_KIND, header_count, &lengths);
	*ret_why = "A request has one Content-Length.\n";
	if (lengths > 1)
		return MHD_HTTP_BAD_REQUEST;
	*ret_why = "Send the body with Content-Length instead of Transfer-Encoding.\n";
	if (header_find(c, MHD_HTTP_HEADER_TRANSFER_ENCODING))
		return length ? MHD_HTTP_BAD_REQUEST : MHD_HTTP_LENGTH_REQUIRED;
	*ret_why = "The body of this request is too large.\n";
	return length && strtoull(length, NULL, 10) > max ? MHD_HTTP_CONTENT_TOO_LARGE : 0;
}

/* Judge the headers. Returns 0 and the route, which is NULL for a page; or a status and a sentence. */
static unsigned request_check(struct server *s, struct MHD_Connection *c, const char *method, const char *path, struct request *q,
	const struct route **ret_route, const char **ret_why)
{
	const char *host = header_find(c, MHD_HTTP_HEADER_HOST), *origin = header_find(c, MHD_HTTP_HEADER_ORIGIN);
	const struct route *route = *ret_route = route_find(method, path);
	bool post = !strcmp(method, MHD_HTTP_METHOD_POST);

	*ret_why = "This server answers only to its own names and port: open the address that cairn web prints.\n";
	if (!guard_host_fits(&s->guard, host))
		return MHD_HTTP_MISDIRECTED_REQUEST;
	*ret_why = "only GET and POST\n";
	if (!post && strcmp(method, MHD_HTTP_METHOD_GET))
		return MHD_HTTP_METHOD_NOT_ALLOWED;
	*ret_why = origin ? "Another page sent this request.\n" : "A POST needs the header Origin: the address of this server.\n";
	if ((post || origin) && !guard_origin_fits(&s->guard, origin, host))
		return MHD_HTTP_FORBIDDEN;
	*ret_why = "There is nothing at this path.\n";
	if (!route && (post || !page_find(path)))
		return MHD_HTTP_NOT_FOUND;
	q->max = route ? route->body_bytes : 0;
	q->session = guard_session_find(&s->guard, header_find(c, MHD_HTTP_HEADER_COOKIE), header_find(c, "X-Cairn-Key"));
	*ret_why = "Log in first.\n";
	if (route && !route->open && q->session < 0)
		return MHD_HTTP_UNAUTHORIZED;
	return length_check(c, q->max, ret_why);
}

/* A short body may be a password: it is moved here, and into memory that never moves. */
static enum MHD_Result body_add(struct request *q, const char *part, size_t *bytes)
{
	if (*bytes > q->max - q->len)
		return MHD_NO;
	if (q->max > LOGIN_BYTES)
		q->body = must_alloc(realloc(q->body, q->len + *bytes + 1));
	memcpy(q->body + q->len, part, *bytes);
	if (q->max <= LOGIN_BYTES)
		explicit_bzero((void *)(uintptr_t)part, *bytes);
	q->len += *bytes;
	q->body[q->len] = 0;
	*bytes = 0;
	return MHD_YES;
}

static enum MHD_Result request_handle(void *opaque, struct MHD_Connection *c, const char *url, const char *method, const char *version,
	const char *part, size_t *part_bytes, void **request)
{
	struct server *s = opaque;
	struct request *q = *request;
	const struct page *page;
	const struct route *route;
	const char *why;
	unsigned status;

	(void)version;
	if (!q) { /* headers only; a client that is refused here need not send its body */
		q = *request = must_alloc(calloc(1, sizeof(*q)));
		q->row = -1;
		q->links = (struct links){ .daemon = s->socket, .delegate = -1 };
		status = request_check(s, c, method, url, q, &route, &why);
		q->body = must_alloc(calloc(1, MIN(q->max, (size_t)LOGIN_BYTES) + 1));
		return status ? refuse(c, status, why) : MHD_YES;
	}
	if (*part_bytes)
		return body_add(q, part, part_bytes);
	route = route_find(method, url);
	if (route)
		connections_answer(&s->connections, row_of(c), route->open ? -1 : q->session);
	else /* a page has the time of a request, too */
		connections_wait(&s->connections, row_of(c));
	/* A command may take minutes. */
	MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
	/* The session may have ended meanwhile; from now on, its end ends this connection. */
	if (route && !route->open && guard_session_get(&s->guard, q->session, NULL, &q->links.delegate) < 0)
		return refuse(c, MHD_HTTP_UNAUTHORIZED, SESSION_OVER);
	if (route)
		return route->answer(s, c, q);
	page = page_find(url);
	return response_send(c, MHD_HTTP_OK, page->type, text_response(page->data, MHD_RESPMEM_PERSISTENT));
}

static void request_done(void *opaque, struct MHD_Connection *c, void **request, enum MHD_RequestTerminationCode why)
{
	struct server *s = opaque;
	struct request *q = STEAL_PTR(*request);

	(void)why;
	connections_wait(&s->connections, row_of(c));
	if (!q)
		return;
	requests_end(&s->requests, q->row);
	explicit_bzero(q->body, q->len);
	if (q->links.delegate >= 0)
		close(q->links.delegate);
	free(q->body);
	free(q);
}

static void connection_notify(void *opaque, struct MHD_Connection *c, void **context, enum MHD_ConnectionNotificationCode what)
{
	struct server *s = opaque;

	if (what == MHD_CONNECTION_NOTIFY_STARTED)
		*context = (void *)(intptr_t)(1 + connections_add(&s->connections, stream_browser_fd(c)));
	else
		connections_remove(&s->connections, (int)(intptr_t)*context - 1);
}

void server_address_print(struct server *s)
{
	char token[SECRET_BYTES];

	if (s->logins.channel >= 0) {
		printf("%s/\n", s->base);
		fflush(stdout);
		return;
	}
	guard_token(&s->guard, token);
	/* Browsers do not send the part after #, neither to servers nor to other pages. */
	printf("%s/#token=%s\n", s->base, token);
	fflush(stdout);
}

int server_start(struct server *s, struct err *e)
{
	struct MHD_OptionItem secure[] = { { MHD_OPTION_HTTPS_MEM_CERT, 0, s->tls.chain }, { MHD_OPTION_HTTPS_MEM_KEY, 0, s->tls.key },
		{ MHD_OPTION_HTTPS_PRIORITIES, 0, TLS_VERSIONS }, { MHD_OPTION_END, 0, NULL } };
	int r = 0;

	if (s->logins.channel >= 0) {
		peers_init(&s->peers);
		r = logins_drop_root(e);
	}
	if (!r)
		r = sandbox(e);
	if (r < 0)
		return r;
	s->http = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL | MHD_USE_ITC | (s->tls.key ? MHD_USE_TLS : 0), 0,
		NULL, NULL, request_handle, s, MHD_OPTION_LISTEN_SOCKET, s->fd, MHD_OPTION_NOTIFY_COMPLETED, request_done, s,
		MHD_OPTION_NOTIFY_CONNECTION, connection_notify, s, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)CLIENT_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CLIENT_BYTES,
		MHD_OPTION_THREAD_STACK_SIZE, (size_t)STACK_BYTES, MHD_OPTION_ARRAY, s->tls.key ? secure : (struct MHD_OptionItem[]){ { MHD_OPTION_END, 0, NULL } },
		MHD_OPTION_END);
	return s->http ? 0 : err_set(e, -EIO, ERR_HOST, "the web server does not start");
}

/* Stop taking connections: new ones wait in the socket for the next process, if a service manager has it. End when
 * the connections that came meanwhile are closed. */
static void __attribute__((noreturn)) server_end(struct server *s)
{
	MHD_quiesce_daemon(s->http);
	do {
		sleep(1);
		connections_expire(&s->connections);
	} while (connections_count(&s->connections));
	_exit(0);
}

void server_run(struct server *s)
{
	uint64_t used_ns = clock_monotonic_ns();

	for (;;) {
		uint64_t now = clock_monotonic_ns();

		int ended;

		if (connections_count(&s->connections) || guard_sessions_count(&s->guard))
			used_ns = now;
		else if (s->idle_ns && now - used_ns >= s->idle_ns)
			server_end(s);
		if (s->logins.channel >= 0)
			logins_run(&s->logins);
		else
			sleep(1);
		connections_expire(&s->connections);
		while ((ended = guard_session_expire(&s->guard)) != 0)
			connections_end(&s->connections, ended, -1);
	}
}
