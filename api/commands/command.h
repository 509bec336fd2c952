/* command: from a JSON text to a handler and back to an answer.
 *
 * A call is answered exactly once, at once or later, by one of the call_ functions, which
 * free it. While a call is open its connection takes no other: replies come in order. A
 * client that has gone leaves its calls running; their answers go nowhere. */
#ifndef CAIRN_API_COMMANDS_COMMAND_H
#define CAIRN_API_COMMANDS_COMMAND_H

#include "api/schema/schema.h"

#include <stdint.h>
#include <sys/types.h>

struct audit;
struct command_handler;
struct conn;
struct denial_log;
struct job;
struct vm;
struct vm_host;

struct server_ops;

/* What commands need of the daemon besides its VMs. Borrows all. */
struct command_context {
	struct vm_host *host;
	struct audit *audit;
	struct denial_log *denials;
	const struct command_handler *handlers[2]; /* by dialect */
};

/* How a server of clients runs commands (api/wire/conn.h). Its opaque: a struct command_context. */
extern const struct server_ops command_server_ops;

struct call {
	struct call *next; /* for whoever holds it */
	struct vm_host *host;
	const struct command_context *context;
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
/* {"job": its id} */
void call_return_job(struct call *c, const struct job *j);

/* A row of the schema and who runs it. */
struct command_handler {
	const char *name; /* NULL ends a table */
	void (*run)(struct call *c);
};

/* By command; the last has no name. */
extern const struct command_handler command_handlers[];

/* Handlers, one per row of the schema. */
void command_qmp_capabilities(struct call *c);
void command_query_version(struct call *c);
void command_query_commands(struct call *c);
void command_query_schema(struct call *c);
void command_vm_define(struct call *c);
void command_vm_rename(struct call *c); /* rename.c */
void command_vm_undefine(struct call *c);
void command_vm_dump_definition(struct call *c);
void command_vm_list(struct call *c);
void command_vm_info(struct call *c);
void command_vm_addresses(struct call *c);
void command_vm_qmp_path(struct call *c);
void command_vm_start(struct call *c);
void command_vm_shutdown(struct call *c);
void command_vm_reboot(struct call *c);
void command_vm_autostart(struct call *c);
void command_vm_shutdown_cancel(struct call *c);
void command_daemon_stop(struct call *c);
void command_vm_reset(struct call *c);
void command_vm_suspend(struct call *c);
void command_vm_resume(struct call *c);
void command_vm_destroy(struct call *c);
void command_vm_console(struct call *c);
void command_vm_save(struct call *c);
void command_vm_managed_save(struct call *c);
void command_vm_managed_save_remove(struct call *c);
void command_vm_restore(struct call *c);
void command_vm_dump(struct call *c);
void command_vm_fork(struct call *c);
void command_vm_export(struct call *c);
void command_vm_import(struct call *c);
void command_vm_clone(struct call *c);
void command_vm_template(struct call *c);
void command_snapshot_create(struct call *c);
void command_snapshot_list(struct call *c);
void command_snapshot_revert(struct call *c);
void command_snapshot_delete(struct call *c);
void command_snapshot_set(struct call *c);
void command_snapshot_size(struct call *c);
void command_schedule_set(struct call *c);
void command_schedule_remove(struct call *c);
void command_query_schedules(struct call *c);
void command_query_events(struct call *c);
void command_query_audit(struct call *c);
void command_permission_grant(struct call *c);
void command_permission_revoke(struct call *c);
void command_query_permissions(struct call *c);
void command_query_jobs(struct call *c);
void command_job_cancel(struct call *c);
void command_job_dismiss(struct call *c);

#endif
