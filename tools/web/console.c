#include "tools/web/console.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/web/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A guest that reads no input for this time gets no more of it. */
#define INPUT_MS 2000

struct output {
	struct consoles *consoles;
	struct console *row;
	int fd;
	struct MHD_Connection *browser; /* borrowed */
	bool begun;
};

void consoles_init(struct consoles *c)
{
	pthread_mutex_init(&c->lock, NULL);
	for (size_t i = 0; i < CONSOLES_MAX; i++)
		c->rows[i].fd = -1;
}

static struct console *console_find(struct consoles *c, int session, const char *id)
{
	for (size_t i = 0; i < CONSOLES_MAX; i++)
		if (c->rows[i].fd >= 0 && c->rows[i].session == session && !strcmp(c->rows[i].id, id))
			return &c->rows[i];
	return NULL;
}

/* fd: taken on success. */
static int console_add(struct consoles *c, int session, const char *user, const char *id, int fd, struct console **ret, struct err *e)
{
	struct console *row = NULL;
	unsigned n = 0;
	LOCK_GUARD(&c->lock);

	for (size_t i = 0; i < CONSOLES_MAX; i++) {
		if (c->rows[i].fd < 0)
			row = &c->rows[i];
		else
			n += !strcmp(c->rows[i].user, user);
	}
	if (console_find(c, session, id))
		return err_set(e, -EEXIST, ERR_EXISTS, "the page has a console of this id");
	if (n >= USER_CONSOLES_MAX)
		return err_set(e, -EBUSY, ERR_BUSY, "your pages have %d consoles and screens open, which is the most; close one", USER_CONSOLES_MAX);
	if (!row)
		return err_set(e, -EBUSY, ERR_BUSY, "all users' pages have %d consoles and screens open, which is the most; try again later",
			CONSOLES_MAX);
	*row = (struct console){ .fd = fd, .session = session };
	memcpy(row->user, user, strlen(user) + 1);
	memcpy(row->id, id, strlen(id) + 1);
	*ret = row;
	return 0;
}

static ssize_t output_read(void *opaque, uint64_t position, char *buf, size_t max)
{
	struct output *o = opaque;
	ssize_t n;

	(void)position;
	if (!o->begun) { /* so that the browser gets the headers before the guest prints */
		o->begun = true;
		buf[0] = 0;
		return 1;
	}
	if (!stream_wait(o->fd, o->browser))
		return MHD_CONTENT_READER_END_OF_STREAM;
	n = read(o->fd, buf, max);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	return n > 0 ? n : MHD_CONTENT_READER_END_OF_STREAM;
}

static void output_free(void *opaque)
{
	struct output *o = opaque;
	LOCK_GUARD(&o->consoles->lock);

	close(o->row->fd);
	o->row->fd = -1;
	free(o);
}

/* Make the answer. fd: taken. */
static int output_new(struct consoles *c, int session, const char *user, const char *id, int fd, struct MHD_Connection *browser,
	struct MHD_Response **ret_r, struct err *e)
{
	struct console *row = NULL;
	struct output *o;
	int r = console_add(c, session, user, id, fd, &row, e);

	if (r < 0) {
		close(fd);
		return r;
	}
	o = must_alloc(calloc(1, sizeof(*o)));
	*o = (struct output){ .consoles = c, .row = row, .fd = fd, .browser = browser };
	*ret_r = must_alloc(MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 65536, output_read, o, output_free));
	return 0;
}

int console_open(struct consoles *c, const struct links *links, enum link_kind kind, int session, const char *user, const char *vm,
	const char *id, struct MHD_Connection *browser, struct MHD_Response **ret_r, struct err *e)
{
	int fd = -1, r = links_open(links, kind, vm, &fd, e);

	return r < 0 ? r : output_new(c, session, user, id, fd, browser, ret_r, e);
}

/* Returns a duplicate of the console's fd, which the caller closes; -1: no such console. */
static int console_fd(struct consoles *c, int session, const char *id)
{
	LOCK_GUARD(&c->lock);
	struct console *row = console_find(c, session, id);

	return row ? fcntl(row->fd, F_DUPFD_CLOEXEC, 0) : -1;
}

int console_write(struct consoles *c, int session, const char *id, const char *data, size_t len, struct err *e)
{
	CLEANUP_CLOSE int fd = console_fd(c, session, id);
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	ssize_t n;

	if (fd < 0)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "this console or screen is closed; open it again");
	while (len) {
		n = send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return err_set(e, -ENOENT, ERR_NOT_FOUND, "this console or screen is closed; open it again");
		if (n < 0 && poll(&p, 1, INPUT_MS) == 0)
			return err_set(e, -EAGAIN, ERR_TIMEOUT, "the guest does not read its console; %zu bytes of the input are lost", len);
		data += MAX(n, 0);
		len -= (size_t)MAX(n, 0);
	}
	return 0;
}
