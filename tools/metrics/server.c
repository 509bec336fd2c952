#include "tools/metrics/server.h"
#include "api/wire/client.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/log.h"
#include "base/util.h"
#include "tools/metrics/openmetrics.h"

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

/* A client has this long for its request, and for each part of the answer. */
#define CLIENT_SECONDS 10
#define CLIENTS_CROWD 32 /* from then on, a new client ends one whose request is incomplete */
#define CLIENTS_MAX 64
#define CLIENT_BYTES 16384
#define MEMORY_BYTES (512 * MIB)
#define FILES_MAX (CLIENTS_MAX + 32)
#define LOOK_MS 1000
/* The longest time of the daemon's answers for one request. Prometheus waits for 10 s. */
#define DAEMON_NS (5 * CLOCK_NS_PER_S)
#define TEXT_TYPE "text/plain; charset=utf-8"

/* No exec, no open file, no process. It makes Unix sockets for the daemon; sockets of networks are open already. */
static const int allowed[] = {
	SYS_read, SYS_write, SYS_close, SYS_poll, SYS_ppoll, SYS_select, SYS_pselect6, SYS_accept, SYS_accept4, SYS_connect, SYS_shutdown,
	SYS_sendto, SYS_sendmsg, SYS_recvfrom, SYS_recvmsg, SYS_setsockopt, SYS_getsockopt, SYS_getsockname, SYS_fcntl, SYS_brk,
	SYS_munmap, SYS_mremap, SYS_madvise, SYS_futex, SYS_clock_gettime, SYS_gettimeofday, SYS_exit_group, SYS_rt_sigreturn,
	SYS_restart_syscall, SYS_getpid, SYS_epoll_wait, SYS_epoll_ctl, SYS_epoll_create1, SYS_writev, SYS_getrandom,
};

static int sandbox(struct err *e)
{
	static const struct lockdown_limit limits[] = { { RLIMIT_NOFILE, FILES_MAX },
		{ RLIMIT_AS, LOCKDOWN_SANITIZED ? RLIM_INFINITY : MEMORY_BYTES } };
	struct call_filter f;
	int r = lockdown_begin(LOCKDOWN_OUTSIDE, limits, ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	call_filter_init(&f);
	lockdown_allow_memory(&f);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
	call_filter_value(&f, SYS_socket, SECCOMP_RET_ALLOW, 0, AF_UNIX);
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}

/* ---- the daemon ---- */

static int execute(void *opaque, const char *command, struct json_object *args, struct json_object **ret, struct err *e)
{
	return client_execute(opaque, command, args, ret, NULL, e);
}

/* Ask the daemon. Returns as metrics_fetch(). */
static int stats_fetch(const char *socket, struct metrics *ret, struct err *e)
{
	static struct ratelimit limit;
	struct client *c;
	int r = client_connect_until(socket, clock_monotonic_ns() + DAEMON_NS, &c, e);

	if (r == 0) {
		r = metrics_fetch(ret, execute, c, e);
		client_free(c);
	}
	if (r < 0 && log_ratelimit_pass(&limit))
		fprintf(stderr, "cairn-metrics: %s\n", e->msg);
	return r;
}

/* ---- requests ---- */

struct request {
	struct metrics metrics; /* the statistics that the answer was printed from */
};

static enum MHD_Result answer(struct MHD_Connection *c, unsigned status, const char *type, char *text, size_t size,
	enum MHD_ResponseMemoryMode mode)
{
	struct MHD_Response *r = MHD_create_response_from_buffer(size, text, mode);
	enum MHD_Result done;

	if (!r)
		return MHD_NO;
	MHD_add_response_header(r, "Content-Type", type);
	MHD_add_response_header(r, "Cache-Control", "no-store");
	MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
	if (status == MHD_HTTP_UNAUTHORIZED)
		MHD_add_response_header(r, "WWW-Authenticate", "Bearer realm=\"cairn\"");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(r, "Allow", "GET, HEAD");
	done = MHD_queue_response(c, status, r);
	MHD_destroy_response(r);
	return done;
}

static enum MHD_Result refuse(struct MHD_Connection *c, unsigned status, const char *why)
{
	return answer(c, status, TEXT_TYPE, (char *)(uintptr_t)why, strlen(why), MHD_RESPMEM_PERSISTENT);
}

/* Compare in a time that does not tell how much of the token is right. */
static bool token_fits(const struct server *s, const char *header)
{
	static const char scheme[] = "Bearer ";
	const char *given = header && !strncmp(header, scheme, sizeof(scheme) - 1) ? header + sizeof(scheme) - 1 : "";
	size_t n = strlen(s->token), m = strlen(given);
	unsigned char differs = n != m;

	for (size_t i = 0; i < n; i++)
		differs |= (unsigned char)(s->token[i] ^ (i < m ? given[i] : 0));
	return !differs;
}

/* ret: the statistics; the caller frees them when the answer is sent, since that takes some time. */
static enum MHD_Result metrics_answer(struct MHD_Connection *c, const struct server *s, struct metrics *ret)
{
	struct err e = { 0 };
	bool refused = stats_fetch(s->socket, ret, &e) < 0 && e.cls == ERR_PERMISSION;
	char *text = NULL;
	size_t size = 0;
	FILE *f = must_alloc(open_memstream(&text, &size));

	if (refused)
		fprintf(f, "%s\n", e.msg);
	else
		openmetrics_print(f, ret);
	if (fclose(f) != 0) {
		free(text);
		return MHD_NO;
	}
	return answer(c, refused ? MHD_HTTP_SERVICE_UNAVAILABLE : MHD_HTTP_OK, refused ? TEXT_TYPE : OPENMETRICS_TYPE, text, size,
		MHD_RESPMEM_MUST_FREE);
}

/* Returns the connection's row in the table, or -1. */
static int row_of(struct MHD_Connection *c)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info ? (int)(intptr_t)info->socket_context - 1 : -1;
}

