/* snapshot: manage the internal snapshots of an image. */
#include "img.h"

#include "base/cleanup.h"
#include "base/util.h"
#include "block/block_snapshot.h"
#include "block/lock.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct snapshot {
	struct img_common common;
	char action; /* letter of the option: c, a, d or l */
	const char *name;
	bool own_size;
	struct loop *loop;
	struct block *b;
	struct block_snapshot_op op;
	bool over;
	int res;
	struct err err;
};

/* ---- listing snapshots ---- */

static struct json_object *own_json(const struct block_snapshot_info *i, uint64_t bytes)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "id", json_object_new_string(i->id));
	json_object_object_add(o, "name", json_object_new_string(i->name));
	json_object_object_add(o, "own-size", json_object_new_uint64(bytes));
	return o;
}

static void own_line(const struct block_snapshot_info *i, uint64_t bytes)
{
	char size[32], id[64], name[BLOCK_SNAPSHOT_NAME_MAX + 1];

	img_format_size(bytes, size, sizeof(size));
	printf("%-9s %-16s %8s\n", img_printable(i->id, id, sizeof(id)),
		img_printable(i->name, name, sizeof(name)), size);
}

static int list_print(struct snapshot *s, struct img_layer *y, struct err *e)
{
	struct json_object *list = json_object_new_array();
	struct qcow2_snapshot_info *snapshots = NULL;
	size_t n = 0;
	int r = y->format == BLOCK_FORMAT_QCOW2 ? img_snapshots_read(y, &snapshots, &n, e) : 0;

	if (r < 0) {
		json_object_put(list);
		return r;
	}
	if (n && !s->common.json)
		img_snapshot_heading();
	for (size_t i = 0; i < n; i++) {
		if (s->common.json)
			json_object_array_add(list, img_snapshot_json(&snapshots[i]));
		else
			img_snapshot_line(&snapshots[i]);
	}
	if (s->common.json)
		img_json_print(list);
	json_object_put(list);
	qcow2_snapshots_free(snapshots, n);
	return 0;
}

static int snapshots_list(struct snapshot *s, struct err *e)
{
	struct img_layer *layers = calloc(BLOCK_LAYERS_MAX, sizeof(*layers));
	unsigned n = 0;
	int r;

	if (!layers)
		return err_set_errno(e, -ENOMEM, "%s", s->common.o.path);
	s->common.o.no_backing = true;
	r = img_layers_open(&s->common.o, layers, &n, e);
	if (!r && layers[0].format == BLOCK_FORMAT_QCOW2) {
		r = qcow2_header_features_known(&layers[0].header, e);
		if (r < 0)
			err_prefix(e, "%s", s->common.o.path);
	}
	if (!r && !s->common.o.no_lock)
		r = lock_acquire(layers[0].fd, LOCK_AS_READER, s->common.o.path, e);
	if (!r)
		r = img_seal(false, e);
	if (!r)
		r = list_print(s, &layers[0], e);
	img_layers_free(layers, n);
	free(layers);
	return r;
}

/* ---- creating, applying and deleting snapshots ---- */

static void op_done(struct block_snapshot_op *op, int res, const struct err *e)
{
	struct snapshot *s = container_of(op, struct snapshot, op);

	s->over = true;
	s->res = res;
	s->err = *e;
}

static void op_progress(struct block_snapshot_op *op, uint64_t done, uint64_t total)
{
	img_progress_set(&container_of(op, struct snapshot, op)->common.progress, done, total);
}

static int op_wait(struct snapshot *s, struct err *e)
{
	while (!s->over)
		loop_run_once(s->loop, UINT64_MAX);
	if (s->res < 0)
		*e = s->err;
	return s->res;
}

static int snapshot_create(struct snapshot *s, struct err *e)
{
	struct block_snapshot_info info = { 0 };
	struct block_snapshot *snap;
	struct timespec now;
	int r;

	if (strlen(s->name) > BLOCK_SNAPSHOT_NAME_MAX || !*s->name)
		return err_set(e, -EINVAL, ERR_INVALID, "the name of a snapshot must have 1 to %d bytes",
			BLOCK_SNAPSHOT_NAME_MAX);
	snprintf(info.name, sizeof(info.name), "%s", s->name);
	clock_gettime(CLOCK_REALTIME, &now);
	info.sec = (uint32_t)now.tv_sec;
	info.nsec = (uint32_t)now.tv_nsec;
	r = block_snapshot_begin(s->b, &snap, e);
	if (r < 0)
		return r;
	block_snapshot_commit(snap, &info, &s->op);
	return op_wait(s, e);
}

/* Find a snapshot by name, or else by id. Refuse to delete a pin, and to apply what qemu-img takes for another one: for
 * it the id comes first. */
