/* audit: print the daemon's audit log, filtered by time, user or VM. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/output.h"
#include "tools/cairn/user.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define SUBJECT_BYTES 320 /* names are at most 255 bytes in the log */
#define SUBJECT_SHOWN 60  /* bytes of the column "Domain" */

static int since_parse(struct cli *c, int64_t *ret_ns)
{
	const char *text = option_value(c, "since");

	*ret_ns = 0;
	return !text || time_parse(text, ret_ns) ? 0 : cli_usage(c, "--since must be 90s, 30m, 2h, 7d or YYYY-MM-DD [HH:MM[:SS]], not \"%s\"", text);
}

static int user_parse(struct cli *c, int64_t *ret_uid)
{
	const char *text = option_value(c, "user");

	*ret_uid = text ? user_number(false, text) : -1;
	if (text && *ret_uid < 0)
		return cli_usage(c, "unknown user \"%s\" in --user; give a name or a uid", text);
	return 0;
}

static int audit_fetch(struct cli *c, int64_t since, int64_t uid, struct json_object **ret_all, struct err *e)
{
	struct json_object *args = json_object_new_object();

	js_put_int(args, "since", since);
	if (uid >= 0)
		js_put_int(args, "uid", uid);
	js_put_str(args, "vm", option_value(c, "vm"));
	return cli_fetch_all(c, "query-audit", args, "lines", "from", ret_all, NULL, e);
}

/* Cut a long text between two characters. Any user may send a text as the name of a VM, and the widest one would widen
 * all lines of the table. */
static void subject_cut(char text[SUBJECT_BYTES])
{
	size_t n = SUBJECT_SHOWN - 3;

	if (strlen(text) <= SUBJECT_SHOWN)
		return;
	while (n && ((unsigned char)text[n] & 0xc0) == 0x80)
		n--;
	memcpy(text + n, "...", 4);
}

/* Print the object of a command: a VM, or "network NAME". */
static void subject_text(struct json_object *line, char text[SUBJECT_BYTES])
{
	struct json_object *args = js_get(line, "arguments");
	const char *vm = js_get_str(line, "vm"), *network = js_get_str(args, "network");

	if (!network && !strncmp(js_get_str_or(line, "command", ""), "net-", 4))
		network = js_get_str(js_get(args, "definition"), "name");
	if (!vm && network)
		snprintf(text, SUBJECT_BYTES, "network %s", network);
	else
		snprintf(text, SUBJECT_BYTES, "%s", vm ? vm : "-");
	subject_cut(text);
}

static void row_add(struct table *t, struct json_object *o)
{
	int64_t uid = js_get_int(o, "uid", -1);
	int64_t left_out = js_get_int(o, "left-out", 0);
	char when[TIME_TEXT_BYTES], pid[24], user[64], took[24], more[40], subject[SUBJECT_BYTES];

	time_text(js_get_int(o, "time", 0), false, when);
	user_name(false, uid, user, sizeof(user));
	if (left_out) {
		snprintf(more, sizeof(more), "(%lld more)", (long long)left_out);
		table_add(t, (const char *const[]){ when, uid < 0 ? "several" : user, "-", more, "-", "-", js_get_str_or(o, "outcome", "-") });
		return;
	}
	snprintf(pid, sizeof(pid), "%lld", (long long)js_get_int(o, "pid", 0));
	subject_text(o, subject);
	snprintf(took, sizeof(took), "%.1f ms", (double)js_get_int(o, "duration", 0) / 1e6);
	table_add(t, (const char *const[]){ when, user, pid,
		js_get_str_or(o, "command", "-"), subject, took, js_get_str_or(o, "outcome", "-") });
}

int verb_audit(struct cli *c)
{
	static const char *const heads[] = { "Time", "User", "Pid", "Command", "Domain", "Took",
		"Outcome" };
	CLEANUP_JS struct json_object *all = NULL;
	int64_t since, uid;
	struct err e;
	int r = since_parse(c, &since);

	if (!r)
		r = user_parse(c, &uid);
	if (r)
		return r;
	if (audit_fetch(c, since, uid, &all, &e) < 0)
		return cli_fail(&e, "Failed to read the audit log");
	return cli_rows_show(c, all, heads, ARRAY_SIZE(heads), row_add);
}
