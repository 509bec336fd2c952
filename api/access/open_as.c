#include "api/access/open_as.h"
#include "api/access/authors.h"
#include "api/access/fork_as.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_NS (10 * 1000000000ULL)

/* The files of one author, which one process opens. */
struct part {
	struct part *next;
	struct open_as *all;
	const struct rights *rights; /* borrowed from the definition until the process has begun */
	const struct config_files *files; /* likewise */
	unsigned at[CHANNEL_FDS_MAX], n; /* indexes of the author's files, in rising order */
	unsigned nheld; /* the process holds the first nheld of them */
	struct fork_as *helper; /* NULL: it has ended, or none was begun */
};

struct open_as {
	void (*done)(void *opaque, int r, struct config *c, const struct err *e);
	/* Not NULL: the processes keep no file open, and this is called in place of done(), with no files. */
	void (*checked)(void *opaque, int r, const struct fork_as_result *res, const struct err *e);
	void *opaque;
	struct config config; /* complete except for its fds */
	struct part *parts; /* owned */
	uid_t client; /* open_as_check()'s */
	unsigned running;
	int fds[CHANNEL_FDS_MAX]; /* owned; -1: not opened yet, or held by a process */
	unsigned nfiles;
	int r; /* the first failure */
	struct err e;
};

/* Runs in the forked process. */
static int files_open(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct part *p = arg;
	int fd = -1;

	for (unsigned i = 0; i < p->n; i++) {
		fd = config_open_file(&p->files->list[p->at[i]], p->rights, fd, e);
		if (fd < 0)
			return fd;
		if (i >= p->nheld) {
			out->fds[out->nfds++] = fd;
			continue;
		}
		out->held[i] = fd;
		out->held_at[i] = (uint16_t)p->at[i];
		out->nheld = i + 1;
	}
	return 0;
}

/* The copy of a part for a thread, with the files and paths that the part borrows from the definition. */
static void *part_copy(const void *arg)
{
	const struct part *p = arg;
	struct config_files *files = must_alloc(malloc(sizeof(*files)));
	struct part *copy = must_alloc(malloc(sizeof(*copy)));

	*copy = *p;
	copy->files = files;
	files->n = p->files->n;
	for (unsigned i = 0; i < p->n; i++) {
		struct config_file *f = &files->list[p->at[i]];

		*f = p->files->list[p->at[i]];
		f->path = f->path ? must_alloc(strdup(f->path)) : NULL;
	}
	return copy;
}

static void part_drop(void *copy)
{
	struct part *p = copy;

	for (unsigned i = 0; i < p->n; i++)
		free((char *)p->files->list[p->at[i]].path);
	free((struct config_files *)p->files);
	free(p);
}

/* Runs in the forked process. It closes each file itself, because close() waits for a file system, too. */
static int files_check(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct part *p = arg;

	(void)out;
	for (unsigned i = 0; i < p->n; i++) {
		int fd = config_open_file(&p->files->list[p->at[i]], p->rights, -1, e);

		if (fd < 0)
			return fd;
		close(fd);
	}
	return 0;
}

void open_as_free(struct open_as *o)
{
	if (!o)
		return;
	for (struct part *p; (p = o->parts);) {
		o->parts = p->next;
		fork_as_free(p->helper);
		free(p);
	}
	for (unsigned i = 0; i < o->nfiles; i++)
		if (o->fds[i] >= 0)
			close(o->fds[i]);
	config_done(&o->config);
	free(o);
}

static void open_as_end(struct open_as *o)
{
	static const struct fork_as_result none;

	if (o->checked) {
		o->checked(o->opaque, o->r, &none, &o->e);
		open_as_free(o);
		return;
	}
	if (!o->r) {
		o->r = config_take_fds(&o->config, o->fds + o->config.nheld, o->nfiles - o->config.nheld, &o->e);
		o->nfiles = 0;
	}
	if (o->r < 0)
		config_done(&o->config);
	o->done(o->opaque, o->r, &o->config, &o->e);
	o->config = (struct config){ 0 }; /* done() has taken it */
	open_as_free(o);
}

