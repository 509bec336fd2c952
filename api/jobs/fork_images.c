#include "api/jobs/fork_images.h"
#include "api/access/client_file.h"
#include "api/access/fork_as.h"
#include "api/access/rights.h"
#include "api/jobs/fork_files.h"
#include "api/vm/quota_use.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_NS (10 * 1000000000ULL)
#define WHAT "copying disks for clones"

/* The files of one author. */
struct part {
	struct rights *rights; /* owned */
	struct fork_files files;
	struct client_file *opened; /* holds them, and those of the parts before; NULL: not yet, or passed on */
};

struct fork_images {
	struct helpers *helpers;
	struct part *parts[VM_DISKS_MAX]; /* owned; the daemon's own rights come first */
	unsigned nparts, ndisks, nfiles, ncopied;
	struct part *last; /* of the last disk */
	unsigned at; /* the part whose turn it is */
	struct fork_as *helper;
	uint64_t bytes, sizes[VM_DISKS_MAX];
	fork_images_done *done;
	void *opaque;
	struct err failure; /* of the opening, while the files of earlier parts are removed */
};

struct fork_images *fork_images_new(struct helpers *h)
{
	struct fork_images *x = must_alloc(calloc(1, sizeof(*x)));

	x->helpers = h;
	return x;
}

void fork_images_free(struct fork_images *x)
{
	if (!x)
		return;
	fork_as_free(x->helper);
	for (unsigned i = 0; i < x->nparts; i++) {
		client_file_free(x->parts[i]->opened);
		free(x->parts[i]->rights);
		free(x->parts[i]);
	}
	free(x);
}

/* ---- adding files ---- */

/* Find or make the part of an author. The daemon's own files are opened first, and passed on: a thread of the daemon,
 * which opens them, gets no file of a user. */
static int part_get(struct fork_images *x, const struct rights *author, struct part **ret)
{
	unsigned at = author ? x->nparts : 0;

	for (unsigned i = 0; i < x->nparts; i++)
		if (rights_are_same(x->parts[i]->rights, author)) {
			*ret = x->parts[i];
			return 0;
		}
	*ret = must_alloc(calloc(1, sizeof(**ret)));
	if (rights_copy(author, &(*ret)->rights) < 0) {
		free(*ret);
		return -ENOMEM;
	}
	memmove(x->parts + at + 1, x->parts + at, (x->nparts - at) * sizeof(*x->parts));
	x->parts[at] = *ret;
	x->nparts++;
	return 0;
}

static void file_add(struct fork_images *x, const char *path, bool copy)
{
	struct fork_files *f = &x->last->files;

	f->list[f->n++] = (struct fork_file){ path, copy, (uint16_t)(1 + x->nfiles++), (uint16_t)(x->ndisks - 1) };
}

int fork_images_add_disk(struct fork_images *x, const struct rights *author, const char *path)
{
	int r = part_get(x, author, &x->last);

	if (r < 0)
		return r;
	x->ndisks++;
	file_add(x, path, false);
	return 0;
}

void fork_images_add_copy(struct fork_images *x, const char *path)
{
	file_add(x, path, true);
}

void fork_images_add_copied(struct fork_images *x, const struct definition_disk *disk, unsigned nlayers)
{
	struct fork_files *f = &x->last->files;

	f->copied[f->ncopied].disk = disk;
	f->copied[f->ncopied++].nlayers = nlayers;
	x->ncopied++;
}

bool fork_images_any(const struct fork_images *x)
{
	return x->nfiles > 0;
}

unsigned fork_images_ncopied(const struct fork_images *x)
{
	return x->ncopied;
}

/* ---- one process after the other ---- */

typedef void part_done(void *opaque, int r, const struct fork_as_result *res, const struct err *e);

/* Run fn with the rights of the part whose turn it is. */
static void part_run(struct fork_images *x, int (*fn)(const void *files, struct fork_as_result *out, struct err *e),
	const struct fork_files *files, part_done *done)
{
	struct fork_as_spec s = { .rights = x->parts[x->at]->rights, .run = fn, .arg = files, .what = WHAT,
		.timeout_ns = TIMEOUT_NS, .done = done, .opaque = x };
	struct fork_as_result none = { 0 };
	struct err e;
	int r;

	/* A thread has no disks to measure: see fork_files_copy(). */
	if (!files->ncopied) {
		s.copy = fork_files_copy;
		s.drop = fork_files_drop;
	}
	r = fork_as_begin(x->helpers, &s, &x->helper, &e);
	if (r < 0)
		done(x, r, &none, &e);
}

