/* cli: common parts of all verbs of `cairn`: parsed arguments, errors, the connection to the daemon. */
#ifndef CAIRN_TOOLS_CLI_H
#define CAIRN_TOOLS_CLI_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client;
struct json_object;
struct table;
struct verb;

/* Exit codes that scripts can tell apart. */
enum cli_exit {
	CLI_OK = 0,
	CLI_FAILURE = 1,
	CLI_USAGE = 2,
	CLI_NOT_FOUND = 3,
	CLI_WRONG_STATE = 4,
	CLI_PERMISSION = 5,
	CLI_BUSY = 6,
	CLI_HOST = 7,
	CLI_APPROVAL = 8,
	CLI_NO_STATUS = 125, /* Cairn's own failure where the exit status is otherwise a program's in the guest */
};

enum cli_format { CLI_TABLE, CLI_JSON, CLI_YAML, CLI_CSV };

#define CLI_POSITIONALS_MAX 4096 /* as many words as cairn-agent takes */
#define CLI_OPTIONS_MAX 40
#define CLI_GIVEN_MAX 64
#define CLI_NAMED_MAX 4

/* Take the text from the schema: in `value`, the words of the argument `name` of the verb's commands; in `doc`, the
 * description of that argument or of the command `name`. */
#define FROM_SCHEMA(name) "=" name

struct verb_option {
	const char *name;
	const char *value; /* placeholder in the help; "a|b": one of these words; NULL: the option is a flag */
	const char *doc;
};

struct cli {
	const struct verb *verb;
	const char *socket; /* argument of -c; NULL: the default socket */
	bool readonly;	    /* -r: refuse commands that change something */
	struct client *client;
	enum cli_format format;
	const char *pos[CLI_POSITIONALS_MAX];
	size_t npos;
	size_t nplain; /* positionals before "--"; all of them without it */
	const char *named[CLI_NAMED_MAX]; /* positionals given as options, by index; NULL: not given */
	/* value of each option, by its index in the verb's list; NULL: not given */
	const char *options[CLI_OPTIONS_MAX];
	struct {
		int option; /* index in the verb's list */
		const char *value;
	} given[CLI_GIVEN_MAX]; /* options with a value, in the order given: an option may be repeated */
	size_t ngiven;
	struct json_object *vms; /* list of VMs, to resolve ids to names */
	bool interrupted; /* Ctrl-C cancelled a job of the verb */
	int64_t when_s; /* the time of --at or --in; seconds since the epoch; 0: not parsed yet */
	const struct field *row_members; /* of the rows that cli_fetch_all() has read last, or of cli_rows_of(); NULL: not known */
};

struct verb {
	const char *name, *group, *args;
	const char *summary; /* NULL: the description of the first command in the schema */
	const struct verb_option *options; /* the last element has a NULL name; NULL: no options */
	size_t min, max;		   /* number of positionals */
	bool prints;			   /* accepts --format */
	const char *names;		   /* "vm", "file": what the first positional, also --domain or --file, names; NULL: else */
	/* Commands of the daemon that the verb calls, separated by blanks. The first one decides which role and VM
	 * state the verb needs. Commands that every verb may call, to find VMs or wait for jobs, are not listed. NULL:
	 * none. */
	const char *commands;
	int (*run)(struct cli *c);
};

/* All verbs; the last element has a NULL name (verbs/table.c). */
extern const struct verb verbs[];
const struct verb *verb_find(const char *name);
/* Print that there is no such verb, with a suggestion. Returns CLI_USAGE. */
int verb_missing(const char *name);
/* Returns a sentence that names the verb for another tool's word, such as "ps"; NULL: none (foreign_words.c). */
const char *foreign_word_advice(const char *word);
/* Returns a sentence with Cairn's equivalent of another tool's option for this verb; NULL: none.
 * word: the option without its dashes. */
const char *foreign_option_advice(const char *verb, const char *word);

/* Parse the arguments of a verb (options.c).
 * argv[0]: the verb.
 * Returns 0; CLI_USAGE after an error message; CLI_HELP_ASKED: the user gave --help. */
