/* QMP handlers for disks. The definition lists the disks; the VM's process reports their figures. */
#include "api/qmp/qmp.h"
#include "api/qmp/qmp_device.h"
#include "api/qmp/qmp_handler.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* A disk, as the VM's process reports it. */
struct report {
	const struct vm_disk_info *figures; /* NULL: the process does not report this disk, and the rest is 0 */
	uint8_t fault; /* enum vm_disk_fault: the fault that stopped the VM */
	bool direct;
	const char *node; /* its name */
};

static struct report report_find(const struct vm_info *info, const char *id)
{
	uint32_t n = MIN(info->ndisks, VM_DISKS_MAX);

	for (uint32_t i = 0; i < n; i++)
		if (!strncmp(info->disks[i].id, id, sizeof(info->disks[i].id)))
			return (struct report){ .figures = &info->disks[i], .fault = info->disk_faults[i], .direct = info->disk_direct[i] };
	return (struct report){ 0 };
}

static struct json_object *image_to_json(const struct definition_disk *disk, const struct vm_disk_info *i)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "filename", disk->layers[0].path);
	js_put_str(o, "format", definition_format_name(disk->layers[0].format));
	js_put_uint(o, "virtual-size", i ? i->size_bytes : 0);
	return o;
}

static void put_limits(struct json_object *o, const struct vm_disk_tune *t)
{
	static const char *const directions[] = { "", "_rd", "_wr" };
	char key[16];

	for (size_t i = 0; i < ARRAY_SIZE(directions); i++) {
		snprintf(key, sizeof(key), "bps%s", directions[i]);
		js_put_uint(o, key, t->bps[i].rate);
		snprintf(key, sizeof(key), "iops%s", directions[i]);
		js_put_uint(o, key, t->iops[i].rate);
	}
}

/* Add the members that QEMU's type requires and Cairn does not support: encryption, … */
static void put_absent(struct json_object *o)
{
	js_put_int(o, "write_threshold", 0);
	js_put_bool(o, "encrypted", false);
	js_put_str(o, "detect_zeroes", "off");
}

static struct json_object *node_to_json(const struct definition_disk *disk, const struct report *r)
{
	struct json_object *o = json_object_new_object(), *cache = json_object_new_object();

	js_put_str(o, "node-name", r->node);
	js_put_str(o, "drv", definition_format_name(disk->layers[0].format));
	js_put_str(o, "file", disk->layers[0].path);
	js_put_bool(o, "ro", disk->read_only);
	if (disk->nlayers > 1)
		js_put_str(o, "backing_file", disk->layers[1].path);
	js_put_int(o, "backing_file_depth", disk->nlayers - 1);
	js_put(o, "image", image_to_json(disk, r->figures));
	js_put_bool(cache, "writeback", true); /* a guest's flush syncs the file */
	js_put_bool(cache, "direct", r->direct);
	js_put_bool(cache, "no-flush", disk->cache == VM_CACHE_UNSAFE);
	js_put(o, "cache", cache);
	put_limits(o, &disk->tune);
	put_absent(o);
	return o;
}

static struct json_object *block_to_json(const struct definition_disk *disk, const struct report *r)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "device", disk->id);
	js_put_str(o, "qdev", disk->id);
	js_put_str(o, "type", "unknown");
	js_put_bool(o, "removable", disk->device == DEFINITION_CDROM);
	js_put_bool(o, "locked", false);
	js_put_str(o, "io-status", r->fault == VM_DISK_NO_SPACE ? "nospace" : r->fault ? "failed" : "ok");
	if (disk->nlayers)
		js_put(o, "inserted", node_to_json(disk, r));
	return o;
}

