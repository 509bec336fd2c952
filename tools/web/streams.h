/* streams: answers without an end, for the thread of their connection. */
#ifndef CAIRN_TOOLS_WEB_STREAMS_H
#define CAIRN_TOOLS_WEB_STREAMS_H

#include <stdbool.h>

struct err;
struct links;
struct MHD_Response;

/* Wait until there is something to read from fd. Returns false: the browser has disconnected. */
bool stream_wait(int fd, int browser);
/* Make an answer of the daemon's events: one JSON object a line, the first without an event. It ends when the daemon
 * or the browser does.
 * browser: the connection's fd, borrowed.
 * Returns 0; -errno with a sentence. */
int stream_events(const struct links *links, int browser, struct MHD_Response **ret_r, struct err *e);

#endif
