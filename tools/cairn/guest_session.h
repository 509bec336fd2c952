/* guest_session: run a program in the guest with cairn-agent (docs/agent.md), with its streams. What comes from the
 * guest is not trusted: each frame is checked, and a guest that does not answer in time ends the session. */
#ifndef CAIRN_TOOLS_GUEST_SESSION_H
#define CAIRN_TOOLS_GUEST_SESSION_H

#include "base/agent_frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cli;
struct err;

struct guest_session {
	/* The caller sets: */
	const struct agent_start *start; /* borrowed */
	int in;			/* standard input; read only if the start has AGENT_START_INPUT */
	int signals;		/* signalfd: SIGINT and SIGTERM go to the program, but end a copy; SIGWINCH tells the size of
				 * terminal 0, others end the session; -1: none */
	uint64_t deadline_ns;	/* the program is killed then; UINT64_MAX: never */
	/* Take output. Returns 0; -errno with a sentence ends the session. */
	int (*output)(void *opaque, bool is_error, uint8_t *data, size_t len, struct err *e);
	void *opaque;

	/* Result: */
	bool timed_out;
	int failed, step;   /* errno of the guest and enum agent_step: the program was not started; 0: it was */
	int status, signal; /* of the program */
};

/* Connect to the agent.
 * vm: a name, or the path of a VM's vsock socket, which has a slash.
 * Returns 0 and an owned *ret_sock; -errno with a sentence. */
int guest_session_connect(struct cli *c, const char *vm, int *ret_sock, struct err *e);
/* Run the program until it has ended.
 * sock: borrowed; the caller closes it, and with that the guest kills what still runs.
 * Returns 0; -errno with a sentence. */
int guest_session_run(struct guest_session *s, int sock, struct err *e);

#endif
