/* Handlers of export and import. */
#include "api/commands/command.h"
#include "api/jobs/job.h"
#include "api/jobs/export.h"
#include "api/jobs/import.h"
#include "api/wire/json.h"
#include "base/err.h"

void command_vm_export(struct call *c)
{
	struct export_opts opts = { .compress = js_get_str(c->args, "compress"),
		.level = js_get_int(c->args, "level", 0), .snapshot = js_get_str(c->args, "snapshot") };
	struct job *j;
	struct err e;

	if (export_begin(c->vm, c->fd, &opts, js_get_str(c->args, "job-id"), &j, &e) < 0)
		call_fail(c, &e);
	else
		call_return_job(c, j);
}

void command_vm_import(struct call *c)
{
	import_begin(c);
}
