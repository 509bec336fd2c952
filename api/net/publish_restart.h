/* publish_restart: starts a cairn-publish again that has ended while its VM runs: after 0.1 s, then with delays up to a
 * minute, with the same ports, which are opened anew with the rights of the forwards' authors. Threading: the daemon's
 * loop. */
#ifndef CAIRN_API_NET_PUBLISH_RESTART_H
#define CAIRN_API_NET_PUBLISH_RESTART_H

#include <signal.h>
#include <stdbool.h>

struct json_object;
struct vm;

/* Have the cairn-publish of interface `at` started again, unless it ended as it should. Logs, and emits
 * FORWARDS_CHANGE. Does nothing for an interface of another type. si: how it has ended; si_pid 0: unknown. */
void publish_restart_begin(struct vm *vm, unsigned at, const siginfo_t *si);
/* Do so for each interface of an adopted VM whose cairn-publish is gone. */
void publish_restarts_take_up(struct vm *vm);
/* Return why the ports of the interface are closed now, borrowed; NULL: nothing is wrong. */
const char *publish_restart_problem(const struct vm *vm, unsigned at);
/* Wait for the end of the try that comes next.
 * w: borrowed until go_on() is called, once, from the loop. ended: the VM has ended; else the try may have failed, and
 * publish_restart_problem() tells.
 * Returns whether there will be a try; false: the ports are open, or there are none. */
struct publish_wait {
	struct publish_wait *next;
	void (*go_on)(struct publish_wait *w, bool ended);
};
bool publish_restart_wait(struct vm *vm, unsigned at, struct publish_wait *w);
/* Put that into the interface's object as forwards-problem. */
void publish_restart_show(const struct vm *vm, unsigned at, struct json_object *o);
/* Drop all entries of the VM, which has ended or was removed. */
void publish_restarts_end(struct vm *vm);

#endif
