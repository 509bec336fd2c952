/* domblkstat: the requests of one disk of a running VM, or of all together, with virsh's names and numbers. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name, *from, *text;
} all[] = { { "rd_req", "rd-reqs", "number of read operations:" }, { "rd_bytes", "rd-bytes", "number of bytes read:" },
	{ "wr_req", "wr-reqs", "number of write operations:" }, { "wr_bytes", "wr-bytes", "number of bytes written:" },
	{ "errs", "errors", "error count:" }, { "flush_operations", "fl-reqs", "number of flush operations:" },
	{ "rd_total_times", "rd-ns", "total duration of reads (ns):" }, { "wr_total_times", "wr-ns", "total duration of writes (ns):" },
	{ "flush_total_times", "fl-ns", "total duration of flushes (ns):" } };

/* Copy the id of the disk with this target or image to ret. Returns 0 or -errno. */
static int disk_id(struct cli *c, const char *which, char ret[32], struct err *e)
{
	CLEANUP_JS struct json_object *definition = NULL;
	struct json_object *disks;
	int r = change_read_running(c, c->pos[0], &definition, e), i;

	if (r < 0)
		return r;
	disks = js_get_array(definition, "disks");
	i = change_find_disk(disks, which, e);
	if (i < 0)
		return err_set(e, i, ERR_NOT_FOUND, "VM '%s' has no disk '%s'. Next: cairn domblklist %s", c->pos[0], which, shell_word(c->pos[0]).s);
	snprintf(ret, 32, "%s", js_get_str_or(json_object_array_get_idx(disks, (size_t)i), "id", ""));
	return 0;
}

/* Add up the counters of the disk, or without an id of all disks. */
static struct json_object *counters_of(struct json_object *disks, const char *id)
{
	struct json_object *o = json_object_new_object();

	for (size_t k = 0; k < ARRAY_SIZE(all); k++) {
		uint64_t sum = 0;

		for (size_t i = 0; i < json_object_array_length(disks); i++) {
			struct json_object *d = json_object_array_get_idx(disks, i);

			if (!id || !strcmp(js_get_str_or(d, "id", ""), id))
				sum += (uint64_t)js_get_int(d, all[k].from, 0);
		}
		js_put_uint(o, all[k].name, sum);
	}
	return o;
}

int verb_domblkstat(struct cli *c)
{
	CLEANUP_JS struct json_object *info = NULL, *o = NULL;
	const char *vm = c->pos[0], *which = c->npos > 1 ? c->pos[1] : NULL;
	struct json_object *disks;
	char id[32] = "";
	struct err e;
	int r = which ? disk_id(c, which, id, &e) : 0;

	if (!r)
		r = cli_vm_info(c, vm, &info, &e);
	disks = r < 0 ? NULL : js_get_array(info, "disks");
	if (!r && !disks)
		r = err_set(&e, -EPERM, ERR_WRONG_STATE, "VM '%s' is %s and has no process that counts requests. Next: cairn start %s", vm,
			cli_vm_state(info), shell_word(vm).s);
	if (r < 0)
		return cli_fail(&e, "Failed to get block stats %s %s", vm, c->npos > 1 ? c->pos[1] : "");
	o = counters_of(disks, which ? id : NULL);
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, o);
		return CLI_OK;
	}
	if (option_flag(c, "human"))
		printf("Device: %s\n", id);
	for (size_t k = 0; k < ARRAY_SIZE(all); k++) {
		if (option_flag(c, "human"))
			printf(" %-31s %lld\n", all[k].text, (long long)js_get_int(o, all[k].name, 0));
		else
			printf("%s %s %lld\n", id, all[k].name, (long long)js_get_int(o, all[k].name, 0));
	}
	return CLI_OK;
}
