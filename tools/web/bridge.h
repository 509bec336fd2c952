/* bridge: passes commands of the page to the daemon. Any thread. */
#ifndef CAIRN_TOOLS_WEB_BRIDGE_H
#define CAIRN_TOOLS_WEB_BRIDGE_H

#include "tools/login/message.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

struct err;
struct links;

/* Requests that are run, or whose answer is being sent. Each takes some MiB of memory. */
#define REQUESTS_MAX 64
#define USER_REQUESTS_MAX 8 /* a browser has six connections to a server */

struct requests {
	pthread_mutex_t lock;
	struct {
		bool used;
		char user[LOGIN_USER_BYTES];
	} rows[REQUESTS_MAX];
};

/* Count a request. user: of the session. Returns its row; -EBUSY with a sentence: too many are under way. */
int requests_begin(struct requests *q, const char *user, struct err *e);
/* The answer is sent. row -1: nothing. */
void requests_end(struct requests *q, int row);

/* Run {"execute", "arguments"}, or an array of at most 64 of them one after the other. When the browser disconnects,
 * no further one is run, and the answer of the present one is not awaited.
 * browser: its socket. seconds: the longest time for a command that is not in an array; it continues then, and its
 * answer is {"pending": true}; 0: any time. body[len] is NUL.
 * Returns the answer as text: {"return"} or {"error"}, or an array of them; the caller frees it. */
char *bridge_execute(const struct links *links, int browser, unsigned seconds, const char *body, size_t len, size_t *ret_len);

#endif
