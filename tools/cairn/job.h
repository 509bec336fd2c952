/* job: wait for a job of the daemon's, with a progress bar on a terminal; Ctrl-C cancels it. */
#ifndef CAIRN_TOOLS_JOB_H
#define CAIRN_TOOLS_JOB_H

#include "tools/cairn/cli.h"

#include <signal.h>

/* Options of every verb that starts a job; the table of verbs names them. */
#define JOB_OPTIONS                                                                                \
	{ "no-wait", NULL, "print the job's id and return at once; see cairn jobs" },                        \
	{ "verbose", NULL, "print figures of the finished job, if any" }

/* Run `command` (args: taken; fd: borrowed, -1: none), and wait for the job that it starts.
 * what: stands before the bar ("Save"). ret_result: the caller puts it; NULL: none.
 * Returns 0; -errno with a sentence; -EINPROGRESS: --no-wait, the id is printed. */
int job_run(struct cli *c, const char *command, struct json_object *args, int fd, const char *what,
	struct json_object **ret_result, struct err *e);

/* SIGINT comes out of *ret_fd (for the caller to close) from here on. before: the mask to go back to.
 * Returns 0 or -errno. */
int job_signals_open(int *ret_fd, sigset_t *before);
/* Wait for a job that c's connection began; ret_result as above. signals: readable when it is to be cancelled, and not
 * read: several may wait with it. Nothing is printed. */
int job_await(struct cli *c, const char *id, int signals, struct json_object **ret_result, struct err *e);

/* What a job gave: as a sentence (of fmt) and, with --verbose, figures (NULL: none); or as the
 * JSON it is, in the other formats. Returns CLI_OK. */
int job_result_print(struct cli *c, struct json_object *result,
	void (*figures)(struct json_object *result), const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* "12.3 MiB" */
void bytes_print(uint64_t bytes, char buf[24]);

#endif
