/* Handlers of agent-exec and agent-exec-output: programs in the guest as jobs. */
#include "api/commands/command.h"
#include "api/jobs/exec.h"
#include "api/jobs/job.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/base64.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MAX_S (366LL * 24 * 3600)

/* Put the strings of an array into words[], which has that much room. list: NULL: empty. Returns their number;
 * -errno. */
static int words_put(struct json_object *list, const char *key, const char **words, size_t room, struct err *e)
{
	size_t n = list ? json_object_array_length(list) : 0;

	if (n > room)
		return err_set(e, -E2BIG, ERR_INVALID, "%s: at most %d words in total", key, AGENT_WORDS_MAX);
	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		if (!json_object_is_type(o, json_type_string) || strlen(json_object_get_string(o)) != (size_t)json_object_get_string_len(o))
			return err_set(e, -EINVAL, ERR_INVALID, "%s: an array of strings without NUL", key);
		words[i] = json_object_get_string(o);
	}
	return (int)n;
}

/* Fill the frame that starts the program from the command's arguments. */
static int start_fill(struct agent_start *s, struct json_object *args, struct err *e)
{
	struct json_object *env = js_get_array(args, "env");
	int n = words_put(js_get_array(args, "arg"), "arg", s->words, AGENT_WORDS_MAX, e), vars;

	if (n < 0)
		return n;
	if (!n || !s->words[0][0])
		return err_set(e, -EINVAL, ERR_INVALID, "arg: the program and its arguments, such as [\"uname\", \"-a\"]");
	vars = words_put(env, "env", s->words + n, AGENT_WORDS_MAX - (size_t)n, e);
	if (vars < 0)
		return vars;
	for (int i = n; i < n + vars; i++)
		if (!strchr(s->words[i], '=') || s->words[i][0] == '=')
			return err_set(e, -EINVAL, ERR_INVALID, "env: NAME=VALUE, not '%.60s'", s->words[i]);
	s->nargs = (size_t)n;
	s->nvars = (size_t)vars;
	s->folder = js_get_str_or(args, "folder", "");
	return 0;
}

int command_exec_begin(struct call *c, const struct job_name *name, struct job **ret_j, struct err *e)
{
	CLEANUP_FREE struct agent_start *start = must_alloc(calloc(1, sizeof(*start)));
	CLEANUP_FREE char *input = NULL;
	const char *text = js_get_str(c->args, "input-data");
	int64_t timeout_s = js_get_int(c->args, "timeout", 0);
	struct exec_request q = { .start = start, .name = *name, .timeout_ns = (uint64_t)timeout_s * 1000000000 };
	int r = command_vsock_check(c, AGENT_PORT, e);

	if (!r)
		r = start_fill(start, c->args, e);
	if (r < 0)
		return r;
	if (timeout_s < 0 || timeout_s > TIMEOUT_MAX_S)
		return err_set(e, -EINVAL, ERR_INVALID, "timeout: 1 to %lld seconds; 0: no limit", TIMEOUT_MAX_S);
	input = text ? base64_decode(text, &q.input_bytes) : NULL;
	if (text && !input)
		return err_set(e, -EINVAL, ERR_INVALID, "input-data: not base64");
	q.input = input;
	return exec_begin(c->vm, &c->who, &q, ret_j, e);
}

void command_agent_exec(struct call *c)
{
	const struct job_name name = { .id = js_get_str(c->args, "job-id") };
	struct job *j;
	struct err e;

	if (command_exec_begin(c, &name, &j, &e) < 0)
		call_fail(c, &e);
	else
		call_return_job(c, j);
}

void command_exec_output(struct call *c, const struct job *j)
{
	const char *id = js_get_str_or(c->args, "id", "");
	int64_t out = js_get_int(c->args, "stdout-from", 0), err = js_get_int(c->args, "stderr-from", 0);
	struct json_object *o = j ? exec_output(j, (const uint64_t[]){ (uint64_t)MAX(out, 0), (uint64_t)MAX(err, 0) }) : NULL;
	struct err e;

	if (o) {
		call_return(c, o);
		return;
	}
	err_set(&e, -ENOENT, ERR_NOT_FOUND, j ? "job '%.63s' has no output: it runs no program in a guest, or ended with an earlier daemon" :
		"there is no job '%.63s'. Next: cairn jobs", id);
	call_fail(c, &e);
}

void command_agent_exec_output(struct call *c)
{
	command_exec_output(c, job_find(c->host, js_get_str_or(c->args, "id", "")));
}
