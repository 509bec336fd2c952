/* agent: the host's side of the QEMU guest agent protocol, JSON lines over the port
 * org.qemu.guest_agent.0. Freezes and thaws file systems, sets the clock after a restore or a revert, sets a host
 * name, shuts the guest down, asks for its addresses, and passes commands of clients on.
 *
 * The agent runs in the guest, so its answers are untrusted: their size is bounded and every wait
 * has a timeout. Every freeze is followed by a thaw: by agent_thaw(), after a freeze that failed or
 * timed out, or after AGENT_HOLD_NS.
 *
 * Before a command, a sync finds out whether an agent answers. If no answer comes within AGENT_SYNC_NS, the command
 * fails. The next command sends another sync, and accepts the answer to any sync since the last command. So an agent
 * that always answers late still gets a command that a client repeats.
 *
 * Commands run one at a time, in this order when several are due: thaw, freeze, clock, agent_tell() or
 * agent_shutdown(), address query, agent_command(), host name, ping.
 *
 * Threading: all functions run on the loop's thread, except agent_port(). */
#ifndef CAIRN_VMM_AGENT_AGENT_H
#define CAIRN_VMM_AGENT_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct agent;
struct err;
struct loop;
struct vm_addresses;

#define AGENT_PORT "org.qemu.guest_agent.0"
#define AGENT_LINE_MAX (64 * 1024) /* large enough for a guest with many interfaces */
#define AGENT_SYNC_NS (5 * 1000000000ULL)    /* a running agent answers at once */
#define AGENT_FREEZE_NS (20 * 1000000000ULL) /* the guest writes dirty pages back first */
#define AGENT_THAW_NS (5 * 1000000000ULL)
#define AGENT_HOLD_NS (10 * 1000000000ULL)
#define AGENT_SILENCE_NS 1000000000ULL /* after guest-shutdown, silence means success */
#define AGENT_WORDS_MAX 255

/* Timeouts of the steps. */
struct agent_times {
	uint64_t sync_ns, freeze_ns, thaw_ns, hold_ns;
	uint64_t turn_ns; /* AGENT_TURN_NS */
};

/* Create the client.
 * fd: a stream socket to the port; taken on success.
 * t: NULL: the defaults above.
 * Returns 0 or -errno. */
int agent_new(
	struct loop *l, int fd, const struct agent_times *t, struct agent **ret_a, struct err *e);
/* Free the client; NULL allowed. Does not call the done() of requests in progress. */
void agent_free(struct agent *a);

/* Report that the guest opened or closed the port. Any thread.
 * loaded: the port's state comes from a saved state, so no ping is sent. Otherwise a guest program
 * has just opened the port, and a ping finds out whether that program is an agent. */
void agent_port(struct agent *a, bool open, bool loaded);
/* Call changed() from the loop, at most 8 times a second, when the port opens or closes or when an
 * agent starts or stops answering. */
void agent_watch(struct agent *a, void (*changed)(void *opaque, bool open, bool answers), void *opaque);
/* Return the last known values. NULL allowed: false. */
bool agent_port_is_open(const struct agent *a);
bool agent_answers(const struct agent *a);

/* Freeze the guest's file systems, after the command in progress. A client's command fails with -ETIMEDOUT after
 * AGENT_TURN_NS.
 * done: called once, from the loop, unless this function fails. r is 0 when everything is frozen; -ETIMEDOUT; -EIO with
 * the agent's reason; -EPROTO for a malformed answer.
 * Returns 0; -EBUSY if another freeze waits, is in progress or still holds the file systems. */
int agent_freeze(struct agent *a, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque, struct err *e);
/* Return whether a freeze succeeded and no thaw has begun. */
bool agent_is_frozen(const struct agent *a);
/* Thaw the file systems, if they are frozen. NULL allowed. */
void agent_thaw(struct agent *a);
/* Return whether the guest may be frozen: a freeze was sent, or restored from a saved state, and
 * the agent has not confirmed a thaw. NULL allowed. */
bool agent_needs_thaw(const struct agent *a);
/* Report that the guest was reset, or that its state was replaced by a saved one. A command that was sent fails with
 * -ECANCELED: the agent of that state was not asked it, and may answer an earlier one.
 * frozen: the guest's file systems were frozen in that state. NULL agent allowed. */
void agent_restored(struct agent *a, bool frozen);
/* Report that the agent answered another process, which handed the VM over. NULL agent allowed. */
void agent_carried(struct agent *a);
/* Thaw a guest that was restored frozen, after the command in progress and before its clock is set.
 * failed: called when the agent does not confirm the thaw; NULL allowed. NULL agent allowed. */
void agent_thaw_restored(struct agent *a, void (*failed)(void *opaque), void *opaque);
/* Set the guest's clock to the host's, after the command in progress. Best effort: a failure is
 * only logged. NULL allowed. */
