/* groups: the groups that a user has now. The rights that are stored with a VM (rights.h) have the groups of the moment
 * when its definition was written, and the user may have left a group since. The system's user database may be on the
 * network and may hang, so a process asks it: cairn-groups. At most one process for each user does so at a time, and
 * its answer is used again for GROUPS_FRESH_NS.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_ACCESS_GROUPS_H
#define CAIRN_API_ACCESS_GROUPS_H

struct groups;
struct groups_ask;
struct loop;
struct rights;

#define GROUPS_FRESH_NS (10 * 1000000000ULL) /* an answer is used so long, from the moment of the question on */
#define GROUPS_TIMEOUT_NS (5 * 1000000000ULL) /* then the process is killed, and the look-up has failed */
#define GROUPS_MAX 16384 /* more groups of one user are a failure */
#define GROUPS_NOTE_BYTES 200

/* Create the list of known answers. program: the path of cairn-groups; borrowed. */
struct groups *groups_new(struct loop *l, const char *program);
/* Kill the processes and forget all askers, without a call of done(). NULL allowed. */
void groups_free(struct groups *g);

/* Get the present rights of the user in `recorded`: the user, the groups that the database has now, and the recorded
 * primary group if that is one of them, else the database's. If the database does not know the user, or the look-up
 * fails: the recorded user and primary group without other groups.
 * recorded: borrowed for the call; not root's.
 * done:     called exactly once, before the call returns or from the loop. now: borrowed for the call of done(). note:
 *           text for an error that these rights cause, to follow "user 5, who defined the VM": the groups that the user
 *           lacks compared with `recorded`, and the reason; "": none.
 * ret_a:    set if done() was not called yet; valid until done() is called or groups_ask_free(). */
void groups_ask(struct groups *g, const struct rights *recorded,
	void (*done)(void *opaque, const struct rights *now, const char *note), void *opaque, struct groups_ask **ret_a);
/* Ask no more; done() is not called. The look-up continues for later askers. NULL allowed. */
void groups_ask_free(struct groups_ask *a);

#endif
