#include "api/policy/disk_room.h"
#include "api/access/authors.h"
#include "api/access/fork_as.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/vm/vm.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/util.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define TIMEOUT_NS (10 * CLOCK_NS_PER_S)

/* The images to ask about, at their disks' indexes; NULL: do not ask about this disk. */
struct images {
	char *paths[VM_DISKS_MAX]; /* owned, or borrowed from a list that owns them */
};

struct look {
	void (*done)(void *opaque, const struct disk_room *low);
	void *opaque;
	char ids[VM_DISKS_MAX][sizeof(((struct definition_disk *)0)->id)];
	struct images images; /* owns its paths */
	unsigned running;
	unsigned low; /* index of the first disk that is short, so far; VM_DISKS_MAX: none */
	struct pool_point space; /* of that disk */
};

bool disk_room_lies_in(const char *path, const char *folder)
{
	size_t n = strlen(folder);

	return path && !strncmp(path, folder, n) && (path[n] == '/' || (n && folder[n - 1] == '/'));
}

/* ---- on a thread, or in a process ---- */

/* Returns whether the image is a file, and its file system is short of space. */
static bool image_is_short(const char *path, struct pool_point *ret)
{
	struct pool_history h = { .n = 1 };
	struct statvfs s;
	struct stat st;

	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || statvfs(path, &s) < 0)
		return false;
	ret->total_bytes = (uint64_t)s.f_blocks * s.f_frsize;
	ret->used_bytes = ret->total_bytes - MIN((uint64_t)s.f_bavail * s.f_frsize, ret->total_bytes);
	h.points[0] = *ret;
	return pool_history_is_low(&h, false);
}

/* out->count: 1 + index of the first disk that is short; 0: none. */
static int room_run(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct images *m = arg;
	struct pool_point space = { 0 };

	(void)e;
	for (unsigned i = 0; i < VM_DISKS_MAX && !out->count; i++) {
		if (!m->paths[i] || !image_is_short(m->paths[i], &space))
			continue;
		out->count = i + 1;
		out->sizes[0] = space.used_bytes;
		out->sizes[1] = space.total_bytes;
	}
	return 0;
}

static void *images_copy(const void *arg)
{
	const struct images *m = arg;
	struct images *copy = must_alloc(calloc(1, sizeof(*copy)));

	for (unsigned i = 0; i < VM_DISKS_MAX; i++)
		copy->paths[i] = m->paths[i] ? must_alloc(strdup(m->paths[i])) : NULL;
	return copy;
}

static void images_drop(void *copy)
{
	struct images *m = copy;

	for (unsigned i = 0; i < VM_DISKS_MAX; i++)
		free(m->paths[i]);
	free(m);
}

/* ---- the look ---- */

/* Cut the name of the file. path: absolute. */
static const char *folder_of(char *path)
{
	char *slash = strrchr(path, '/');

	slash[slash == path] = '\0';
	return path;
}

static void room_end(struct look *l)
{
	struct disk_room low = { .space = l->space };

	if (l->low < VM_DISKS_MAX) {
		low.disk = l->ids[l->low];
		low.folder = folder_of(l->images.paths[l->low]);
	}
	l->done(l->opaque, low.disk ? &low : NULL);
	for (unsigned i = 0; i < VM_DISKS_MAX; i++)
		free(l->images.paths[i]);
	free(l);
}

static void room_done(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct look *l = opaque;

	(void)e;
	if (!r && res->count && res->count - 1 < l->low && l->images.paths[res->count - 1]) {
		l->low = res->count - 1;
		l->space = (struct pool_point){ .used_bytes = res->sizes[0], .total_bytes = res->sizes[1] };
	}
	if (!--l->running)
		room_end(l);
}

/* Ask about the disks of the same author as the first one, and remove them from the list. */
static void author_ask(struct look *l, struct helpers *h, const struct definition *d, unsigned first, struct images *left)
{
	const struct rights *rights = author_of(d, left->paths[first]);
	struct images ours = { 0 };
	struct fork_as_spec spec = { .rights = rights, .run = room_run, .arg = &ours, .what = "looking at its disks", .timeout_ns = TIMEOUT_NS,
		.copy = images_copy, .drop = images_drop, .done = room_done, .opaque = l };
	struct fork_as *x;
	struct err e;

	for (unsigned i = first; i < VM_DISKS_MAX; i++)
		if (left->paths[i] && rights_are_same(rights, author_of(d, left->paths[i])))
			ours.paths[i] = STEAL_PTR(left->paths[i]);
	l->running += !fork_as_begin(h, &spec, &x, &e);
}

static bool is_in_pool(const struct pools *p, const char *path)
{
	for (size_t i = 0; i < p->n; i++)
		if (disk_room_lies_in(path, p->list[i].target))
			return true;
	return false;
}

void disk_room_find(const struct vm *vm, void (*done)(void *opaque, const struct disk_room *low), void *opaque)
{
	const struct definition *d = vm_live(vm);
	struct look *l = must_alloc(calloc(1, sizeof(*l)));
	struct images left = { 0 };

	*l = (struct look){ .done = done, .opaque = opaque, .running = 1, .low = VM_DISKS_MAX };
	for (uint32_t i = 0; i < d->ndisks; i++) {
		const struct definition_disk *disk = &d->disks[i];

		if (disk->read_only || !disk->nlayers || is_in_pool(&vm->host->pools, disk->layers[0].path))
			continue;
		memcpy(l->ids[i], disk->id, sizeof(disk->id));
		left.paths[i] = l->images.paths[i] = must_alloc(strdup(disk->layers[0].path));
	}
	for (unsigned i = 0; i < VM_DISKS_MAX; i++)
		if (left.paths[i])
			author_ask(l, vm->host->helpers, d, i, &left);
	if (!--l->running)
		room_end(l);
}
