/* setmem and setmaxmem: change the memory in a definition; setmem also the target of a running VM's balloon.
 * dommemstat: show the guest's memory. */
#include "tools/cairn/change.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "base/size.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Set a size, rounded up to whole KiB as virsh does. */
static void size_put(struct json_object *definition, const char *key, uint64_t bytes)
{
	char text[32];

	snprintf(text, sizeof(text), "%lluK", (unsigned long long)(bytes / KIB + (bytes % KIB != 0)));
	js_put_str(definition, key, text);
}

/* Return the bytes of a size in a definition; 0: it has none. */
static uint64_t size_get(struct json_object *definition, const char *key)
{
	const char *text = js_get_str(definition, key);
	uint64_t bytes = 0;

	return text && !size_parse(text, MIB, &bytes) ? bytes : 0;
}

/* setmem: without a balloon, a VM's memory has one size. With one, the guest starts with the new size, of all. */
static int memory_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	uint64_t bytes = *(uint64_t *)opaque, all = size_get(definition, "memory");

	if (!js_get_bool(definition, "balloon", false)) {
		size_put(definition, "memory", bytes);
		return 0;
	}
	if (bytes > all)
		return err_set(e, -EINVAL, ERR_INVALID, "the definition has %llu KiB of memory, and a balloon cannot give the guest more. "
			"Next: cairn setmaxmem %s %s", (unsigned long long)(all / KIB), shell_word(c->pos[0]).s, c->pos[1]);
	json_object_object_del(definition, "current_memory");
	if (bytes < all)
		size_put(definition, "current_memory", bytes);
	return 0;
}

static int maximum_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	uint64_t bytes = *(uint64_t *)opaque;

	(void)c;
	(void)e;
	size_put(definition, "memory", bytes);
	if (size_get(definition, "current_memory") >= bytes)
		json_object_object_del(definition, "current_memory");
	return 0;
}

/* Choose the place that setmem changes: --live the balloon, --config the definition; else the result of
 * place_choose(). Without a balloon, it is always the definition, as with change_make(). */
static int memory_place(struct cli *c, struct place *ret, bool *ret_plain, struct err *e)
{
	CLEANUP_JS struct json_object *running = NULL;
	int r = option_flag(c, "live") || option_flag(c, "config") ? 0 : change_read_running(c, c->pos[0], &running, e);

	*ret_plain = !r && running && !js_get_bool(running, "balloon", false);
	return r < 0 ? r : place_choose(c, ret, e);
}

static int live_set(struct cli *c, const char *key, uint64_t value, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);

	js_put_uint(args, key, value);
	return cli_execute(c, "vm-set-memory", args, &answer, NULL, e);
}

/* Returns 0; CLI_USAGE after an error message. */
static int size_read(struct cli *c, uint64_t *ret)
{
	if (size_parse(c->pos[1], KIB, ret) == -EINVAL)
		return cli_usage(c, "\"%s\" is not a size; give KiB, or a unit, as in 512M or 2GiB", c->pos[1]);
	*ret = MIN(*ret, (uint64_t)INT64_MAX); /* the daemon refuses it */
	return 0;
}

int verb_setmem(struct cli *c)
{
	struct place p = { 0 };
	bool plain = false;
	uint64_t bytes;
	struct err e;
	int r = size_read(c, &bytes);

	if (!r && option_flag(c, "print-only") && option_flag(c, "live"))
		r = cli_usage(c, "--print-only shows a change of the definition; leave out --live");
	if (!r)
		r = memory_place(c, &p, &plain, &e);
	if (r > 0)
		return r;
	if (option_flag(c, "print-only"))
		p = (struct place){ .config = true };
	if (!r && plain)
		r = change_make(c, c->pos[0], memory_edit, &bytes, &e);
	if (!r && !plain && p.live)
		r = live_set(c, "target", bytes, &e);
	if (!r && !plain && p.config)
		r = change_make_config(c, c->pos[0], p.live, memory_edit, &bytes, &e);
	return r < 0 ? cli_fail(&e, "Failed to change the memory of domain '%s'", c->pos[0]) : CLI_OK;
}

int verb_setmaxmem(struct cli *c)
{
	uint64_t bytes;
	struct err e;
	int r = size_read(c, &bytes);

	if (r)
		return r;
	r = change_make(c, c->pos[0], maximum_edit, &bytes, &e);
	return r < 0 ? cli_fail(&e, "Failed to change the memory of domain '%s'", c->pos[0]) : CLI_OK;
}

/* ---- dommemstat ---- */

/* The figures with virsh's names, in its order. */
static const struct {
	const char *name, *key;
	uint64_t unit;
} figures[] = { { "actual", "actual", KIB }, { "swap_in", "swap-in", KIB }, { "swap_out", "swap-out", KIB },
	{ "major_fault", "major-faults", 1 }, { "minor_fault", "minor-faults", 1 }, { "unused", "unused", KIB },
	{ "available", "available", KIB }, { "usable", "usable", KIB }, { "last_update", "last-update", 1 },
	{ "disk_caches", "disk-caches", KIB }, { "hugetlb_pgalloc", "hugetlb-allocs", 1 },
	{ "hugetlb_pgfail", "hugetlb-failures", 1 } };

static struct json_object *memory_stats(struct json_object *info)
{
	struct json_object *balloon = js_get(info, "balloon"), *out = json_object_new_object();

	for (size_t i = 0; i < ARRAY_SIZE(figures); i++)
		if (balloon && js_get(balloon, figures[i].key))
			js_put_int(out, figures[i].name, js_get_int(balloon, figures[i].key, 0) / (int64_t)figures[i].unit);
	if (!balloon)
		js_put_int(out, "actual", js_get_int(info, "used-memory", 0) / KIB);
	js_put_int(out, "rss", js_get_int(info, "resident-memory", 0) / KIB);
	return out;
}

static int stats_show(struct cli *c, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL, *stats = NULL;
	int r = cli_vm_info(c, c->pos[0], &info, e);

	if (!r && !js_get(info, "pid"))
		r = err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%s' is %s. Next: cairn start %s", c->pos[0],
			cli_vm_state(info), shell_word(c->pos[0]).s);
	if (r < 0)
		return r;
	stats = memory_stats(info);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, stats);
		return 0;
	}
	json_object_object_foreach(stats, key, value)
		printf("%s %s\n", key, json_object_get_string(value));
	return 0;
}

int verb_dommemstat(struct cli *c)
{
	const char *period = option_value(c, "period");
	uint64_t seconds;
	struct err e;
	int r;

	if (!period) {
		r = stats_show(c, &e);
		return r < 0 ? cli_fail(&e, "Failed to get memory statistics for domain '%s'", c->pos[0]) : CLI_OK;
	}
	if (size_parse(period, 1, &seconds) < 0 || seconds > 86400)
		return cli_usage(c, "--period must be a number of seconds up to 86400, or 0 for no statistics, not \"%s\"", period);
	r = option_flag(c, "config") ? err_set(&e, -ENOTSUP, ERR_UNSUPPORTED, "a definition has no period of statistics, only a running VM. "
		"Next: cairn dommemstat %s --period %s --live", shell_word(c->pos[0]).s, period) : live_set(c, "period", seconds, &e);
	return r < 0 ? cli_fail(&e, "Unable to change the period of memory statistics of domain '%s'", c->pos[0]) : CLI_OK;
}
