#include "tools/diff/files.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Time after which a page ends. */
#define PAGE_NS (5 * 1000000000ULL)

struct files {
	struct diff_page page;
	struct diff_place from;
	uint64_t deadline_ns;
	struct json_object *systems;
	bool begun, ended; /* whether the walk is behind the place at which it begins; whether the page is full */
};

/* Describe a file system. The caller adds further members. */
static struct json_object *system_add(struct files *f, const struct diff_disk *d, const struct part *p, const char *reason)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "disk", d->id);
	js_put_uint(o, "partition", p->number);
	js_put_uint(o, "start", p->start);
	js_put_str(o, "reason", reason);
	json_object_array_add(f->systems, o);
	return o;
}

static bool needs_recovery(const struct ext *x)
{
	return ext2fs_has_feature_journal_needs_recovery(x->fs->super);
}

static bool differs(const struct diff_disk *d, const struct part *p)
{
	for (size_t i = 0; i < d->nranges; i++)
		if (d->ranges[i].off < p->start + p->bytes && d->ranges[i].off + d->ranges[i].len > p->start)
			return true;
	return false;
}

/* Returns the escaped path at which to begin in the part; NULL: it is before the place. */
static const char *part_begin(struct files *f, const struct diff_disk *d, const struct part *p)
{
	char start[32];
	size_t n = (size_t)snprintf(start, sizeof(start), "%" PRIu64 ":", p->start);

	if (f->begun)
		return "";
	if (strcmp(f->from.disk, d->id) != 0 || strncmp(f->from.rest, start, n) != 0)
		return NULL;
	f->begun = true;
	return f->from.rest + n;
}

static void ext_compare(struct files *f, const struct diff_disk *d, const struct part *p, struct ext *a, struct ext *b)
{
	struct walk w = { .d = d, .page = &f->page, .part = *p, .a = a, .b = b, .deadline_ns = f->deadline_ns };
	struct json_object *o = system_add(f, d, p, NULL);
	const char *from = f->ended ? NULL : part_begin(f, d, p);

	js_put_bool(o, "needs-recovery", needs_recovery(a) || needs_recovery(b));
	if (from && differs(d, p))
		f->ended = !files_walk(&w, from);
	js_put_uint(o, "damaged", a->damaged + b->damaged);
}

static void part_compare(struct files *f, const struct diff_disk *d, struct view *va, struct view *vb, const struct part *p)
{
	bool in_a = ext_is_there(va, p), in_b = ext_is_there(vb, p);
	struct ext a = { 0 }, b = { 0 };
	errcode_t r;

	if (in_a != in_b)
		system_add(f, d, p, in_a ? "the file system is only in the earlier content" : "the file system is only in the later content");
	if (!in_a || !in_b)
		return;
	r = ext_open(va, p, &a);
	if (!r)
		r = ext_open(vb, p, &b);
	if (r)
		system_add(f, d, p, "the file system is damaged or has an unknown feature");
	else
		ext_compare(f, d, p, &a, &b);
	ext_close(&a);
	ext_close(&b);
}

static int disk_compare(struct files *f, const struct diff_disk *d, struct err *e)
{
	struct part whole = { .bytes = UINT64_MAX };
	struct view a = { 0 }, b = { 0 };
	struct parts parts = { .n = 0 };
	size_t before = json_object_array_length(f->systems);
	int r = view_init(&a, d->from), s = view_init(&b, d->to);

	if (r < 0 || s < 0) {
		r = err_set_errno(e, -ENOMEM, "%s", d->id);
	} else {
		whole.bytes = MAX(a.bytes, b.bytes);
		if (ext_is_there(&a, &whole) || ext_is_there(&b, &whole)) {
			part_compare(f, d, &a, &b, &whole);
		} else {
			parts_find(&b, &parts);
			parts_find(&a, &parts);
		}
		for (size_t i = 0; i < parts.n; i++)
			part_compare(f, d, &a, &b, &parts.list[i]);
		if (json_object_array_length(f->systems) == before)
			system_add(f, d, &(struct part){ 0 }, "no ext2, ext3 or ext4 file system was found on the disk or in its partitions");
	}
	view_done(&a);
	view_done(&b);
	return r;
}

int files_put(const struct diff_disk *disks, size_t n, struct json_object *spec, struct json_object *result, struct err *e)
{
	struct files f = { .page = { .list = json_object_new_array(), .max = (size_t)js_get_int(spec, "limit", INT_MAX) },
		.deadline_ns = loop_now_ns() + PAGE_NS, .systems = json_object_new_array() };
	int r = diff_place_parse(js_get_str(spec, "page"), &f.from, e);

	js_put(result, "filesystems", f.systems);
	js_put(result, "list", f.page.list);
	f.begun = !r && !f.from.disk[0];
	for (size_t i = 0; i < n && !r; i++)
		if (!disks[i].reason[0])
			r = disk_compare(&f, &disks[i], e);
	js_put_str(result, "next", f.page.next);
	free(f.page.next);
	return r;
}
