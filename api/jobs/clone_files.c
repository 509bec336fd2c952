#include "api/jobs/clone_files.h"
#include "api/access/authors.h"
#include "api/access/client_file.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "api/vm/quota_use.h"
#include "base/channel.h"
#include "base/err.h"
#include "base/file.h"
#include "base/relay.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define TIMEOUT_NS (10 * 1000000000ULL)
#define VERSION 1
#define RELAYS 1 /* type of the message with the relays of the source's images */

/* ---- functions that run in the forked process, or on a thread ---- */

/* Return the bytes that a file occupies, or the size of a block device; 0: unknown. */
static uint64_t file_bytes(const char *path)
{
	struct stat st;
	off_t end;
	int fd;

	if (!path || stat(path, &st) < 0)
		return 0;
	if (!S_ISBLK(st.st_mode))
		return (uint64_t)st.st_blocks * 512;
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	if (fd >= 0)
		close(fd);
	return (uint64_t)MAX(end, 0);
}

uint64_t clone_disk_bytes(const struct definition_disk *d, unsigned from, unsigned to)
{
	uint64_t bytes = 0;

	for (unsigned i = from; i < to; i++) {
		bytes = quota_sum(bytes, file_bytes(d->layers[i].path));
		bytes = quota_sum(bytes, file_bytes(d->layers[i].data_file));
	}
	return MAX(bytes, QUOTA_IMAGE_MIN_BYTES);
}

/* Return whether the process handles this disk: the guest may write to it, and its author is the process's user. */
static bool disk_is_ours(const struct clone_files *f, const struct definition *def, const struct definition_disk *d)
{
	return !d->read_only && rights_are_same(author_of(def, d->layers[0].path), f->author);
}

static int files_check(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct clone_files *f = arg;
	struct stat st;

	for (uint32_t i = 0; f->source && i < f->source->ndisks; i++)
		if (disk_is_ours(f, f->source, &f->source->disks[i]))
			out->bytes = quota_sum(out->bytes, clone_disk_bytes(&f->source->disks[i], 0, f->layers ? f->source->disks[i].nlayers : 1));
	for (unsigned i = 0; i < f->n; i++)
		for (uint32_t k = 0; k < f->defs[i]->ndisks; k++) {
			const struct definition_disk *d = &f->defs[i]->disks[k];

			if (!disk_is_ours(f, f->defs[i], d))
				continue;
			if (lstat(d->layers[0].path, &st) == 0)
				return err_set(e, -EEXIST, ERR_EXISTS,
					"%s: exists, so it cannot become the disk of a clone", d->layers[0].path);
			if (errno != ENOENT)
				return err_set_errno(e, -errno, "%s", d->layers[0].path);
		}
	return 0;
}

/* Get the source's images from the processes that hold them. The input has a message with the relays. fds: of n
 * files. */
static int sources_take(int input, int *fds, unsigned n)
{
	static const struct channel_type types[] = { [RELAYS] = { .fds_max = CHANNEL_FDS_MAX, .known = true } };
	_Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct channel_msg m;
	int r = channel_recv(input, VERSION, types, ARRAY_SIZE(types), buf, &m);

	if (r != 1)
		return MIN(r, -EIO);
	r = 0;
	for (unsigned i = 0; i < m.nfds && !r; i++)
		r = relay_take(m.fds[i], fds, n);
	channel_msg_close_fds(&m);
	for (unsigned i = 0; i < n && !r; i++)
		r = fds[i] < 0 ? -EPROTO : 0;
	return r;
}

