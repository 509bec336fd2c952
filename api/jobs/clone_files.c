#include "api/jobs/clone_files.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/vm/quota_use.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define TIMEOUT_NS (10 * 1000000000ULL)

/* ---- functions that run in the forked process, or in the daemon ---- */

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

static int files_look(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct clone_files *f = arg;
	struct stat st;

	for (uint32_t i = 0; f->source && i < f->source->ndisks; i++)
		if (!f->source->disks[i].read_only)
			out->bytes = quota_sum(out->bytes, clone_disk_bytes(&f->source->disks[i], 0, f->layers ? f->source->disks[i].nlayers : 1));
	for (unsigned i = 0; i < f->n; i++)
		for (uint32_t k = 0; k < f->defs[i]->ndisks; k++) {
			const struct definition_disk *d = &f->defs[i]->disks[k];

			if (d->read_only)
				continue;
			if (lstat(d->layers[0].path, &st) == 0)
				return err_set(e, -EEXIST, ERR_EXISTS,
					"%s: exists, so it cannot become the disk of a clone", d->layers[0].path);
			if (errno != ENOENT)
				return err_set_errno(e, -errno, "%s", d->layers[0].path);
		}
	return 0;
}

static int files_make(const void *arg, struct fork_as_result *out, struct err *e)
{
	const struct definition *def = arg;

	for (uint32_t k = 0; k < def->ndisks; k++) {
		const char *path = def->disks[k].layers[0].path;
		int fd;

		if (def->disks[k].read_only)
			continue;
		fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY, 0600);
		if (fd < 0)
			return err_set_errno(e, -errno, "%s", path);
		out->fds[out->nfds++] = fd;
		out->count++;
	}
	return 0;
}

static bool is_older(const char *path, uint64_t ns)
{
	struct statx st;

	return ns && statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &st) == 0 &&
		(st.stx_mask & STATX_BTIME) &&
		(uint64_t)st.stx_btime.tv_sec * 1000000000ULL + st.stx_btime.tv_nsec < ns;
}

static int remove_of(const struct clone_files *f, unsigned i)
{
	const struct definition *def = f->defs[i];
	unsigned nth = 0;
	int r = 0;

	for (uint32_t k = 0; k < def->ndisks; k++) {
		const char *path = def->disks[k].layers[0].path;

		if (def->disks[k].read_only || (f->made && nth++ >= f->made[i]) ||
			(f->born_after_ns && is_older(path, f->born_after_ns[i])))
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

static void at_once(int (*run)(const void *arg, struct fork_as_result *out, struct err *e), const void *arg,
	clone_files_done *done, void *opaque)
{
	struct fork_as_result out = { 0 };
	struct err e = { 0 };
	int r = run(arg, &out, &e);

	while (r < 0 && out.nfds)
		close(out.fds[--out.nfds]);
	done(opaque, r, &out, &e);
}

static void as_errand(struct helpers *h, const struct fork_as_spec *s, struct fork_as **ret)
{
	struct fork_as_result none = { 0 };
	struct err e;
	int r = fork_as_begin(h, s, ret, &e);

	if (r < 0)
		s->done(s->opaque, r, &none, &e);
}

static void run_with(struct helpers *h, const struct rights *rights,
	int (*run)(const void *arg, struct fork_as_result *out, struct err *e), const void *arg,
	clone_files_done *done, void *opaque, struct fork_as **ret)
{
	struct fork_as_spec s = { .rights = rights, .run = run, .arg = arg, .what = "making files for clones",
		.timeout_ns = TIMEOUT_NS, .done = done, .opaque = opaque };

	if (rights)
		as_errand(h, &s, ret);
	else
		at_once(run, arg, done, opaque);
}

void clone_files_look(struct helpers *h, const struct clone_files *f, clone_files_done *done, void *opaque,
	struct fork_as **ret)
{
	run_with(h, f->defs[0]->rights, files_look, f, done, opaque, ret);
}

void clone_files_make(struct helpers *h, const struct definition *def, clone_files_done *done, void *opaque,
	struct fork_as **ret)
{
	run_with(h, def->rights, files_make, def, done, opaque, ret);
}

void clone_files_remove(struct helpers *h, const struct clone_files *f, clone_files_done *done, void *opaque,
	struct fork_as **ret)
{
	struct fork_as_spec s = { .rights = f->defs[0]->rights, .run = remove_all, .arg = f,
		.what = "removing files of clones", .timeout_ns = FORK_AS_NO_TIMEOUT, .done = done, .opaque = opaque };

	as_errand(h, &s, ret);
}
