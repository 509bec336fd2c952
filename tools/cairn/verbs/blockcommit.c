/* blockcommit: merge upper layers of a disk into a lower one, by a job of the daemon. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"
#include "tools/cairn/verbs/pivot.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB_MAX (1ULL << 24)

/* The images that the options name, in the running VM's definition. */
struct merge {
	struct json_object *disk; /* borrowed from the definition */
	size_t top, base; /* numbers of layers; 0: the image */
	bool live; /* the VM runs, and top is 0 */
};

static size_t layer_count(struct json_object *disk)
{
	struct json_object *backing = js_get_array(disk, "backing");

	return 1 + (backing ? json_object_array_length(backing) : 0);
}

static struct json_object *layer_of(struct json_object *disk, size_t n)
{
	return n ? json_object_array_get_idx(js_get_array(disk, "backing"), n - 1) : disk;
}

/* Find a layer by its path, or by "vda[1]". */
static int layer_find(struct json_object *disk, const char *name, size_t *ret, struct err *e)
{
	const char *id = js_get_str_or(disk, "id", ""), *at = name + strlen(id);
	char path[PATH_MAX];
	size_t n = layer_count(disk);
	char *end;

	if (!strncmp(name, id, strlen(id)) && *at == '[') {
		unsigned long i = strtoul(at + 1, &end, 10);

		*ret = i;
		if (!strcmp(end, "]") && end > at + 1 && i < n)
			return 0;
	}
	if (!realpath(name, path))
		snprintf(path, sizeof(path), "%s", name);
	for (size_t i = 0; i < n; i++) {
		*ret = i;
		if (!strcmp(js_get_str_or(layer_of(disk, i), "path", ""), name) || !strcmp(js_get_str_or(layer_of(disk, i), "path", ""), path))
			return 0;
	}
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "disk %s has no layer %s", id, name);
}

static int merge_plan(struct cli *c, struct json_object *definition, struct merge *m, struct err *e)
{
	const char *top = option_value(c, "top"), *base = option_value(c, "base");
	struct json_object *disks = js_get_array(definition, "disks");
	int i = change_find_disk(disks, c->pos[1], e), r = 0;

	if (i < 0)
		return i;
	m->disk = json_object_array_get_idx(disks, (size_t)i);
	if (top)
		r = layer_find(m->disk, top, &m->top, e);
	m->base = option_flag(c, "shallow") ? m->top + 1 : layer_count(m->disk) - 1;
	if (!r && base)
		r = layer_find(m->disk, base, &m->base, e);
	if (!r && base && m->base <= m->top)
		r = err_set(e, -EINVAL, ERR_INVALID, "%s is not below %s in disk %s; see cairn domblklist --format json", base,
			js_get_str_or(layer_of(m->disk, m->top), "path", ""), js_get_str_or(m->disk, "id", ""));
	if (!r && (m->base <= m->top || m->base >= layer_count(m->disk)))
		r = err_set(e, -EINVAL, ERR_INVALID, "disk %s has no layer below %s to commit to", js_get_str_or(m->disk, "id", ""),
			js_get_str_or(layer_of(m->disk, m->top), "path", ""));
	return r;
}

static bool is_active(const struct cli *c)
{
	return option_flag(c, "active") || option_flag(c, "pivot") || option_flag(c, "keep-overlay");
}

static int merge_run(struct cli *c, const struct merge *m, struct err *e)
{
	const char *bandwidth = option_value(c, "bandwidth");
	struct json_object *args = cli_vm_args(c->pos[0]);

	js_put_str(args, "disk", js_get_str(m->disk, "id"));
	js_put_str(args, "top", js_get_str(layer_of(m->disk, m->top), "path"));
	js_put_str(args, "base", js_get_str(layer_of(m->disk, m->base), "path"));
	js_put_bool(args, "active", is_active(c));
	if (bandwidth)
		js_put_uint(args, "bandwidth", strtoull(bandwidth, NULL, 10) * MIB);
	return job_run(c, "vm-blockcommit", args, -1, "Block commit", NULL, e);
}

/* Remove the files of the layers that left the disk. */
static void merged_remove(const struct merge *m)
{
	for (size_t i = m->top; i < m->base; i++) {
		const char *path = js_get_str_or(layer_of(m->disk, i), "path", "");

		if (unlink(path) < 0)
			fprintf(stderr, "warning: %s is not removed: %s\n", path, strerror(errno));
	}
}

static int merge_end(struct cli *c, const struct merge *m, struct err *e)
{
	struct json_object *base = layer_of(m->disk, m->base);
	int r = 0;

	if (m->live && option_flag(c, "pivot"))
		r = pivot_to(c, js_get_str_or(base, "path", ""), js_get_str_or(base, "format", "raw"), e);
	else if (m->live && option_flag(c, "keep-overlay"))
		r = pivot_abort(c, e);
	else if (m->live) {
		say("Now in synchronized phase\nNext: cairn blockjob %s %s --pivot\n", shell_word(c->pos[0]).s, shell_word(c->pos[1]).s);
		return 0;
	}
	if (r < 0)
		return r;
	if (option_flag(c, "delete") && !(m->live && option_flag(c, "keep-overlay")))
		merged_remove(m);
	say("%s\n", !m->live ? "Commit complete" : option_flag(c, "pivot") ? "Successfully pivoted" : "Commit complete, overlay image kept");
	return 0;
}

static int options_check(struct cli *c)
{
	const char *text = option_value(c, "bandwidth");
	char *end = NULL;

	if (text && (*text < '0' || *text > '9' || strtoull(text, &end, 10) > MIB_MAX || *end || !strtoull(text, NULL, 10)))
		return cli_usage(c, "--bandwidth: a number of MiB/s");
	if (option_flag(c, "pivot") && option_flag(c, "keep-overlay"))
		return cli_usage(c, "--pivot and --keep-overlay exclude each other");
	if (option_flag(c, "shallow") && option_value(c, "base"))
		return cli_usage(c, "--base and --shallow exclude each other");
	if (option_flag(c, "no-wait") && (option_flag(c, "pivot") || option_flag(c, "keep-overlay") || option_flag(c, "delete")))
		return cli_usage(c, "--pivot, --keep-overlay and --delete wait for the commit, so they exclude --no-wait");
	return 0;
}

int verb_blockcommit(struct cli *c)
{
	CLEANUP_JS struct json_object *definition = NULL, *info = NULL;
	struct merge m = { 0 };
	struct err e;
	int r = options_check(c);

	if (r)
		return r;
	r = change_read_running(c, c->pos[0], &definition, &e);
	if (!r)
		r = cli_vm_info(c, c->pos[0], &info, &e);
	if (!r)
		r = merge_plan(c, definition, &m, &e);
	m.live = !r && !m.top && js_get_int(info, "id", -1) >= 0;
	if (!r)
		r = merge_run(c, &m, &e);
	if (r == -EINPROGRESS)
		return CLI_OK;
	if (!r)
		r = merge_end(c, &m, &e);
	return r < 0 ? cli_fail(&e, "Failed to commit disk '%s' of domain '%s'", c->pos[1], c->pos[0]) : CLI_OK;
}
