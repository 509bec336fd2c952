/* cairn-web: serves a page to manage VMs with a browser, for the user who runs it, or with --pam for each user who logs
 * in. It is a client of the daemon, which sees that user. `cairn web` starts it. */
#include "api/store/paths.h"
#include "base/clock.h"
#include "base/duration.h"
#include "base/err.h"
#include "base/notify.h"
#include "base/program.h"
#include "tools/web/server.h"
#include "tools/web/socket.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
	"usage: cairn-web [--listen ADDRESS:PORT|--unix PATH] [--certificate FILE --key FILE] [--connect SOCKET]\n"
	"                 [--pam [--allow-root]] [--session-idle TIME] [--session-limit TIME] [--idle TIME]\n"
	"Serve a page to manage VMs with a browser, and print its address. See cairn-web(1).\n"
	"  --listen ADDRESS:PORT  listen on this address, without TLS of loopback; port 0: a free one [127.0.0.1:0]\n"
	"  --unix PATH            listen on this Unix socket, which only you may open\n"
	"  --certificate FILE     with TLS: PEM file of the certificate and its chain\n"
	"  --key FILE             PEM file of its key, which only you may read\n"
	"  --pam                  serve each user who logs in with a password of this host; needs root\n"
	"  --allow-root           with --pam: root may log in, too\n"
	"  --session-idle TIME    end a session after this time without a request [12h; with --pam 1h]\n"
	"  --session-limit TIME   end a session after this time [none; with --pam 12h]\n"
	"  --idle TIME            end after this time without a session and a connection, such as 10m [never]\n"
	"  --connect SOCKET       the daemon's socket [CAIRN_SOCKET; else as for cairn]\n";

struct options {
	const char *listen, *unix_path, *connect, *certificate, *key;
	uint32_t idle_s, session_idle_s, session_limit_s; /* 0: not given */
	bool pam, allow_root;
};

static int time_parse(const char *option, const char *text, uint32_t *ret_s, struct err *e)
{
	if (duration_parse(text, ret_s) < 0 || !*ret_s)
		return err_set(e, -EINVAL, ERR_INVALID, "%s must be a time with its unit, such as 10m, not \"%s\"", option, text);
	return 0;
}

static int options_check(const struct options *o, struct err *e)
{
	if (o->unix_path && o->listen)
		return err_set(e, -EINVAL, ERR_INVALID, "give either --listen or --unix; see cairn-web --help");
	if (!o->certificate != !o->key || (o->key && o->unix_path))
		return err_set(e, -EINVAL, ERR_INVALID, "TLS needs both --certificate and --key, and a TCP port; see cairn-web --help");
	if (o->allow_root && !o->pam)
		return err_set(e, -EINVAL, ERR_INVALID, "--allow-root is for --pam; see cairn-web --help");
	return 0;
}

/* Returns 0; 1: the usage was asked for; -EINVAL with a sentence. */
static int options_parse(int argc, char **argv, struct options *o, struct err *e)
{
	static const struct option all[] = { { "listen", required_argument, NULL, 'l' }, { "unix", required_argument, NULL, 'u' },
		{ "connect", required_argument, NULL, 'c' }, { "certificate", required_argument, NULL, 'C' }, { "key", required_argument, NULL, 'K' },
		{ "idle", required_argument, NULL, 'i' }, { "session-idle", required_argument, NULL, 's' },
		{ "session-limit", required_argument, NULL, 'S' }, { "pam", no_argument, NULL, 'p' }, { "allow-root", no_argument, NULL, 'r' },
		{ "help", no_argument, NULL, 'h' }, { NULL, 0, NULL, 0 } };
	int k, r = 0;

	opterr = 0;
	while (!r && (k = getopt_long(argc, argv, "c:h", all, NULL)) != -1) {
		switch (k) {
		case 'l': o->listen = optarg; break;
		case 'u': o->unix_path = optarg; break;
		case 'c': o->connect = optarg; break;
		case 'C': o->certificate = optarg; break;
		case 'K': o->key = optarg; break;
		case 'p': o->pam = true; break;
		case 'r': o->allow_root = true; break;
		case 'i': r = time_parse("--idle", optarg, &o->idle_s, e); break;
		case 's': r = time_parse("--session-idle", optarg, &o->session_idle_s, e); break;
		case 'S': r = time_parse("--session-limit", optarg, &o->session_limit_s, e); break;
		case 'h': return 1;
		default:
			return err_set(e, -EINVAL, ERR_INVALID, "unknown option, or one without its value: %s; see cairn-web --help", argv[optind - 1]);
		}
	}
	if (!r && optind < argc)
		r = err_set(e, -EINVAL, ERR_INVALID, "unknown argument: %s; see cairn-web --help", argv[optind]);
	return r < 0 ? r : options_check(o, e);
}

/* Make the base of the page's address. */
static void base_make(struct server *s, const struct web_socket *at)
{
	char name[TLS_NAME_BYTES];

	if (!at->port)
		snprintf(s->base, sizeof(s->base), "http://localhost");
	else if (s->tls.key && tls_first_name(&s->tls, name))
		snprintf(s->base, sizeof(s->base), "https://%s:%u", name, at->port);
	else
		snprintf(s->base, sizeof(s->base), "%s://%s:%u", s->tls.key ? "https" : "http", at->address, at->port);
}

static int server_begin(const struct options *o, struct server *s, struct err *e)
{
	struct web_socket at;
	int r = paths_client_socket(o->connect, s->socket, sizeof(s->socket), e);

	if (!r && o->key)
		r = tls_load(o->certificate, o->key, &s->tls, e);
	if (!r)
		r = web_socket_open(o->listen, o->unix_path, o->key, &at, e);
	if (!r && o->pam)
		r = logins_begin(&s->logins, s->socket, o->allow_root, e);
	if (r < 0)
		return r;
	s->fd = at.fd;
	s->idle_ns = o->idle_s * CLOCK_NS_PER_S;
	base_make(s, &at);
	guard_init(&s->guard, at.port, s->tls.key ? &s->tls : NULL, &s->logins);
	if (o->session_idle_s)
		s->guard.session_idle_ns = o->session_idle_s * CLOCK_NS_PER_S;
	if (o->session_limit_s)
		s->guard.session_limit_ns = o->session_limit_s * CLOCK_NS_PER_S;
	connections_init(&s->connections, CONNECTIONS_CROWD);
	consoles_init(&s->consoles);
	pthread_mutex_init(&s->requests.lock, NULL);
	return server_start(s, e);
}

int main(int argc, char **argv)
{
	static struct server s = { .fd = -1 };
	struct options o = { 0 };
	struct err e;
	int r = program_begin(&e), notify = notify_open();

	signal(SIGPIPE, SIG_IGN);
	logins_init(&s.logins);
	if (!r)
		r = options_parse(argc, argv, &o, &e);
	if (r > 0) {
		fputs(usage, stdout);
		return program_end("cairn-web", 0);
	}
	if (!r)
		r = server_begin(&o, &s, &e);
	if (r < 0) {
		fprintf(stderr, "cairn-web: %s\n", e.msg);
		return r == -EINVAL ? 2 : 1;
	}
	server_address_print(&s);
	if (s.logins.channel >= 0)
		logins_ready(&s.logins);
	else
		notify_send(notify, "READY=1");
	server_run(&s);
}
