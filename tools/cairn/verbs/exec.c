/* exec: run a program in the guest, with cairn-agent if that answers (exec_agent.c), otherwise with QEMU's guest agent,
 * which keeps the output until the program has ended. */
#include "tools/cairn/verbs/exec.h"
#include "api/wire/json.h"
#include "base/base64.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/util.h"
#include "tools/cairn/guest_agent.h"
#include "tools/cairn/guest_session.h"
#include "tools/cairn/guest_stream.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Standard input goes with the command, whose text in base64 the agent's protocol limits (64 KiB). */
#define INPUT_MAX (40 * 1024)
#define EXEC_TIMEOUT_S 60 /* for the agent's fork and exec in a slow or busy guest */
#define POLL_FIRST_MS 5
#define POLL_LAST_MS 250

static volatile sig_atomic_t interrupts;

static void interrupted(int sig)
{
	(void)sig;
	interrupts++;
}

struct exec {
	struct cli *c;
	const struct err *no_agent; /* why cairn-agent does not run the program; NULL: it was not asked */
	int64_t pid; /* in the guest */
	uint64_t deadline_ns;
	bool timed_out;
};

static int failed(const struct exec *x, struct err *e)
{
	cli_fail(guest_link_error(x->no_agent, e), "Failed to run a program in domain '%s'", x->c->pos[0]);
	return EXEC_CAIRN;
}

/* ---- starting the program ---- */

static void word_add(struct json_object *words, const char *word)
{
	json_object_array_add(words, json_object_new_string(word));
}

size_t exec_user_words(struct cli *c, const char *words[EXEC_USER_WORDS])
{
	const char *user = option_value(c, "user");

	if (!user)
		return 0;
	words[0] = "runuser";
	words[1] = "-u";
	words[2] = user;
	words[3] = "--";
	return EXEC_USER_WORDS;
}

int exec_variables(struct cli *c, const char *vars[CLI_GIVEN_MAX], size_t *ret_n)
{
	static char *made[CLI_GIVEN_MAX];
	const char *given[CLI_GIVEN_MAX], *value;
	size_t n = option_values(c, "env", given, ARRAY_SIZE(given));

	*ret_n = 0;
	for (size_t i = 0; i < n; i++) {
		if (!*given[i] || given[i][0] == '=')
			return cli_usage(c, "--env takes NAME=VALUE or NAME, not '%s'", given[i]);
		value = strchr(given[i], '=') ? NULL : getenv(given[i]);
		if (value && asprintf(&made[i], "%s=%s", given[i], value) < 0)
			must_alloc(NULL);
		if (value || strchr(given[i], '='))
			vars[(*ret_n)++] = value ? made[i] : given[i];
	}
	return 0;
}

/* Put the programs before the command that change user, folder and environment: the agent itself can only replace the
 * whole environment. Returns NULL after a usage error. */
static struct json_object *words_of(struct cli *c)
{
	const char *values[CLI_GIVEN_MAX], *as_user[EXEC_USER_WORDS], *folder = option_value(c, "workdir");
	size_t n, nuser = exec_user_words(c, as_user);
	struct json_object *words = exec_variables(c, values, &n) ? NULL : json_object_new_array();

	if (!words)
		return NULL;
	for (size_t i = 0; i < nuser; i++)
		word_add(words, as_user[i]);
	if (folder) {
		word_add(words, "sh");
		word_add(words, "-c");
		word_add(words, "cd -- \"$1\" || exit 125; shift; exec \"$@\"");
		word_add(words, "sh");
		word_add(words, folder);
	}
	if (n)
		word_add(words, "env");
	for (size_t i = 0; i < n; i++)
		word_add(words, values[i]);
	for (size_t i = 1; i < c->npos; i++)
		word_add(words, c->pos[i]);
	return words;
}

/* Read standard input to its end. Returns its base64, which the caller frees; NULL: an error. */
static char *input_read(struct err *e)
{
	CLEANUP_FREE char *buf = must_alloc(malloc(INPUT_MAX + 1));
	size_t n = 0;
	ssize_t got = 1;

	while (got > 0 && n <= INPUT_MAX) {
		got = read(0, buf + n, INPUT_MAX + 1 - n);
		if (got < 0) {
			err_set_errno(e, -errno, "cannot read the standard input");
			return NULL;
		}
		n += (size_t)got;
	}
	if (n <= INPUT_MAX)
		return base64_encode(buf, n);
	err_set(e, -E2BIG, ERR_INVALID, "the standard input has more than %d bytes; copy it into the guest first, with cairn cp",
		INPUT_MAX);
	return NULL;
}

