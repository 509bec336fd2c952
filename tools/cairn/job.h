/* job: start a job of the daemon and wait for it, with a progress bar on a terminal. Ctrl-C cancels the job, and so
 * does SIGTERM if the job writes to a file of this process. */
#ifndef CAIRN_TOOLS_JOB_H
#define CAIRN_TOOLS_JOB_H

#include "tools/cairn/cli.h"

#include <signal.h>

/* Options of every verb that starts a job. */
#define JOB_OPTIONS                                                                                \
	{ "no-wait", NULL, "print the job's id and return at once; see cairn jobs" },                        \
	{ "verbose", NULL, "also print durations, sizes or names from the result of the job, if it has any" }

/* Run a command that starts a job, and wait for the job.
 * args: taken. fd: passed to the daemon; borrowed; -1: none. what: label of the progress bar ("Save").
 * ret_result: result of the job, which the caller owns; NULL: not wanted.
 * Returns 0; -EINPROGRESS: --no-wait, the job's id is printed; -errno with a sentence. */
int job_run(struct cli *c, const char *command, struct json_object *args, int fd, const char *what,
	struct json_object **ret_result, struct err *e);

/* Block SIGINT and open a signalfd for it. files: also for SIGTERM: the job writes a file of this process.
 * ret_fd: the caller closes it. before: previous signal mask.
 * Returns 0 or -errno. */
int job_signals_open(bool files, int *ret_fd, sigset_t *before);
/* Wait for a job that c's connection has started, without a progress bar.
 * signals: fd that becomes readable when the job must be cancelled; not read, so several threads can share it.
 * ret_result: as in job_run(). Returns 0; -errno with a sentence. */
int job_await(struct cli *c, const char *id, int signals, struct json_object **ret_result, struct err *e);

/* Print the result of a job: as a sentence (fmt), or as JSON, YAML or CSV. Below the sentence follows that of
 * job_tracking_text(), if there is one.
 * figures: prints more for --verbose; NULL: nothing. Returns CLI_OK. */
int job_result_print(struct cli *c, struct json_object *result,
	void (*figures)(struct json_object *result), const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Write "slowed down by 80 % because it wrote its memory faster than that was copied"; nothing if the VM ran freely. */
#define JOB_SLOWED_TEXT 96
void job_slowed_text(struct json_object *result, char buf[JOB_SLOWED_TEXT]);
/* Write a sentence that the VM was paused while its memory was copied or read, or that the copy took rounds, and why,
 * if a job's result says so.
 * done: "copied" or "read". Returns whether there is a sentence. */
#define JOB_TRACKING_TEXT 512
bool job_tracking_text(struct json_object *result, const char *done, char *buf, size_t size);
/* Print that sentence, unless the format is JSON, YAML or CSV. job_result_print() does this, too. */
void job_tracking_print(struct cli *c, struct json_object *result);

/* Print the disks that a job's result names as left out, if it names any, unless the format is JSON, YAML or CSV. */
void job_left_out_print(struct cli *c, struct json_object *result, const char *why);

/* Draw a progress bar on standard error, over the one before. rate: bytes/s; -1: do not show it. */
void progress_bar_draw(const char *what, uint64_t done, uint64_t total, int64_t rate);
/* Write a size such as "12.3 MiB". */
void bytes_print(uint64_t bytes, char buf[24]);

#endif
