/* Handlers of export and import. */
#include "api/commands/command.h"
#include "api/access/client_file.h"
#include "api/access/fork_as.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/jobs/export.h"
#include "api/jobs/import.h"
#include "api/jobs/job.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

void command_vm_export(struct call *c)
{
	struct export_opts opts = { .compress = js_get_str(c->args, "compress"),
		.level = js_get_int(c->args, "level", 0), .snapshot = js_get_str(c->args, "snapshot"),
		.since = js_get_str(c->args, "since") };
	struct job *j;
	struct err e;

	if (export_begin(c->vm, &c->file, &opts, js_get_str(c->args, "job-id"), &j, &e) < 0)
		call_fail(c, &e);
	else
		call_return_job(c, j);
}

/* Check the paths of increments. */
static int increments_check(struct json_object *list, struct err *e)
{
	size_t n = list ? json_object_array_length(list) : 0;

	if (n > IMPORT_INCREMENTS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "increments: at most %d archives", IMPORT_INCREMENTS_MAX);
	for (size_t i = 0; i < n; i++) {
		const char *path = js_plain_string(json_object_array_get_idx(list, i));

		if (!path || *path != '/' || strlen(path) >= PATH_MAX)
			return err_set(e, -EINVAL, ERR_INVALID, "increments: each must be an absolute path");
	}
	return 0;
}

/* Read the arguments of vm-import. *ret_rights: the caller frees it with free(). */
static int import_opts_take(struct call *c, struct import_opts *opts, struct rights **ret_rights, struct err *e)
{
	opts->folder = js_get_str(c->args, "folder");
	opts->name = js_get_str(c->args, "name");
	opts->increments = js_get_array(c->args, "increments");
	opts->max_bytes = js_get_int(c->args, "max-bytes", 0);
	opts->job_id = js_get_str(c->args, "job-id");
	if (!opts->folder || *opts->folder != '/' || strlen(opts->folder) >= PATH_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "folder: must be an absolute path");
	if (!S_ISREG(client_file_facts(c->file)->mode))
		return err_set(e, -EINVAL, ERR_INVALID, "an archive is a regular file");
	if (opts->name && definition_check_name(opts->name, e) < 0) {
		err_prefix(e, "name");
		return -EINVAL;
	}
	if (opts->max_bytes < (js_get(c->args, "max-bytes") ? 1 : 0))
		return err_set(e, -EINVAL, ERR_INVALID, "max-bytes: must be 1 or more");
	if (increments_check(opts->increments, e) < 0)
		return -EINVAL;
	return rights_of_peer(&c->who, ret_rights, e);
}

void command_vm_import(struct call *c)
{
	struct rights *rights = NULL;
	struct import_opts opts;
	struct err e;
	int r = import_opts_take(c, &opts, &rights, &e);

	if (!r)
		r = import_begin(c->host, &opts, STEAL_PTR(c->file), rights, c, &e);
	if (r < 0)
		call_fail(c, &e);
}
