/* blkdeviotune: limits of a disk, with virsh's words. */
#include "tools/cairn/cli.h"
#include "api/schema/disk_tune.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "base/size.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/output.h"
#include "tools/cairn/verbs/disk_limits.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct wish {
	bool any, given[DISK_TUNE_KEYS];
	uint64_t values[DISK_TUNE_KEYS]; /* 0: no limit */
};

/* Return the disk of a list, by target or path; NULL, with a sentence. Borrowed. */
static struct json_object *disk_find(struct cli *c, struct json_object *disks, struct err *e)
{
	int i = change_find_disk(disks, c->pos[1], e);

	if (i < 0)
		err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%s' has no disk '%s'. Next: cairn domblklist %s", c->pos[0], c->pos[1], shell_word(c->pos[0]).s);
	return i < 0 ? NULL : json_object_array_get_idx(disks, (size_t)i);
}

/* Get the disk as the running VM, or as the definition has it. The caller owns *ret. Returns 0 or -errno. */
static int disk_get(struct cli *c, bool live, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL, *info = NULL;
	struct json_object *definition, *found;
	int r = live ? cli_vm_info(c, c->pos[0], &info, e) : change_read(c, c->pos[0], &o, e);

	if (!r && live && !js_get(info, "pid"))
		return err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%s' is %s; use --config. Next: cairn start %s", c->pos[0],
			cli_vm_state(info), shell_word(c->pos[0]).s);
	if (!r && live)
		r = cli_execute(c, "vm-dump-definition", cli_vm_args(c->pos[0]), &o, NULL, e);
	if (r < 0)
		return r;
	definition = live ? js_get(o, "definition") : o;
	found = disk_find(c, js_get_array(definition, "disks"), e);
	*ret = json_object_get(found);
	return found ? 0 : -ENOENT;
}

/* Returns 0; CLI_USAGE after an error message. */
static int wish_read(struct cli *c, struct wish *w)
{
	for (size_t i = 0; i < DISK_TUNE_KEYS; i++) {
		const struct disk_tune_key *k = &disk_tune_keys[i];
		const char *text = option_value(c, k->libvirt);

		w->given[i] = text != NULL;
		w->any = w->any || text;
		if (text && (size_parse(text, 1, &w->values[i]) < 0 || w->values[i] > INT64_MAX))
			return cli_usage(c, "--%s must be a number%s such as %s, or 0 for no limit, not \"%s\"", k->libvirt,
				k->kind <= TUNE_BPS ? " in a second" : "", k->kind == TUNE_SECONDS ? "5" : "20M", text);
	}
	return 0;
}

static int config_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct json_object *disk = disk_find(c, js_get_array(definition, "disks"), e);
	const struct wish *w = opaque;

	for (size_t i = 0; disk && i < DISK_TUNE_KEYS; i++) {
		if (!w->given[i])
			continue;
		json_object_object_del(disk, disk_tune_names[i]);
		if (w->values[i])
			js_put_uint(disk, disk_tune_names[i], w->values[i]);
	}
	return disk ? 0 : -ENOENT;
}

/* iops and bps are arguments of their own, as daemons from before the other limits have them. */
int disk_limits_set(struct cli *c, const char *disk, struct json_object *limits, struct err *e)
{
	static const char *const own[] = { "iops", "bps" };
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);

	js_put_str(args, "disk", disk);
	for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
		if (!js_get(limits, own[i]))
			continue;
		js_put(args, own[i], json_object_get(js_get(limits, own[i])));
		json_object_object_del(limits, own[i]);
	}
	if (json_object_object_length(limits))
		js_put(args, "limits", limits);
	else
		json_object_put(limits);
	return cli_execute(c, "vm-set-disk", args, &answer, NULL, e);
}

static int live_set(struct cli *c, const struct wish *w, struct err *e)
{
	struct json_object *limits = json_object_new_object();

	for (size_t i = 0; i < DISK_TUNE_KEYS; i++)
		if (w->given[i])
			js_put_uint(limits, disk_tune_names[i], w->values[i]);
	return disk_limits_set(c, c->pos[1], limits, e);
}

static int limits_show(struct cli *c, const struct place *p, struct err *e)
{
	CLEANUP_JS struct json_object *disk = NULL, *o = json_object_new_object();
	int r = disk_get(c, p->live, &disk, e);

	if (r < 0)
		return r;
	for (size_t i = 0; i < DISK_TUNE_KEYS; i++) {
		int64_t n = js_get_int(disk, disk_tune_names[i], 0);
		char label[DISK_TUNE_WORD_MAX];

		js_put_int(o, disk_tune_names[i], n);
		if (c->format == CLI_TABLE)
			printf("%-15s: %lld\n", disk_tune_word(&disk_tune_keys[i], label), (long long)n);
	}
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, o);
	return 0;
}

int verb_blkdeviotune(struct cli *c)
{
	struct wish w = { 0 };
	struct place p;
	struct err e;
	bool show;
	int r = wish_read(c, &w);

	show = !w.any;
	if (!r)
		r = place_choose(c, &p, &e);
	if (!r && show)
		r = limits_show(c, &p, &e);
	if (!r && !show && p.live)
		r = live_set(c, &w, &e);
	if (!r && !show && p.config)
		r = change_make_config(c, c->pos[0], p.live, config_edit, &w, &e);
	if (r < 0)
		return cli_fail(&e, "Unable to %s block I/O throttle", show ? "get" : "change");
	return r;
}
