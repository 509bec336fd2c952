/* call: a client's command under execution. The handlers in api/commands/ answer calls, or pass them to another module
 * that answers them. Threading: the daemon's loop.
 *
 * A call is answered exactly once, at once or later, by one of the call_ functions, which take the call. While a call
 * is open, its connection handles no other command, so replies keep their order. If a client disconnects, its call
 * continues, and the answer is dropped. */
#ifndef CAIRN_API_SCHEMA_CALL_H
#define CAIRN_API_SCHEMA_CALL_H

#include "api/schema/schema.h"
#include "api/wire/account.h"

#include "api/wire/peer.h"

#include <stdint.h>
#include <sys/types.h>

struct client_file;
struct command_context;
struct conn;
struct err;
struct json_object;
struct vm;
struct vm_host;

struct call {
	struct call *next; /* next call in a list of the module that holds the call */
	struct call *newer, *older; /* in host->calls */
	struct vm_host *host;
	const struct command_context *context;
	/* Send the answer. o and fd: taken. Set by commands/command.c. */
	void (*reply)(struct call *c, struct json_object *o, int fd);
	/* See call_check_role(). Set by commands/command.c. */
	int (*check_role)(const struct call *c, enum role role, const struct vm *vm, struct err *e);
	/* See call_role_for(). Set by commands/command.c. */
	enum role (*role_for)(const struct call *c, const uint8_t *uuid);
	/* Continue a call that was taken before its handler ran: check the role and the VM's state again, and run the
	 * handler. Set by commands/command.c. */
	void (*go_on)(struct call *c);
	struct conn *conn; /* NULL: the client has disconnected, or the daemon makes the call as a user */
	struct account_call account; /* the user's, also after the client has disconnected */
	enum dialect dialect;
	const struct command *command;
	struct json_object *args; /* an object, possibly empty; checked against the schema */
	struct json_object *id;   /* NULL: none given, or, with has_id, the JSON value null */
	bool has_id;
	bool is_text; /* the answer is text of QEMU's human monitor, also for errors */
	bool when_stored;	     /* send the answer when all changes of state are on stable storage */
	bool on_images;		     /* send the answer after the VM's offline process has ended */
	struct json_object *answer;  /* waits for that, for that process and for the audit log */
	int answer_fd;		     /* goes with the answer; -1: none */
	unsigned waits;		     /* number of operations that the answer waits for */
	bool promised;		     /* the audit log has promised to record the call (api/access/audit.h) */
	struct vm *vm; /* set for COMMAND_CONCERNS_VM and on a VM's own socket; NULL once the VM is gone */
	/* The file that came with the command (COMMAND_TAKES_FD; api/access/client_file.h); owned; a handler that keeps
	 * it sets NULL. */
	struct client_file *file;
	uint64_t started_ns;
	unsigned store_failures; /* store_failures() then */
	bool untold; /* the denial is above the user's rate limit, so it is only counted (api/access/denial_log.h) */
	uid_t uid; /* the client's, also after it has disconnected */
	pid_t pid;
	struct peer who; /* the same user; who.groups is owned */
	/* A call that the daemon makes as a user, without a client: the answer goes to done(), and `by` names the
	 * schedule or the request for the audit log; owned. NULL: a client's call. */
	void (*done)(void *opaque, struct json_object *answer);
	void *opaque;
	char *by;
	unsigned request; /* the request whose approval the call uses; 0: none */
	bool approved; /* another user has approved it (api/policy/approver.h) */
	bool concerns;	 /* the command's role was checked for the VM with this uuid; else for all VMs */
	uint8_t uuid[16];
};

/* Return the role that the call's user has now, with or without a connection. uuid: a VM's; NULL: for all VMs. */
enum role call_role_for(const struct call *c, const uint8_t *uuid);

/* Runs a command of the daemon as a user, with the checks, the audit line and the effects of a client's call.
 * by: for the audit log. args: taken. file: taken; NULL: none. done: called once, at once or from the loop; answer:
 * borrowed. */
typedef void call_run_as(void *context, const struct peer *who, const char *by, const char *command, struct json_object *args,
	struct client_file *file, void (*done)(void *opaque, struct json_object *answer), void *opaque);

/* Check the client's role again, right before an effect that comes after something that may have taken long: meanwhile
 * the role may have been revoked, or the VM's name given to another VM.
 * c: NULL: the daemon itself acts. role: the one that the effect requires. vm: the VM that will be changed; NULL: the
 * effect creates one.
 * Returns 0; -EPERM. */
int call_check_role(const struct call *c, enum role role, const struct vm *vm, struct err *e);

/* Answer with success. v: taken; NULL: {}. */
void call_return(struct call *c, struct json_object *v);
/* Answer with success and a file descriptor. fd: taken. */
void call_return_fd(struct call *c, struct json_object *v, int fd);
/* Answer with an error. */
void call_fail(struct call *c, const struct err *e);
/* Answer the call `opaque`: with e if r < 0, else with {}. Fits as the done() of functions that report only an
 * error. */
void call_done(void *opaque, int r, const struct err *e);
/* Answer with an error of a QMP class that enum err_class does not have. */
void call_fail_class(struct call *c, const char *class_name, const char *desc);

#endif
