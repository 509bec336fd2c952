/* blockjob: show or cancel the job that works on a disk; or show its copy, switch to it, or end it. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/output.h"
#include "tools/cairn/verbs/jobs.h"
#include "tools/cairn/verbs/pivot.h"

#include <errno.h>
#include <string.h>

/* What the daemon tells of a disk; both NULL: nothing works on it. */
struct work {
	struct json_object *job;    /* owned: the job under way */
	struct json_object *mirror; /* owned: the copy, or the base, that gets each change, too */
};

static void work_done(struct work *w)
{
	json_object_put(w->job);
	json_object_put(w->mirror);
}

static bool works_on(struct json_object *job, const char *vm, const char *disk)
{
	return !strcmp(js_get_str_or(job, "vm", ""), vm) && !strcmp(js_get_str_or(job, "disk", ""), disk) &&
		strcmp(js_get_str_or(job, "status", ""), "concluded") != 0;
}

static int work_find(struct cli *c, struct work *w, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL, *all = NULL;
	const char *disk = c->pos[1], *vm;
	struct json_object *disks;
	int r = cli_vm_info(c, c->pos[0], &info, e), at = 0;

	if (r < 0)
		return r;
	disks = js_get_array(info, "disks"); /* NULL: the VM is off */
	if (disks)
		at = change_find_disk(disks, disk, e);
	if (at < 0)
		return at;
	if (disks) {
		disk = js_get_str_or(json_object_array_get_idx(disks, (size_t)at), "id", "");
		w->mirror = json_object_get(js_get(json_object_array_get_idx(disks, (size_t)at), "mirror"));
	}
	r = jobs_fetch(c, &all, e);
	vm = js_get_str_or(info, "name", "");
	for (size_t i = 0; !r && i < json_object_array_length(all) && !w->job; i++)
		if (works_on(json_object_array_get_idx(all, i), vm, disk))
			w->job = json_object_get(json_object_array_get_idx(all, i));
	return r;
}

static void job_print(struct json_object *job)
{
	const char *type = js_get_str_or(job, "type", "");
	double done = (double)js_get_int(job, "current-progress", 0), total = (double)js_get_int(job, "total-progress", 0);
	int64_t rate = js_get_int(job, "bandwidth", 0);

	printf("Block %s: [%6.2f %%]", !strcmp(type, "blockcopy") ? "Copy" : !strcmp(type, "blockpull") ? "Pull" : "Commit",
		total > 0 ? 100 * done / total : 0);
	if (rate)
		printf("    Bandwidth limit: %lld bytes/s (%.3f MiB/s)", (long long)rate, (double)rate / MIB);
	puts("");
}

static void work_print(struct cli *c, const struct work *w)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();

	if (c->format != CLI_TABLE) {
		js_put(o, "job", json_object_get(w->job));
		js_put(o, "mirror", json_object_get(w->mirror));
		output_print(stdout, c->format, o);
	} else if (w->mirror) {
		printf("Mirroring: [100.00 %%]    To: %s\n", js_get_str_or(w->mirror, "path", "a file that is not known by name"));
	} else if (w->job) {
		job_print(w->job);
	} else {
		say("No current block job for %s\n", c->pos[1]);
	}
}

static int no_copy(const struct cli *c, const struct work *w, struct err *e)
{
	if (w->mirror)
		return err_set(e, -EINVAL, ERR_INVALID, "it is not known which file is the copy; name it with --dest");
	if (w->job)
		return err_set(e, -EBUSY, ERR_BUSY, "the job has not copied all yet; cairn blockjob %s %s shows its progress", c->pos[0], c->pos[1]);
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "the disk has no copy under way");
}

static int pivot(struct cli *c, const struct work *w, struct err *e)
{
	const char *dest = option_value(c, "dest"), *format = option_value(c, "dest-format"), *path = dest ?: js_get_str(w->mirror, "path");

	if (!path)
		return no_copy(c, w, e);
	if (!format)
		format = dest ? pivot_format(dest) : js_get_str_or(w->mirror, "format", "raw");
	return pivot_to(c, path, format, e);
}

static int abort_work(struct cli *c, const struct work *w, struct err *e)
{
	struct json_object *args;

	if (w->mirror || !w->job)
		return pivot_abort(c, e);
	args = json_object_new_object();
	js_put_str(args, "id", js_get_str(w->job, "id"));
	return cli_execute(c, "job-cancel", args, NULL, NULL, e);
}

int verb_blockjob(struct cli *c)
{
	bool pivots = option_flag(c, "pivot"), aborts = option_flag(c, "abort");
	struct work w = { 0 };
	struct err e;
	int r, code = CLI_OK;

	if (pivots + aborts + option_flag(c, "info") > 1)
		return cli_usage(c, "--pivot, --abort and --info exclude each other");
	if (!pivots && (option_value(c, "dest") || option_value(c, "dest-format")))
		return cli_usage(c, "--dest and --dest-format belong to --pivot");
	r = work_find(c, &w, &e);
	if (!r && pivots)
		r = pivot(c, &w, &e);
	else if (!r && aborts)
		r = abort_work(c, &w, &e);
	else if (!r)
		work_print(c, &w);
	if (r < 0)
		code = cli_fail(&e, "Failed to %s disk '%s' of domain '%s'", pivots || aborts ? "end the job of" : "show the job of", c->pos[1], c->pos[0]);
	else if (pivots)
		say("Successfully pivoted\n");
	else if (aborts)
		say("%s\n", w.job && !w.mirror ? "The job is being cancelled" : "Successfully copied");
	work_done(&w);
	return code;
}
