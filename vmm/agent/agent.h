/* agent: the host's side of the QEMU guest agent's protocol: JSON lines over the port
 * org.qemu.guest_agent.0. File systems frozen for a moment, the clock set right after time has
 * passed without the guest, another host name, a shutdown, and what addresses the guest has.
 *
 * The agent is the guest's, and so hostile: its answers are bounded, and every wait has an end.
 * What was frozen is always thawed: by agent_thaw(), after a freeze that failed or was late, and by
 * itself after AGENT_HOLD_NS. Runs on the loop that it is given. */
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
#define AGENT_LINE_MAX (64 * 1024) /* a guest has many interfaces */
#define AGENT_SYNC_NS (5 * 1000000000ULL)    /* an agent that runs answers at once */
#define AGENT_FREEZE_NS (20 * 1000000000ULL) /* it writes out what is dirty */
#define AGENT_THAW_NS (5 * 1000000000ULL)
#define AGENT_HOLD_NS (10 * 1000000000ULL)
#define AGENT_SILENCE_NS 1000000000ULL /* of one that shuts down and so has no answer */
#define AGENT_WORDS_MAX 255

/* How long it waits for what. */
struct agent_times {
	uint64_t sync_ns, freeze_ns, thaw_ns, hold_ns;
};

/* fd: a stream socket to the port; taken on success. t: NULL: as above. Returns 0 or -errno. */
int agent_new(
	struct loop *l, int fd, const struct agent_times *t, struct agent **ret_a, struct err *e);
/* NULL allowed. A freeze that is under way is not answered. */
void agent_free(struct agent *a);

/* The guest's end of the port. Any thread. loaded: as a state has it that was loaded; else a program has just opened it
 * (or closed it), and is asked whether it is an agent. */
void agent_port(struct agent *a, bool open, bool loaded);
/* changed: from the loop, a few times a second at most: is the port open, and does an agent answer, as far as is known? */
void agent_watch(struct agent *a, void (*changed)(void *opaque, bool open, bool answers), void *opaque);
/* The same now. NULL allowed: false. */
bool agent_port_is_open(const struct agent *a);
bool agent_answers(const struct agent *a);

/* done: once, from the loop, unless this returns an error. r: 0: everything is frozen; -ETIMEDOUT,
 * -EIO (the agent says why), -EPROTO. It waits for a thaw that is
 * under way. Returns 0; -EBUSY: another freeze is, or nobody thawed yet. */
int agent_freeze(struct agent *a, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque, struct err *e);
/* As far as is known. */
bool agent_is_frozen(const struct agent *a);
/* Nothing, when nothing is frozen. NULL allowed. */
void agent_thaw(struct agent *a);
/* The guest may be frozen, and nobody has said that it is thawed. NULL allowed. */
bool agent_owes_thaw(const struct agent *a);
/* The guest is another now, by its saved state: frozen in it, or not. NULL allowed. */
void agent_restored(struct agent *a, bool frozen);
/* Have a guest thawed that was restored frozen, after what is under way and before its clock is set.
 * failed: no agent says that it is; NULL: nobody cares. NULL agent allowed. */
void agent_thaw_restored(struct agent *a, void (*failed)(void *opaque), void *opaque);
/* Have the guest's clock set to the host's, after what is under way. Nobody waits for it, and a guest without
 * an agent stays as it is. NULL allowed. */
void agent_set_time(struct agent *a);
/* Have the guest called by that name, after the clock: a hint, as above. name: of a VM; what a host's name cannot
 * have becomes '-'. */
void agent_set_hostname(struct agent *a, const char *name);
/* A name that a host can have, of 1 to 63 letters, digits and inner hyphens; "" when none can be made of it. */
#define AGENT_HOSTNAME_MAX 63
void agent_hostname(const char *name, char ret[AGENT_HOSTNAME_MAX + 1]);

/* Show a line to whoever is logged in (wall), after what is under way; at most AGENT_WORDS_MAX bytes, one line.
 * done: once, from the loop, unless this returns an error. r: 0; -ETIMEDOUT; -EIO: the agent says why not.
 * Returns 0; -EBUSY: another errand is under way. */
int agent_tell(struct agent *a, const char *line, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque, struct err *e);
/* Have the guest shut down, or reboot. As agent_tell(); 0: it has been asked and does not refuse. */
int agent_shutdown(struct agent *a, bool reboot, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque, struct err *e);
/* What interfaces the guest has, and what addresses. into: filled when r is 0; stays until then. As agent_tell(), but
 * neither is in the other's way. */
int agent_addresses(struct agent *a, struct vm_addresses *into, void (*done)(void *opaque, int r, const struct err *e),
	void *opaque, struct err *e);
/* The guest is off: who asked for that need not wait to see whether the agent refuses. NULL allowed. */
void agent_guest_off(struct agent *a);

/* ---- agent_answer.c: pure ---- */

enum agent_kind { AGENT_GARBAGE, AGENT_RETURN, AGENT_ERROR };
struct agent_answer {
	enum agent_kind kind;
	bool is_number;
	int64_t number; /* of a return */
	char desc[200]; /* of an error; printable */
};
/* One line without its end. */
void agent_answer_parse(const char *line, size_t len, struct agent_answer *ret);
/* One line that is a return, of guest-network-get-interfaces. An address that is none is left out, and what is too much.
 * Returns false when it is something else. */
bool agent_addresses_parse(const char *line, size_t len, struct vm_addresses *ret);

#endif
