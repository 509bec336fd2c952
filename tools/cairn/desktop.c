#include "tools/cairn/desktop.h"
#include "api/schema/schema.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SERVICE "org.freedesktop.Notifications"
#define OUTPUT_BYTES 2048
#define SUMMARY_BYTES 160
#define BODY_BYTES 400

struct message {
	char summary[SUMMARY_BYTES], body[BODY_BYTES];
	bool critical;
};

/* ---- the service ---- */

/* Call a method by busctl. args: its signature and arguments; NULL-terminated. out: gets busctl's output.
 * Returns 0; -EIO: busctl has failed; -errno. */
static int service_call(const char *method, const char *const *args, char out[OUTPUT_BYTES])
{
	const char *argv[32] = { "busctl", "--user", DESKTOP_TIMEOUT, "--", "call", SERVICE, "/org/freedesktop/Notifications",
		SERVICE, method };
	CLEANUP_CLOSE int fd = memfd_create("busctl", MFD_CLOEXEC);
	posix_spawn_file_actions_t files;
	size_t n = 9;
	ssize_t got;
	pid_t pid;
	int r, status;

	if (fd < 0)
		return -errno;
	for (size_t i = 0; args[i] && n < ARRAY_SIZE(argv) - 1; i++)
		argv[n++] = args[i];
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, fd, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&files, fd, STDERR_FILENO);
	r = -posix_spawnp(&pid, "busctl", &files, NULL, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&files);
	if (r < 0)
		return r;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	got = pread(fd, out, OUTPUT_BYTES - 1, 0);
	out[MAX(got, 0)] = 0;
	return status ? -EIO : 0;
}

int desktop_open(struct desktop *d, struct err *e)
{
	char out[OUTPUT_BYTES];
	int r = service_call("GetCapabilities", (const char *const[]){ NULL }, out);

	*d = (struct desktop){ .markup = !r && strstr(out, "\"body-markup\"") };
	if (r == -ENOENT)
		return err_set(e, r, ERR_HOST, "busctl is missing, which shows desktop messages; install systemd");
	out[strcspn(out, "\n")] = 0;
	utf8_clean(out);
	return r < 0 ? err_set(e, r, ERR_HOST, "the desktop shows no messages: %.300s; run this in a desktop session", r == -EIO ? out : strerror(-r)) : 0;
}

/* ---- texts ---- */

static void text_set(char *buf, size_t size, const char *text)
{
	snprintf(buf, size, "%s", text);
	utf8_clean(buf); /* the cut may be within a character */
}

__attribute__((format(printf, 2, 3))) static void summary_set(struct message *m, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(m->summary, sizeof(m->summary), fmt, ap);
	va_end(ap);
	utf8_clean(m->summary);
}

static bool is_off(const char *state)
{
	return !strcmp(state, "shutoff") || !strcmp(state, "saved") || !strcmp(state, "crashed");
}

static bool change_text(struct message *m, struct json_object *data)
{
	const char *from = js_get_str_or(data, "from", ""), *state = js_get_str_or(data, "state", ""), *vm = js_get_str_or(data, "vm", "-"),
		   *reason = js_get_str_or(data, "reason", "");
	bool same = !strcmp(from, state), left = !strcmp(reason, "restart limit");
	/* A VM that sleeps keeps the reason idle; only the error of a start that was to wake it is a detail. */
	bool failed = !strcmp(reason, "failed") || (same && !strcmp(reason, "idle") && js_get_str(data, "detail"));
	bool crashed = !failed && !same && !strcmp(state, "crashed"), paused = !strcmp(state, "paused") && strcmp(reason, "user") != 0;

	if (!failed && !left && !crashed && !paused && is_off(from) == is_off(state))
		return false;
	m->critical = failed || left || crashed || paused;
	if (failed)
		summary_set(m, "VM %s could not be started", vm);
	else if (left)
		summary_set(m, "VM %s is not restarted again", vm);
	else if (crashed)
		summary_set(m, "VM %s has crashed", vm);
	else if (paused)
		summary_set(m, "VM %s is paused: %s", vm, reason);
	else
		summary_set(m, "VM %s %s", vm, !strcmp(state, "saved") ? "is saved" : is_off(state) ? "is off" : "runs");
	text_set(m->body, sizeof(m->body), js_get_str_or(data, "detail", crashed ? reason : ""));
	return true;
}

static bool schedule_text(struct message *m, struct json_object *data)
{
	const char *outcome = js_get_str_or(data, "outcome", "");

	if (!strcmp(outcome, "done"))
		return false;
	summary_set(m, "VM %s: schedule %s: %s", js_get_str_or(data, "vm", "-"), js_get_str_or(data, "schedule", "-"), outcome);
	text_set(m->body, sizeof(m->body), js_get_str_or(data, "detail", ""));
	return true;
}

