/* cairn-diff: compare two contents of a VM's disks. cairnd runs it with the rights of the disks' author. See diff.h. */
#include "api/wire/json.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/program.h"
#include "base/util.h"
#include "tools/archive/helper.h"
#include "tools/diff/files.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELD_FD 4
#define DISKS_MAX 1024
#define LOOP_ENTRIES 64

struct comparison {
	struct loop *loop;
	struct diff_wanted from, to;
	struct diff_disk *disks;
	size_t ndisks;
};

static void comparison_done(struct comparison *c)
{
	for (size_t i = 0; i < c->ndisks; i++)
		diff_disk_done(&c->disks[i]);
	free(c->disks);
	loop_free(c->loop);
}

/* ---- the two contents ---- */

static int wanted_check(const struct diff_wanted *w, struct err *e)
{
	return !w->name || w->found ? 0 : err_set(e, -ENOENT, ERR_NOT_FOUND,
		"no disk that the VM writes to has a snapshot '%.255s'; see cairn snapshot-list", w->name);
}

static int disks_open(struct comparison *c, struct json_object *spec, struct err *e)
{
	struct json_object *list = js_get_array(spec, "disks");
	size_t n = list ? json_object_array_length(list) : 0;
	int r = 0;

	if (n > DISKS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "too many disks");
	c->from.name = js_get_str_or(spec, "from", "");
	c->to.name = js_get_str(spec, "to");
	c->disks = must_alloc(calloc(n + 1, sizeof(*c->disks)));
	for (size_t i = 0; i < n && !r; i++)
		r = diff_disk_open(c->loop, json_object_array_get_idx(list, i), &c->from, &c->to, &c->disks[c->ndisks++], e);
	if (!r)
		r = wanted_check(&c->from, e);
	return r < 0 ? r : wanted_check(&c->to, e);
}

/* ---- the result ---- */

static void disk_put(struct json_object *list, const struct diff_disk *d)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "id", d->id);
	if (d->reason[0]) {
		js_put_str(o, "reason", d->reason);
	} else {
		js_put_uint(o, "size", d->size_bytes);
		js_put_uint(o, "bytes", d->bytes);
		js_put_uint(o, "extents", d->nranges);
	}
	json_object_array_add(list, o);
}

/* Add the ranges from an offset on. Returns false if the page ends. */
static bool ranges_put(struct diff_page *p, const struct diff_disk *d, uint64_t from)
{
	for (size_t i = 0; i < d->nranges; i++) {
		const struct diff_range *x = &d->ranges[i];
		struct json_object *o;
		char next[48];

		if (x->off < from)
			continue;
		o = json_object_new_object();
		js_put_str(o, "disk", d->id);
		js_put_uint(o, "start", x->off);
		js_put_uint(o, "bytes", x->len);
		js_put_bool(o, "zero", x->zero);
		snprintf(next, sizeof(next), "%s:%" PRIu64, d->id, x->off);
		if (!diff_page_add(p, o, next))
			return false;
	}
	return true;
}

static int extents_put(const struct comparison *c, struct json_object *spec, struct json_object *result, struct err *e)
{
	struct diff_page p = { .list = json_object_new_array(), .max = (size_t)js_get_int(spec, "limit", INT_MAX) };
	struct diff_place from;
	int r = diff_place_parse(js_get_str(spec, "page"), &from, e);
	bool begun = !r && !from.disk[0], more = !r;

	js_put(result, "list", p.list);
	for (size_t i = 0; i < c->ndisks && more; i++) {
		bool here = !begun && !strcmp(c->disks[i].id, from.disk);

		begun |= here;
		if (begun)
			more = ranges_put(&p, &c->disks[i], here ? strtoull(from.rest, NULL, 10) : 0);
	}
	js_put_str(result, "next", p.next);
	free(p.next);
	return r;
}

static int compare(struct comparison *c, struct json_object *spec, struct json_object *result, struct err *e)
{
	struct json_object *list;
	int r = loop_new(LOOP_ENTRIES, &c->loop, e);

	if (!r)
		r = diff_sandbox(e);
	if (!r)
		r = disks_open(c, spec, e);
	if (r < 0)
		return r;
	list = json_object_new_array();
	js_put(result, "disks", list);
	for (size_t i = 0; i < c->ndisks; i++)
		disk_put(list, &c->disks[i]);
	if (js_get_bool(spec, "files", false))
		return files_put(c->disks, c->ndisks, spec, result, e);
	return js_get_bool(spec, "extents", false) ? extents_put(c, spec, result, e) : 0;
}

int main(int argc, char **argv)
{
	CLEANUP_JS struct json_object *spec = NULL, *result = json_object_new_object();
	struct comparison c = { 0 };
	struct err e;
	int r = program_begin(&e);

	if (r < 0)
		return helper_fail(&e);
	if (argc != 2 || strcmp(argv[1], "diff") != 0) {
		fprintf(stderr, "usage: cairn-diff diff (cairnd runs this program)\n");
		return 2;
	}
	r = helper_spec_read(&spec, &e);
	if (!r)
		r = helper_held_take(spec, HELD_FD, &e);
	if (!r)
		r = compare(&c, spec, result, &e);
	comparison_done(&c);
	if (r < 0)
		return helper_fail(&e);
	helper_print("result", json_object_get(result));
	return 0;
}
