/* call: a client's command that is being carried out. Handlers below commands/ answer it, too.
 *
 * A call is answered exactly once, at once or later, by one of the call_ functions, which free it. While a call is open,
 * its connection takes no other command, so replies keep their order. When a client goes, its calls run on and their
 * answers are dropped. */
#ifndef CAIRN_API_SCHEMA_CALL_H
#define CAIRN_API_SCHEMA_CALL_H

#include "api/schema/schema.h"

#include <stdint.h>
#include <sys/types.h>

struct command_context;
struct conn;
struct err;
struct json_object;
struct vm;
struct vm_host;

struct call {
	struct call *next; /* for whoever holds it */
	struct vm_host *host;
	const struct command_context *context;
	/* Send the answer. o and fd: taken. Set by commands/command.c. */
	void (*reply)(struct call *c, struct json_object *o, int fd);
	struct conn *conn; /* NULL: gone */
	enum dialect dialect;
	const struct command *command;
	struct json_object *args; /* an object, maybe empty; checked against the schema */
	struct json_object *id;   /* NULL: none given */
	bool has_id;
	bool is_text; /* answers are a monitor's text, failures too */
	bool on_images;		     /* answered when the process on images that it may have needed is gone */
	struct json_object *answer;  /* which waits for that */
	struct vm *vm; /* of COMMAND_CONCERNS_VM, and of a VM's own socket */
	int fd; /* of COMMAND_TAKES_FD: owned; a handler that keeps it leaves -1 */
	uint64_t started_ns;
	bool untold; /* it was refused, and so were too many of that user's before it (api/access/denial_log.h) */
	uid_t uid; /* who asks, also when they have gone */
	pid_t pid;
};

/* v: taken; NULL: {}. */
void call_return(struct call *c, struct json_object *v);
/* fd: taken; it travels with the answer. */
void call_return_fd(struct call *c, struct json_object *v, int fd);
void call_fail(struct call *c, const struct err *e);
/* With a class of QMP's that is none of ours. */
void call_fail_class(struct call *c, const char *class_name, const char *desc);

#endif
