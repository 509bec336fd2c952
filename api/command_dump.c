/* Handler: a guest's memory into a file. */
#include "api/command.h"
#include "api/dump.h"
#include "api/job.h"
#include "api/js.h"
#include "base/err.h"

#include <errno.h>
#include <string.h>

static int arg_then(struct call *c, enum dump_then *ret, struct err *e)
{
	const char *then = js_get_str(c->args, "then");

	*ret = DUMP_THEN_NOTHING;
	if (!then)
		return 0;
	*ret = strcmp(then, "crash") ? DUMP_THEN_RESET : DUMP_THEN_CRASH;
	if (!strcmp(then, "crash") || !strcmp(then, "reset"))
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "then: \"%.40s\" is neither crash nor reset", then);
}

void command_vm_dump(struct call *c)
{
	struct dump_request q = { .fd = c->fd, .job_id = js_get_str(c->args, "job-id") };
	struct job *j;
	struct err e;
	int r = arg_then(c, &q.then, &e);

	if (!r)
		r = dump_begin(c->vm, &q, &j, &e);
	if (r < 0)
		call_fail(c, &e);
	else
		call_return_job(c, j);
}