/* Add the counters that QEMU's type requires and Cairn does not keep. */
static void put_uncounted(struct json_object *o)
{
	static const char *const names[] = { "unmap_bytes", "unmap_operations", "unmap_total_time_ns",
		"unmap_merged", "rd_merged", "wr_merged", "wr_highest_offset", "failed_rd_operations",
		"failed_wr_operations", "failed_flush_operations", "failed_unmap_operations",
		"invalid_rd_operations", "invalid_wr_operations", "invalid_flush_operations",
		"invalid_unmap_operations" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		js_put_int(o, names[i], 0);
	js_put_bool(o, "account_invalid", false);
	js_put_bool(o, "account_failed", false);
	js_put(o, "timed_stats", json_object_new_array());
}

static struct json_object *stats_to_json(const struct definition_disk *disk, const struct report *r)
{
	struct json_object *o = json_object_new_object(), *stats = json_object_new_object();
	const struct vm_disk_info *i = r->figures;

	js_put_str(o, "device", disk->id);
	js_put_str(o, "qdev", disk->id);
	js_put_str(o, "node-name", r->node);
	js_put_uint(stats, "rd_bytes", i ? i->rd_bytes : 0);
	js_put_uint(stats, "rd_operations", i ? i->rd_reqs : 0);
	js_put_uint(stats, "rd_total_time_ns", i ? i->rd_ns : 0);
	js_put_uint(stats, "wr_bytes", i ? i->wr_bytes : 0);
	js_put_uint(stats, "wr_operations", i ? i->wr_reqs : 0);
	js_put_uint(stats, "wr_total_time_ns", i ? i->wr_ns : 0);
	js_put_uint(stats, "flush_operations", i ? i->fl_reqs : 0);
	js_put_uint(stats, "flush_total_time_ns", i ? i->fl_ns : 0);
	put_uncounted(stats);
	js_put(o, "stats", stats);
	return o;
}

static struct json_object *bare_node(const struct definition_disk *disk, const struct report *r)
{
	return disk->nlayers ? node_to_json(disk, r) : NULL;
}

/* Answer the call with an array of one object for each disk. to_json: returns the object; NULL: omit the disk. */
static void disks_return(struct call *c, const struct vm_info *info,
	struct json_object *(*to_json)(const struct definition_disk *disk, const struct report *r))
{
	const struct definition *def = vm_live(c->vm);
	struct json_object *list = json_object_new_array();
	struct err e;

	for (uint32_t i = 0; i < def->ndisks; i++) {
		struct report r = report_find(info, def->disks[i].id);
		struct json_object *o;

		r.node = qmp_node_name(c->vm, &def->disks[i]);
		o = to_json(&def->disks[i], &r);
		if (o)
			json_object_array_add(list, o);
	}
	if (js_line_bytes(list) <= JS_ANSWER_MAX) {
		call_return(c, list);
		return;
	}
	json_object_put(list);
	err_set(&e, -EMSGSIZE, ERR_GENERIC,
		"the paths of the disks are too long for one answer; see the definition: cairn dumpjson %s",
		shell_word(def->name).s);
	call_fail(c, &e);
}

static const struct vm_info *info_of(struct call *c, int r, const struct vm_answer *a, const struct err *e)
{
	if (r < 0)
		call_fail(c, e);
	return r < 0 ? NULL : a->info;
}

static void block_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	const struct vm_info *info = info_of(opaque, r, a, e);

	if (info)
		disks_return(opaque, info, block_to_json);
}

static void stats_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	const struct vm_info *info = info_of(opaque, r, a, e);

	if (info)
		disks_return(opaque, info, stats_to_json);
}

static void nodes_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	const struct vm_info *info = info_of(opaque, r, a, e);

	if (info)
		disks_return(opaque, info, bare_node);
}

void qmp_query_block(struct call *c)
{
	qmp_ask(c, block_done);
}

void qmp_query_blockstats(struct call *c)
{
	qmp_ask(c, stats_done);
}

void qmp_query_nodes(struct call *c)
{
	qmp_ask(c, nodes_done);
}

/* ---- block_resize ---- */

void qmp_block_resize(struct call *c)
{
	const char *device = js_get_str(c->args, "device"), *node = js_get_str(c->args, "node-name");
	const struct definition_disk *disk = qmp_disk_find(c->vm, node ? node : device);
	struct err e;

	if (!device == !node)
		err_set(&e, -EINVAL, ERR_GENERIC, "give either device or node-name");
	else if (!disk)
		err_set(&e, -ENOENT, ERR_GENERIC, "Cannot find device='%.40s' nor node-name='%.40s'", device ? device : "", node ? node : "");
	if (!disk || !device == !node) {
		call_fail(c, &e);
		return;
	}
	js_put_str(c->args, "disk", disk->id);
	command_vm_resize_disk(c);
}