static void part_opened(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct part *p = opaque;
	struct open_as *o = p->all;
	struct err own;

	p->helper = NULL;
	if (!r && !o->checked && (res->nheld != p->nheld || res->nheld + res->nfds != p->n)) {
		r = err_set(&own, -EIO, ERR_HOST, "the helper process passed too few files");
		e = &own;
	}
	for (unsigned i = 0; !r && i < p->nheld; i++)
		o->config.held[p->at[i]] = res->files[i].id;
	for (unsigned i = 0; i < res->nfds; i++) {
		if (p->nheld + i < p->n)
			o->fds[p->at[p->nheld + i]] = res->fds[i];
		else
			close(res->fds[i]);
	}
	if (r < 0 && !o->r) {
		o->r = r;
		o->e = *e;
	}
	if (!--o->running)
		open_as_end(o);
}

static struct part *part_of(struct open_as *o, const struct rights *rights, const struct config_files *files)
{
	struct part *p = o->parts;

	while (p && !rights_are_same(p->rights, rights))
		p = p->next;
	if (p)
		return p;
	p = must_alloc(calloc(1, sizeof(*p)));
	*p = (struct part){ .next = o->parts, .all = o, .rights = rights, .files = files };
	o->parts = p;
	return p;
}

/* A drive without a medium has no path, and so no author. */
static const struct rights *file_author(const struct definition *d, const struct config_file *f)
{
	return f->forward ? author_of_forward(d, f->forward) : f->path ? author_of(d, f->path) : d->rights;
}

/* Give the configuration one end of a relay. *ret: the other one, for the process; owned. */
static int relay_make(struct open_as *o, int *ret, struct err *e)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(e, -errno, "opening its files");
	*ret = pair[1];
	if (config_add_fd(&o->config, pair[0]) == VM_NO_FD)
		return err_set(e, -EMFILE, ERR_INVALID, "the VM has too many files");
	o->config.vm.relays++;
	return 0;
}

/* A thread opens files only: sockets go to the daemon, and cairn-dial is a child of the process. */
static bool part_is_for_thread(const struct part *p)
{
	for (unsigned i = 0; i < p->n; i++)
		if (p->files->list[p->at[i]].kind != CONFIG_FILE || p->files->list[p->at[i]].forward)
			return false;
	return true;
}

static int part_start(struct part *p, struct helpers *h, const struct definition *d, struct err *e)
{
	struct open_as *o = p->all;
	struct fork_as_spec s = { .rights = p->rights, .of_client = p->rights && p->rights->uid == o->client,
		.run = o->checked ? files_check : files_open, .arg = p,
		.who = rights_are_same(p->rights, d->rights) ? NULL : "who added the file",
		.what = "opening its files", .timeout_ns = TIMEOUT_NS, .done = part_opened, .opaque = p };
	CLEANUP_CLOSE int relay = -1;
	int r = p->nheld ? relay_make(o, &relay, e) : 0;

	if (r < 0)
		return r;
	if (!o->checked && part_is_for_thread(p)) {
		s.copy = part_copy;
		s.drop = part_drop;
	}
	s.relay = MAX(relay, 0);
	return fork_as_begin(h, &s, &p->helper, e);
}

/* Start one process for each author of a file. nheld: the processes hold so many of the first files. The daemon opens
 * sockets of its own for forwards at once: no file system delays that. */
static int open_as_start(struct open_as *o, struct helpers *h, const struct definition *d, const struct config_files *files,
	unsigned nheld, struct err *e)
{
	bool own = !o->checked && authors_are_daemon(d);
	int r = 0;

	o->nfiles = files->n;
	o->config.nheld = nheld;
	o->config.vm.held = (uint16_t)nheld;
	for (unsigned i = 0; i < files->n; i++)
		o->fds[i] = -1;
	for (unsigned i = 0; i < files->n; i++) {
		struct part *p;

		if (own && files->list[i].forward) {
			r = o->fds[i] = config_open_file(&files->list[i], false, -1, e);
			if (r < 0)
				return r;
			continue;
		}
		p = part_of(o, file_author(d, &files->list[i]), files);
		p->at[p->n++] = i;
		p->nheld += i < nheld;
	}
	if (!o->parts)
		part_of(o, d->rights, files); /* done() is called from the loop then, too */
	r = 0;
	for (struct part *p = o->parts; p && !r; p = p->next) {
		r = part_start(p, h, d, e);
		o->running += !r;
	}
	return r;
}

static bool opens_images_only(enum open_as_what what)
{
	return what == OPEN_AS_IMAGES || what == OPEN_AS_IMAGES_READ || what == OPEN_AS_WRITTEN || what == OPEN_AS_WRITTEN_READ;
}

