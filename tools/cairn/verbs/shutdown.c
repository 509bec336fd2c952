/* The verbs shutdown and reboot, now or scheduled, and daemon-stop. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/loop.h"
#include "base/duration.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/multi_vm.h"
#include "tools/cairn/output.h"
#include "tools/cairn/schema.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NS 1000000000LL
/* How long shutdown --wait waits before it says what else stops the VM. */
#define PATIENCE_NS (10 * NS)

/* Wait until the VM is off.
 * patience_ns: when to print what else stops the VM. deadline_ns: UINT64_MAX: the daemon's. */
static int wait_off(struct cli *c, const char *name, uint64_t patience_ns, uint64_t deadline_ns, struct err *e)
{
	const char *goal = deadline_ns == UINT64_MAX ? "shutdown" : "shutoff";
	int r = wait_for_state(c, name, goal, MIN(patience_ns, deadline_ns), e);

	if (r != -ETIMEDOUT || patience_ns >= deadline_ns)
		return r;
	fprintf(stderr, "note: domain '%s' is not off yet; if its guest ignores the request, try cairn shutdown %s%s, or stop it with cairn destroy %s\n",
		name, shell_word(name).s, option_value(c, "mode") ? "" : " --mode agent", shell_word(name).s);
	return wait_for_state(c, name, goal, deadline_ns, e);
}

/* Wait until the VMs are off, except those that were skipped or whose shutdown failed. at_s: the time of the shutdown;
 * 0: now. Returns an exit code. */
static int wait_all_off(struct cli *c, const struct multi_vm *f, int64_t at_s, uint64_t timeout_ns)
{
	uint64_t now_ns = loop_now_ns(), deadline = timeout_ns == UINT64_MAX ? UINT64_MAX : now_ns + timeout_ns;
	uint64_t patience = at_s || option_value(c, "then") ? UINT64_MAX : now_ns + PATIENCE_NS;
	int worst = CLI_OK;

	for (size_t i = 0; i < f->n; i++) {
		const char *name = f->list[i].name;
		struct err e;

		if (f->list[i].r < 0)
			continue;
		if (wait_off(c, name, patience, deadline, &e) < 0) {
			worst = cli_fail(&e, "Domain '%s' is still running", name);
			continue;
		}
		if (c->format == CLI_TABLE)
			say("Domain '%s' is shut off\n", name);
		fflush(stdout);
	}
	return worst;
}

/* ---- shutdown and reboot ---- */

/* Return when the clocks show this time, some days later; a day need not have 24 hours. -1: there is no such date, and
 * mktime() would take it for one in the next month. */
static int64_t local_time(struct tm tm, int days)
{
	int day = tm.tm_mday += days;
	int64_t s;

	tm.tm_isdst = -1;
	s = mktime(&tm);
	return !days && tm.tm_mday != day ? -1 : s;
}

/* Parse "23:30" (the next such time) or "2026-11-20 23:30", in local time. */
static int at_parse(const char *text, int64_t *ret_s)
{
	static const char *const dates[] = { "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M" };
	time_t now = time(NULL);
	struct tm tm;
	const char *rest;

	localtime_r(&now, &tm);
	tm.tm_sec = 0;
	rest = strptime(text, "%H:%M", &tm);
	if (rest && !*rest) {
		*ret_s = local_time(tm, 0);
		if (*ret_s <= now)
			*ret_s = local_time(tm, 1);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(dates); i++) {
		tm = (struct tm){ 0 };
		rest = strptime(text, dates[i], &tm);
		if (rest && !*rest) {
			*ret_s = local_time(tm, 0);
			return *ret_s < 0 ? -EINVAL : 0;
		}
	}
	return -EINVAL;
}

/* Parse --at or --in, once, so that all VMs get the time that is printed. *ret_s: seconds since the epoch; 0: neither
 * is given. Returns 0; CLI_USAGE after an error message. */
static int when_parse(struct cli *c, int64_t *ret_s)
{
	const char *at = option_value(c, "at"), *in = option_value(c, "in");
	uint32_t s;

	*ret_s = c->when_s;
	if (*ret_s)
		return 0;
	if (at && in)
		return cli_usage(c, "--at and --in exclude each other");
	if (at && at_parse(at, ret_s) < 0)
		return cli_usage(c, "--at must be HH:MM or \"YYYY-MM-DD HH:MM\", not \"%s\"", at);
	if (in && duration_parse(in, &s) < 0)
		return cli_usage(c, "--in must be a duration such as 90s, 10m or 2h, not \"%s\"", in);
	if (in)
		*ret_s = time(NULL) + s;
	c->when_s = *ret_s;
	return 0;
}

static bool is_mode(struct json_object *words, const char *word, size_t len)
{
	for (size_t i = 0; i < json_object_array_length(words); i++) {
		const char *w = json_object_get_string(json_object_array_get_idx(words, i));

		if (strlen(w) == len && !memcmp(w, word, len))
			return true;
	}
	return false;
}

/* Check --mode, which may have several words with commas like in virsh. Returns 0; CLI_USAGE after an error message. */
static int mode_check(const struct cli *c, bool planned)
{
	CLEANUP_JS struct json_object *schema = schema_load();
	struct json_object *words = schema_words(schema, schema_argument(schema, "vm-shutdown", "mode"));
	const char *mode = option_value(c, "mode");

	if (mode && planned && strchr(mode, ','))
		return cli_usage(c, "--mode must be a single word with --at and --in, not \"%s\"", mode);
	for (size_t len; mode; mode = mode[len] ? mode + len + 1 : NULL) {
		len = strcspn(mode, ",");
		if (!is_mode(words, mode, len))
			return cli_usage(c, "--mode must be acpi, agent, or both with a comma, not \"%s\"", option_value(c, "mode"));
	}
	return 0;
}