/* The agent's error for a program that cannot be started; its text is the one of GLib. */
static int start_failed(const struct exec *x, struct err *e)
{
	int code = failed(x, e);

	if (strstr(e->msg, "No such file or directory"))
		return EXEC_MISSING;
	return strstr(e->msg, "Permission denied") ? EXEC_NOT_EXECUTABLE : code;
}

/* Returns 0; an exit code. */
static int program_start(struct exec *x)
{
	CLEANUP_JS struct json_object *words = words_of(x->c), *v = NULL;
	CLEANUP_FREE char *input = NULL;
	struct json_object *args, *rest;
	struct err e;

	if (!words)
		return CLI_USAGE;
	args = json_object_new_object();
	rest = json_object_new_array();
	js_put(args, "path", json_object_get(json_object_array_get_idx(words, 0)));
	for (size_t i = 1; i < json_object_array_length(words); i++)
		json_object_array_add(rest, json_object_get(json_object_array_get_idx(words, i)));
	js_put(args, "arg", rest);
	js_put_bool(args, "capture-output", true);
	if (option_flag(x->c, "interactive")) {
		input = input_read(&e);
		if (!input) {
			json_object_put(args);
			return failed(x, &e);
		}
		js_put_str(args, "input-data", input);
	}
	if (guest_agent_call(x->c, x->c->pos[0], "guest-exec", args, false, EXEC_TIMEOUT_S, &v, &e) < 0)
		return start_failed(x, &e);
	x->pid = js_get_int(v, "pid", -1);
	if (x->pid > 0)
		return 0;
	guest_agent_malformed("guest-exec", &e);
	return failed(x, &e);
}

/* ---- waiting for its end ---- */

/* Send a signal to the program. The program kill(1) of the guest does it. */
static void program_kill(const struct exec *x, const char *sig)
{
	CLEANUP_JS struct json_object *v = NULL;
	struct json_object *args = json_object_new_object(), *words = json_object_new_array();
	char pid[24];
	struct err e;

	snprintf(pid, sizeof(pid), "%lld", (long long)x->pid);
	js_put_str(args, "path", "kill");
	word_add(words, sig);
	word_add(words, pid);
	js_put(args, "arg", words);
	if (guest_agent_call(x->c, x->c->pos[0], "guest-exec", args, false, EXEC_TIMEOUT_S, &v, &e) < 0)
		fprintf(stderr, "warning: the program %s in the guest may still run: %s\n", pid, e.msg);
}

/* Wait until it is time to ask again. A signal ends the wait. */
static void pause_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 }, NULL);
}

/* Returns 0 when the program has ended, or does not end after its time; -errno. */
static int program_wait(struct exec *x, struct json_object **ret_status, struct err *e)
{
	unsigned ms = POLL_FIRST_MS;
	sig_atomic_t sent = 0;

	for (;;) {
		CLEANUP_JS struct json_object *v = NULL;
		struct json_object *args = json_object_new_object();
		int r;

		js_put_int(args, "pid", x->pid);
		r = guest_agent_call(x->c, x->c->pos[0], "guest-exec-status", args, true, GUEST_AGENT_TIMEOUT_MAX_S, &v, e);
		if (r < 0)
			return r;
		if (js_get_bool(v, "exited", false)) {
			*ret_status = json_object_get(v);
			return 0;
		}
		if (clock_monotonic_ns() >= x->deadline_ns && !x->timed_out) {
			x->timed_out = true;
			program_kill(x, "-KILL");
		} else if (x->timed_out && clock_monotonic_ns() >= x->deadline_ns + 2000000000ULL) {
			return 0;
		}
		if (interrupts > sent) {
			program_kill(x, interrupts == 1 ? "-INT" : "-KILL");
			sent = interrupts;
		}
		pause_ms(ms);
		ms = MIN(ms + ms / 2, POLL_LAST_MS);
	}
}

/* ---- the result ---- */

/* Decode a stream of the status. Returns its data, which the caller frees. */
static char *stream_of(struct json_object *status, const char *key, size_t *ret_len)
{
	const char *text = js_get_str(status, key);

	*ret_len = 0;
	return text ? base64_decode(text, ret_len) : strdup("");
}