/* Find the text of an event of which every user wants to know. Returns whether it has one. */
static bool message_of(struct message *m, const char *name, struct json_object *data)
{
	const char *vm = js_get_str_or(data, "vm", "-");

	if (!strcmp(name, "VM_STATE_CHANGE"))
		return change_text(m, data);
	if (!strcmp(name, "SCHEDULE_RUN"))
		return schedule_text(m, data);
	m->critical = true;
	if (!strcmp(name, "THRESHOLD")) {
		m->critical = !strcmp(js_get_str_or(data, "state", ""), "raised");
		summary_set(m, "VM %s: %s is %s%s%s", vm, js_get_str_or(data, "measure", "-"), m->critical ? "too high" : "no longer too high",
			js_get_str(data, "value") ? ": " : "", js_get_str_or(data, "value", ""));
	} else if (!strcmp(name, "POOL_SPACE") && !strcmp(js_get_str_or(data, "state", ""), "low")) {
		summary_set(m, "Pool %s has little space", js_get_str_or(data, "pool", "-"));
	} else if (!strcmp(name, "DISK_SPACE") && !strcmp(js_get_str_or(data, "state", ""), "low")) {
		summary_set(m, "VM %s: disk %s has little space on the host", vm, js_get_str_or(data, "device", "-"));
	} else if (!strcmp(name, "BLOCK_IO_ERROR")) {
		summary_set(m, "VM %s: disk %s has failed", vm, js_get_str_or(data, "device", "-"));
		text_set(m->body, sizeof(m->body), js_get_str_or(data, "reason", ""));
	} else if (!strcmp(name, "GUEST_PANICKED")) {
		summary_set(m, "VM %s: the guest's kernel has panicked", vm);
	} else {
		return false;
	}
	return true;
}

/* Describe any event by its name and members. */
static void message_of_any(struct message *m, const char *name, struct json_object *data)
{
	const char *vm = js_get_str(data, "vm"), *sep = "";
	size_t at = 0;

	m->critical = false;
	summary_set(m, "%s%s%s", vm ? vm : "", vm ? ": " : "", name);
	if (!data)
		return;
	json_object_object_foreach(data, key, v)
	{
		if (!strcmp(key, "vm") || !strcmp(key, VM_UUID_KEY) || at >= sizeof(m->body))
			continue;
		at += (size_t)snprintf(m->body + at, sizeof(m->body) - at, "%s%s=%s", sep, key, json_object_get_string(v));
		sep = ", ";
	}
	utf8_clean(m->body);
}

/* Let the service show the text as it is. Returns a text that the caller owns. */
static char *markup_escape(const char *text)
{
	char *out = must_alloc(malloc(6 * strlen(text) + 1)), *at = out;

	for (; *text; text++) {
		const char *entity = *text == '<' ? "&lt;" : *text == '>' ? "&gt;" : *text == '&' ? "&amp;" : NULL;

		if (entity)
			at = stpcpy(at, entity);
		else
			*at++ = *text;
	}
	*at = 0;
	return out;
}

static void message_show(struct desktop *d, const struct message *m)
{
	CLEANUP_FREE char *body = d->markup ? markup_escape(m->body) : must_alloc(strdup(m->body));
	/* program, message to replace, icon, summary, body, no actions, one hint, the service's time of display */
	const char *const args[] = { "susssasa{sv}i", "cairn", "0", "computer", m->summary, body, "0", "1", "urgency", "y", m->critical ? "2" : "1", "-1",
		NULL };
	char out[OUTPUT_BYTES];
	int r = service_call("Notify", args, out);

	out[strcspn(out, "\n")] = 0;
	utf8_clean(out);
	if (r < 0 && !d->failed)
		fprintf(stderr, "warning: a desktop message was not shown: %s\n", r == -EIO ? out : strerror(-r));
	d->failed = r < 0;
}

void desktop_notify(struct desktop *d, struct json_object *ev, bool all)
{
	const char *name = js_get_str_or(ev, "event", "-");
	struct json_object *data = js_get(ev, "data");
	struct message m = { .summary = "" };
	uint64_t left_out;
	size_t len;

	if (!message_of(&m, name, data)) {
		if (!all)
			return;
		message_of_any(&m, name, data);
	}
	if (!ratelimit_take(&d->limit, clock_monotonic_ns(), &left_out))
		return;
	len = strlen(m.body);
	if (left_out)
		snprintf(m.body + len, sizeof(m.body) - len, "%s(%llu events before it are left out)", len ? " " : "", (unsigned long long)left_out);
	message_show(d, &m);
}