static void begin(struct fork_images *x, fork_images_done *done, void *opaque)
{
	x->at = 0;
	x->done = done;
	x->opaque = opaque;
}

static bool has_next(struct fork_images *x)
{
	return ++x->at < x->nparts;
}

/* ---- checking ---- */

static void part_check(struct fork_images *x);

static void part_checked(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct fork_images *x = opaque;

	x->helper = NULL;
	x->bytes = quota_sum(x->bytes, res->bytes);
	if (!r && has_next(x))
		part_check(x);
	else
		x->done(x->opaque, r, e);
}

static void part_check(struct fork_images *x)
{
	part_run(x, fork_files_check, &x->parts[x->at]->files, part_checked);
}

void fork_images_check(struct fork_images *x, fork_images_done *done, void *opaque)
{
	begin(x, done, opaque);
	part_check(x);
}

uint64_t fork_images_bytes(const struct fork_images *x)
{
	return x->bytes;
}

/* ---- opening ---- */

static int part_open(struct fork_images *x, int input, struct err *e);
static void part_remove(struct fork_images *x);

static void part_removed(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct fork_images *x = opaque;

	(void)r;
	(void)res;
	(void)e;
	x->helper = NULL;
	part_remove(x);
}

/* Remove the files that the parts before the present one have created. */
static void part_remove(struct fork_images *x)
{
	if (!x->at) {
		x->done(x->opaque, -EEXIST, &x->failure);
		return;
	}
	x->at--;
	part_run(x, fork_files_remove, &x->parts[x->at]->files, part_removed);
}

static void part_opened(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct fork_images *x = opaque;
	struct err own;

	(void)res;
	if (x->at)
		client_file_free(STEAL_PTR(x->parts[x->at - 1]->opened));
	if (!r && x->at + 1 < x->nparts) {
		int relay = client_file_relay(x->parts[x->at]->opened);

		x->at++;
		r = part_open(x, relay, &own);
		e = &own;
		if (!r)
			return;
	}
	if (r == -EEXIST && x->at) {
		x->failure = *e;
		part_remove(x);
	} else {
		x->done(x->opaque, r, e);
	}
}

/* input: the state's file, or the relay of the part before. */
static int part_open(struct fork_images *x, int input, struct err *e)
{
	struct part *p = x->parts[x->at];
	struct client_file_spec s = { .rights = p->rights, .of_author = true, .run = fork_files_open, .arg = &p->files,
		.copy = fork_files_copy, .drop = fork_files_drop, .input = input, .what = WHAT, .done = part_opened, .opaque = x };

	p->files.relayed = x->at > 0;
	return client_file_new(x->helpers, &s, &p->opened, e);
}

int fork_images_open(struct fork_images *x, int state_fd, fork_images_done *done, void *opaque, struct err *e)
{
	begin(x, done, opaque);
	return part_open(x, state_fd, e);
}

struct client_file *fork_images_take(struct fork_images *x)
{
	return x->nparts ? STEAL_PTR(x->parts[x->nparts - 1]->opened) : NULL;
}

/* ---- measuring ---- */

static void part_measure(struct fork_images *x);

static void part_measured(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct fork_images *x = opaque;

	(void)r; /* the size stays unknown */
	x->helper = NULL;
	for (unsigned i = 0; i < VM_DISKS_MAX; i++)
		x->sizes[i] = MAX(x->sizes[i], res->sizes[i]);
	if (has_next(x))
		part_measure(x);
	else
		x->done(x->opaque, 0, e);
}

static void part_measure(struct fork_images *x)
{
	const struct fork_files *f = &x->parts[x->at]->files;
	struct fork_files first = { .n = 0 };

	_Static_assert(FORK_AS_SIZES_MAX >= VM_DISKS_MAX, "one size a disk");
	for (unsigned i = 1; i < f->n; i++)
		if (f->list[i].copy && !f->list[i - 1].copy)
			first.list[first.n++] = f->list[i];
	part_run(x, fork_files_measure, &first, part_measured);
}

void fork_images_measure(struct fork_images *x, fork_images_done *done, void *opaque)
{
	begin(x, done, opaque);
	part_measure(x);
}

const uint64_t *fork_images_sizes(const struct fork_images *x)
{
	return x->sizes;
}
