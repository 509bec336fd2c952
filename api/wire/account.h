/* account: counts the resources that all clients of one user consume together, and chooses the user whose command runs
 * next.
 *
 * Each user with a role has an account. All strangers (users without a role for any VM) share one account, so that they
 * cannot delay a known user by being many. Root and the daemon's own user are masters: no limit applies to them, and
 * they get every second turn while they have commands.
 *
 * A turn is one command of one client. The accounts take turns; so do the clients of an account. An account also pays
 * for its turns with processor time: one whose commands take long is passed over until the others have had as much. It
 * keeps its debt for some milliseconds when its last client leaves.
 *
 * Threading: the loop's thread. */
#ifndef CAIRN_API_WIRE_ACCOUNT_H
#define CAIRN_API_WIRE_ACCOUNT_H

#include "api/wire/wire.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum account_kind { ACCOUNT_STRANGERS, ACCOUNT_USER, ACCOUNT_MASTER, ACCOUNT_KINDS };

struct account_limits {
	struct wire_limits text; /* of each command */
	bool may_send_fds;
	size_t client_out_bytes; /* unread output of a client, which is dropped above it */
	/* Of the account's clients together: */
	size_t out_bytes;  /* unread output; above it, a client that leaves output unread is dropped */
	size_t in_bytes;   /* input: unfinished commands and those that wait for their turn */
	unsigned calls;	   /* commands that are not answered yet, also of clients that have hung up; then the others wait */
	size_t call_bytes; /* their memory, as struct wire estimates it */
};

struct account;
struct accounts;

/* A client's part in its account; embedded in the client. */
struct account_member {
	struct account *account; /* NULL: none */
	struct account_member *prev, *next;
	bool waits; /* for its turn */
	size_t in_bytes, out_bytes;
};

/* A command that is not answered yet. It may outlive its client and the accounts. */
struct account_call {
	struct account *account; /* NULL: none */
	size_t bytes;
};

/* wake: called when accounts_wait() may have become true. */
struct accounts *accounts_new(void (*wake)(void *opaque), void *opaque);
/* All members have left; calls may be open. NULL allowed. */
void accounts_free(struct accounts *all);
/* Return whether no client, call or byte is counted any more. */
bool accounts_are_empty(const struct accounts *all);

/* Put a client into the account of its user, or into that of all strangers. A client that leaves another account for
 * this one takes its bytes along, and waits again if it waited there. now_ns: the time, which never goes back. */
void account_join(struct accounts *all, struct account_member *m, enum account_kind kind, uid_t uid, uint64_t now_ns);
void account_leave(struct account_member *m);
enum account_kind account_kind(const struct account_member *m);
const struct account_limits *account_limits(const struct account_member *m);

/* Tell how many bytes the client has in input and in unread output now. */
void account_set_bytes(struct account_member *m, size_t in_bytes, size_t out_bytes);
/* Return whether the account exceeds its limit. */
bool account_in_exceeded(const struct account_member *m);
bool account_out_exceeded(const struct account_member *m);

/* Let the client wait for its turn, behind the account's other clients. No effect if it waits already. */
void account_wait(struct account_member *m);
void account_wait_end(struct account_member *m);
/* Return whether accounts_next() would return a client. */
bool accounts_wait(const struct accounts *all);
/* Return the client whose turn it is, which waits no longer. NULL: none waits that may run. */
struct account_member *accounts_next(struct accounts *all);
/* Charge the account for the time that a turn took. now_ns: the turn's end, by the clock of account_join(). */
void account_spend(struct account_member *m, uint64_t ns, uint64_t now_ns);

/* Begin and end a command. While too many are open, the account's clients get no turn. */
void account_call_begin(struct account_member *m, struct account_call *call, size_t bytes);
void account_call_end(struct account_call *call);

#endif
