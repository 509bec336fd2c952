#include "api/socket_keep.h"
#include "api/qmp/qmp.h"
#include "api/store/paths.h"
#include "api/vm/vm_host.h"
#include "api/wire/conn.h"
#include "api/wire/listen.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define LOOK_NS (10 * CLOCK_NS_PER_S)

struct socket_keep {
	struct vm_host *host;
	struct loop_timer *timer;
};

static int socket_make(struct vm_host *host, struct err *e)
{
	const char *path = host->paths->socket;
	gid_t operators;
	int fd = -1, r = listen_prepare(path, false, e);

	if (!r)
		r = listen_open(path, host->paths->system, &fd, &operators, e);
	if (!r)
		r = server_listen(host->server, fd, e);
	if (r < 0)
		return r;
	qmp_close_all(host);
	return qmp_open_all(host, e);
}

static void look(void *opaque)
{
	struct socket_keep *k = opaque;
	struct err e;

	if (access(k->host->paths->socket, F_OK) < 0 && errno == ENOENT) {
		/* It fails until the user's next session, without a word each time. */
		if (socket_make(k->host, &e) < 0)
			log_debug("socket", "%s is gone: %s", k->host->paths->socket, e.msg);
		else
			log_warn("socket", "%s was gone; listening there again", k->host->paths->socket);
	}
	loop_timer_arm(k->timer, loop_now_ns() + LOOK_NS);
}

int socket_keep_new(struct vm_host *host, struct socket_keep **ret, struct err *e)
{
	struct socket_keep *k = must_alloc(calloc(1, sizeof(*k)));
	int r;

	k->host = host;
	r = loop_timer_new(host->loop, look, k, &k->timer);
	if (r < 0) {
		free(k);
		return err_set_errno(e, r, "socket");
	}
	loop_timer_arm(k->timer, loop_now_ns() + LOOK_NS);
	*ret = k;
	return 0;
}

void socket_keep_free(struct socket_keep *k)
{
	if (!k)
		return;
	loop_timer_free(k->timer);
	free(k);
}