#define CLI_HELP_ASKED 256
int options_parse(struct cli *c, int argc, char **argv);
/* Find an option of the verb by its name. Returns its index in the verb's list; -1: the verb has no such option. */
int option_index(const struct cli *c, const char *name, size_t len);
/* Find the positional that this option gives, such as --domain. Returns the positional's index; -1: none. */
int option_positional(const struct cli *c, const char *name, size_t len);
/* Find an option by its letter. Returns its index, or -1. ret_place: the positional that it gives, or -1. */
int option_of_letter(const struct cli *c, char letter, int *ret_place);
bool option_flag(const struct cli *c, const char *name);
const char *option_value(const struct cli *c, const char *name); /* NULL: not given */
/* Collect all values of a repeatable option, at most max. Returns their number. */
size_t option_values(const struct cli *c, const char *name, const char **values, size_t max);
/* Return whether the list of words, such as "a|b|c", has this word. between: the separator. */
bool words_have(const char *words, char between, const char *word);
/* Write the list "a|b|c", whose separator is `between`, as "a, b or c". */
void words_or(const char *words, char between, char *buf, size_t size);
/* Parse an option as a number of seconds, which may have a fraction.
 * fallback_ns: result if the option is not given.
 * Returns 0; CLI_USAGE after an error message. */
int option_seconds(const struct cli *c, const char *name, uint64_t fallback_ns, uint64_t *ret_ns);

/* ---- errors (main.c) ---- */