static void when_print(const char *what, int64_t at_s, char *buf, size_t size)
{
	char text[TIME_TEXT_BYTES];

	snprintf(buf, size, "%s at %s", what, time_text(at_s * NS, false, text));
}

static void ask_add(struct cli *c, struct json_object *args)
{
	static const char *const words[] = { "mode", "then", "message" };
	const char *timeout = option_value(c, "then") ? option_value(c, "timeout") : NULL;
	uint64_t timeout_ns;
	int64_t at;

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		js_put_str(args, words[i], option_value(c, words[i]));
	if (timeout && !option_seconds(c, "timeout", 0, &timeout_ns))
		js_put_uint(args, "timeout", (timeout_ns + NS - 1) / NS);
	if (!when_parse(c, &at) && at)
		js_put_int(args, "at", at * NS);
}

static int shutdown_cancel(struct cli *c)
{
	static const struct multi_vm_act a = { .command = "vm-shutdown-cancel", .fail = "cancel the shutdown of",
		.done = "keeps running: its shutdown is cancelled" };

	return multi_vm_do(c, &a);
}

int verb_shutdown(struct cli *c)
{
	struct multi_vm_act a = { .command = "vm-shutdown", .fail = "shutdown", .done = "is being shutdown", .add = ask_add,
		.tries = "mode" };
	uint64_t timeout_ns;
	char done[80];
	struct multi_vm f;
	int64_t at;
	int r = option_seconds(c, "timeout", UINT64_MAX, &timeout_ns);

	if (r || option_flag(c, "cancel"))
		return r ? r : shutdown_cancel(c);
	r = when_parse(c, &at);
	if (!r)
		r = mode_check(c, at);
	if (r)
		return r;
	if (at) {
		when_print("will be shut down", at, done, sizeof(done));
		a.done = done;
	}
	/* With --then, the daemon enforces the deadline. */
	if (option_value(c, "then"))
		timeout_ns = UINT64_MAX;
	r = multi_vm_pick(c, &f);
	if (!r)
		r = multi_vm_run(c, &f, &a);
	if (!r && option_flag(c, "wait") && !option_flag(c, "dry-run"))
		r = wait_all_off(c, &f, at, timeout_ns);
	multi_vm_done(&f);
	return r;
}

int verb_reboot(struct cli *c)
{
	struct multi_vm_act a = { .command = "vm-reboot", .fail = "reboot", .done = "is being rebooted", .add = ask_add,
		.tries = "mode" };
	char done[80];
	int64_t at;
	int r = when_parse(c, &at);

	if (!r)
		r = mode_check(c, at);
	if (r || option_flag(c, "cancel"))
		return r ? r : shutdown_cancel(c);
	if (at) {
		when_print("will be rebooted", at, done, sizeof(done));
		a.done = done;
	}
	return multi_vm_do(c, &a);
}

/* ---- daemon-stop ---- */

static void outcomes_print(struct json_object *vms)
{
	static const char *const heads[] = { "Name", "Action", "Outcome" };
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(vms); i++) {
		struct json_object *vm = json_object_array_get_idx(vms, i);

		table_add(&t, (const char *const[]){ js_get_str_or(vm, "vm", ""), js_get_str_or(vm, "action", ""),
			js_get_str_or(vm, "outcome", "") });
	}
	table_finish(&t, stdout);
}

/* args: taken. A daemon that was not restarted after an upgrade may not know host-ends. At the host's shutdown, it has
 * to stop at least the VMs whose definitions say so. */
static int stop_ask(struct cli *c, struct json_object *args, struct json_object **ret, struct err *e)
{
	int r = cli_execute(c, "daemon-stop", json_object_get(args), ret, NULL, e);

	if (r < 0 && js_get(args, "host-ends") && strstr(e->msg, "'host-ends'")) {
		fprintf(stderr, "warning: the daemon is of an older version, so VMs whose stop_action is leave keep running\n");
		json_object_object_del(args, "host-ends");
		r = cli_execute(c, "daemon-stop", json_object_get(args), ret, NULL, e);
	}
	json_object_put(args);
	return r;
}

int verb_daemon_stop(struct cli *c)
{
	static const char *const actions[] = { "leave", "shutdown", "save" }, *const flags[] = { "host-ends", "vms-only", "dry-run" };
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *args = json_object_new_object(), *vms;
	unsigned given = 0;
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(actions); i++)
		if (option_flag(c, actions[i])) {
			js_put_str(args, "action", actions[i]);
			given++;
		}
	if (given + option_flag(c, "host-ends") > 1) {
		json_object_put(args);
		return cli_usage(c, "--leave, --shutdown, --save and --host-ends exclude each other");
	}
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		if (option_flag(c, flags[i]))
			js_put_bool(args, flags[i], true);
	if (stop_ask(c, args, &o, &e) < 0)
		return cli_fail(&e, "Failed to stop the daemon");
	vms = js_get_array(o, "vms");
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, vms);
	else if (vms && json_object_array_length(vms))
		outcomes_print(vms);
	else
		say("No VM runs\n");
	if (js_get_int(o, "omitted", 0))
		fprintf(stderr, "Not listed: %lld more VMs\n", (long long)js_get_int(o, "omitted", 0));
	if (c->format == CLI_TABLE && option_flag(c, "dry-run"))
		printf("The daemon would %s\n", option_flag(c, "vms-only") ? "keep running" : "stop then");
	return CLI_OK;
}
