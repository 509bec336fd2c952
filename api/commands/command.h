/* command: checks a client's command against the schema, the client's role and the VM's state, and runs the command's
 * handler with a struct call (api/schema/call.h).
 *
 * Threading: the loop's thread. */
#ifndef CAIRN_API_COMMANDS_COMMAND_H
#define CAIRN_API_COMMANDS_COMMAND_H

#include "api/jobs/save.h"
#include "api/schema/call.h"

struct command_handler;
struct denial_log;
struct err;
struct job;
struct job_name;
struct json_writer;
struct server_ops;
struct vm;
struct vm_answer;
struct vm_figures;
struct vm_host;
struct vm_info;
struct vm_observer;

/* The objects that commands use besides the VMs. All are borrowed. */
struct command_context {
	struct vm_host *host;
	struct denial_log *denials;
	const struct command_handler *handlers[2]; /* tables of handlers, indexed by enum dialect */
};

/* Callbacks that let a server (api/wire/conn.h) run commands. Their opaque is a struct command_context. */
extern const struct server_ops command_server_ops;

/* Run a command as a user, without a client, as the timetables do. context: a struct command_context. */
call_run_as command_run_as;

/* The same for a command that another user has approved (api/policy/approver.h). */
call_run_as command_run_approved;

extern const struct vm_observer command_observer;

/* Return the value of the argument "then" of a call that saves or reverts; SAVE_THEN_AS_IT_WAS if it is absent. */
enum save_then save_then_asked(const struct call *c);

/* A page of a list is complete at this size in bytes: with the last entry, the answer stays below 64 KiB. */
#define COMMAND_PAGE_BYTES (40 * 1024)
/* Find the VM that the argument `vm` names; NULL: the call has none. Returns whether the client may see it: otherwise
 * the call has failed. */
bool command_vm_found(struct call *c, const struct vm **ret);
/* Answer with a page of a list whose entries belong to VMs: to args.vm, or to all VMs that the client may view.
 * args.after is `next` of the previous page, or the name of a VM.
 * member: the list's name. append: appends the VM's entries; each has `vm`, and `name` if a VM may have several. */
void command_return_page(struct call *c, const char *member, void (*append)(const struct vm *vm, struct json_object *list));

/* In a list whose entries have ascending numbers as keys, `next` of a page is COMMAND_PAGE_KEYS plus the key of the
 * page's last entry, so that the next page begins behind that entry whatever was removed meanwhile. Clients may also
 * give the index of the first entry, which is smaller. */
#define COMMAND_PAGE_KEYS (1LL << 48) /* twice as much is still exact in JavaScript */
/* Return whether an entry comes before the page that begins at `from`. key: below COMMAND_PAGE_KEYS. */
static inline bool command_is_before(int64_t from, size_t index, uint64_t key)
{
	return from < COMMAND_PAGE_KEYS ? (int64_t)index < from : (int64_t)key <= from - COMMAND_PAGE_KEYS;
}

/* The name of a command of the schema, and the function that runs the command. */
struct command_handler {
	const char *name; /* NULL ends a table */
	void (*run)(struct call *c);
};

/* The handlers of the daemon's commands; the last row has no name. */
extern const struct command_handler command_handlers[];

/* Answer a call with the outcome that the VM's process reports. opaque: the call. */
void command_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e);

/* Handlers of the daemon's commands. QEMU's dialect uses some of them, too. Each answers its call once, at once or
 * later. */
void command_qmp_capabilities(struct call *c);
void command_query_version(struct call *c);
void command_query_commands(struct call *c);
void command_query_schema(struct call *c);
void command_schema_get(struct call *c);
void command_vm_define(struct call *c);
void command_vm_create(struct call *c);
void command_vm_promote(struct call *c);
void command_vm_rename(struct call *c);
void command_vm_undefine(struct call *c);
void command_vm_dump_definition(struct call *c);
void command_vm_list(struct call *c);
void command_vm_info(struct call *c);
/* Write the members of vm-info's answer. info: the answer of the VM's process; NULL: omit the figures that only the
 * process has. more: further figures from vm_figures_read(); NULL: none. */
void command_vm_figures(struct json_writer *w, const struct vm *vm, const struct vm_info *info, const struct vm_figures *more);
void command_vm_stats(struct call *c);
void command_vm_space(struct call *c);
void command_vm_trend(struct call *c);
void command_advise(struct call *c);
void command_threshold_set(struct call *c);
void command_threshold_remove(struct call *c);
void command_query_thresholds(struct call *c);
void command_web_hook_set(struct call *c);
void command_web_hook_remove(struct call *c);
void command_web_hook_test(struct call *c);
void command_query_web_hooks(struct call *c);
void command_vm_addresses(struct call *c);
void command_vm_set_interface(struct call *c);
void command_vm_set_disk(struct call *c);
void command_vm_resize_disk(struct call *c);
void command_vm_set_memory(struct call *c);
void command_vm_calc_dirty_rate(struct call *c);
/* Begin to measure the dirty rate, and answer the call. seconds: the name of the argument with the length. */
void command_calc_dirty_rate(struct call *c, const char *seconds);
void command_vm_reclaim(struct call *c);
void command_vm_agent_command(struct call *c);
void command_vm_agent_query(struct call *c);
/* Return the arguments of vm-agent-command for the audit log: without passwords, environment and data. The caller
 * owns them.
 * args: as the client sent them, unchecked. */
