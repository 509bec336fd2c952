/* streams: answers without an end, for the thread of their connection. */
#ifndef CAIRN_TOOLS_WEB_STREAMS_H
#define CAIRN_TOOLS_WEB_STREAMS_H

#include <stdbool.h>

struct err;
struct links;
struct MHD_Connection;
struct MHD_Response;

/* The browser must take a part of the answer in this time. */
#define CLIENT_SECONDS 10

int stream_browser_fd(struct MHD_Connection *browser);
/* Wait without a limit until there is something to read from fd. Then the browser has CLIENT_SECONDS to take a part of
 * it. Returns false: the browser has disconnected. */
bool stream_wait(int fd, struct MHD_Connection *browser);
/* Make an answer of the daemon's events: one JSON object a line, the first without an event. It ends when the daemon
 * or the browser does.
 * Returns 0; -errno with a sentence. */
int stream_events(const struct links *links, struct MHD_Connection *browser, struct MHD_Response **ret_r, struct err *e);

#endif
