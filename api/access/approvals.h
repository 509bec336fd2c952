/* approvals: rules by which an act of a user waits until a second person approves it, and the users' requests. A
 * table without effects; api/policy/approver.h asks, answers and runs. Stored in approvals.json (docs/state.md). No
 * rule binds root and the daemon's own user.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_ACCESS_APPROVALS_H
#define CAIRN_API_ACCESS_APPROVALS_H

#include "api/wire/peer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct definition;
struct json_object;
struct rights;
struct store;

#define APPROVALS_FILE "approvals.json"
#define APPROVAL_RULES_MAX 256
#define APPROVAL_REQUESTS_MAX 1024
#define APPROVAL_OPEN_MAX 20 /* requests of one user that have not ended */
#define APPROVAL_USER_MAX 50 /* kept requests of one user; also the most that a user makes in an hour */
/* For all users without a role together: requests that have not ended, new requests in an hour, kept requests. */
#define APPROVAL_STRANGERS_OPEN_MAX 20
#define APPROVAL_STRANGERS_HOUR_MAX 60
#define APPROVAL_STRANGERS_MAX 128
#define APPROVAL_GRANTS_MAX 3 /* requests for roles of one user that have not ended */
#define APPROVAL_GRANT "permission-grant" /* the command of a request for a role; runs with the approver's rights */
#define APPROVAL_GRANT_EXPIRE_NS (7 * 24 * 3600 * 1000000000LL)
#define APPROVAL_KEEP_NS (30 * 24 * 3600 * 1000000000LL) /* how long an ended request is kept */
#define APPROVAL_EXPIRE_NS (24 * 3600 * 1000000000LL)	 /* how long a request waits if the rule sets no time */
#define APPROVAL_EXPIRE_MAX_NS (30 * 24 * 3600 * 1000000000LL)
#define APPROVAL_TEXT_MAX 256  /* bytes of a reason or of an outcome */
#define APPROVAL_ARGS_MAX 4096 /* bytes of a request's arguments */
#define APPROVAL_JOB_MAX 64
#define APPROVAL_VM_MAX 255 /* VM_NAME_MAX; approvals.c checks that */

struct approval_rule {
	bool everyone, is_group;
	uint32_t id; /* uid, or with is_group gid */
	bool of_vm;  /* false: all VMs */
	uint8_t uuid[16];
	unsigned acts; /* bits of approval_act_bit() */
	int64_t expire_ns;
	uint64_t serial; /* ascending in the list; set by approvals_set_rule(); not stored */
};

enum approval_state {
	APPROVAL_WAITING,
	APPROVAL_APPROVED, /* the asker may now run the command, once: it takes a file, or was refused as busy or in a wrong state */
	APPROVAL_RUNNING,
	APPROVAL_DONE,
	APPROVAL_FAILED,
	APPROVAL_DENIED,
	APPROVAL_WITHDRAWN,
	APPROVAL_EXPIRED,
	APPROVAL_STATE_COUNT,
};

struct approval_request {
	unsigned id;
	struct rights *asker; /* owned */
	char command[40];     /* of the daemon's dialect */
	struct json_object *args; /* owned; without `vm`, except for a role */
	bool stranger; /* the asker had no role */
	bool of_vm;
	uint8_t uuid[16];
	char vm[APPROVAL_VM_MAX + 1]; /* the name that the VM had; of a request for a role, the name that the asker wrote */
	enum approval_state state;
	int64_t asked_ns, expires_ns, ended_ns; /* realtime; ended 0: not ended */
	int64_t by; /* uid of the user who answered; -1: nobody */
	char note[APPROVAL_TEXT_MAX + 1];   /* why the asker wants it */
	char reason[APPROVAL_TEXT_MAX + 1]; /* the reason that the answering user gave */
	char detail[APPROVAL_TEXT_MAX + 1]; /* of a failure or refusal */
	char job[APPROVAL_JOB_MAX + 1];
};

struct approvals {
	struct approval_rule *rules; /* owned array */
	size_t nrules;
	uint64_t last_serial;
	struct approval_request **requests; /* owned, in the order of their ids */
	size_t nrequests;
	unsigned last_id;
	const char *unknown; /* static: why the rules could not be loaded, and the remedy for root; NULL: they are
			      * loaded */
};

void approvals_done(struct approvals *t);
/* Load the file at the daemon's start. Requests that were running without a job have failed then. */
void approvals_load(struct approvals *t, struct store *s, int64_t now_ns);
/* Parse the file's content. Returns 0; -EINVAL: a rule is invalid. Invalid requests are skipped. */
int approvals_parse(struct approvals *t, struct json_object *file, int64_t now_ns);
/* Return the file's content, owned by the caller. */
struct json_object *approvals_to_json(const struct approvals *t);

/* Return the bit of an act by its word; 0: there is no such act. */
unsigned approval_act_bit(const char *word);
/* Return the words, separated by ", ", of all acts. */
const char *approval_act_words(void);
/* Return the acts that a command with these arguments is; 0: none waits for approval. A dry run is no act.
 * def: of the VM that the command names; NULL: none. */
unsigned approval_acts_of(enum dialect d, const char *command, struct json_object *args, const struct definition *def);

/* Return the first rule that binds the user for one of the acts on the VM; NULL: none.
 * uuid: NULL: the act concerns all VMs, so the rules of each VM count. */
const struct approval_rule *approvals_find_rule(const struct approvals *t, const struct peer *who, const uint8_t *uuid, unsigned acts);
/* Set the rule for the subject and the VM in *rule. acts 0: remove it. Returns 0; -ENOENT; -ENOSPC. */
int approvals_set_rule(struct approvals *t, const struct approval_rule *rule);
/* Return {acts, user or group, vm-uuid, expire}, owned by the caller. */
struct json_object *approval_rule_to_json(const struct approval_rule *r);

const char *approval_state_word(enum approval_state s);
bool approval_is_open(const struct approval_request *r);
/* Return whether it is a request for a role. */
bool approval_is_grant(const struct approval_request *r);
struct approval_request *approvals_find(const struct approvals *t, int64_t id);
/* Return the user's open request with the same command, arguments and VM; NULL: none. uuid: NULL: for no VM. */
struct approval_request *approvals_find_same(const struct approvals *t, uid_t uid, const char *command, struct json_object *args,
	const uint8_t *uuid);
/* Add a request. Drops ended requests that are too old or too many.
 * r: without id; taken on success. Returns 0; -EDQUOT: the user has too many; -ENOSPC: all have. */
int approvals_add(struct approvals *t, struct approval_request *r, int64_t now_ns, struct err *e);
void approvals_remove(struct approvals *t, unsigned id);
void approval_request_free(struct approval_request *r);
/* End the request. detail: NULL: none. */
void approval_end(struct approval_request *r, enum approval_state s, const char *detail, int64_t now_ns);
/* Return the request for clients, owned by the caller. */
struct json_object *approval_request_to_json(const struct approval_request *r);

#endif