static enum MHD_Result request_handle(void *opaque, struct MHD_Connection *c, const char *url, const char *method, const char *version,
	const char *body, size_t *body_bytes, void **request)
{
	struct server *s = opaque;
	struct request *q = *request;

	(void)version;
	(void)body;
	if (!q) { /* headers only; a client that is refused here need not send its body */
		*request = must_alloc(calloc(1, sizeof(*q)));
		if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
			return refuse(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
		return MHD_YES;
	}
	if (*body_bytes)
		return MHD_NO;
	connections_answer(&s->connections, row_of(c), -1);
	if (s->token[0] && !token_fits(s, MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION)))
		return refuse(c, MHD_HTTP_UNAUTHORIZED, "send the token: Authorization: Bearer TOKEN\n");
	if (strcmp(url, "/metrics"))
		return refuse(c, MHD_HTTP_NOT_FOUND, "the metrics are at /metrics\n");
	return metrics_answer(c, s, &q->metrics);
}

static void request_done(void *opaque, struct MHD_Connection *c, void **request, enum MHD_RequestTerminationCode why)
{
	struct server *s = opaque;
	struct request *q = STEAL_PTR(*request);

	(void)why;
	connections_wait(&s->connections, row_of(c));
	if (q)
		metrics_done(&q->metrics);
	free(q);
}

static void connection_notify(void *opaque, struct MHD_Connection *c, void **context, enum MHD_ConnectionNotificationCode what)
{
	struct server *s = opaque;

	if (what == MHD_CONNECTION_NOTIFY_STARTED)
		*context = (void *)(intptr_t)(1 + connections_add(&s->connections,
			MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd));
	else
		connections_remove(&s->connections, (int)(intptr_t)*context - 1);
}

int server_start(struct server *s, struct err *e)
{
	connections_init(&s->connections, CLIENTS_CROWD);
	s->http = MHD_start_daemon(MHD_NO_FLAG, 0, NULL, NULL, request_handle, s,
		MHD_OPTION_LISTEN_SOCKET, s->fd, MHD_OPTION_NOTIFY_COMPLETED, request_done, s, MHD_OPTION_NOTIFY_CONNECTION, connection_notify, s,
		MHD_OPTION_CONNECTION_LIMIT, (unsigned)CLIENTS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
		(unsigned)CLIENT_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CLIENT_BYTES, MHD_OPTION_END);
	if (!s->http)
		return err_set(e, -EIO, ERR_HOST, "the web server does not start");
	return sandbox(e);
}

int server_run(struct server *s)
{
	while (MHD_run_wait(s->http, connections_count(&s->connections) ? LOOK_MS : -1) == MHD_YES)
		connections_expire(&s->connections);
	fprintf(stderr, "cairn-metrics: the web server has ended\n");
	return 1;
}
