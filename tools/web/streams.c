#include "tools/web/streams.h"
#include "api/wire/client.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/web/links.h"

#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int stream_browser_fd(struct MHD_Connection *browser)
{
	return MHD_get_connection_info(browser, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
}

bool stream_wait(int fd, struct MHD_Connection *browser)
{
	struct pollfd p[] = { { .fd = fd, .events = POLLIN }, { .fd = stream_browser_fd(browser), .events = POLLRDHUP } };

	MHD_set_connection_option(browser, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
	while (poll(p, ARRAY_SIZE(p), -1) < 0)
		if (errno != EINTR)
			return false;
	/* From 0, the library counts the time from now on. */
	MHD_set_connection_option(browser, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)CLIENT_SECONDS);
	return !p[1].revents;
}

/* ---- events ---- */

struct events {
	struct client *daemon;
	struct MHD_Connection *browser; /* borrowed */
	char *text; /* output that the browser has not got yet */
	size_t at, len;
};

/* Get the next event as a line. Returns false at the end. */
static bool event_read(struct events *v)
{
	struct json_object *o = NULL;
	struct err e;
	int r;

	while ((r = client_next_event(v->daemon, 0, &o, &e)) == -ETIMEDOUT)
		if (!stream_wait(client_fd(v->daemon), v->browser))
			return false;
	if (r < 0)
		return false;
	free(v->text);
	v->at = 0;
	r = asprintf(&v->text, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	must_alloc(r < 0 ? NULL : v->text);
	v->len = (size_t)r;
	return true;
}

static ssize_t events_read(void *opaque, uint64_t position, char *buf, size_t max)
{
	struct events *v = opaque;
	size_t n;

	(void)position;
	if (v->at == v->len && !event_read(v))
		return MHD_CONTENT_READER_END_OF_STREAM;
	n = MIN(max, v->len - v->at);
	memcpy(buf, v->text + v->at, n);
	v->at += n;
	return (ssize_t)n;
}

static void events_free(void *opaque)
{
	struct events *v = opaque;

	client_free(v->daemon);
	free(v->text);
	free(v);
}

int stream_events(const struct links *links, struct MHD_Connection *browser, struct MHD_Response **ret_r, struct err *e)
{
	struct client *daemon;
	struct events *v;
	int r = links_client(links, &daemon, e);

	if (r < 0)
		return r;
	v = must_alloc(calloc(1, sizeof(*v)));
	*v = (struct events){ .daemon = daemon, .browser = browser };
	/* The first line tells the browser that no later event is missed. */
	v->text = must_alloc(strdup("{}\n"));
	v->len = strlen(v->text);
	*ret_r = must_alloc(MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, events_read, v, events_free));
	return 0;
}