static int stream_show(struct json_object *status, const char *key, int fd, struct err *e)
{
	size_t len;
	CLEANUP_FREE char *data = stream_of(status, key, &len);
	int r;

	if (!data)
		return guest_agent_malformed("guest-exec-status", e);
	if (isatty(fd))
		guest_stream_hide_controls(data, len, NULL);
	r = write_full(fd, data, len);
	return r < 0 ? err_set_errno(e, r, "cannot write the program's output") : 0;
}

/* Returns the status for the caller's shell: the program's own, or 128 and the number of its signal. */
static int status_code(struct json_object *status)
{
	int64_t code = js_get_int(status, "exitcode", -1), sig = js_get_int(status, "signal", -1);

	if (sig > 0 && sig < 128)
		return EXEC_SIGNAL + (int)sig;
	return code >= 0 ? (int)(code & 255) : EXEC_CAIRN;
}

static void stream_put(struct json_object *o, const char *name, struct json_object *status, const char *key)
{
	size_t len;
	CLEANUP_FREE char *data = stream_of(status, key, &len);

	guest_stream_put(o, name, data ? data : "", data ? len : 0);
}

static void result_print(struct cli *c, struct json_object *status, int code)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();

	js_put_int(o, "status", code);
	js_put(o, "signal", json_object_get(js_get(status, "signal")));
	stream_put(o, "stdout", status, "out-data");
	stream_put(o, "stderr", status, "err-data");
	js_put_bool(o, "truncated", js_get_bool(status, "out-truncated", false) || js_get_bool(status, "err-truncated", false));
	output_print(stdout, c->format, o);
}

static int result_show(struct exec *x, struct json_object *status)
{
	int code = x->timed_out ? EXEC_TIMEOUT : status_code(status);
	struct err e;

	if (x->c->format != CLI_TABLE) {
		result_print(x->c, status, code);
		return code;
	}
	if (stream_show(status, "out-data", 1, &e) < 0 || stream_show(status, "err-data", 2, &e) < 0)
		return failed(x, &e);
	if (js_get_bool(status, "out-truncated", false) || js_get_bool(status, "err-truncated", false))
		fprintf(stderr, "warning: the guest agent has cut the output off; redirect it to a file, and use cairn cp\n");
	if (x->timed_out)
		fprintf(stderr, "error: the program was killed, because its time limit passed\n");
	return code;
}

static int exec_by_qga(struct cli *c, const struct err *no_agent, uint64_t limit_ns)
{
	CLEANUP_JS struct json_object *status = NULL;
	struct exec x = { .c = c, .no_agent = no_agent };
	struct sigaction act = { .sa_handler = interrupted };
	struct err e;
	int r;

	x.deadline_ns = limit_ns ? clock_monotonic_ns() + limit_ns : UINT64_MAX;
	r = program_start(&x);
	if (r)
		return r;
	sigaction(SIGINT, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
	if (program_wait(&x, &status, &e) < 0)
		return failed(&x, &e);
	return result_show(&x, status);
}

int verb_exec(struct cli *c)
{
	CLEANUP(guest_link_close) struct guest_link link = { .sock = -1 };
	const char *agent = option_value(c, "agent");
	uint64_t limit_ns;
	struct err e;

	if (option_seconds(c, "timeout", 0, &limit_ns))
		return EXEC_CAIRN;
	if (option_flag(c, "no-wait")) {
		if (option_flag(c, "tty") || (agent && strcmp(agent, "cairn")) || strchr(c->pos[0], '/'))
			return cli_usage(c, "--no-wait needs cairn-agent and a VM of the daemon, and gives the program no terminal");
		return exec_as_job(c, limit_ns);
	}
	if ((!agent || !strcmp(agent, "cairn")) && guest_link_open(c, c->pos[0], &link, &e) == 0)
		return exec_by_agent(c, &link, NULL, limit_ns, NULL);
	if (!agent && !option_flag(c, "tty") && !strchr(c->pos[0], '/'))
		return exec_by_qga(c, &e, limit_ns);
	if (!agent || !strcmp(agent, "cairn"))
		return failed(&(struct exec){ .c = c }, &e);
	if (option_flag(c, "tty"))
		return cli_usage(c, "--tty needs cairn-agent in the guest; leave --agent qga out");
	return exec_by_qga(c, NULL, limit_ns);
}
