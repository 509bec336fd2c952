/* blockjob: show or cancel the job that works on a disk; or show its copy, switch to it, or end it. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/output.h"
#include "tools/cairn/verbs/jobs.h"
#include "tools/cairn/verbs/pivot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* Find the disk among those of the running VM, or else of the definition. */
static int disk_find(struct cli *c, struct json_object *info, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *definition = NULL;
	struct json_object *disks = js_get_array(info, "disks");
	int r = disks ? 0 : change_read(c, c->pos[0], &definition, e), at;

	if (r < 0)
		return r;
	disks = disks ?: js_get_array(definition, "disks");
	at = disks ? change_find_disk(disks, c->pos[1], e) : err_set(e, -ENOENT, ERR_NOT_FOUND, "the domain has no disk");
	*ret = at < 0 ? NULL : json_object_get(json_object_array_get_idx(disks, (size_t)at));
	return MIN(at, 0);
}

/* Read the jobs first: one that concludes meanwhile leaves a mirror. */
static int work_find(struct cli *c, struct work *w, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL, *all = NULL, *disk = NULL;
	int r = jobs_fetch(c, &all, e);

	if (!r)
		r = cli_vm_info(c, c->pos[0], &info, e);
	if (!r)
		r = disk_find(c, info, &disk, e);
	w->mirror = json_object_get(js_get(disk, "mirror"));
	for (size_t i = 0; !r && i < json_object_array_length(all) && !w->job; i++)
		if (works_on(json_object_array_get_idx(all, i), js_get_str_or(info, "name", ""), js_get_str_or(disk, "id", "")))
			w->job = json_object_get(json_object_array_get_idx(all, i));
	return r;
}

/* Print the words of virsh. */
static void work_line(struct json_object *of, bool active, double percent)
{
	const char *type = js_get_str_or(of, "type", "");

	printf("%sBlock %s: [%6.2f %%]", active && !strcmp(type, "blockcommit") ? "Active " : "",
		!strcmp(type, "blockcommit") ? "Commit" : !strcmp(type, "blockpull") ? "Pull" : "Copy", percent);
}

static void work_print(struct cli *c, const struct work *w)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	double done = (double)js_get_int(w->job, "current-progress", 0), total = (double)js_get_int(w->job, "total-progress", 0);
	int64_t rate = js_get_int(w->job, "bandwidth", 0);

	if (c->format != CLI_TABLE) {
		js_put(o, "job", json_object_get(w->job));
		js_put(o, "mirror", json_object_get(w->mirror));
		output_print(stdout, c->format, o);
	} else if (w->mirror) {
		work_line(w->mirror, true, 100);
		printf("    To: %s\n", js_get_str_or(w->mirror, "path", "a file that is not known by name"));
	} else if (w->job) {
		work_line(w->job, false, total > 0 ? 100 * done / total : 0);
		if (rate)
			printf("    Bandwidth limit: %lld bytes/s (%.3f MiB/s)", (long long)rate, (double)rate / MIB);
		puts("");
	} else {
		say("No current block job for %s\n", c->pos[1]);
	}
}

/* Get the path of the copy, as far as the user may rely on it: another user's could be a link tomorrow. */
static int copy_path(const struct cli *c, const struct work *w, const char **ret, struct err *e)
{
	int64_t user = js_get_int(w->mirror, "user", 0);

	*ret = js_get_str(w->mirror, "path");
	if (*ret && user && user != (int64_t)geteuid())
		return err_set(e, -EPERM, ERR_PERMISSION, "user %lld says that %s is the copy; if you trust that, name it with --dest", (long long)user, *ret);
	if (*ret)
		return 0;
	if (w->mirror)
		return err_set(e, -EINVAL, ERR_INVALID, "it is not known which file is the copy; name it with --dest");
	if (w->job)
		return err_set(e, -EBUSY, ERR_BUSY, "the job has not copied all yet; cairn blockjob %s %s shows its progress", shell_word(c->pos[0]).s, shell_word(c->pos[1]).s);
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "no copy of the disk is known; if an older Cairn began one, name its file with --dest");
}

static int pivot(struct cli *c, const struct work *w, struct err *e)
{
	const char *dest = option_value(c, "dest"), *format = option_value(c, "dest-format"), *path;
	CLEANUP_FREE char *real = dest ? realpath(dest, NULL) : NULL;
	int r = 0;

	path = real;
	if (dest && !real)
		r = err_set_errno(e, -errno, "%s", dest);
	else if (!dest)
		r = copy_path(c, w, &path, e);
	if (r < 0)
		return r;
	if (!format)
		format = dest ? pivot_format(path) : js_get_str_or(w->mirror, "format", "raw");
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
	r = pivot_check_format(c);
	if (r)
		return r;
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
