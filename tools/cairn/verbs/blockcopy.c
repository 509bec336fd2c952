/* blockcopy: copy a disk of a running VM, by a job of the daemon. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "tools/cairn/backing.h"
#include "tools/cairn/change.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"
#include "tools/cairn/verbs/pivot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB_MAX (1ULL << 24)

/* The copy that the definition is to name. */
struct copy {
	const char *dest, *format;
	char path[PATH_MAX]; /* absolute */
	struct json_object *disk; /* of the running VM; borrowed */
	struct json_object *was; /* the disk in the definition before copy_edit() */
	struct json_object *kept; /* the disk of a next start that has an image of its own */
};

const char *pivot_format(const char *path)
{
	size_t n = strlen(path);

	return n > 6 && !strcmp(path + n - 6, ".qcow2") ? "qcow2" : "raw";
}

int pivot_check_format(const struct cli *c)
{
	const char *format = option_value(c, "dest-format");

	return format && strcmp(format, "raw") && strcmp(format, "qcow2") ? cli_usage(c, "--dest-format must be raw or qcow2") : 0;
}

static int copy_parse(const struct cli *c, struct copy *x)
{
	x->dest = option_value(c, "dest") ?: c->npos > 2 ? c->pos[2] : NULL;
	if (!x->dest)
		return cli_usage(c, "give the file of the copy, as a word or with --dest");
	if (option_value(c, "dest") && c->npos > 2)
		return cli_usage(c, "give the file of the copy once, as a word or with --dest");
	x->format = option_value(c, "dest-format") ?: pivot_format(x->dest);
	return pivot_check_format(c);
}

/* Leave the disk the backing files of its layer `path`, if it has that. */
static void layers_cut(struct json_object *disk, const char *path)
{
	struct json_object *backing = js_get_array(disk, "backing"), *left = json_object_new_array();
	int at = backing ? change_find(backing, "path", path) : -1;

	for (size_t i = (size_t)at + 1; at >= 0 && i < json_object_array_length(backing); i++)
		json_object_array_add(left, json_object_get(json_object_array_get_idx(backing, i)));
	json_object_object_del(disk, "backing");
	if (json_object_array_length(left))
		js_put(disk, "backing", left);
	else
		json_object_put(left);
}

/* Let the disk of the next start have the copy, if it has the running VM's image, or has the copy already. */
static int copy_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct copy *x = opaque;
	struct json_object *disks = js_get_array(definition, "disks"), *disk;
	int i = disks ? change_find(disks, "id", js_get_str_or(x->disk, "id", "")) : -1;
	const char *path;

	(void)c;
	(void)e;
	json_object_put(STEAL_PTR(x->was));
	json_object_put(STEAL_PTR(x->kept));
	if (i < 0)
		return 0; /* the next start does not have the disk */
	disk = json_object_array_get_idx(disks, (size_t)i);
	path = js_get_str_or(disk, "path", "");
	if (!image_is_same(path, js_get_str_or(x->disk, "path", "")) && !image_is_same(path, x->path)) {
		x->kept = json_object_get(disk);
		return 0;
	}
	json_object_deep_copy(disk, &x->was, NULL);
	layers_cut(disk, x->path);
	json_object_object_del(disk, "data_file");
	js_put_str(disk, "path", x->path);
	js_put_str(disk, "format", x->format);
	return 0;
}

/* Undo copy_edit(). */
static int copy_edit_back(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct copy *x = opaque;
	struct json_object *disks = js_get_array(definition, "disks");
	int i = change_find(disks, "path", x->path);

	(void)c;
	(void)e;
	if (i >= 0)
		json_object_array_put_idx(disks, (size_t)i, STEAL_PTR(x->was));
	return 0;
}

/* Return whether the daemon or the VM's process has refused the pivot. After another error, the copy may be in use. */
static bool is_refusal(const struct err *e)
{
	return e->cls == ERR_INVALID || e->cls == ERR_BUSY || e->cls == ERR_NOT_FOUND || e->cls == ERR_UNSUPPORTED || e->cls == ERR_IO;
}

static int pivot_ask(struct cli *c, const struct copy *x, const char *id, bool check_only, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);

	js_put_str(args, "disk", id);
	js_put_str(args, "path", x->path);
	js_put_str(args, "format", x->format);
	if (check_only)
		js_put_bool(args, "check-only", true);
	return cli_execute(c, "vm-blockjob-pivot", args, &answer, NULL, e);
}

static void copy_forget_disks(struct copy *x)
{
	json_object_put(STEAL_PTR(x->was));
	json_object_put(STEAL_PTR(x->kept));
	x->disk = NULL;
}

/* Until the last step, both images have all data that the guest has flushed, so a crash between the steps loses
 * nothing. The first one keeps the definition from naming a copy that the pivot would refuse. */
static int copy_pivot(struct cli *c, struct copy *x, struct err *e)
{
	CLEANUP_JS struct json_object *definition = NULL;
	const char *id;
	struct err own;
	int r = change_read_running(c, c->pos[0], &definition, e), i;

	i = r < 0 ? r : change_find_disk(js_get_array(definition, "disks"), c->pos[1], e);
	if (i < 0)
		return i;
	x->disk = json_object_array_get_idx(js_get_array(definition, "disks"), (size_t)i);
	id = js_get_str_or(x->disk, "id", "");
	r = pivot_ask(c, x, id, true, e);
	if (!r)
		r = change_make_config(c, c->pos[0], true, copy_edit, x, e);
	if (r >= 0)
		r = pivot_ask(c, x, id, false, e);
	if (r < 0 && x->was && is_refusal(e) && change_make_config(c, c->pos[0], true, copy_edit_back, x, &own) < 0)
		fprintf(stderr, "warning: the next start of domain '%s' has the copy: %s\n", c->pos[0], own.msg);
	if (!r && x->kept)
		note_kept_image(c->pos[0], x->kept);
	copy_forget_disks(x);
	return r;
}

