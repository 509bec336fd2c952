/* human-monitor-command: the lines of QEMU's human monitor that programs use. As in QEMU, output lines end with CRLF
 * and errors are text in a successful answer. */
#include "api/jobs/job.h"
#include "api/jobs/job_owner.h"
#include "api/jobs/snapshot_job.h"
#include "api/qmp/qmp.h"
#include "api/qmp/qmp_handler.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/uuid.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LINE_MAX_BYTES 1024

static void __attribute__((format(printf, 2, 3))) text_return(struct call *c, const char *fmt, ...)
{
	char text[LINE_MAX_BYTES];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	call_return(c, json_object_new_string(text));
}

/* ---- info commands ---- */

static void info_status(struct call *c)
{
	const char *state = qmp_run_state(c->vm);

	if (!strcmp(state, "running") || !strcmp(state, "paused"))
		text_return(c, "VM status: %s\r\n", state);
	else
		text_return(c, "VM status: paused (%s)\r\n", state);
}

static void info_name(struct call *c)
{
	text_return(c, "%s\r\n", c->vm->def->name);
}

static void info_uuid(struct call *c)
{
	char uuid[UUID_TEXT];

	uuid_print(c->vm->def->uuid, uuid);
	text_return(c, "%s\r\n", uuid);
}

static void info_kvm(struct call *c)
{
	text_return(c, "kvm support: enabled\r\n");
}

static void info_version(struct call *c)
{
	CLEANUP_JS struct json_object *v = schema_version_to_json();
	struct json_object *q = js_get(v, "qemu");

	text_return(c, "%lld.%lld.%lld%s\r\n", (long long)js_get_int(q, "major", 0),
		(long long)js_get_int(q, "minor", 0), (long long)js_get_int(q, "micro", 0),
		js_get_str(v, "package"));
}

/* ---- snapshots ---- */

static void work_done(struct job *j, void *opaque)
{
	struct call *c = opaque;
	struct err e = j->e;
	bool failed = j->failed;

	job_dismiss(j, NULL);
	if (failed)
		call_fail(c, &e);
	else
		call_return(c, NULL);
}

static void wait_for(struct call *c, int r, struct job *j, const struct err *e)
{
	if (r < 0) {
		call_fail(c, e);
		return;
	}
	job_owner_set(j, c);
	j->concluded = work_done;
	j->concluded_opaque = c;
}

/* QEMU's monitor shows no jobs, so these jobs are hidden on the VM's own socket. */
static const struct job_name unseen = { .id = NULL, .qmp_id = "" };

static int arg_name(const char *arg, char name[VM_SNAPSHOT_NAME_MAX + 1], struct err *e)
{
	if (!*arg || strlen(arg) > VM_SNAPSHOT_NAME_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "name: 1 to %d bytes", VM_SNAPSHOT_NAME_MAX);
	for (const char *p = arg; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return err_set(e, -EINVAL, ERR_INVALID, "name: has control characters");
	snprintf(name, VM_SNAPSHOT_NAME_MAX + 1, "%s", arg);
	return 0;
}

static void hmp_savevm(struct call *c, const char *arg)
{
	struct vm_snapshot_create body = { .disks_only = false };
	time_t now = time(NULL);
	struct job *j = NULL;
	struct tm tm;
	struct err e;
	int r = 0;

	localtime_r(&now, &tm);
	strftime(body.name, sizeof(body.name), "vm-%Y%m%d%H%M%S", &tm);
	if (*arg)
		r = arg_name(arg, body.name, &e);
	if (!r)
		r = snapshot_create(c->vm, &body, &unseen, &j, &e);
	wait_for(c, r, j, &e);
}

static void hmp_loadvm(struct call *c, const char *arg)
{
	struct snapshot_revert opts = { .with_memory = true,
		.then = c->vm->state == VM_PAUSED ? SAVE_THEN_PAUSED : SAVE_THEN_RUNNING };
	struct job *j = NULL;
	struct err e;
	int r = arg_name(arg, opts.name, &e);

	if (!r)
		r = snapshot_revert(c->vm, &opts, &unseen, &j, &e);
	wait_for(c, r, j, &e);
}

static void hmp_delvm(struct call *c, const char *arg)
{
	char name[VM_SNAPSHOT_NAME_MAX + 1];
	struct job *j = NULL;
	struct err e;
	int r = arg_name(arg, name, &e);

	if (!r)
		r = snapshot_delete(c->vm, name, SNAPSHOT_ALONE, false, &unseen, &j, &e);
	wait_for(c, r, j, &e);
}

static void hmp_quit(struct call *c)
{
	vm_destroy(c->vm, c);
}

/* ---- parsing command lines ---- */

static const struct {
	const char *name;
	void (*run)(struct call *c);
	void (*run_with)(struct call *c, const char *arg); /* arg: the rest of the line */
} lines[] = {
	{ "info status", info_status, NULL },
	{ "info name", info_name, NULL },
	{ "info uuid", info_uuid, NULL },
	{ "info kvm", info_kvm, NULL },
	{ "info version", info_version, NULL },
	{ "stop", qmp_stop, NULL },
	{ "s", qmp_stop, NULL },
	{ "cont", qmp_cont, NULL },
	{ "c", qmp_cont, NULL },
	{ "system_powerdown", qmp_powerdown, NULL },
	{ "system_reset", qmp_reset, NULL },
	{ "nmi", qmp_nmi, NULL },
	{ "quit", hmp_quit, NULL },
	{ "q", hmp_quit, NULL },
	{ "savevm", NULL, hmp_savevm },
	{ "loadvm", NULL, hmp_loadvm },
	{ "delvm", NULL, hmp_delvm },
};

/* Trim the line and reduce white space between words to one space. */
static void spaces_squeeze(const char *line, char *buf, size_t size)
{
	size_t n = 0;

	for (; *line && n + 1 < size; line++) {
		bool space = strchr(" \t\r\n", *line) != NULL;

		if (!space || (n && buf[n - 1] != ' '))
			buf[n++] = space ? ' ' : *line;
	}
	if (n && buf[n - 1] == ' ')
		n--;
	buf[n] = 0;
}

void qmp_hmp(struct call *c, const char *line)
{
	char words[LINE_MAX_BYTES];

	c->is_text = true;
	spaces_squeeze(line, words, sizeof(words));
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		size_t n = strlen(lines[i].name);

		if (lines[i].run && !strcmp(words, lines[i].name)) {
			lines[i].run(c);
			return;
		}
		if (lines[i].run_with && !strncmp(words, lines[i].name, n) && (!words[n] || words[n] == ' ')) {
			lines[i].run_with(c, words[n] ? words + n + 1 : "");
			return;
		}
	}
	if (!*words)
		call_return(c, NULL);
	else
		text_return(c, "unknown command: '%.*s'\r\n", 200, words);
}
