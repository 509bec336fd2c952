#include "tools/cairn/job.h"
#include "api/wire/client.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/signals.h"
#include "base/util.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>

#define BAR "=============================="
#define BAR_CELLS (sizeof(BAR) - 1)

struct job_wait {
	struct cli *c;
	const char *what, *id;
	int signals;
	bool shared; /* other threads wait on the same signal fd */
	bool bar, drawn, cancelled;
};

/* ---- the progress bar ---- */

void bytes_print(uint64_t bytes, char buf[24])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double v = (double)bytes;
	unsigned u = 0;

	for (; v >= 1024 && u < ARRAY_SIZE(units) - 1; u++)
		v /= 1024;
	snprintf(buf, 24, u ? "%.1f %s" : "%.0f %s", v, units[u]);
}

void progress_bar_draw(const char *what, uint64_t done, uint64_t total, int64_t rate)
{
	unsigned percent = total ? (unsigned)MIN((double)done / (double)total * 100, 100.0) : 0;
	unsigned cells = percent * (unsigned)BAR_CELLS / 100;
	char text[24] = "";

	if (rate >= 0)
		bytes_print((uint64_t)rate, text);
	fprintf(stderr, "\r%s: [%.*s%*s] %3u %%%s%s%s", what, (int)cells,
		BAR, (int)(BAR_CELLS - cells), "", percent,
		text[0] ? "  " : "", text, text[0] ? "/s   " : "   ");
	fflush(stderr);
}

static void bar_draw(struct job_wait *w, struct json_object *data)
{
	const char *unit = js_get_str(data, "unit");
	bool bytes = unit && !strcmp(unit, "bytes");

	progress_bar_draw(w->what, (uint64_t)js_get_int(data, "done", 0), (uint64_t)js_get_int(data, "total", 0),
		bytes ? js_get_int(data, "rate", 0) : -1);
	w->drawn = true;
}

/* Draw a full bar: the last progress event may be far from the end. */
static void bar_fill(struct job_wait *w)
{
	if (w->drawn)
		fprintf(stderr, "\r%s: [%s] 100 %%%16s", w->what, BAR, "");
}

static void bar_end(struct job_wait *w)
{
	if (w->drawn)
		fputc('\n', stderr);
	w->drawn = false;
}

/* ---- waiting for a job ---- */

/* Returns true if the job has concluded. */
static bool event_take(struct job_wait *w, struct json_object *ev)
{
	struct json_object *data = js_get(ev, "data");
	const char *name = js_get_str(ev, "event"), *id = js_get_str(data, "id"),
		   *status = js_get_str(data, "status");

	if (!name || !id || strcmp(id, w->id))
		return false;
	if (!strcmp(name, "JOB_PROGRESS") && w->bar)
		bar_draw(w, data);
	if (!strcmp(name, "JOB_OUTPACED")) {
		bar_end(w);
		fputs("note: the guest writes faster than its disk is copied; its writes go to both images until that is done\n", stderr);
	}
	return !strcmp(name, "JOB_STATUS_CHANGE") && status && !strcmp(status, "concluded");
}

/* Handle Ctrl-C: cancel the job and wait for its result. On a second Ctrl-C, leave the job running. */
static int wait_interrupted(struct job_wait *w, struct err *e)
{
	struct signalfd_siginfo si = { 0 };
	struct json_object *args;
	struct err why;

	if (w->shared)
		w->signals = -1;
	else if (read(w->signals, &si, sizeof(si)) != (ssize_t)sizeof(si))
		return 0;
	if (w->cancelled)
		return err_set(e, -EINTR, ERR_CANCELLED, "job %s continues; see cairn jobs", w->id);
	w->cancelled = true;
	w->c->interrupted = si.ssi_signo == SIGINT;
	args = json_object_new_object();
	js_put_str(args, "id", w->id);
	bar_end(w);
	if (cli_execute(w->c, "job-cancel", args, NULL, NULL, &why) < 0)
		fprintf(stderr, "%s\n", why.msg);
	return 0;
}

