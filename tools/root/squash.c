#include "tools/root/squash.h"
#include "base/err.h"
#include "base/utf8.h"
#include "base/util.h"
#include "tools/root/child.h"
#include "tools/root/merge.h"
#include "tools/root/root_inode.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int sqfstar_start(struct child *c, const struct merge_root *root, bool all_root, bool many_alike, int in, const char *path,
	struct err *e)
{
	char mode[16];
	char *const argv[] = { (char *)"sqfstar", (char *)"-quiet", (char *)"-no-progress", (char *)"-noI", (char *)"-noD", (char *)"-noF",
		(char *)"-noX", (char *)"-mem", (char *)"256M", (char *)"-mkfs-time", (char *)"0", (char *)"-root-mode", mode,
		(char *)(all_root ? "-all-root" : "-exports"), (char *)(many_alike ? "-no-duplicates" : "-exports"), (char *)path, NULL };

	snprintf(mode, sizeof(mode), "%o", root->mode & 07777);
	return child_start(c, "squashfs-tools", argv, in, -1, e);
}

/* ---- layers ---- */

struct work {
	struct child sqfstar;
	pid_t merger; /* 0: none */
	int tar[2], report[2];
};

static void fd_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void work_done(struct work *w)
{
	if (w->merger > 0) {
		kill(w->merger, SIGKILL);
		while (waitpid(w->merger, NULL, 0) < 0 && errno == EINTR)
			;
	}
	child_done(&w->sqfstar);
	for (unsigned i = 0; i < 2; i++) {
		fd_close(&w->tar[i]);
		fd_close(&w->report[i]);
	}
}

/* Read a report. A process that a layer took over may have written it. */
static int report_take(struct work *w, struct merge_report *report, struct err *e)
{
	ssize_t n = read(w->report[0], report, sizeof(*report));

	if (n < 0)
		return err_set_errno(e, -errno, "the process that reads layers");
	if (n != sizeof(*report))
		return err_set(e, -EIO, ERR_GENERIC, "the process that reads layers ended early: an image is malformed, or memory ran out");
	report->e.msg[sizeof(report->e.msg) - 1] = 0;
	utf8_clean(report->e.msg);
	if (report->r < 0 && e)
		*e = report->e;
	return MIN(report->r, 0);
}

/* If sqfstar fails, the merging process fails to write to it: sqfstar's own message says why. */
static int work_end(struct work *w, struct err *e)
{
	struct merge_report report;
	struct err squash_error;
	int r = report_take(w, &report, e), squash;

	if (r < 0 && r != -EIO && r != -EPIPE)
		return r;
	fd_close(&w->tar[0]);
	squash = child_wait(&w->sqfstar, &squash_error);
	if (squash < 0 && (!r || r == -EPIPE || squash == -ENOSPC)) {
		*e = squash_error;
		return squash;
	}
	return r;
}

int squash_layers(const struct merge_input *in, const char *path, struct err *e)
{
	struct work w = { .sqfstar.said = -1, .tar = { -1, -1 }, .report = { -1, -1 } };
	struct merge_report report;
	int r = pipe2(w.tar, O_CLOEXEC) < 0 || pipe2(w.report, O_CLOEXEC) < 0 ? err_set_errno(e, -errno, "pipe") : 0;

	if (!r) {
		r = merge_start(in, w.tar, w.report, e);
		w.merger = r < 0 ? 0 : r;
	}
	if (r > 0) {
		fd_close(&w.tar[1]);
		fd_close(&w.report[1]);
		r = report_take(&w, &report, e);
	}
	if (!r)
		r = sqfstar_start(&w.sqfstar, &report.root, false, report.many_alike, w.tar[0], path, e);
	fd_close(&w.tar[0]);
	if (!r)
		r = work_end(&w, e);
	if (!r)
		r = root_inode_set(path, &report.root, e);
	work_done(&w);
	return r;
}

/* ---- folder ---- */

static int tar_start(struct child *c, const char *folder, int out, struct err *e)
{
	char *const argv[] = { (char *)"tar", (char *)"-C", (char *)folder, (char *)"-cf", (char *)"-", (char *)"--format=posix",
		(char *)"--numeric-owner", (char *)"--xattrs", (char *)"--xattrs-include=*", (char *)"--pax-option=delete=atime,delete=ctime",
		(char *)"--warning=no-file-ignored", (char *)".", NULL };

	return child_start(c, "tar", argv, -1, out, e);
}

/* tar fails when sqfstar ends early: sqfstar's own message says why. */
static int folder_end(struct child *tar, struct child *sqfstar, struct err *e)
{
	struct err squash_error;
	int squash = child_wait(sqfstar, &squash_error), r = squash == -EINTR ? squash : child_wait(tar, e);

	if (squash < 0 && (!r || squash == -ENOSPC)) {
		*e = squash_error;
		return squash;
	}
	return r;
}

int squash_folder(const char *folder, bool many_alike, const char *path, struct err *e)
{
	struct child tar = { .said = -1 }, sqfstar = { .said = -1 };
	struct merge_root root;
	struct stat st;
	bool all_root;
	int p[2], r;

	if (stat(folder, &st) < 0 || pipe2(p, O_CLOEXEC) < 0)
		return err_set_errno(e, -errno, "%s", folder);
	/* A user who has unpacked a root without being root owns all of its files. */
	all_root = st.st_uid && st.st_uid == geteuid();
	root = (struct merge_root){ .mode = st.st_mode, .uid = all_root ? 0 : st.st_uid, .gid = all_root ? 0 : st.st_gid,
		.mtime = (uint32_t)st.st_mtime, .maker_used = true };
	r = tar_start(&tar, folder, p[1], e);
	close(p[1]);
	if (!r)
		r = sqfstar_start(&sqfstar, &root, all_root, many_alike, p[0], path, e);
	close(p[0]);
	if (!r)
		r = folder_end(&tar, &sqfstar, e);
	if (!r)
		r = root_inode_set(path, &root, e);
	child_done(&tar);
	child_done(&sqfstar);
	return r;
}
