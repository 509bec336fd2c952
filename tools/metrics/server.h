/* server: the web server of cairn-metrics, confined. */
#ifndef CAIRN_TOOLS_METRICS_SERVER_H
#define CAIRN_TOOLS_METRICS_SERVER_H

#include "tools/metrics/connections.h"
#include "tools/metrics/listen.h"

#include <limits.h>

struct err;
struct MHD_Daemon;

struct server {
	int fd; /* listens; the web server closes it */
	char socket[PATH_MAX]; /* the daemon's */
	char token[TOKEN_MAX]; /* empty: no token is needed */
	struct MHD_Daemon *http;
	struct connections connections;
};

/* Start the web server, and confine the process. Returns 0; -errno with a sentence. */
int server_start(struct server *s, struct err *e);
/* Serve until a signal ends the process. Returns an exit status. */
int server_run(struct server *s);

#endif