void agent_set_time(struct agent *a);
/* Set the guest's host name, after the clock. Best effort, as agent_set_time().
 * name: a VM's name, converted by agent_hostname(). */
void agent_set_hostname(struct agent *a, const char *name);

/* Show a line to the guest's logged-in users (wall), after the command in progress.
 * line: one line of at most AGENT_WORDS_MAX bytes.
 * done: called once, from the loop, unless this function fails. r is 0; -ETIMEDOUT; -EBUSY: other commands took
 * longer than AGENT_TURN_NS, and it was not sent; -EIO with the agent's reason.
 * Returns 0; -EBUSY while another agent_tell() or agent_shutdown() is in progress. */
int agent_tell(struct agent *a, const char *line, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque, struct err *e);
/* Shut the guest down, or reboot it. done and the result as for agent_tell(); r is 0 when the
 * request was sent and the agent did not refuse. */
int agent_shutdown(struct agent *a, bool reboot, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque, struct err *e);
/* Ask for the guest's interfaces and addresses. done and the result as for agent_tell(), and r is -EPROTO for a
 * malformed answer. May be called while an agent_tell() or agent_shutdown() is in progress.
 * into: borrowed until done(); filled when r is 0. */
int agent_addresses(struct agent *a, struct vm_addresses *into, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque, struct err *e);
/* ---- commands of clients ---- */

#define AGENT_COMMANDS_MAX 16 /* requests that wait or are in progress */
/* A command, a line for the users or a shutdown waits at most this long for others. Later its client may have given up,
 * and must not be surprised by its effect. */
#define AGENT_TURN_NS (5 * 1000000000ULL)

/* For this long after an answer, a command needs no sync, which would double the time of a short one. */
#define AGENT_SYNCED_NS 1000000000ULL

/* A command with its answer. Everything above `next` is set by the caller. */
struct agent_command {
	char *text; /* one line of JSON with its newline; terminated */
	size_t len;
	uint64_t timeout_ns; /* for the answer, after the agent has shown that it answers */
	int fd; /* the answer is written here, without its newline; a memfd, so that writing does not block */
	uint64_t bytes_max; /* of the answer */
	/* Called once, from the loop, after the command has left the queue. r is 0; -ETIMEDOUT; -EBUSY: other
	 * commands took too long; -EIO with the agent's reason; -EPROTO for a malformed or too long answer;
	 * -ECANCELED: see agent_restored(). */
	void (*done)(struct agent_command *x, int r, const struct err *e);
	struct agent_command *next;
	uint64_t begin_before_ns;
	uint64_t bytes; /* written to fd so far */
};
/* Queue a command. x: borrowed until done(). An answer that fits into AGENT_LINE_MAX bytes is checked to be an
 * answer of the protocol; of a longer one only the length is checked.
 * Returns 0; -EBUSY: AGENT_COMMANDS_MAX commands are queued; then done() is not called. */
int agent_command(struct agent *a, struct agent_command *x, struct err *e);

/* Report that the guest is off: completes an agent_shutdown() that still waits for a refusal. NULL
 * allowed. */
void agent_guest_off(struct agent *a);

/* ---- agent_text.c: conversions of text for commands ---- */

/* Convert a VM's name to a host name of 1 to 63 letters, digits and inner hyphens: runs of other
 * characters become '-'. Writes "" when nothing remains. */
#define AGENT_HOSTNAME_MAX 63
void agent_hostname(const char *name, char ret[AGENT_HOSTNAME_MAX + 1]);
/* Write the command that sets the host name, both of the running system and in /etc/hostname. The shell command needs
 * no quotes, because the name has only letters, digits and hyphens. */
#define AGENT_NAME_COMMAND_MAX 320
void agent_name_command(const char *hostname, char ret[AGENT_NAME_COMMAND_MAX]);
/* Escape the first AGENT_WORDS_MAX bytes of a line for a string of JSON. Control characters become '?'. */
void agent_quote(const char *line, char ret[2 * AGENT_WORDS_MAX + 1]);

/* ---- agent_answer.c: parsers without side effects ---- */

enum agent_kind { AGENT_GARBAGE, AGENT_RETURN, AGENT_ERROR };
struct agent_answer {
	enum agent_kind kind;
	bool is_number;
	int64_t number; /* the number, if is_number */
	char desc[200]; /* description of an AGENT_ERROR; printable */
};
/* Parse one line, without its newline. */
void agent_answer_parse(const char *line, size_t len, struct agent_answer *ret);
/* Parse the answer of guest-network-get-interfaces from one line. Skips malformed addresses and
 * those beyond the array's size. Returns false when the line is no such answer. */
bool agent_addresses_parse(const char *line, size_t len, struct vm_addresses *ret);

#endif
