/* guest_session: run a program in the guest with cairn-agent (docs/agent.md), with its streams. The guest is not
 * trusted: each frame from it is checked, and the session ends if the guest does not answer in time. */
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
	bool ends_vm;		/* the VM ends after the session: the second SIGINT or SIGTERM ends the session
				 * [it kills the program], and a program killed at the deadline has 1 s to end [5 s] */
	uint64_t deadline_ns;	/* the program is killed then; UINT64_MAX: never */
	/* Take output. Returns 0; -errno with a sentence ends the session. */
	int (*output)(void *opaque, bool is_error, uint8_t *data, size_t len, struct err *e);
	void *opaque;

	/* Result: */
	bool timed_out;
	int failed, step;   /* errno of the guest and enum agent_step: the program was not started; 0: it was */
	int status, signal; /* of the program */
	int ended_by;	    /* the signal to this process that has ended the session; 0: none */
};

/* A share that the agent mounts before it starts the program. */
#define GUEST_MOUNT_TAG "cairn-volume" /* the tags begin so */
struct guest_mount {
	char tag[24];
	char *folder;	    /* of the guest; owned */
	const char *option; /* value of --volume, for errors; borrowed */
};

/* A connection to the agent. */
struct guest_link {
	int sock;    /* owned */
	bool greets; /* it is to the VM's vsock socket, and the line CONNECT has not been sent */
	bool renews; /* the guest continues from a state of several guests, so RENEW is sent with the line CONNECT */
	const char *name; /* then, the guest's host name; borrowed; NULL: that of the state */
	const struct guest_mount *mounts; /* borrowed */
	size_t nmounts;
	void (*started)(void *opaque); /* called when the program has been started; NULL: not wanted */
	void *opaque;
};

/* Connect to the agent. The agent may turn out to be missing only when a session runs.
 * vm: a name, or the path of a VM's vsock socket, which has a slash.
 * Returns 0 and *ret; -errno with a sentence. */
int guest_link_open(struct cli *c, const char *vm, struct guest_link *ret, struct err *e);
/* Choose the error of a verb for which neither agent answers.
 * cairn: why cairn-agent does not; NULL: it was not asked. qga: why QEMU's does not. Returns one of the two: that of
 * cairn-agent if the VM has no port for QEMU's. If the VM has what both need, the text of cairn is put before that of
 * qga. */
const struct err *guest_link_error(const struct err *cairn, struct err *qga);
/* Close the connection. The guest then kills the program, if it still runs. Does nothing if sock is -1. */
void guest_link_close(struct guest_link *link);
/* Write the frame RENEW, with the present time, random bytes and link->name. Returns its length. */
#define GUEST_RENEWAL_MAX (AGENT_HEADER_BYTES + AGENT_RENEW_BYTES + AGENT_NAME_MAX)
size_t guest_renewal_put(const struct guest_link *link, uint8_t frame[GUEST_RENEWAL_MAX]);
/* Run the program until it has ended.
 * Returns 0; -errno with a sentence. */
int guest_session_run(struct guest_session *s, const struct guest_link *link, struct err *e);

#endif
