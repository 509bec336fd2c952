/* server: the web server of cairn-web, confined. A thread serves each connection. */
#ifndef CAIRN_TOOLS_WEB_SERVER_H
#define CAIRN_TOOLS_WEB_SERVER_H

#include "tools/metrics/connections.h"
#include "tools/web/bridge.h"
#include "tools/web/console.h"
#include "tools/web/guard.h"
#include "tools/web/login.h"
#include "tools/web/peer.h"
#include "tools/web/tls.h"

#include <limits.h>

struct err;
struct MHD_Daemon;

/* From this number of connections on, each new one ends one that waits for a request. */
#define CONNECTIONS_CROWD 320

struct server {
	int fd; /* listens; the web server closes it */
	char socket[PATH_MAX]; /* the daemon's */
	uint64_t idle_ns; /* end after this time without a session and a connection; 0: never */
	char base[TLS_NAME_BYTES + 32]; /* of the page's address: "http://127.0.0.1:9178" */
	struct tls tls;
	struct logins logins;
	struct peers peers;
	struct guard guard;
	struct connections connections;
	struct consoles consoles;
	struct requests requests;
	struct MHD_Daemon *http;
};

/* Confine the process and start the web server. Returns 0; -errno with a sentence. */
int server_start(struct server *s, struct err *e);
/* Serve until a signal ends the process, or until it has been idle for long enough. */
void server_run(struct server *s) __attribute__((noreturn));
/* Print the address of the page, with the token for the next login if there are no logins with passwords. */
void server_address_print(struct server *s);

#endif
