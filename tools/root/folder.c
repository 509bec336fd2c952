#include "tools/root/folder.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/root/cancel.h"
#include "tools/root/size_counts.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TICK_NS 20000000LL /* more than a tick of any kernel, by which times of change advance */

struct walk {
	struct sha256_ctx sha;
	int64_t newest_ns;
	uint32_t files;
	struct size_counts sizes;
};

static int name_compare(const FTSENT **a, const FTSENT **b)
{
	return strcmp((*a)->fts_name, (*b)->fts_name);
}

static void file_add(struct walk *w, const FTSENT *f)
{
	const struct stat *st = f->fts_statp;
	int64_t changed = (int64_t)st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec;
	char text[256];
	int n = snprintf(text, sizeof(text), "%ju %ju %o %u %u %jd %jd %ju", (uintmax_t)st->st_dev, (uintmax_t)st->st_ino, st->st_mode,
		st->st_uid, st->st_gid, (intmax_t)st->st_size, (intmax_t)changed, (uintmax_t)st->st_nlink);

	w->newest_ns = MAX(w->newest_ns, changed);
	if (S_ISREG(st->st_mode))
		size_counts_add(&w->sizes, (uint64_t)st->st_size);
	sha256_update(&w->sha, f->fts_pathlen + 1u, (const uint8_t *)f->fts_path);
	sha256_update(&w->sha, (size_t)n + 1, (const uint8_t *)text);
}

/* tar would read all other files before it fails. */
static int readable_check(const FTSENT *f, struct err *e)
{
	int error = f->fts_info == FTS_F && faccessat(AT_FDCWD, f->fts_accpath, R_OK, AT_EACCESS) < 0 ? errno : 0;

	if (!error)
		return 0;
	return err_set(e, -error, err_class_of_errno(error), "%s: %s; make the file readable (chmod u+r), take a tar archive that root has made of "
		"the folder, or share the folder as it is with --rw", f->fts_path, strerror(error));
}

static int walk_run(struct walk *w, FTS *fts, uint32_t files_max, struct err *e)
{
	FTSENT *f;
	int r;

	while (errno = 0, (f = fts_read(fts))) {
		if (f->fts_info == FTS_DP)
			continue;
		if (f->fts_info == FTS_DNR || f->fts_info == FTS_ERR || f->fts_info == FTS_NS)
			return err_set_errno(e, -f->fts_errno, "%s", f->fts_path);
		r = cancel_check(e);
		if (!r)
			r = readable_check(f, e);
		if (r < 0)
			return r;
		if (++w->files > files_max)
			return err_set(e, -E2BIG, ERR_UNSUPPORTED, "the folder has more than %u files; use a smaller one, or raise --files-max",
				files_max);
		file_add(w, f);
	}
	return errno ? err_set_errno(e, -errno, "cannot list the folder") : 0;
}

/* A file that changes again within a tick keeps its time of change. */
static void tick_await(int64_t newest_ns)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if ((int64_t)now.tv_sec * 1000000000 + now.tv_nsec - newest_ns < TICK_NS)
		nanosleep(&(struct timespec){ .tv_nsec = TICK_NS }, NULL);
}

int folder_digest(const char *path, uint32_t files_max, uint8_t ret[SHA256_DIGEST_SIZE], bool *ret_many_alike, struct err *e)
{
	char *const paths[] = { (char *)path, NULL };
	FTS *fts = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, name_compare);
	CLEANUP_FREE struct walk *w = must_alloc(calloc(1, sizeof(*w)));
	int r;

	if (!fts)
		return err_set_errno(e, -errno, "%s", path);
	sha256_init(&w->sha);
	r = walk_run(w, fts, files_max, e);
	fts_close(fts);
	if (r < 0)
		return r;
	tick_await(w->newest_ns);
	sha256_digest(&w->sha, SHA256_DIGEST_SIZE, ret);
	*ret_many_alike = size_counts_are_many(&w->sizes);
	return 0;
}