struct json_object *command_agent_audited(struct json_object *args);
/* Return agent-exec's arguments for the audit log, without environment and input. The caller owns them. */
struct json_object *command_exec_audited(struct json_object *args);
/* Check that the call's VM has a vsock device, and the port. Returns 0; -EINVAL; -ENOTSUP. */
int command_vsock_check(const struct call *c, int64_t port, struct err *e);
void command_agent_exec(struct call *c);
/* Begin a job as agent-exec's arguments say. Returns as exec_begin(). */
int command_exec_begin(struct call *c, const struct job_name *name, struct job **ret_j, struct err *e);
/* Answer with a page of the job's output, as agent-exec-output's arguments say. j: NULL: there is no such job. */
void command_exec_output(struct call *c, const struct job *j);
void command_agent_exec_output(struct call *c);
void command_vm_sandbox(struct call *c);
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
void command_vsock_connect(struct call *c);
void command_agent_connect(struct call *c);
void command_vm_save(struct call *c);
void command_vm_managed_save(struct call *c);
void command_vm_blockpull(struct call *c);
void command_vm_blockcopy(struct call *c);
void command_vm_blockjob_pivot(struct call *c);
void command_vm_blockcommit(struct call *c);
void command_vm_restart_process(struct call *c);
void command_vm_managed_save_remove(struct call *c);
void command_vm_restore(struct call *c);
void command_vm_dump(struct call *c);
void command_vm_screenshot(struct call *c);
void command_vm_inject_nmi(struct call *c);
void command_vm_send_key(struct call *c);
void command_vm_fork(struct call *c);
void command_group_clone(struct call *c);
void command_vm_export(struct call *c);
void command_vm_import(struct call *c);
void command_vm_clone(struct call *c);
void command_vm_template(struct call *c);
/* Read the argument `role`. Returns 0; -EINVAL. */
int command_arg_role(const struct call *c, bool of_vm, enum role *ret, struct err *e);
void command_snapshot_create(struct call *c);
void command_group_snapshot(struct call *c);
/* Find the VMs that the argument vms names: different ones, for each of which the client has the command's role.
 * vms: gets *ret_n, at most GROUP_VMS_MAX. Returns 0; -EINVAL; -EPERM; -ENOENT. */
int command_group_find(struct call *c, struct vm **vms, size_t *ret_n, struct err *e);
void command_snapshot_list(struct call *c);
void command_snapshot_revert(struct call *c);
void command_snapshot_delete(struct call *c);
void command_snapshot_set(struct call *c);
void command_snapshot_size(struct call *c);
void command_snapshot_diff(struct call *c);
void command_snapshot_diff_files(struct call *c);
void command_vm_pins(struct call *c);
void command_schedule_set(struct call *c);
void command_schedule_remove(struct call *c);
void command_query_schedules(struct call *c);
void command_timetable_add(struct call *c);
void command_timetable_remove(struct call *c);
void command_timetable_pause(struct call *c);
void command_query_timetables(struct call *c);
void command_query_timetable_history(struct call *c);
void command_query_events(struct call *c);
void command_event_filter(struct call *c);
void command_query_audit(struct call *c);
void command_vm_log(struct call *c);
void command_permission_grant(struct call *c);
void command_permission_revoke(struct call *c);
void command_quota_set(struct call *c);
void command_quota_remove(struct call *c);
void command_query_quotas(struct call *c);
void command_query_permissions(struct call *c);
void command_query_permissions_review(struct call *c);
void command_approval_rule_set(struct call *c);
void command_query_approval_rules(struct call *c);
void command_query_requests(struct call *c);
void command_request_permission(struct call *c);
void command_request_approve(struct call *c);
void command_request_deny(struct call *c);
void command_pool_define(struct call *c);
void command_pool_undefine(struct call *c);
void command_query_pools(struct call *c);
void command_query_volumes(struct call *c);
void command_volume_create(struct call *c);
void command_volume_clone(struct call *c);
void command_volume_resize(struct call *c);
void command_volume_open(struct call *c);
void command_volume_delete(struct call *c);
void command_query_jobs(struct call *c);
void command_job_cancel(struct call *c);
void command_job_wait(struct call *c);
void command_job_dismiss(struct call *c);
void command_net_define(struct call *c);
void command_net_create(struct call *c);
void command_net_undefine(struct call *c);
void command_net_start(struct call *c);
void command_net_destroy(struct call *c);
void command_net_update(struct call *c);
void command_net_autostart(struct call *c);
void command_net_list(struct call *c);
void command_net_info(struct call *c);
void command_net_dump_definition(struct call *c);
void command_net_dhcp_leases(struct call *c);

#endif
