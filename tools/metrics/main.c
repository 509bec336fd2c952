/* cairn-metrics: serves statistics of all VMs to Prometheus, as a client of the daemon. One request after the other.
 * It needs only the role viewer, and refuses to run as root, to whom the daemon permits everything. */
#include "api/store/paths.h"
#include "base/err.h"
#include "base/notify.h"
#include "base/program.h"
#include "tools/metrics/listen.h"
#include "tools/metrics/server.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
	"usage: cairn-metrics {--unix PATH|--tcp ADDRESS:PORT --token-file FILE} [--connect SOCKET]\n"
	"Serve statistics of all VMs in the format OpenMetrics at /metrics. See cairn-metrics(1).\n"
	"  --unix PATH        listen on this Unix socket; whoever may open it may read\n"
	"  --tcp ADDRESS:PORT listen on this TCP port: 127.0.0.1:9177, [::1]:9177\n"
	"  --token-file FILE  with --tcp: serve clients that send the token in FILE: Authorization: Bearer TOKEN\n"
	"  --connect SOCKET   the daemon's socket [CAIRN_SOCKET; else as for cairn]\n";

struct options {
	const char *unix_path, *tcp, *token_file, *connect;
};

/* Returns 0; 1: the usage was asked for; -EINVAL with a sentence. */
static int options_parse(int argc, char **argv, struct options *o, struct err *e)
{
	static const struct option all[] = { { "unix", required_argument, NULL, 'u' }, { "tcp", required_argument, NULL, 't' },
		{ "token-file", required_argument, NULL, 'f' }, { "connect", required_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' }, { NULL, 0, NULL, 0 } };
	int k;

	opterr = 0;
	while ((k = getopt_long(argc, argv, "c:h", all, NULL)) != -1) {
		switch (k) {
		case 'u': o->unix_path = optarg; break;
		case 't': o->tcp = optarg; break;
		case 'f': o->token_file = optarg; break;
		case 'c': o->connect = optarg; break;
		case 'h': return 1;
		default:
			return err_set(e, -EINVAL, ERR_INVALID, "unknown option, or one without its value: %s; see cairn-metrics --help", argv[optind - 1]);
		}
	}
	if (optind < argc || !o->unix_path == !o->tcp)
		return err_set(e, -EINVAL, ERR_INVALID, "give either --unix or --tcp; see cairn-metrics --help");
	if (o->tcp && !o->token_file)
		return err_set(e, -EINVAL, ERR_INVALID,
			"--tcp needs --token-file, because every local user and every web page in a browser reaches a port; make one: openssl rand -hex 32 >FILE");
	if (o->unix_path && o->token_file)
		return err_set(e, -EINVAL, ERR_INVALID, "--token-file is for --tcp; the mode of the Unix socket's folder says who may read");
	return 0;
}

static int server_begin(const struct options *o, struct server *s, struct err *e)
{
	int r = 0;

	if (geteuid() == 0)
		return err_set(e, -EPERM, ERR_PERMISSION,
			"root may do everything with VMs; start it as a user with the role viewer only: systemctl start cairn-metrics");
	r = paths_client_socket(o->connect, s->socket, sizeof(s->socket), e);
	if (!r && o->token_file)
		r = token_read(o->token_file, s->token, e);
	if (!r)
		r = o->tcp ? listen_tcp("--tcp", o->tcp, 1, &s->fd, e) : listen_unix(o->unix_path, 0660, &s->fd, e);
	return r < 0 ? r : server_start(s, e);
}

int main(int argc, char **argv)
{
	struct options o = { 0 };
	struct server s = { .fd = -1 };
	struct err e;
	int r = program_begin(&e), notify = notify_open();

	signal(SIGPIPE, SIG_IGN);
	if (!r)
		r = options_parse(argc, argv, &o, &e);
	if (r > 0) {
		fputs(usage, stdout);
		return program_end("cairn-metrics", 0);
	}
	if (!r)
		r = server_begin(&o, &s, &e);
	if (r < 0) {
		fprintf(stderr, "cairn-metrics: %s\n", e.msg);
		return r == -EINVAL ? 2 : 1;
	}
	notify_send(notify, "READY=1");
	return server_run(&s);
}
