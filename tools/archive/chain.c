/* A chain of archives: one with everything, and increments. Each disk becomes a chain of images, of which the last
 * archive has the top and the definition. */
#include "tools/archive/archive.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct archive_file *file_find(struct manifest *m, const char *name)
{
	for (unsigned i = 0; i < m->nfiles; i++)
		if (!strcmp(m->files[i].name, name))
			return &m->files[i];
	return NULL;
}

/* Check that archive k continues the one before it. */
static int link_check(struct manifest *const *list, unsigned k, struct err *e)
{
	const struct manifest *m = list[k], *before = k ? list[k - 1] : NULL;

	if (!before)
		return !m->since[0] ? 0 : err_set(e, -EINVAL, ERR_INVALID, "the archive is an increment since snapshot '%s'; "
			"give the archive with that snapshot before it: cairn import FULL... INCREMENT", m->since);
	if (!m->since[0])
		return err_set(e, -EINVAL, ERR_INVALID, "archive %u is no increment, but a complete VM; only the first archive "
			"may be that", k + 1);
	if (strcmp(m->since_id, before->snapshot_id))
		return err_set(e, -EINVAL, ERR_INVALID, "archive %u is an increment since snapshot '%s', but the archive before it has "
			"%s%s%s", k + 1, m->since, before->snapshot[0] ? "another snapshot, '" : "no snapshot that was exported alone",
			before->snapshot, before->snapshot[0] ? "'" : "");
	return 0;
}

/* Set the previous archive's file of the same name as the backing file of an increment's image, and keep that file. */
static int file_link(struct archive_file *f, struct manifest *before, struct err *e)
{
	struct archive_file *base = file_find(before, f->name);

	/* The image of an exported snapshot has no backing file. */
	if (!base || !base->qcow2 || base->backing[0] || base->data_file[0])
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s is an increment, but the archive before it has no such image", f->name);
	base->skipped = false;
	strcpy(f->backing, base->stored);
	strcpy(f->backing_format, "qcow2");
	return 0;
}

/* Give the files of an earlier archive names that those of other archives do not have, and skip them until a later
 * image needs them. */
static int files_rename(struct manifest *m, unsigned k, struct err *e)
{
	for (unsigned i = 0; i < m->nfiles; i++) {
		struct archive_file *f = &m->files[i];

		f->skipped = true;
		if (snprintf(f->stored, sizeof(f->stored), "%u-%s", k, f->name) >= (int)sizeof(f->stored))
			return err_set(e, -EINVAL, ERR_CORRUPT, "the file name %s in archive %u is too long", f->name, k + 1);
	}
	return 0;
}

static int names_check(struct manifest *const *list, unsigned n, struct err *e)
{
	for (unsigned k = 0; k + 1 < n; k++)
		for (unsigned i = 0; i < list[k]->nfiles; i++)
			if (!list[k]->files[i].skipped && file_find(list[n - 1], list[k]->files[i].stored))
				return err_set(e, -EINVAL, ERR_CORRUPT, "two archives have a file %s", list[k]->files[i].stored);
	return 0;
}

/* Put the backing chain of each disk into the definition of the last archive. */
static void backing_put(struct manifest *const *list, unsigned n, struct json_object *disk)
{
	const char *name = js_get_str(disk, "path");
	const struct archive_file *f = name ? file_find(list[n - 1], name) : NULL;
	struct json_object *all;

	if (!f || !f->increment)
		return;
	all = json_object_new_array();
	for (unsigned k = n - 1; f && f->increment && k > 0; k--) {
		struct json_object *o = json_object_new_object();

		js_put_str(o, "path", f->backing);
		js_put_str(o, "format", "qcow2");
		json_object_array_add(all, o);
		f = file_find(list[k - 1], f->name);
	}
	js_put(disk, "backing", all);
}

int chain_join(struct manifest *const *list, unsigned n, struct err *e)
{
	struct json_object *disks = js_get_array(list[n - 1]->definition, "disks");
	int r = 0;

	for (unsigned k = 0; k < n && !r; k++) {
		r = link_check(list, k, e);
		if (!r && k + 1 < n)
			r = files_rename(list[k], k, e);
	}
	for (unsigned k = n - 1; k > 0 && !r; k--)
		for (unsigned i = 0; i < list[k]->nfiles && !r; i++)
			if (list[k]->files[i].increment && !list[k]->files[i].skipped)
				r = file_link(&list[k]->files[i], list[k - 1], e);
	if (!r)
		r = names_check(list, n, e);
	for (size_t i = 0; disks && !r && i < json_object_array_length(disks); i++)
		backing_put(list, n, json_object_array_get_idx(disks, i));
	return r;
}
