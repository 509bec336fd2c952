/* cli: what every verb of `cairn` gets: its parsed arguments, the way to print and fail,
 * and the daemon. */
#ifndef CAIRN_TOOLS_CLI_H
#define CAIRN_TOOLS_CLI_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client;
struct json_object;
struct verb;

/* Exit codes, one per thing a script may want to tell apart. */
enum cli_exit {
	CLI_OK = 0,
	CLI_FAILURE = 1,
	CLI_USAGE = 2,
	CLI_NOT_FOUND = 3,
	CLI_WRONG_STATE = 4,
	CLI_PERMISSION = 5,
	CLI_BUSY = 6,
	CLI_HOST = 7,
};

enum cli_format { CLI_TABLE, CLI_JSON, CLI_YAML, CLI_CSV };

#define CLI_POSITIONALS_MAX 256
#define CLI_OPTIONS_MAX 24
#define CLI_GIVEN_MAX 64
#define CLI_NAMED_MAX 3

/* What the schema says of an argument of the verb's commands (in a `value`: the words that it takes), or of another
 * command (in a `doc`). */
#define FROM_SCHEMA(name) "=" name

struct verb_option {
	const char *name;
	const char *value; /* what stands for it in the help; "a|b": one of these words; NULL: a flag */
	const char *doc;
};

struct cli {
	const struct verb *verb;
	const char *socket; /* -c; NULL: the default */
	struct client *client;
	enum cli_format format;
	const char *pos[CLI_POSITIONALS_MAX];
	size_t npos;
	const char *named[CLI_NAMED_MAX]; /* positionals that came as options, by place; NULL: did not */
	const char *options[CLI_OPTIONS_MAX]; /* by position in the verb's list; NULL: not given */
	struct {
		int option; /* its position */
		const char *value;
	} given[CLI_GIVEN_MAX]; /* all that were, in order, for those that may come again */
	size_t ngiven;
	struct json_object *vms; /* where names come from that stood as numbers */
};

struct verb {
	const char *name, *group, *args;
	const char *summary; /* NULL: what the schema says of the first command */
	const struct verb_option *options; /* ended by a NULL name */
	size_t min, max;		   /* positionals */
	bool prints;			   /* takes --format */
	const char *completes;		   /* "vm", "file", "verb" or NULL */
	/* What it asks the daemon for, with blanks: first that which is the verb's purpose and decides who may, and
	 * when; not: what any verb may need to look how VMs are, and to wait for jobs. NULL: nothing. */
	const char *commands;
	int (*run)(struct cli *c);
};

/* verbs.c; ended by a NULL name. */
extern const struct verb verbs[];
const struct verb *verb_find(const char *name);
/* Says that there is none of that name; returns CLI_USAGE. */
int verb_missing(const char *name);

/* suggest.c: of those that at() returns for 0, 1, ... until NULL, the one that `word` may be a slip of the finger for.
 * Returns "; did you mean <prefix><it>?" in buf, or "". */
#define NEAREST_BYTES 96
const char *suggest_hint(const char *word, const char *prefix, const char *(*at)(const void *opaque, size_t i),
	const void *opaque, char buf[NEAREST_BYTES]);

/* options.c: argv[0] is the verb. Returns 0 or CLI_USAGE, having said why; 1 << 8 when
 * --help was asked for. */
#define CLI_HELP_ASKED 256
int options_parse(struct cli *c, int argc, char **argv);
bool option_flag(const struct cli *c, const char *name);
const char *option_value(const struct cli *c, const char *name); /* NULL: not given */
/* Every value of an option that may come again. Returns their number. */
size_t option_values(const struct cli *c, const char *name, const char **values, size_t max);
/* "a|b|c", separated by `between`, as "a, b or c". */
void words_or(const char *words, char between, char *buf, size_t size);
/* Seconds, with a fraction if wanted. Returns 0 and *ret_ns (fallback when not given), or
 * CLI_USAGE, having said why. */
int option_seconds(const struct cli *c, const char *name, uint64_t fallback_ns, uint64_t *ret_ns);

/* ---- failing (main.c) ---- */

