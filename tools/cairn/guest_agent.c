#include "tools/cairn/guest_agent.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/cairn/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define ANSWER_MAX (48 * MIB) /* more than any agent sends: two streams of 16 MiB in base64 */

int guest_agent_malformed(const char *name, struct err *e)
{
	return err_set(e, -EPROTO, ERR_GENERIC, "the guest agent sent a malformed answer to %s; restart qemu-guest-agent in the guest", name);
}

/* Read the answer from the file that the VM's process has written. That process still has the file open, so its
 * content and its length may change at any time. */
static int answer_read(int fd, int64_t bytes, const char *name, struct json_object **ret_answer, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	size_t n = 0;

	if (fd < 0 || bytes < 0 || bytes > (int64_t)ANSWER_MAX)
		return guest_agent_malformed(name, e);
	text = must_alloc(calloc(1, (size_t)bytes + 1));
	while (n < (size_t)bytes) {
		ssize_t got = pread(fd, text + n, (size_t)bytes - n, (off_t)n);

		if (got <= 0)
			return guest_agent_malformed(name, e);
		n += (size_t)got;
	}
	if (js_parse(text, n, "answer", ret_answer, e) < 0)
		return guest_agent_malformed(name, e);
	return 0;
}

int guest_agent_ask(struct cli *c, const char *vm, struct json_object *command, bool looks, unsigned timeout_s,
	struct json_object **ret_answer, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL, *name = json_object_get(js_get(command, "execute"));
	CLEANUP_CLOSE int fd = -1;
	struct json_object *args = cli_vm_args(vm);
	int r;

	js_put(args, "command", command);
	js_put_int(args, "timeout", timeout_s);
	js_put_bool(args, "fd", true);
	r = cli_execute(c, looks ? "vm-agent-query" : "vm-agent-command", args, &o, &fd, e);
	if (r < 0)
		return r;
	return answer_read(fd, js_get_int(o, "bytes", -1), name ? json_object_get_string(name) : "the command", ret_answer, e);
}

int guest_agent_call(struct cli *c, const char *vm, const char *name, struct json_object *args, bool looks, unsigned timeout_s,
	struct json_object **ret_v, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *command = json_object_new_object(), *v;
	int r;

	js_put_str(command, "execute", name);
	if (args)
		js_put(command, "arguments", args);
	r = guest_agent_ask(c, vm, command, looks, timeout_s, &answer, e);
	if (r < 0)
		return r;
	if (!json_object_is_type(answer, json_type_object) || !json_object_object_get_ex(answer, "return", &v))
		return guest_agent_malformed(name, e);
	*ret_v = json_object_get(v);
	return 0;
}