/* Print two lines: "error: <fmt>" and "error: <sentence of e>". Returns the exit code for e's class. */
int cli_fail(const struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Print "error: <fmt>" and a hint to the help of the verb. Returns CLI_USAGE. */
int cli_usage(const struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int cli_exit_code(enum err_class cls);

/* ---- the daemon (main.c) ---- */

/* Connect to the daemon, and check that -r allows the command. These are the first steps of cli_execute(). A verb
 * that makes a file for the command calls this before. Returns 0; -errno with a sentence. */
int cli_ready(struct cli *c, const char *command, struct err *e);
/* Run a command of the daemon, and connect first if necessary. The texts of the result have no control characters but
 * ends of lines and tabs.
 * args: taken. Other parameters and results: client_execute(). */
int cli_execute(struct cli *c, const char *command, struct json_object *args,
	struct json_object **ret_v, int *ret_fd, struct err *e);
/* Like cli_execute(), and pass a file descriptor.
 * fd: borrowed; -1: none. */
int cli_execute_with_fd(struct cli *c, const char *command, struct json_object *args, int fd,
	struct json_object **ret_v, int *ret_fd, struct err *e);
/* Replace the control characters of all texts of a value, except ends of lines and tabs. The daemon accepts no
 * definition with control characters, but texts of guests, images, older definitions and other users are in its
 * answers, too. */
void cli_texts_clean(struct json_object *o);
/* Get the next event, as client_next_event() does, with texts as cli_execute() returns them. */
int cli_next_event(struct cli *c, uint64_t deadline_ns, struct json_object **ret_ev, struct err *e);
/* Whether the user's roles have changed. A caller that waits for an event then asks for the present state: the daemon
 * does not send the events of VMs that the user may not see, and perhaps has not sent them for a while. */
bool cli_roles_changed(struct json_object *ev);
/* Run a command that answers in pages, and join its pages.
 * args: taken.
 * list: member of a page that is its array. cursor: argument that gets the member `next` of the page before.
 * ret_first: the first page; NULL: not wanted. The caller owns both results.
 * Returns 0 or -errno. */
int cli_fetch_all(struct cli *c, const char *command, struct json_object *args, const char *list, const char *cursor,
	struct json_object **ret_all, struct json_object **ret_first, struct err *e);
/* Let cli_rows_print() know that the rows are those of a command's list. list: NULL: the answer is the list. */
void cli_rows_of(struct cli *c, const char *command, const char *list);
/* Print rows from cli_fetch_all(), perhaps fewer, in c's format. An empty CSV has the heads of all members that a row
 * could have. */
void cli_rows_print(struct cli *c, struct json_object *rows);
/* Print rows as cli_rows_print() does if the format is not a table; otherwise only the columns that the options --uuid,
 * --id and --name select, in this order of virsh. Returns false if nothing was printed: no such option is given. */
bool cli_columns_print(struct cli *c, struct json_object *rows);
/* Show rows from cli_fetch_all() as a table, to which row_add() adds each, or as cli_rows_print() does.
 * Returns CLI_OK. */
int cli_rows_show(struct cli *c, struct json_object *rows, const char *const *heads, size_t columns,
	void (*row_add)(struct table *t, struct json_object *row));
/* Returns a new object {"vm": name}, to which the caller may add arguments. */
struct json_object *cli_vm_args(const char *name);
/* Fetch all pages of vm-list as one array (list.c).
 * brief: only id, name, state, word, and outdated for a VM whose process is of another build.
 * ret_unloaded: VMs that the daemon could not load; NULL: not wanted. The caller owns both results.
 * Returns 0 or -errno. */
int cli_vm_list(struct cli *c, bool brief, struct json_object **ret_all, struct json_object **ret_unloaded,
	struct err *e);
/* Returns the text of a member of a VM from vm-list; "-" if it is missing or is the id of a VM that is off. Borrowed
 * from vm. */
const char *cli_vm_member(struct json_object *vm, const char *key);
/* Return the state of a VM from vm-list or vm-info for people, as virsh has it: "shut off", "in shutdown". Borrowed. */
const char *cli_vm_state(struct json_object *vm);
/* Call vm-info. The caller owns *ret_o. Returns 0 or -errno. */
int cli_vm_info(struct cli *c, const char *name, struct json_object **ret_o, struct err *e);

/* Fetch all pages of vm-stats as one array, with each VM's members of vm-info. The caller owns *ret_vms. Returns 0 or
 * -errno. */
int cli_vm_stats(struct cli *c, struct json_object **ret_vms, struct err *e);
/* Complete the members of vm-info of a VM that is off by its definition: the memory that the guest will have, and the
 * ids and paths of its disks (info.c). */
void cli_vm_info_complete(struct cli *c, struct json_object *info);

/* ---- waiting (wait.c) ---- */

/* Wait until the VM has a state, or its guest agent answers.
 * word: a word of `wait --for` except "ip". "shutoff" also accepts saved and crashed, "crashed" also preserved; "agent"
 * waits until the guest agent answers.
 * deadline_ns: CLOCK_MONOTONIC; UINT64_MAX: none.
 * Returns 0; -ETIMEDOUT; -errno with a sentence. */
int wait_for_state(struct cli *c, const char *name, const char *word, uint64_t deadline_ns,
	struct err *e);

/* ---- start --foreground (foreground.c) ---- */

/* Returns whether the VM that the command line names is off, or the daemon does not know it. */
bool foreground_may_start(struct cli *c);
/* Report the state of the VM that the command line names to the service manager until the VM ends. SIGTERM, SIGINT or
 * SIGHUP shuts the guest down, the second one destroys the VM. Outlives restarts of the daemon. Returns the exit
 * status. */
int foreground_follow(struct cli *c);

/* ---- verbs ---- */
int verb_define(struct cli *c);
int verb_create(struct cli *c);
int verb_validate(struct cli *c);
int verb_dumpjson(struct cli *c);
int verb_dumpxml(struct cli *c);
int verb_edit(struct cli *c);
int verb_setvcpus(struct cli *c);
int verb_guestvcpus(struct cli *c);
int verb_setmem(struct cli *c);
int verb_setmaxmem(struct cli *c);
int verb_dommemstat(struct cli *c);
int verb_domrename(struct cli *c);
int verb_promote(struct cli *c);
int verb_group_snapshot(struct cli *c);
int verb_group_clone(struct cli *c);
int verb_group_revert(struct cli *c);
int verb_set_lifecycle_action(struct cli *c);
int verb_desc(struct cli *c);
int verb_attach_disk(struct cli *c);
int verb_detach_disk(struct cli *c);
int verb_change_media(struct cli *c);
int verb_domblklist(struct cli *c);
int verb_domblkinfo(struct cli *c);
int verb_domblkstat(struct cli *c);
int verb_vcpuinfo(struct cli *c);
int verb_vcpucount(struct cli *c);
int verb_nodeinfo(struct cli *c);
int verb_nodecpustats(struct cli *c);
int verb_attach_interface(struct cli *c);
int verb_detach_interface(struct cli *c);
int verb_attach_device(struct cli *c);
int verb_detach_device(struct cli *c);
int verb_update_device(struct cli *c);
int verb_domiflist(struct cli *c);
int verb_seed(struct cli *c);
int verb_forward_add(struct cli *c);
int verb_forward_remove(struct cli *c);
int verb_forward_list(struct cli *c);
int verb_domifstat(struct cli *c);
int verb_domifaddr(struct cli *c);
int verb_domif_egress(struct cli *c);
int verb_domiftune(struct cli *c);
int verb_blkdeviotune(struct cli *c);
int verb_blockresize(struct cli *c);
int verb_domif_setlink(struct cli *c);
int verb_domif_getlink(struct cli *c);
int verb_exec(struct cli *c);
int verb_exec_output(struct cli *c);
int verb_cp(struct cli *c);
int verb_guestinfo(struct cli *c);
int verb_domhostname(struct cli *c);
int verb_domfsinfo(struct cli *c);
int verb_domfstrim(struct cli *c);
int verb_domfsfreeze(struct cli *c);
int verb_domfsthaw(struct cli *c);
int verb_set_user_password(struct cli *c);
int verb_domtime(struct cli *c);
int verb_qemu_agent_command(struct cli *c);
int verb_undefine(struct cli *c);
int verb_start(struct cli *c);
int verb_shutdown(struct cli *c);
int verb_reboot(struct cli *c);
int verb_act(struct cli *c);
int verb_autostart(struct cli *c);
int verb_daemon_stop(struct cli *c);
int verb_list(struct cli *c);
int verb_dominfo(struct cli *c);
int verb_domid(struct cli *c);
int verb_domuuid(struct cli *c);
int verb_domname(struct cli *c);
int verb_domstate(struct cli *c);
int verb_domblkerror(struct cli *c);
int verb_domstats(struct cli *c);
int verb_domdirtyrate_calc(struct cli *c);
int verb_metrics(struct cli *c);
int verb_trend(struct cli *c);
int verb_pool_define_as(struct cli *c);
int verb_pool_undefine(struct cli *c);
int verb_image_list(struct cli *c);
int verb_image_remove(struct cli *c);
int verb_pool_list(struct cli *c);
int verb_pool_info(struct cli *c);
int verb_vol_list(struct cli *c);
int verb_vol_info(struct cli *c);
int verb_vol_dumpxml(struct cli *c);
int verb_vol_path(struct cli *c);
int verb_vol_create_as(struct cli *c);
int verb_vol_clone(struct cli *c);
int verb_vol_delete(struct cli *c);
int verb_vol_resize(struct cli *c);
int verb_vol_download(struct cli *c);
int verb_vol_upload(struct cli *c);
int verb_advise(struct cli *c);
int verb_threshold(struct cli *c);
int verb_threshold_list(struct cli *c);
int verb_threshold_remove(struct cli *c);
int verb_web_hook(struct cli *c);
int verb_web_hook_list(struct cli *c);
int verb_web_hook_remove(struct cli *c);
int verb_web_hook_test(struct cli *c);
int verb_top(struct cli *c);
int verb_qmp_path(struct cli *c);
int verb_version(struct cli *c);
int verb_console(struct cli *c);
int verb_vsock(struct cli *c);
int verb_ssh(struct cli *c);
int verb_wait(struct cli *c);
int verb_event(struct cli *c);
int verb_run(struct cli *c);
int verb_dump(struct cli *c);
int verb_screenshot(struct cli *c);
int verb_send_key(struct cli *c);
int verb_vncdisplay(struct cli *c);
int verb_domdisplay(struct cli *c);
int verb_inject_nmi(struct cli *c);
int verb_save(struct cli *c);
int verb_restore(struct cli *c);
int verb_save_image_define(struct cli *c);
int verb_save_image_dump(struct cli *c);
int verb_managedsave(struct cli *c);
int verb_managedsave_remove(struct cli *c);
int verb_restart_process(struct cli *c);
int verb_blockpull(struct cli *c);
int verb_backup_begin(struct cli *c);
int verb_blockcommit(struct cli *c);
int verb_domjobabort(struct cli *c);
int verb_domjobinfo(struct cli *c);
int verb_blockcopy(struct cli *c);
int verb_blockjob(struct cli *c);
int verb_clone(struct cli *c);
int verb_export(struct cli *c);
int verb_import(struct cli *c);
int verb_template(struct cli *c);
int verb_snapshot_create(struct cli *c);
int verb_snapshot_create_as(struct cli *c);
int verb_snapshot_diff(struct cli *c);
int verb_snapshot_revert(struct cli *c);
int verb_snapshot_delete(struct cli *c);
int verb_snapshot_rename(struct cli *c);
int verb_snapshot_tag(struct cli *c);
int verb_snapshot_list(struct cli *c);
int verb_snapshot_info(struct cli *c);
int verb_snapshot_dumpxml(struct cli *c);
int verb_snapshot_current(struct cli *c);
int verb_snapshot_parent(struct cli *c);
int verb_snapshot_schedule(struct cli *c);
int verb_schedule(struct cli *c);
int verb_schedule_list(struct cli *c);
int verb_schedule_history(struct cli *c);
int verb_schedule_act(struct cli *c);
int verb_grant(struct cli *c);
int verb_revoke(struct cli *c);
int verb_permissions(struct cli *c);
int verb_permissions_review(struct cli *c);
int verb_requests(struct cli *c);
int verb_request_permission(struct cli *c);
int verb_approve(struct cli *c);
int verb_deny(struct cli *c);
int verb_approval_rule(struct cli *c);
int verb_quota(struct cli *c);
int verb_audit(struct cli *c);
int verb_jobs(struct cli *c);
int verb_job_cancel(struct cli *c);
int verb_job_dismiss(struct cli *c);
int verb_new(struct cli *c);
int verb_net_define(struct cli *c);
int verb_net_create(struct cli *c);
int verb_net_dumpjson(struct cli *c);
int verb_net_dumpxml(struct cli *c);
int verb_net_act(struct cli *c);
int verb_net_autostart(struct cli *c);
int verb_net_info(struct cli *c);
int verb_net_name(struct cli *c);
int verb_net_list(struct cli *c);
int verb_net_dhcp_leases(struct cli *c);
int verb_net_update(struct cli *c);
int verb_log(struct cli *c);
int verb_shell(struct cli *c);
/* Replace this process by the shell.
 * line: run these commands, between semicolons; NULL: read lines.
 * Returns an exit code after an error message. */
int shell_start(struct cli *c, const char *line);
int verb_cpu_models(struct cli *c);
int verb_doctor(struct cli *c);
int verb_web(struct cli *c);
int verb_complete(struct cli *c);
int verb_help(struct cli *c);

struct console_opts {
	const char *kind; /* serial or virtio */
	bool no_history, no_input;
	const char *until;    /* text of the guest that ends the console, at most 256 bytes; NULL: none */
	uint64_t deadline_ns; /* on loop_now_ns()'s clock; UINT64_MAX: none */
};

/* Attach standard input and output to a console until the user detaches, or as opts say. Returns an exit code, after an
 * error message on failure. */
int console_attach(struct cli *c, const char *name, const struct console_opts *opts);

#endif
