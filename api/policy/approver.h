/* approver: holds back an act of a user if a rule names it (api/access/approvals.h), until another user with the role
 * for the same act approves it. An approved act runs once, with the rights that its asker has then, as if the asker
 * called the command. A command that takes an open file cannot wait: the asker repeats it after the approval. So does
 * the asker of an act that could not begin, because the VM was busy or in another state.
 *
 * An act that was approved runs after that is on stable storage, and an act that was running when the daemon ended is
 * not run again.
 *
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_APPROVER_H
#define CAIRN_API_POLICY_APPROVER_H

#include "api/access/approvals.h"
#include "api/schema/call.h"

struct approver;
struct call;
struct err;
struct json_object;
struct vm_host;
struct vm_observer;

extern const struct vm_observer approver_observer;

/* Read the rules and requests. run_as: must not ask for approval again. context: borrowed. Returns 0 or -errno. */
int approver_new(struct vm_host *host, call_run_as *run_as, void *context, struct approver **ret_a, struct err *e);
/* NULL allowed. */
void approver_free(struct approver *a);

/* Return whether a checked call is an act that waits for approval. */
bool approver_binds(const struct call *c);
/* Make a request of such a call. If the call was approved before, it continues, once, when that is on stable storage.
 * Returns 1: the call is taken, and answered later; -errno: the call is refused. */
int approver_ask(struct call *c, struct err *e);
/* A call that used the approval of request `id` was answered with an error. If the act has not begun, because something
 * else was under way or the VM was in another state, the approval counts as unused. error: borrowed. */
void approver_refused(struct vm_host *host, unsigned id, struct json_object *error);

/* Ask for a role for the call's user. Takes the call.
 * vm: a valid name, which need not be a VM's; NULL: for all VMs. note: the reason; NULL: none. */
void approver_ask_role(struct call *c, const char *role, const char *vm, const char *note);

/* Answer request number `id` with the rights of the call's user. Takes the call. */
void approver_answer(struct call *c, int64_t id, bool approves, const char *reason);
/* Set a rule, or remove it if it has no acts. Takes the call. */
void approver_set_rule(struct call *c, const struct approval_rule *rule);

/* Return the table, for lists. */
const struct approvals *approver_table(const struct approver *a);
/* Return whether the user of the call may see the request: the asker, and those who could approve it. */
bool approver_shows(const struct call *c, const struct approval_request *r);

#endif