/* Prints "error: <what>" and "error: <sentence>"; returns the exit code of e's class. */
int cli_fail(const struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for a mistake on the command line; returns CLI_USAGE. */
int cli_usage(const struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int cli_exit_code(enum err_class cls);

/* ---- the daemon (main.c) ---- */

/* Connects on first use. args: taken. As client_execute(). */
int cli_execute(struct cli *c, const char *command, struct json_object *args,
	struct json_object **ret_v, int *ret_fd, struct err *e);
/* The same, and fd (borrowed; -1: none) goes along. */
int cli_execute_with_fd(struct cli *c, const char *command, struct json_object *args, int fd,
	struct json_object **ret_v, int *ret_fd, struct err *e);
/* {"vm": name}; the caller adds to it. */
struct json_object *cli_vm_args(const char *name);
/* All of vm-list, brief or whole, as one array, and those that the daemon could not load (NULL: not wanted); the caller
 * puts both. (list.c) */
int cli_vm_list(struct cli *c, bool brief, struct json_object **ret_all, struct json_object **ret_unloaded,
	struct err *e);
/* Of one VM in it; "-" when it has none, as the id of one that is off. Lives as long as vm. */
const char *cli_vm_member(struct json_object *vm, const char *key);
/* vm-info of one VM. */
int cli_vm_info(struct cli *c, const char *name, struct json_object **ret_o, struct err *e);

/* ---- waiting (wait.c) ---- */

/* Until the VM is in a state whose word is `word` ("shutoff" takes saved and crashed too).
 * Returns 0; -ETIMEDOUT, -errno with a sentence. */
int wait_for_state(struct cli *c, const char *name, const char *word, uint64_t deadline_ns,
	struct err *e);

/* ---- verbs ---- */
int verb_define(struct cli *c);
int verb_validate(struct cli *c);
int verb_dumpjson(struct cli *c);
int verb_dumpxml(struct cli *c);
int verb_edit(struct cli *c);
int verb_setvcpus(struct cli *c);
int verb_setmem(struct cli *c);
int verb_domrename(struct cli *c);
int verb_set_lifecycle_action(struct cli *c);
int verb_desc(struct cli *c);
int verb_attach_disk(struct cli *c);
int verb_detach_disk(struct cli *c);
int verb_change_media(struct cli *c);
int verb_domblklist(struct cli *c);
int verb_attach_interface(struct cli *c);
int verb_detach_interface(struct cli *c);
int verb_domiflist(struct cli *c);
int verb_domifstat(struct cli *c);
int verb_domifaddr(struct cli *c);
int verb_undefine(struct cli *c);
int verb_start(struct cli *c);
int verb_shutdown(struct cli *c);
int verb_reboot(struct cli *c);
int verb_reset(struct cli *c);
int verb_suspend(struct cli *c);
int verb_resume(struct cli *c);
int verb_destroy(struct cli *c);
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
int verb_top(struct cli *c);
int verb_qmp_path(struct cli *c);
int verb_version(struct cli *c);
int verb_console(struct cli *c);
int verb_wait(struct cli *c);
int verb_event(struct cli *c);
int verb_run(struct cli *c);
int verb_dump(struct cli *c);
int verb_save(struct cli *c);
int verb_restore(struct cli *c);
int verb_managedsave(struct cli *c);
int verb_managedsave_remove(struct cli *c);
int verb_clone(struct cli *c);
int verb_export(struct cli *c);
int verb_import(struct cli *c);
int verb_template(struct cli *c);
int verb_snapshot_create(struct cli *c);
int verb_snapshot_create_as(struct cli *c);
int verb_snapshot_revert(struct cli *c);
int verb_snapshot_delete(struct cli *c);
int verb_snapshot_rename(struct cli *c);
int verb_snapshot_tag(struct cli *c);
int verb_snapshot_list(struct cli *c);
int verb_snapshot_info(struct cli *c);
int verb_snapshot_current(struct cli *c);
int verb_snapshot_parent(struct cli *c);
int verb_snapshot_schedule(struct cli *c);
int verb_grant(struct cli *c);
int verb_revoke(struct cli *c);
int verb_permissions(struct cli *c);
int verb_audit(struct cli *c);
int verb_jobs(struct cli *c);
int verb_job_cancel(struct cli *c);
int verb_job_dismiss(struct cli *c);
int verb_help(struct cli *c);

/* Attach this terminal to a console. Returns an exit code, having said what failed. */
int console_attach(struct cli *c, const char *name, const char *kind);

#endif
