#include "tools/root/merge.h"
#include "base/file.h"
#include "base/util.h"
#include "tools/root/layer.h"
#include "tools/root/sandbox.h"
#include "tools/root/size_counts.h"
#include "tools/root/tree.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define CONTENT_MAX (1024 * GIB) /* of all files: a guard against archives that expand without end */
#define COPY_BYTES (64 * KIB)

struct merge {
	const struct merge_input *in;
	struct tree *tree;
	struct merge_root root;
	uint64_t content;
	struct size_counts sizes;
	uint32_t entry;
	struct archive *out;
	uint8_t buf[COPY_BYTES];
};

/* ---- first pass ---- */

static uint32_t in_range(int64_t v)
{
	return (uint32_t)(v < 0 ? 0 : MIN(v, (int64_t)UINT32_MAX));
}

/* Returns the kind; -1: a socket, which nobody can use. */
static int entry_kind(struct archive_entry *entry, const char **ret_target)
{
	*ret_target = archive_entry_hardlink(entry);
	if (*ret_target)
		return TREE_HARD_LINK;
	switch (archive_entry_filetype(entry)) {
	case AE_IFDIR:
		return TREE_FOLDER;
	case AE_IFLNK:
		*ret_target = archive_entry_symlink(entry);
		return TREE_SYMLINK;
	case AE_IFSOCK:
		return -1;
	default:
		return TREE_FILE;
	}
}

static bool is_maker(int64_t id)
{
	return id == getuid() || id == getgid();
}

static int owner_check(struct merge *m, struct archive_entry *entry, const char *path, struct err *e)
{
	int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);

	m->root.maker_used |= is_maker(uid) || is_maker(gid);
	if (uid >= 0 && uid < UINT32_MAX && gid >= 0 && gid < UINT32_MAX)
		return 0;
	return err_set(e, -EINVAL, ERR_CORRUPT, "the owner of %.200s is no number below 4294967295", path);
}

static int entry_index(struct merge *m, unsigned layer, struct archive_entry *entry, struct err *e)
{
	const char *path = archive_entry_pathname(entry), *target;
	int kind = entry_kind(entry, &target), r;
	int64_t size = archive_entry_size(entry);
	bool is_root = false;

	if (!path)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s has an entry without a name", m->in->layers[layer].name);
	if (size > 0 && kind == TREE_FILE) {
		m->content += (uint64_t)size;
		size_counts_add(&m->sizes, (uint64_t)size);
	}
	if (m->content > CONTENT_MAX)
		return err_set(e, -EFBIG, ERR_UNSUPPORTED, "the files of the image have more than 1 TiB");
	r = owner_check(m, entry, path, e);
	if (!r) /* an unknown kind of file is counted, as the second pass does */
		r = tree_add(m->tree, layer, m->in->whiteouts, kind < 0 ? TREE_FILE : (enum tree_kind)kind, path, target, &is_root, e);
	if (is_root)
		m->root = (struct merge_root){ .mode = archive_entry_perm(entry), .uid = in_range(archive_entry_uid(entry)),
			.gid = in_range(archive_entry_gid(entry)), .mtime = in_range(archive_entry_mtime(entry)),
			.maker_used = m->root.maker_used };
	return r;
}

/* ---- second pass ---- */

/* Returns -EPIPE, so that the caller tells why sqfstar ended. */
static int out_fail(struct merge *m, struct err *e)
{
	return err_set(e, -EPIPE, ERR_IO, "cannot pass the files on to sqfstar: %s",
		archive_error_string(m->out) ? archive_error_string(m->out) : "unknown error");
}

static int header_write(struct merge *m, struct archive_entry *entry, struct err *e)
{
	return archive_write_header(m->out, entry) < ARCHIVE_WARN ? out_fail(m, e) : 0;
}

/* Remove values that squashfs cannot store, or that would make the header larger. */
static void entry_trim(struct archive_entry *entry)
{
	uint32_t mtime;

	archive_entry_sparse_clear(entry);
	archive_entry_acl_clear(entry);
	archive_entry_set_fflags(entry, 0, 0);
	archive_entry_unset_atime(entry);
	archive_entry_unset_ctime(entry);
	archive_entry_unset_birthtime(entry);
	mtime = in_range(archive_entry_mtime(entry));
	/* libarchive writes a time from 2^31 - 1 on into a PAX header. There, sqfstar needs a fraction. */
	archive_entry_set_mtime(entry, mtime, mtime >= INT32_MAX);
	archive_entry_set_uname(entry, NULL);
	archive_entry_set_gname(entry, NULL);
	if (archive_entry_filetype(entry) != AE_IFREG)
		archive_entry_set_size(entry, 0);
}

static int content_copy(struct merge *m, struct layer_reader *reader, int64_t size, struct err *e)
{
	size_t n = 0;
	int r = 0;

	for (int64_t left = size; left > 0 && !r; left -= (int64_t)n) {
		r = layer_read(reader, m->buf, (size_t)MIN(left, (int64_t)sizeof(m->buf)), &n, e);
		if (!r && !n)
			r = err_set(e, -EIO, ERR_CORRUPT, "a file of the image is shorter than its size");
		if (!r && archive_write_data(m->out, m->buf, n) != (la_ssize_t)n)
			r = out_fail(m, e);
	}
	return r;
}

