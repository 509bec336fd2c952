/* exec --no-wait lets a job of the daemon run a program; exec-output shows the program's output. */
#include "tools/cairn/verbs/exec.h"
#include "api/wire/json.h"
#include "base/agent_frame.h"
#include "base/base64.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "tools/cairn/guest_stream.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INPUT_MAX AGENT_WINDOW_BYTES /* of the command agent-exec */

static void words_add(struct json_object *to, const char *const *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		json_object_array_add(to, json_object_new_string(words[i]));
}

/* Put standard input, up to its end, into the arguments. */
static int input_put(struct json_object *args, struct err *e)
{
	CLEANUP_FREE char *buf = must_alloc(malloc(INPUT_MAX + 1)), *text = NULL;
	size_t n = 0;
	ssize_t got = 1;

	while (got > 0 && n <= INPUT_MAX) {
		got = read(0, buf + n, INPUT_MAX + 1 - n);
		if (got < 0)
			return err_set_errno(e, -errno, "cannot read the standard input");
		n += (size_t)got;
	}
	if (n > INPUT_MAX)
		return err_set(e, -E2BIG, ERR_INVALID, "the standard input has more than %u bytes; copy it into the guest first, with cairn cp", INPUT_MAX);
	text = base64_encode(buf, n);
	js_put_str(args, "input-data", text);
	return 0;
}

int exec_as_job(struct cli *c, uint64_t limit_ns)
{
	const char *values[CLI_GIVEN_MAX], *as_user[EXEC_USER_WORDS], *folder = option_value(c, "workdir");
	struct json_object *args = cli_vm_args(c->pos[0]), *words = json_object_new_array(), *env = json_object_new_array();
	size_t nvars;
	struct err e;
	int r = exec_variables(c, values, &nvars);

	if (r) {
		json_object_put(args);
		json_object_put(words);
		json_object_put(env);
		return r;
	}
	words_add(words, as_user, exec_user_words(c, as_user));
	words_add(words, (const char *const *)c->pos + 1, c->npos - 1);
	words_add(env, values, nvars);
	js_put(args, "arg", words);
	js_put(args, "env", env);
	if (folder)
		js_put_str(args, "folder", folder);
	if (limit_ns)
		js_put_uint(args, "timeout", DIV_ROUND_UP(limit_ns, 1000000000ULL));
	r = option_flag(c, "interactive") ? input_put(args, &e) : 0;
	if (r < 0)
		json_object_put(args);
	else
		r = job_run(c, "agent-exec", args, -1, "Exec", NULL, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	cli_fail(&e, "Failed to run a program in domain '%s'", c->pos[0]);
	return EXEC_CAIRN;
}

/* ---- the output ---- */

/* Write a page of a stream to fd. coded: the member that has the page if it is not text. */
static int stream_show(struct json_object *o, const char *name, const char *coded, int fd, struct err *e)
{
	const char *text = js_get_str(o, name), *base64 = js_get_str(o, coded);
	size_t len = text ? strlen(text) : 0;
	CLEANUP_FREE char *data = base64 ? base64_decode(base64, &len) : strdup(text ? text : "");
	int r;

	if (!data)
		return err_set(e, -EPROTO, ERR_GENERIC, "the daemon's answer is malformed");
	if (isatty(fd))
		guest_stream_hide_controls(data, len, NULL);
	r = write_full(fd, data, len);
	return r < 0 ? err_set_errno(e, r, "cannot write the program's output") : 0;
}

/* Get a page. before: the answer with the page before it; NULL: get the first one. */
static int page_get(struct cli *c, struct json_object *before, struct json_object **ret_o, struct err *e)
{
	struct json_object *args = json_object_new_object();

	js_put_str(args, "id", c->pos[0]);
	if (before) {
		js_put_int(args, "stdout-from", js_get_int(before, "stdout-next", 0));
		js_put_int(args, "stderr-from", js_get_int(before, "stderr-next", 0));
	}
	return cli_execute(c, "agent-exec-output", args, ret_o, NULL, e);
}

/* Write all pages. *ret_last: the last answer. */
static int pages_show(struct cli *c, struct json_object **ret_last, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL, *next = NULL;
	int r = page_get(c, NULL, &o, e);

	while (!r) {
		if (!(r = stream_show(o, "stdout", "stdout-base64", 1, e)))
			r = stream_show(o, "stderr", "stderr-base64", 2, e);
		if (r < 0 || !js_get_bool(o, "more", false))
			break;
		r = page_get(c, o, &next, e);
		if (!r) {
			json_object_put(o);
			o = STEAL_PTR(next);
		}
	}
	if (!r)
		*ret_last = STEAL_PTR(o);
	return r;
}

int verb_exec_output(struct cli *c)
{
	CLEANUP_JS struct json_object *o = NULL;
	int64_t sig;
	struct err e;

	if ((c->format == CLI_TABLE ? pages_show(c, &o, &e) : page_get(c, NULL, &o, &e)) < 0) {
		cli_fail(&e, "Failed to show the output of job %s", c->pos[0]);
		return EXEC_CAIRN;
	}
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	if (js_get_bool(o, "truncated", false))
		fprintf(stderr, "warning: the rest of the output was dropped; redirect it to a file, and use cairn cp\n");
	if (!js_get_bool(o, "ended", false)) {
		fprintf(stderr, "The program has not ended, or its end is not known. Next: cairn jobs\n");
		return CLI_OK;
	}
	sig = js_get_int(o, "signal", 0);
	return sig ? EXEC_SIGNAL + (int)sig : (int)js_get_int(o, "exit-status", EXEC_CAIRN);
}
