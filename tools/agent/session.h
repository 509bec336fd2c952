/* session: one connection of the host, and the program that it has started.
 *
 * The program is the leader of a session of its own (setsid). When the connection ends, all processes of that session
 * are killed. A zombie keeps the number of the session until then, so no other process is hit. */
#ifndef CAIRN_TOOLS_AGENT_SESSION_H
#define CAIRN_TOOLS_AGENT_SESSION_H

#include "base/agent_frame.h"

#include <poll.h>

#define SESSION_FDS 4
/* One more frame of output fits behind a frame that the host has not read. */
#define SESSION_OUT_BYTES (2 * AGENT_FRAME_MAX)

struct session {
	int sock; /* -1: the connection has ended */
	pid_t pid; /* 0: none */
	bool terminal, exited, told; /* told: the last frame is queued */
	int status;		     /* as of waitpid(), once exited */
	int in, out[2];		     /* the program's streams; -1: closed. With a terminal, in and out[0] are its master */
	int64_t left[2];	     /* bytes to read from a stream after the program has exited */
	size_t rx_len, tx_at, tx_len, in_at, in_len;
	bool in_ends;
	unsigned mounts; /* MOUNT frames so far */
	uint32_t taken; /* bytes of input that the program has taken, which the host does not know */
	uint8_t rx[AGENT_FRAME_MAX];
	uint8_t tx[SESSION_OUT_BYTES];
	uint8_t input[AGENT_WINDOW_BYTES];
};

/* Begin a session on a connected socket, which it takes. */
void session_begin(struct session *s, int sock);
/* Fill in the events to poll for. */
void session_watch(const struct session *s, struct pollfd p[SESSION_FDS]);
/* Do the work that the result of poll() allows. May end the connection. */
void session_serve(struct session *s, const struct pollfd p[SESSION_FDS]);
/* Look whether the program has exited, after SIGCHLD. */
void session_child(struct session *s);
/* Return whether the session has neither a connection nor a process, so another one may begin. */
bool session_is_over(const struct session *s);

/* Queue a frame; there is always room for one that is not output. */
void session_send(struct session *s, enum agent_frame_type type, const void *data, size_t len);
/* Queue FAILED, the last frame. */
void session_fail(struct session *s, int error, enum agent_step step);

/* Whether the agent changes to the root folder that is mounted above its own: init may have left the initramfs, whose
 * root stays the agent's. Set once, at the start. */
extern bool session_root_follows;
/* Whether the agent makes a working folder that does not exist: the root is an image below a writable layer. Set once,
 * at the start. */
extern bool session_makes_folders;
/* Change to that folder, if session_root_follows is set. Returns 0 or -errno. */
int session_root_follow(void);
/* Give all signals their default actions, once at the agent's start: programs inherit the actions, and a call for each
 * signal and each program takes milliseconds where the kernel is emulated. The agent ignores SIGPIPE only. */
void session_signals_reset(void);
/* Start the program (start.c). The answer is queued. */
void session_start(struct session *s, const struct agent_start *want);

#endif