static int snapshot_find(struct snapshot *s, char *ret_id, struct err *e)
{
	CLEANUP_FREE struct block_snapshot_info *all = NULL;
	const struct block_snapshot_info *f = NULL, *by_id = NULL;
	size_t n;
	int r = block_snapshot_list(s->b, &all, &n, e);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n && !f; i++)
		f = strcmp(all[i].name, s->name) ? NULL : &all[i];
	for (size_t i = 0; i < n && !by_id; i++)
		by_id = strcmp(all[i].id, s->name) ? NULL : &all[i];
	if (f && by_id && f != by_id && s->action == 'a')
		return err_set(e, -EINVAL, ERR_INVALID, "%s: '%s' is the name of one snapshot and the id of another one, '%s'; apply the first one by its "
			"id, %s, or the other one by its name", s->common.o.path, s->name, by_id->name, f->id);
	f = f ?: by_id;
	if (!f)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "%s has no snapshot '%s'", s->common.o.path, s->name);
	if (f->pinned && s->action == 'd')
		return err_set(e, -EBUSY, ERR_BUSY, "%s: '%s' is a pin: disks of live clones read it. The pin is "
			"deleted when the clones are removed with their images", s->common.o.path, f->name);
	snprintf(ret_id, BLOCK_SNAPSHOT_ID_MAX + 1, "%s", f->id);
	return 0;
}

/* Print for each snapshot the space that only this snapshot uses. */
static int own_sizes(struct snapshot *s, struct err *e)
{
	CLEANUP_FREE struct block_snapshot_info *all = NULL;
	struct json_object *list = json_object_new_array();
	size_t n = 0;
	int r = block_snapshot_list(s->b, &all, &n, e);

	if (!r && n && !s->common.json)
		printf("%-9s %-16s %8s\n", "ID", "TAG", "OWN SIZE");
	for (size_t i = 0; i < n && !r; i++) {
		uint64_t bytes = 0;

		s->over = false;
		block_snapshot_own(s->b, all[i].id, &bytes, &s->op);
		r = op_wait(s, e);
		if (!r && s->common.json)
			json_object_array_add(list, own_json(&all[i], bytes));
		else if (!r)
			own_line(&all[i], bytes);
	}
	if (!r && s->common.json)
		img_json_print(list);
	json_object_put(list);
	return r;
}

static int change_open(struct snapshot *s, struct err *e)
{
	char id[BLOCK_SNAPSHOT_ID_MAX + 1];
	int r;

	if (s->own_size)
		return own_sizes(s, e);
	if (s->action == 'c')
		return snapshot_create(s, e);
	r = snapshot_find(s, id, e);
	if (r < 0)
		return r;
	if (s->action == 'a')
		block_snapshot_apply(s->b, id, &s->op);
	else
		block_snapshot_delete(s->b, id, &s->op);
	return op_wait(s, e);
}

static int snapshot_change(struct snapshot *s, struct err *e)
{
	int r;

	s->loop = img_loop(0);
	s->op.done = op_done;
	s->op.progress = op_progress;
	r = img_block_open(s->loop, &s->common.o, &s->b, e);
	if (!r) {
		r = img_seal(false, e);
		if (!r)
			r = change_open(s, e);
		img_signals_catch(); /* the snapshot is complete */
		if (s->action != 'l')
			img_progress_end(&s->common.progress, !r);
		r = img_block_close(s->b, s->common.o.path, r, e);
	}
	return r;
}

/* ---- the verb snapshot ---- */

static int action_set(struct snapshot *s, char c, const char *name)
{
	if (s->action)
		return img_usage("snapshot", "-c, -a, -d and -l exclude each other");
	s->action = c;
	s->name = name;
	return 0;
}

int img_snapshot_main(int argc, char **argv)
{
	static const struct option longs[] = { IMG_COMMON_LONGS,
		{ "own-size", no_argument, NULL, IMG_OPT_OWN }, { NULL, 0, NULL, 0 } };
	struct snapshot s = { 0 };
	struct err e = { 0 };
	bool lists;
	int c;

	img_common_init(&s.common, "snapshot");
	while ((c = getopt_long(argc, argv, "c:a:d:lqpf:U", longs, NULL)) != -1) {
		switch (c) {
		case 'c':
		case 'a':
		case 'd':
		case 'l':
			if (action_set(&s, (char)c, optarg))
				return 1;
			break;
		case IMG_OPT_OWN:
			s.own_size = true;
			break;
		default:
			if (img_common_option(&s.common, c, c == '?' ? argv[optind - 1] : optarg))
				return 1;
		}
	}
	if (argc - optind != 1)
		return img_usage("snapshot", "one FILE is required");
	if (img_common_name(&s.common, &s.common.o, argv[optind]))
		return 1;
	if (!s.action)
		s.action = 'l';
	if (s.own_size && (s.action != 'l' || s.common.o.no_lock))
		return img_usage("snapshot", "--own-size requires -l and excludes -U: the refcounts must not change");
	if (s.action != 'l') {
		img_common_progress(&s.common);
		img_signals_end(); /* when the image is opened next, the engine completes the operation or undoes it */
	}
	lists = s.action == 'l' && !s.own_size;
	if (!lists) {
		s.common.o.writable = true;
		s.common.o.keeps_data = true; /* the engine refuses snapshots of an image with a data file */
		img_sandbox_image(&s.common.o);
	}
	if (img_confine(!lists, 256, &e) < 0)
		return img_fail(&e);
	return (lists ? snapshots_list(&s, &e) : snapshot_change(&s, &e)) < 0 ? img_fail(&e) : 0;
}