/* Hold the new file and the disk's images, and close the other images. */
static void copy_hold(const struct clone_copy *c, int fd, int *fds, struct fork_as_result *out)
{
	out->held[out->nheld++] = fd;
	for (unsigned i = 0; i < c->n; i++) {
		out->held[out->nheld++] = fds[c->at[i]];
		fds[c->at[i]] = -1;
	}
	for (unsigned i = 0; i < c->nsources; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static int copy_open(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct clone_copy *c = arg;
	int fds[CHANNEL_FDS_MAX], fd, r;

	for (unsigned i = 0; i < CHANNEL_FDS_MAX; i++)
		fds[i] = -1;
	r = sources_take(out->input, fds, c->nsources);
	close(out->input);
	out->input = -1;
	fd = r < 0 ? r : open(c->path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY, 0600);
	if (fd >= 0 && out->given_up && atomic_load(out->given_up)) {
		unlink(c->path);
		close(fd);
		r = fd = -ECANCELED;
	}
	if (fd >= 0) {
		out->count = 1;
		copy_hold(c, fd, fds, out);
		return 0;
	}
	r = r < 0 ? err_set_errno(e, r, "cannot get the images from the process that opened them") :
		    err_set_errno(e, -errno, "%s", c->path);
	for (unsigned i = 0; i < c->nsources; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return r;
}

static void *copy_copy(const void *arg)
{
	struct clone_copy *c = must_alloc(malloc(sizeof(*c)));

	*c = *(const struct clone_copy *)arg;
	return c;
}

static int remove_of(const struct clone_files *f, unsigned i)
{
	const struct definition *def = f->defs[i];
	unsigned nth = 0;
	int r = 0;

	for (uint32_t k = 0; k < def->ndisks; k++) {
		const char *path = def->disks[k].layers[0].path;

		if (def->disks[k].read_only || (f->made && nth++ >= f->made[i]) || !disk_is_ours(f, def, &def->disks[k]) ||
			(f->born_after_ns && file_is_older(path, f->born_after_ns[i])))
			continue;
		if (unlink(path) < 0 && errno != ENOENT)
			r = -errno;
	}
	return r;
}

static int remove_all(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct clone_files *f = arg;
	int r = 0;

	(void)out;
	for (unsigned i = 0; i < f->n; i++) {
		int one = remove_of(f, i);

		if (one < 0)
			r = err_set_errno(e, one, "cannot remove the disks of VM '%s'", f->defs[i]->name);
	}
	return r;
}

/* ---- functions that run in the daemon ---- */

struct author_work {
	struct clone_files_work *all;
	const struct rights *rights; /* borrowed from a definition until the process has begun */
	struct fork_as *process; /* NULL: not begun, or ended */
};

struct clone_files_work {
	struct author_work *authors; /* owned */
	unsigned nauthors, running;
	uint64_t bytes;
	int r; /* the first failure */
	struct err e;
	clone_files_done *done;
	void *opaque;
	struct clone_files_work **at; /* the caller's */
};

void clone_files_free(struct clone_files_work *w)
{
	if (!w)
		return;
	for (unsigned i = 0; i < w->nauthors; i++)
		fork_as_free(w->authors[i].process);
	free(w->authors);
	free(w);
}

static void author_add(struct clone_files_work *w, const struct rights *rights)
{
	for (unsigned i = 0; i < w->nauthors; i++)
		if (rights_are_same(w->authors[i].rights, rights))
			return;
	w->authors = must_alloc(reallocarray(w->authors, w->nauthors + 1, sizeof(*w->authors)));
	w->authors[w->nauthors++] = (struct author_work){ .all = w, .rights = rights };
}

static void authors_find(struct clone_files_work *w, const struct definition *def)
{
	for (uint32_t i = 0; i < def->ndisks; i++)
		if (!def->disks[i].read_only)
			author_add(w, author_of(def, def->disks[i].layers[0].path));
}

static void work_end(struct clone_files_work *w)
{
	struct fork_as_result res = { .bytes = w->bytes };
	struct clone_files_work was = *w;

	*w->at = NULL;
	clone_files_free(w);
	was.done(was.opaque, was.r, &res, &was.e);
}

static void author_done(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct author_work *a = opaque;
	struct clone_files_work *w = a->all;

	a->process = NULL;
	w->bytes = quota_sum(w->bytes, res->bytes);
	if (r < 0 && !w->r) {
		w->r = r;
		w->e = *e;
	}
	if (!--w->running)
		work_end(w);
}

/* Run s->run once for each author of a disk of the clones or the source. */
static void work_begin(struct helpers *h, struct fork_as_spec *s, const struct clone_files *f, clone_files_done *done,
	void *opaque, struct clone_files_work **ret)
{
	struct clone_files_work *w = must_alloc(calloc(1, sizeof(*w)));
	struct fork_as_result none = { 0 };
	struct clone_files mine = *f;
	struct err e;

	*w = (struct clone_files_work){ .done = done, .opaque = opaque, .at = ret, .running = 1 };
	*ret = w;
	for (unsigned i = 0; i < f->n; i++)
		authors_find(w, f->defs[i]);
	if (f->source)
		authors_find(w, f->source);
	s->arg = &mine;
	s->done = author_done;
	for (unsigned i = 0; i < w->nauthors; i++) {
		int r;

		s->rights = mine.author = w->authors[i].rights;
		s->opaque = &w->authors[i];
		w->running++;
		r = fork_as_begin(h, s, &w->authors[i].process, &e);
		if (r < 0)
			author_done(&w->authors[i], r, &none, &e);
	}
	if (!--w->running)
		work_end(w);
}

void clone_files_check(struct helpers *h, const struct clone_files *f, clone_files_done *done, void *opaque,
	struct clone_files_work **ret)
{
	struct fork_as_spec s = { .run = files_check, .what = "making files for clones", .timeout_ns = TIMEOUT_NS };

	work_begin(h, &s, f, done, opaque, ret);
}

void clone_copy_set(struct clone_copy *ret, const struct config *c, unsigned disk, const char *path,
	struct vm_clone_disk *request)
{
	const struct vm_disk *v = &c->vm.disks[disk];

	*ret = (struct clone_copy){ .nsources = c->nheld };
	snprintf(ret->path, sizeof(ret->path), "%s", path);
	request->nlayers = (uint8_t)v->nlayers;
	for (unsigned k = 0; k < v->nlayers; k++) {
		request->format[k] = v->format[k];
		request->has_data[k] = v->data_fd[k] != VM_NO_FD;
		ret->at[ret->n++] = v->fd[k];
		if (request->has_data[k])
			ret->at[ret->n++] = v->data_fd[k];
	}
}

int clone_copy_open(struct helpers *h, const struct rights *rights, const struct clone_copy *copy, const struct config *c,
	clone_files_done *done, void *opaque, struct client_file **ret, struct err *e)
{
	struct client_file_spec s = { .rights = rights, .of_author = true, .run = copy_open, .arg = copy, .copy = copy_copy,
		.drop = free, .what = "making files for clones", .done = done, .opaque = opaque };
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(e, -errno, "%s", s.what);
	s.input = pair[1];
	r = channel_send(pair[0], VERSION, RELAYS, 0, NULL, 0, c->fds, c->nfds);
	r = r < 0 ? err_set_errno(e, r, "%s", s.what) : client_file_new(h, &s, ret, e);
	close(pair[0]);
	close(pair[1]);
	return r;
}

void clone_files_remove(struct helpers *h, const struct clone_files *f, clone_files_done *done, void *opaque,
	struct clone_files_work **ret)
{
	struct fork_as_spec s = { .run = remove_all, .what = "removing files of clones", .timeout_ns = FORK_AS_NO_TIMEOUT };

	work_begin(h, &s, f, done, opaque, ret);
}
