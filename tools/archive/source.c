#include "tools/archive/source.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "block/lock.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct file_source {
	struct source source;
	int fd;
	char name[64];
};

int source_add_extent(struct source *s, uint64_t off, uint64_t len)
{
	struct source_extent *last = s->nextents ? &s->extents[s->nextents - 1] : NULL;

	if (last && last->off + last->len == off) {
		last->len += len;
		return 0;
	}
	if (is_power_of_two(s->nextents) || !s->nextents) {
		void *p = reallocarray(s->extents, s->nextents ? 2 * s->nextents : 1,
			sizeof(*s->extents));

		if (!p)
			return -ENOMEM;
		s->extents = p;
	}
	s->extents[s->nextents++] = (struct source_extent){ off, len };
	return 0;
}

static int file_source_read(struct source *s, void *buf, uint64_t off, size_t len, struct err *e)
{
	struct file_source *f = container_of(s, struct file_source, source);
	int r = pread_full(f->fd, buf, len, (off_t)off);

	return r < 0 ? err_set_errno(e, r, "%s: reading at %llu", f->name, (unsigned long long)off) : 0;
}

static void file_source_free(struct source *s)
{
	struct file_source *f = container_of(s, struct file_source, source);

	free(s->extents);
	close(f->fd);
	free(f);
}

static int file_size(int fd, uint64_t *ret)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISBLK(st.st_mode))
		return ioctl(fd, BLKGETSIZE64, ret) < 0 ? -errno : 0;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	*ret = (uint64_t)st.st_size;
	return 0;
}

/* Find the data extents. A file that cannot report holes, such as a block device, is all data. */
static int file_extents(struct file_source *f)
{
	uint64_t size = f->source.size_bytes, at = 0;

	while (at < size) {
		off_t data = lseek(f->fd, (off_t)at, SEEK_DATA), hole;
		int r;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0 && errno == EINVAL)
			return source_add_extent(&f->source, at, size - at);
		hole = data < 0 ? data : lseek(f->fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		hole = (off_t)MIN((uint64_t)hole, size);
		if (hole <= data)
			return 0; /* the file has become shorter */
		r = source_add_extent(&f->source, (uint64_t)data, (uint64_t)(hole - data));
		if (r < 0)
			return r;
		at = (uint64_t)hole;
	}
	return 0;
}

int source_of_file(int fd, const char *name, struct source **ret, struct err *e)
{
	struct file_source *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return err_set_errno(e, -ENOMEM, "%s", name);
	f->source.read = file_source_read;
	f->source.free = file_source_free;
	f->fd = fd;
	snprintf(f->name, sizeof(f->name), "%s", name);
	r = lock_acquire(fd, LOCK_AS_READER, name, e);
	if (!r) {
		r = file_size(fd, &f->source.size_bytes);
		if (!r)
			r = file_extents(f);
		if (r < 0)
			err_set_errno(e, r, "%s", name);
	}
	if (r < 0) {
		free(f->source.extents);
		free(f);
		return r;
	}
	*ret = &f->source;
	return 0;
}