static struct json_object *job_of_list(struct json_object *list)
{
	return json_object_is_type(list, json_type_array) && json_object_array_length(list) ?
		json_object_array_get_idx(list, 0) : NULL;
}

static int job_fetch(struct job_wait *w, struct json_object **ret_list, struct err *e)
{
	struct json_object *args = json_object_new_object();

	js_put_str(args, "id", w->id);
	return cli_execute(w->c, "query-jobs", args, ret_list, NULL, e);
}

/* Look at the job after the user's roles have changed. Returns 1: it has concluded; 0; -errno. */
static int wait_check(struct job_wait *w, struct err *e)
{
	CLEANUP_JS struct json_object *list = NULL;
	int r = job_fetch(w, &list, e);
	struct json_object *job = r < 0 ? NULL : job_of_list(list);

	if (r < 0 && e->cls != ERR_PERMISSION)
		return r;
	if (job)
		return !strcmp(js_get_str_or(job, "status", ""), "concluded");
	return err_set(e, -EPERM, ERR_PERMISSION, "your role was revoked, so the daemon cancels job %s, or the job ends by itself", w->id);
}

static int wait_end(struct job_wait *w, struct err *e)
{
	for (;;) {
		CLEANUP_JS struct json_object *ev = NULL;
		struct pollfd p[2] = { { .fd = client_fd(w->c->client), .events = POLLIN },
			{ .fd = w->signals, .events = POLLIN } };
		int r = cli_next_event(w->c, 0, &ev, e);

		if (r == 0 && event_take(w, ev))
			return 0;
		if (r == 0 && cli_roles_changed(ev) && (r = wait_check(w, e)) != 0)
			return MIN(r, 0);
		if (r == 0)
			continue;
		if (r != -ETIMEDOUT)
			return r;
		if (poll(p, 2, -1) > 0 && p[1].revents)
			r = wait_interrupted(w, e);
		if (r < 0 && r != -ETIMEDOUT)
			return r;
	}
}

/* ---- getting and printing the result ---- */

static int result_take(struct job_wait *w, struct json_object **ret_result, struct err *e)
{
	CLEANUP_JS struct json_object *list = NULL;
	struct json_object *args, *job;
	const char *error;
	struct err why;
	int r = job_fetch(w, &list, e);

	if (r < 0)
		return r;
	job = job_of_list(list);
	if (!job)
		return err_set(e, -ENOENT, ERR_NOT_FOUND,
			"job %s was dismissed before its result was read", w->id);
	error = js_get_str(job, "error");
	if (ret_result)
		*ret_result = json_object_get(js_get(job, "result"));
	/* The daemon, or another client, may have removed the job from the list meanwhile. */
	args = json_object_new_object();
	js_put_str(args, "id", w->id);
	cli_execute(w->c, "job-dismiss", args, NULL, NULL, &why);
	if (!error)
		return 0;
	return err_set(e, -EREMOTEIO, client_error_class(js_get_str(job, "error-class")), "%s", error);
}

int job_signals_open(bool files, int *ret_fd, sigset_t *before)
{
	static const int ends[] = { SIGINT, SIGTERM, 0 }, interrupt[] = { SIGINT, 0 };

	*ret_fd = signals_open(files ? ends : interrupt, before);
	return MIN(*ret_fd, 0);
}

int job_await(struct cli *c, const char *id, int signals, struct json_object **ret_result, struct err *e)
{
	struct job_wait w = { .c = c, .what = "", .id = id, .signals = signals, .shared = true };
	int r = wait_end(&w, e);

	return r < 0 ? r : result_take(&w, ret_result, e);
}