static void leave_out_read_only(struct config *c, struct config_files *files)
{
	for (unsigned i = 0; i < c->vm.ndisks; i++) {
		struct vm_disk *d = &c->vm.disks[i];

		if (!d->read_only)
			continue;
		for (unsigned k = 0; k < d->nlayers; k++) {
			files->list[d->fd[k]].path = NULL;
			d->format[k] = DEFINITION_FORMAT_RAW;
			if (d->data_fd[k] != VM_NO_FD)
				files->list[d->data_fd[k]].path = NULL;
			d->data_fd[k] = VM_NO_FD;
		}
		d->nlayers = 1;
	}
}

static int open_prepare(const struct definition *d, enum open_as_what what, struct config *c, struct config_files *files,
	struct err *e)
{
	int r = config_prepare(d, opens_images_only(what), c, files, e);

	if (!r && (what == OPEN_AS_WRITTEN || what == OPEN_AS_WRITTEN_READ))
		leave_out_read_only(c, files);
	if (!r && (what == OPEN_AS_START || what == OPEN_AS_START_HELD))
		r = config_prepare_sockets(d, c, files, e);
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

/* Runs in the forked process. */
static int daemons_files_check(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct config_files *files = arg;
	int r = 0;

	(void)out;
	for (unsigned i = 0; i < files->n && !r; i++)
		r = config_check_file(&files->list[i], e);
	return r;
}

/* Whether the definition gives the guest this file as f does. list: the definition's files. */
static bool has_file(const struct definition *d, const struct config_files *list, const struct config_file *f,
	const struct rights *author)
{
	for (unsigned i = 0; i < list->n; i++) {
		const struct config_file *k = &list->list[i];

		if (f->path && k->path && !strcmp(k->path, f->path) && k->block == f->block && k->write >= f->write)
			return rights_are_same(author_of(d, k->path), author);
	}
	return false;
}

static int leave_out_known(const struct definition *d, struct config_files *files, const struct definition *old, struct err *e)
{
	struct config_files known;
	struct config c;
	unsigned n = 0;
	int r = open_prepare(old, OPEN_AS_ALL, &c, &known, e);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < files->n; i++)
		if (!has_file(old, &known, &files->list[i], file_author(d, &files->list[i])))
			files->list[n++] = files->list[i];
	files->n = n;
	return 0;
}

int open_as_check(struct helpers *h, const struct definition *d, const struct definition *old, uid_t client,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct err *e)
{
	struct config_files files;
	struct fork_as_spec s = { .run = daemons_files_check, .arg = &files, .what = "opening its files",
		.timeout_ns = TIMEOUT_NS, .done = done, .opaque = opaque };
	struct fork_as *x;
	struct open_as *o;
	struct config c;
	int r = open_prepare(d, OPEN_AS_ALL, &c, &files, e);

	if (!r && old)
		r = leave_out_known(d, &files, old, e);
	if (r < 0)
		return r;
	if (authors_are_daemon(d))
		return fork_as_begin(h, &s, &x, e);
	o = must_alloc(calloc(1, sizeof(*o)));
	*o = (struct open_as){ .checked = done, .opaque = opaque, .client = client };
	r = open_as_start(o, h, d, &files, 0, e);
	if (r < 0)
		open_as_free(o);
	return r;
}

/* ---- opening the files of a definition ---- */

void open_as_open(struct helpers *h, const struct definition *d, enum open_as_what what,
	void (*done)(void *opaque, int r, struct config *c, const struct err *e), void *opaque,
	struct open_as **ret_o)
{
	struct config_files files;
	struct open_as *o;
	struct config c;
	struct err e;
	bool here = authors_are_daemon(d) && what == OPEN_AS_FORWARDS;
	int r = open_prepare(d, what, &c, &files, &e);

	if (!r && (what == OPEN_AS_IMAGES_READ || what == OPEN_AS_WRITTEN_READ))
		only_read(&c, &files);
	if (!r && here)
		r = config_open_files(&c, &files, &e);
	if (r < 0 || here) {
		done(opaque, r, &c, &e);
		return;
	}
	o = calloc(1, sizeof(*o));
	if (!o)
		abort(); /* otherwise done() would never be called */
	*o = (struct open_as){ .done = done, .opaque = opaque, .config = c };
	r = open_as_start(o, h, d, &files, files.n - c.nforwards, &e);
	if (r < 0) {
		open_as_free(o);
		done(opaque, r, &c, &e);
		return;
	}
	*ret_o = o;
}
