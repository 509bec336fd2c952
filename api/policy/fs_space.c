#include "api/policy/fs_space.h"
#include "api/access/fork_as.h"
#include "api/policy/space_fill.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Most measurements at a time. One lasts longer than some ms only if its file system hangs. */
#define LOOKS_MAX 32
#define LINE_BYTES 8192

struct fs {
	struct fs *next;
	struct fs_spaces *all;
	uint64_t dev;
	struct space_fill fill;
	bool wanted;
	struct fork_as *look; /* under way; NULL: none */
};

struct fs_spaces {
	struct helpers *helpers;
	void (*looked)(void *opaque, uint64_t dev);
	void *opaque;
	struct fs *first;
	unsigned looks; /* under way */
};

/* ---- on a thread ---- */

/* Replace the octal escapes of mountinfo. */
static void unescape(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' && s[3] <= '7') {
			*to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 3;
		} else {
			*to++ = *s;
		}
	}
	*to = 0;
}

/* Get the space if the line of mountinfo is of the file system, and its mount point still leads to it. Returns whether
 * that is so. */
static bool line_parse(char *line, uint64_t dev, uint64_t sizes[2])
{
	unsigned major_number, minor_number;
	char *path, *end, *type;
	CLEANUP_CLOSE int fd = -1;
	struct statvfs space;
	struct stat st;
	int at = 0;

	/* "36 35 98:0 /root /mount/point options... - type source options" */
	if (sscanf(line, "%*d %*d %u:%u %*s %n", &major_number, &minor_number, &at) != 2 || !at || makedev(major_number, minor_number) != dev)
		return false;
	path = line + at;
	end = strchr(path, ' ');
	type = end ? strstr(end, " - ") : NULL;
	if (!type)
		return false;
	*end = 0;
	if (!strncmp(type + 3, "devtmpfs ", 9))
		return true;
	unescape(path);
	fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_dev != dev || fstatvfs(fd, &space) < 0)
		return false;
	sizes[0] = (uint64_t)space.f_blocks * space.f_frsize;
	sizes[1] = (uint64_t)space.f_bavail * space.f_frsize;
	return true;
}

int fs_space_run(const void *arg, struct fork_as_result *out, struct err *e)
{
	CLEANUP_CLOSE int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	uint64_t dev = *(const uint64_t *)arg;
	char text[LINE_BYTES];
	size_t have = 0;
	ssize_t n;

	if (fd < 0)
		return err_set_errno(e, -errno, "mountinfo");
	while ((n = read(fd, text + have, sizeof(text) - 1 - have)) > 0) {
		char *line = text, *end;

		have += (size_t)n;
		text[have] = 0;
		for (; (end = strchr(line, '\n')); line = end + 1) {
			*end = 0;
			if (line_parse(line, dev, out->sizes))
				return 0;
		}
		have = (size_t)(text + have - line);
		if (have == sizeof(text) - 1)
			have = 0; /* a cut line is of no use, nor is its rest */
		memmove(text, line, have);
	}
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "the file system %u:%u is not mounted here", major(dev), minor(dev));
}

static void *dev_copy(const void *arg)
{
	uint64_t *copy = malloc(sizeof(*copy));

	if (copy)
		*copy = *(const uint64_t *)arg;
	return copy;
}

/* ---- on the loop ---- */

static struct fs *fs_find(const struct fs_spaces *all, uint64_t dev)
{
	struct fs *f = all->first;

	while (f && f->dev != dev)
		f = f->next;
	return f;
}

static void measure_done(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct fs *f = opaque;

	(void)e; /* VMs' processes see their file systems, too (vm_space.h) */
	f->look = NULL;
	f->all->looks--;
	if (r < 0 || !res->sizes[0])
		return;
	space_fill_add(&f->fill, res->sizes[1], res->sizes[0], clock_monotonic_ns());
	f->all->looked(f->all->opaque, f->dev);
}

static void measure_begin(struct fs *f)
{
	struct fork_as_spec spec = { .run = fs_space_run, .arg = &f->dev, .what = "looking at a file system", .timeout_ns = FORK_AS_NO_TIMEOUT,
		.copy = dev_copy, .drop = free, .done = measure_done, .opaque = f };
	struct err e;

	if (f->look || f->all->looks >= LOOKS_MAX)
		return;
	f->all->looks++;
	if (fork_as_begin(f->all->helpers, &spec, &f->look, &e) == 0)
		return;
	f->all->looks--;
	log_warn("space", "%s", e.msg);
}

void fs_spaces_want(struct fs_spaces *all, uint64_t dev)
{
	struct fs *f = fs_find(all, dev);

	if (!f) {
		f = must_alloc(calloc(1, sizeof(*f)));
		*f = (struct fs){ .next = all->first, .all = all, .dev = dev };
		all->first = f;
	}
	f->wanted = true;
}

void fs_spaces_measure(struct fs_spaces *all, bool again)
{
	struct fs **at = &all->first;

	while (*at) {
		struct fs *f = *at;

		if (f->wanted && (again || !f->fill.at_ns))
			measure_begin(f);
		/* A file system that hangs stays in the list, so that it blocks no second thread. */
		if (f->wanted || f->look) {
			at = &f->next;
			f->wanted = false;
		} else {
			*at = f->next;
			free(f);
		}
	}
}

const struct space_fill *fs_spaces_of(const struct fs_spaces *all, uint64_t dev)
{
	const struct fs *f = all ? fs_find(all, dev) : NULL;

	return f && f->fill.total_bytes ? &f->fill : NULL;
}

struct fs_spaces *fs_spaces_new(struct helpers *helpers, void (*looked)(void *opaque, uint64_t dev), void *opaque)
{
	struct fs_spaces *all = must_alloc(calloc(1, sizeof(*all)));

	*all = (struct fs_spaces){ .helpers = helpers, .looked = looked, .opaque = opaque };
	return all;
}

void fs_spaces_free(struct fs_spaces *all)
{
	struct fs *f;

	if (!all)
		return;
	while ((f = all->first)) {
		all->first = f->next;
		fork_as_free(f->look);
		free(f);
	}
	free(all);
}