int pivot_to(struct cli *c, const char *path, const char *format, struct err *e)
{
	struct copy x = { .format = format };

	if (strlen(path) >= sizeof(x.path))
		return err_set_errno(e, -ENAMETOOLONG, "%.200s", path);
	snprintf(x.path, sizeof(x.path), "%s", path);
	return copy_pivot(c, &x, e);
}

int pivot_abort(struct cli *c, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);

	js_put_str(args, "disk", c->pos[1]);
	return cli_execute(c, "vm-blockjob-abort", args, &answer, NULL, e);
}

/* Return whether the daemon says that the VM does not use the file. */
static bool copy_is_unused(struct cli *c, struct copy *x)
{
	struct err e;
	int r = realpath(x->dest, x->path) ? pivot_ask(c, x, c->pos[1], true, &e) : -1;

	return r == -EREMOTEIO && (e.cls == ERR_NOT_FOUND || e.cls == ERR_INVALID || e.cls == ERR_WRONG_STATE);
}

/* Remove the file of a copy that has failed, if it is the one that this command made, and the VM does not use it.
 * r: the error; if it is no answer of the daemon, the copy may continue. */
static void copy_remove(struct cli *c, struct copy *x, int fd, int r)
{
	struct stat made, is;

	if (fstat(fd, &made) < 0 || lstat(x->dest, &is) < 0 || made.st_dev != is.st_dev || made.st_ino != is.st_ino)
		return;
	if (r == -EREMOTEIO && (!made.st_size || copy_is_unused(c, x)))
		unlink(x->dest);
	else
		fprintf(stderr, "warning: domain '%s' may use %s, so it stays; remove it when no job of the domain writes to it\n", c->pos[0],
			x->dest);
}

/* ret_fd: the new file; owned by the caller. */
static int copy_make(struct cli *c, struct copy *x, int *ret_fd, struct err *e)
{
	const char *bandwidth = option_value(c, "bandwidth");
	int fd, r = cli_ready(c, "vm-blockcopy", e); /* before the file is created: without a daemon, it would stay */
	struct json_object *args;

	if (r < 0)
		return r;
	fd = *ret_fd = open(x->dest, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && errno == EEXIST)
		return err_set(e, -EEXIST, ERR_EXISTS, "%s exists already; name a file that the copy makes", x->dest);
	if (fd < 0)
		return err_set_errno(e, -errno, "%s", x->dest);
	args = cli_vm_args(c->pos[0]);
	js_put_str(args, "disk", c->pos[1]);
	js_put_str(args, "format", x->format);
	if (realpath(x->dest, x->path))
		js_put_str(args, "path", x->path);
	if (bandwidth)
		js_put_uint(args, "bandwidth", strtoull(bandwidth, NULL, 10) * MIB);
	if (option_flag(c, "pivot"))
		js_put_bool(args, "pivot", true);
	r = job_run(c, "vm-blockcopy", args, fd, "Block Copy", NULL, e);
	if (r < 0 && r != -EINPROGRESS)
		copy_remove(c, x, fd, r);
	return r;
}

/* Go on with the new copy. If that is refused, for example because the disk has snapshots, end the copy as one that has
 * failed: the VM would write to both images until somebody does. */
static int copy_made_pivot(struct cli *c, struct copy *x, int fd, struct err *e)
{
	struct err own;
	int r = copy_pivot(c, x, e);

	if (r == -EREMOTEIO && is_refusal(e) && !pivot_abort(c, &own))
		copy_remove(c, x, fd, r);
	return r;
}

static int bandwidth_check(const struct cli *c)
{
	const char *text = option_value(c, "bandwidth");
	char *end = NULL;

	return text && (*text < '0' || *text > '9' || strtoull(text, &end, 10) > MIB_MAX || *end || !strtoull(text, NULL, 10))
		? cli_usage(c, "--bandwidth: a number of MiB/s") : 0;
}

int verb_blockcopy(struct cli *c)
{
	bool pivot = option_flag(c, "pivot"), finish = option_flag(c, "finish");
	CLEANUP_CLOSE int fd = -1;
	struct copy x = { 0 };
	struct err e;
	int r = copy_parse(c, &x);

	if (!r && pivot && finish)
		r = cli_usage(c, "--pivot and --finish exclude each other");
	if (!r && (pivot || finish) && option_flag(c, "no-wait"))
		r = cli_usage(c, "--pivot and --finish wait for the copy, so they exclude --no-wait");
	if (!r)
		r = bandwidth_check(c);
	if (r)
		return r;
	r = copy_make(c, &x, &fd, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (!r && pivot)
		r = copy_made_pivot(c, &x, fd, &e);
	else if (!r && finish)
		r = pivot_abort(c, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to copy disk '%s' of domain '%s'", c->pos[1], c->pos[0]);
	say("%s\n", pivot ? "Successfully pivoted" : finish ? "Successfully copied" : "Now in mirroring phase");
	return CLI_OK;
}
