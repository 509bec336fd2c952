#include "api/access/open_as.h"
#include "api/access/fork_as.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define TIMEOUT_NS (10 * 1000000000ULL)

struct open_as {
	void (*done)(void *opaque, int r, struct config *c, const struct err *e);
	void *opaque;
	struct config config; /* complete except for its fds */
	unsigned nfiles;
	struct fork_as *errand; /* the process that opens the files */
};

/* Runs in the forked process. */
static int files_open(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct config_files *files = arg;

	for (unsigned i = 0; i < files->n; i++) {
		out->fds[i] = config_open_file(&files->list[i], e);
		if (out->fds[i] < 0)
			return out->fds[i];
		out->nfds = i + 1;
	}
	return 0;
}

static void files_opened(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct open_as *o = opaque;
	struct err own;

	config_take_fds(&o->config, res->fds, res->nfds);
	if (!r && res->nfds != o->nfiles) {
		r = err_set(&own, -EIO, ERR_HOST, "the helper process passed too few files");
		e = &own;
	}
	if (r < 0)
		config_done(&o->config);
	o->done(o->opaque, r, &o->config, e);
	free(o);
}

void open_as_free(struct open_as *o)
{
	if (!o)
		return;
	fork_as_free(o->errand);
	free(o);
}

static int open_as_start(struct open_as *o, struct loop *l, const struct config_files *files,
	const struct rights *rights, struct err *e)
{
	struct fork_as_spec s = { .rights = rights, .run = files_open, .arg = files, .what = "opening its files",
		.timeout_ns = TIMEOUT_NS, .done = files_opened, .opaque = o };

	o->nfiles = files->n;
	return fork_as_begin(l, &s, &o->errand, e);
}

static bool opens_images_only(enum open_as_what what)
{
	return what == OPEN_AS_IMAGES || what == OPEN_AS_IMAGES_READ;
}

static int open_prepare(const struct definition *d, enum open_as_what what, struct config *c, struct config_files *files,
	struct err *e)
{
	int r = config_prepare(d, opens_images_only(what), c, files, e);

	if (what == OPEN_AS_FORWARDS)
		files->n = 0;
	if (!r && (what == OPEN_AS_START || what == OPEN_AS_FORWARDS))
		r = config_prepare_forwards(d, c, files, e);
	return r;
}

static void only_read(struct config *c, struct config_files *files)
{
	for (unsigned i = 0; i < files->n; i++)
		files->list[i].write = false;
	c->vm.images_read = true;
}

/* ---- checking the files of a definition ---- */

struct check {
	const struct definition *d;
	struct config_files files;
};

/* Runs in the forked process. It closes each file itself, because close() waits for a file system, too. */
static int files_check(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct check *check = arg;

	(void)out;
	if (!check->d->rights)
		return definition_check_files(check->d, e);
	for (unsigned i = 0; i < check->files.n; i++) {
		int fd = config_open_file(&check->files.list[i], e);

		if (fd < 0)
			return fd;
		close(fd);
	}
	return 0;
}

int open_as_check(struct loop *l, const struct definition *d,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct err *e)
{
	struct check check = { .d = d };
	struct fork_as_spec s = { .rights = d->rights, .run = files_check, .arg = &check, .what = "opening its files",
		.timeout_ns = TIMEOUT_NS, .done = done, .opaque = opaque };
	struct fork_as *x;
	struct config c;
	int r = open_prepare(d, OPEN_AS_ALL, &c, &check.files, e);

	return r < 0 ? r : fork_as_begin(l, &s, &x, e);
}

/* ---- opening the files of a definition ---- */

void open_as_open(struct loop *l, const struct definition *d, enum open_as_what what,
	void (*done)(void *opaque, int r, struct config *c, const struct err *e), void *opaque,
	struct open_as **ret_o)
{
	struct config_files files;
	struct open_as *o;
	struct config c;
	struct err e;
	int r = open_prepare(d, what, &c, &files, &e);

	if (!r && what == OPEN_AS_IMAGES_READ)
		only_read(&c, &files);
	if (!r && !d->rights)
		r = config_open_files(&c, &files, &e);
	if (r < 0 || !d->rights) {
		done(opaque, r, &c, &e);
		return;
	}
	o = calloc(1, sizeof(*o));
	if (!o)
		abort(); /* otherwise done() would never be called */
	*o = (struct open_as){ .done = done, .opaque = opaque, .config = c };
	r = open_as_start(o, l, &files, d->rights, &e);
	if (r < 0) {
		free(o);
		done(opaque, r, &c, &e);
		return;
	}
	*ret_o = o;
}