int job_run(struct cli *c, const char *command, struct json_object *args, int fd, const char *what,
	struct json_object **ret_result, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	CLEANUP_CLOSE int signals = -1;
	struct job_wait w = { .c = c, .what = what, .bar = isatty(2) && c->format == CLI_TABLE };
	sigset_t before;
	int r = cli_execute_with_fd(c, command, args, fd, &answer, NULL, e);

	if (r < 0)
		return r;
	w.id = js_get_str(answer, "job");
	if (option_flag(c, "no-wait")) {
		printf("%s\n", w.id ? w.id : "");
		return -EINPROGRESS;
	}
	if (!w.id || job_signals_open(fd >= 0, &signals, &before) < 0)
		return err_set(e, -EPROTO, ERR_GENERIC, "the daemon started no job");
	w.signals = signals;
	r = wait_end(&w, e);
	if (!r)
		r = result_take(&w, ret_result, e);
	if (!r)
		bar_fill(&w);
	bar_end(&w);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return r;
}

/* Print how memory was copied in rounds, and by how much the guest was slowed down. */
static void rounds_text(struct json_object *result, double pause_ms, char *buf, size_t size)
{
	int64_t rounds = js_get_int(result, "memory-rounds", 0), throttle = js_get_int(result, "memory-throttle", 0);
	char slowed[60] = "";

	if (throttle)
		snprintf(slowed, sizeof(slowed), ", slowed down by %lld %%", (long long)throttle);
	snprintf(buf, size, "The VM ran while its memory was copied in %lld round%s%s, and was paused for %.1f ms%s",
		(long long)rounds, rounds == 1 ? "" : "s", slowed, pause_ms,
		js_get_bool(result, "memory-stopped", false) ? " because it wrote faster than that" : "");
}

void job_slowed_text(struct json_object *result, char buf[JOB_SLOWED_TEXT])
{
	int64_t throttle = js_get_int(result, "memory-throttle", 0);

	buf[0] = 0;
	if (throttle)
		snprintf(buf, JOB_SLOWED_TEXT, "slowed down by %lld %% because it wrote its memory faster than that was copied",
			(long long)throttle);
}

bool job_tracking_text(struct json_object *result, const char *done, char *buf, size_t size)
{
	const char *word = js_get_str(result, "memory-tracking"), *reason = js_get_str(result, "memory-tracking-reason");
	double pause_ms = (double)js_get_int(result, "pause", 0) / 1e6;
	bool host = word && (!strcmp(word, "unavailable") || !strcmp(word, "dirty-log"));
	char how[200];

	if (!word || !reason || pause_ms <= 0)
		return false;
	if (js_get_int(result, "memory-rounds", 0))
		rounds_text(result, pause_ms, how, sizeof(how));
	else
		snprintf(how, sizeof(how), "The VM was paused for %.1f ms while its memory was %s", pause_ms, done);
	snprintf(buf, size, "%s, since %s%s%s", how, host ? "userfaultfd is not available (" : "", reason,
		host ? "); `cairn doctor` shows how to change that" : "");
	return true;
}

void job_tracking_print(struct cli *c, struct json_object *result)
{
	const char *done = strcmp(c->verb->name, "snapshot-revert") ? "copied" : "read";
	char text[JOB_TRACKING_TEXT];

	if (c->format == CLI_TABLE && job_tracking_text(result, done, text, sizeof(text)))
		puts(text);
}

void job_left_out_print(struct cli *c, struct json_object *result, const char *why)
{
	struct json_object *list = js_get_array(result, "disks-left-out");

	if (!list || c->format != CLI_TABLE)
		return;
	say("left out (%s):", why);
	for (size_t i = 0; i < json_object_array_length(list); i++)
		say(" %s", json_object_get_string(json_object_array_get_idx(list, i)));
	say("\n");
}

int job_result_print(struct cli *c, struct json_object *result,
	void (*figures)(struct json_object *result), const char *fmt, ...)
{
	va_list ap;

	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, result);
		return CLI_OK;
	}
	va_start(ap, fmt);
	vsay(fmt, ap);
	va_end(ap);
	say("\n");
	if (figures && option_flag(c, "verbose"))
		figures(result);
	job_tracking_print(c, result);
	return CLI_OK;
}
