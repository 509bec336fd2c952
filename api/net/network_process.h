/* network_process: runs cairn-net (tools/net), the program that makes bridges, rules and address servers. Each
 * request has a process of its own, and the loop continues meanwhile. Request and answer are one JSON object each.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_NETWORK_PROCESS_H
#define CAIRN_API_NET_NETWORK_PROCESS_H

#include <stdint.h>

struct err;
struct json_object;
struct loop;
struct network;
struct network_definition;
struct network_process;

/* Make a request of the program. d: the definition for it. *ret: the caller's. Returns 0; -errno. */
int network_request_make(const struct network *n, const char *verb, const struct network_definition *d, struct json_object **ret, struct err *e);
/* Start the program. The process is killed when the daemon ends, and at the time limit.
 * program:  path of cairn-net.
 * request:  borrowed during the call.
 * done:     called once, from the loop, and the process is freed after it. answer: borrowed; NULL: a failure, and e
 * is set: the program's error, -EIO (it gave no answer), or -ETIMEDOUT.
 * Returns 0; -errno, and done() is not called. */
int network_process_start(struct loop *l, const char *program, struct json_object *request, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, struct json_object *answer, const struct err *e), void *opaque,
	struct network_process **ret_p, struct err *e);
/* Kill the process; done() is not called. NULL allowed. */
void network_process_free(struct network_process *p);

#endif