/* Write a further name of a file. sqfstar searches the folder of a link's target from its last name on, so the target
 * is the name before. target: that name; set to the new one. */
static int link_write(struct merge *m, char target[PATH_MAX], struct tree_name *n, struct err *e)
{
	struct archive_entry *entry = archive_entry_new();
	char path[PATH_MAX];
	int r = entry ? tree_path(n, path) : -ENOMEM;

	if (!r) {
		archive_entry_set_pathname(entry, path);
		archive_entry_set_filetype(entry, AE_IFREG);
		archive_entry_set_hardlink(entry, target);
		r = header_write(m, entry, e);
		memcpy(target, path, sizeof(path));
	} else {
		err_set_errno(e, r, "a name of the image");
	}
	archive_entry_free(entry);
	return r;
}

static int entry_copy(struct merge *m, struct layer_reader *reader, struct archive_entry *entry, struct err *e)
{
	struct tree_name *n = tree_entry(m->tree, m->entry++);
	char path[PATH_MAX];
	int r;

	if (!n || archive_entry_filetype(entry) == AE_IFSOCK)
		return 0;
	r = tree_path(n, path);
	if (r < 0)
		return err_set_errno(e, r, "a name of the image");
	archive_entry_set_pathname(entry, path);
	entry_trim(entry);
	r = header_write(m, entry, e);
	if (!r)
		r = content_copy(m, reader, archive_entry_size(entry), e);
	while (!r && (n = tree_link(n)))
		r = link_write(m, path, n, e);
	return r;
}

/* Folders that no entry describes get root as owner, so they need an entry, too. */
static int bare_folders_write(struct merge *m, struct err *e)
{
	int r = 0;

	for (struct tree_name *n = tree_bare_folder(m->tree, NULL); n && !r; n = tree_bare_folder(m->tree, n)) {
		struct archive_entry *entry = archive_entry_new();
		char path[PATH_MAX];

		r = entry ? tree_path(n, path) : -ENOMEM;
		if (r < 0)
			return err_set_errno(e, r, "a name of the image");
		archive_entry_set_pathname(entry, path);
		archive_entry_set_filetype(entry, AE_IFDIR);
		archive_entry_set_perm(entry, 0755);
		archive_entry_set_mtime(entry, 0, 0);
		r = header_write(m, entry, e);
		archive_entry_free(entry);
	}
	return r;
}

static int out_open(struct merge *m, int tar, struct err *e)
{
	m->out = archive_write_new();
	if (!m->out)
		return err_set_errno(e, -ENOMEM, "the tar archive");
	if (archive_write_set_format_pax_restricted(m->out) < ARCHIVE_WARN ||
		archive_write_set_options(m->out, "xattrheader=SCHILY,hdrcharset=BINARY") < ARCHIVE_WARN ||
		archive_write_open_fd(m->out, tar) < ARCHIVE_WARN)
		return out_fail(m, e);
	return 0;
}

/* ---- both ---- */

static int layer_pass(struct merge *m, unsigned layer, struct err *e)
{
	struct layer_reader *reader;
	struct archive_entry *entry = NULL;
	int r = layer_open(&m->in->layers[layer], &reader, e);

	if (r < 0)
		return r;
	while (!(r = layer_next(reader, &entry, e)) && entry) {
		r = m->out ? entry_copy(m, reader, entry, e) : entry_index(m, layer, entry, e);
		if (r < 0)
			break;
	}
	layer_close(reader);
	return r;
}

static int layers_pass(struct merge *m, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < m->in->n && !r; i++)
		r = layer_pass(m, i, e);
	return r;
}

static int report_send(int fd, int r, const struct err *e, const struct merge *m)
{
	struct merge_report report = { .r = r, .root = m->root, .many_alike = size_counts_are_many(&m->sizes) };

	if (r < 0)
		report.e = *e;
	return write_full(fd, &report, sizeof(report));
}

static int merge_run(struct merge *m, int tar, int report, struct err *e)
{
	int r = root_sandbox(e);

	if (!r)
		r = layers_pass(m, e);
	if (r < 0)
		return r;
	tree_finish(m->tree);
	if (report_send(report, 0, NULL, m) < 0)
		return err_set_errno(e, -EPIPE, "report");
	r = out_open(m, tar, e);
	if (!r)
		r = bare_folders_write(m, e);
	if (!r)
		r = layers_pass(m, e);
	if (!r && archive_write_close(m->out) < ARCHIVE_WARN)
		r = out_fail(m, e);
	return r;
}

pid_t merge_start(const struct merge_input *in, const int tar[2], const int report[2], struct err *e)
{
	static struct merge m;
	pid_t parent = getpid(), pid;
	int r;

	m = (struct merge){ .in = in, .tree = tree_new(in->files_max), .root = { .mode = 0755 } };
	if (!m.tree)
		return err_set_errno(e, -ENOMEM, "the names of the image");
	pid = fork();
	if (pid)
		return pid < 0 ? err_set_errno(e, -errno, "fork") : pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	close(tar[0]); /* or else this process would not see sqfstar's end */
	close(report[0]);
	r = merge_run(&m, tar[1], report[1], e);
	report_send(report[1], r, e, &m);
	_exit(r < 0);
}
