/* Commands on files and on the content of disks, which are paths like others. */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static int errno_or_0(int rc)
{
	return rc < 0 ? -errno : 0;
}

static int echo_run(int argc, char **argv)
{
	say("%s\n", argc > 1 ? argv[1] : "");
	return 0;
}

static int mount_run(int argc, char **argv)
{
	const char *opts = argc > 4 ? argv[4] : "";
	unsigned long flags = 0;

	if (!strncmp(opts, "ro", 2) && (!opts[2] || opts[2] == ',')) {
		flags = MS_RDONLY;
		opts += opts[2] ? 3 : 2;
	}
	mkdir(argv[2], 0755);
	return errno_or_0(mount(argv[1], argv[2], argv[3], flags, opts));
}

static int umount_run(int argc, char **argv)
{
	(void)argc;
	return errno_or_0(umount2(argv[1], 0));
}

static int text_put(const char *path, const char *text, int flags)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0644);
	struct stat st;
	int rc = 0, len;

	if (fd < 0)
		return -errno;
	len = snprintf((char *)guest_io, sizeof(guest_io), "%s\n", text);
	if (write(fd, guest_io, (size_t)len) != len)
		rc = errno ? -errno : -EIO;
	/* Make data durable before answering ok. Files of /proc and /sys refuse fsync. */
	if (!rc && !fstat(fd, &st) && S_ISREG(st.st_mode) && fsync(fd) && errno != EINVAL)
		rc = -errno;
	if (close(fd) && !rc)
		rc = -errno;
	return rc;
}

static int write_run(int argc, char **argv)
{
	return text_put(argv[1], argc > 2 ? argv[2] : "", O_TRUNC);
}

static int append_run(int argc, char **argv)
{
	return text_put(argv[1], argc > 2 ? argv[2] : "", O_APPEND);
}

static int read_run(int argc, char **argv)
{
	(void)argc;
	return say_file(argv[1]);
}

static char type_letter(mode_t mode)
{
	return S_ISDIR(mode) ? 'd' : S_ISLNK(mode) ? 'l' : S_ISBLK(mode) ? 'b' : S_ISCHR(mode) ? 'c' : '-';
}

static int ls_run(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : "/";
	DIR *d = opendir(path);
	struct dirent *e;
	struct stat st;

	if (!d)
		return -errno;
	while ((e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (!fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW))
			say("%c %lld %s\n", type_letter(st.st_mode), (long long)st.st_size, e->d_name);
	}
	closedir(d);
	return 0;
}

static int stat_run(int argc, char **argv)
{
	struct stat st;

	(void)argc;
	if (lstat(argv[1], &st))
		return -errno;
	say("type %c\nmode %o\nsize %lld\nblocks %lld\nmtime %lld\ninode %llu\n", type_letter(st.st_mode),
	    (unsigned)st.st_mode & 07777, (long long)st.st_size, (long long)st.st_blocks, (long long)st.st_mtime,
	    (unsigned long long)st.st_ino);
	return 0;
}

/* The node of a disk exists shortly before the disk can be opened. */
static int can_be_opened(const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), there = fd >= 0 || (errno != ENOENT && errno != ENXIO);

	if (fd >= 0)
		close(fd);
	return there;
}

/* Wait without a limit, like the reader of the answer. */
static int await_run(int argc, char **argv)
{
	int gone = argc > 2 && !strcmp(argv[2], "gone");

	while (gone ? !access(argv[1], F_OK) : !can_be_opened(argv[1]))
		usleep(1000);
	return 0;
}

/* Delete the tree below `dirfd`, on one file system only: rm of a mount point empties it (and then
 * fails on the mount point itself), but does not cross from / into /proc. */
static int tree_empty(int parent, const char *name, dev_t dev, uint64_t *count)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), rc = 0;
	struct dirent *e;
	struct stat st;
	DIR *d;

	if (fd < 0)
		return -errno;
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return -ENOMEM;
	}
	while ((e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) || st.st_dev != dev)
			continue;
		if (S_ISDIR(st.st_mode) && tree_empty(fd, e->d_name, dev, count))
			rc = -EBUSY;
		if (unlinkat(fd, e->d_name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0))
			rc = -errno;
		else
			(*count)++;
	}
	closedir(d);
	return rc;
}

static int rm_run(int argc, char **argv)
{
	int deep = argc > 2 && (!strcmp(argv[1], "-r") || !strcmp(argv[1], "-rf")), rc;
	const char *path = argv[argc - 1];
	uint64_t count = 0;
	struct stat st;

	if (argc > 2 && !deep)
		return fail("usage: rm [-r] PATH");
	if (lstat(path, &st))
		return -errno;
	if (!deep || !S_ISDIR(st.st_mode))
		return errno_or_0(unlink(path));
	rc = tree_empty(AT_FDCWD, path, st.st_dev, &count);
	if (!rc && rmdir(path) == 0)
		count++;
	else if (!rc && errno != EBUSY) /* EBUSY: a mount point stays, empty */
		rc = -errno;
	say("deleted %llu\n", (unsigned long long)count);
	return rc;
}

static int mkdir_run(int argc, char **argv)
{
	(void)argc;
	return errno_or_0(mkdir(argv[1], 0755));
}

static int mv_run(int argc, char **argv)
{
	(void)argc;
	return errno_or_0(rename(argv[1], argv[2]));
}

static int ln_run(int argc, char **argv)
{
	(void)argc;
	return errno_or_0(symlink(argv[1], argv[2]));
}

static int sync_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	sync();
	return 0;
}

static int fsync_run(int argc, char **argv)
{
	int fd = open(argv[1], O_RDONLY | O_CLOEXEC), rc;

	(void)argc;
	if (fd < 0)
		return -errno;
	rc = errno_or_0(fsync(fd));
	close(fd);
	return rc;
}

static int drop_caches_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	sync();
	return text_put("/proc/sys/vm/drop_caches", "3", 0);
}

/* Range of a file that a command works on; `len` is limited to the file's end. */
struct range {
	int fd;
	uint64_t off, len;
};

static int range_open(struct range *r, const char *path, int flags, const char *off, const char *len)
{
	off_t end;

	r->off = 0;
	r->len = UINT64_MAX;
	if ((off && number(off, &r->off)) || (len && number(len, &r->len)))
		return -1;
	r->fd = open(path, flags | O_CLOEXEC, 0644);
	if (r->fd < 0)
		return -errno;
	end = lseek(r->fd, 0, SEEK_END);
	if (!(flags & O_CREAT)) {
		uint64_t room = end > 0 && (uint64_t)end > r->off ? (uint64_t)end - r->off : 0;

		r->len = r->len < room ? r->len : room;
	}
	/* Drop the page cache, so that data is read from the disk. */
	if ((flags & O_ACCMODE) == O_RDONLY) {
		fsync(r->fd);
		posix_fadvise(r->fd, 0, 0, POSIX_FADV_DONTNEED);
	}
	return 0;
}

/* Accept only the word "direct": the rest of a line that a revert has cut must have no effect. */
static int direct_flag(int argc, char **argv, int at, int *flags)
{
	if (argc <= at)
		return 0;
	if (strcmp(argv[at], "direct"))
		return fail("'direct' or nothing, not '%s'", argv[at]);
	*flags |= O_DIRECT;
	return 0;
}

static int sum_run(int argc, char **argv)
{
	uint64_t hash = 0xcbf29ce484222325u, done = 0;
	struct range r;
	int rc = range_open(&r, argv[1], O_RDONLY, argc > 2 ? argv[2] : NULL, argc > 3 ? argv[3] : NULL);

	if (rc)
		return rc;
	while (done < r.len) {
		size_t want = r.len - done < sizeof(guest_io) ? (size_t)(r.len - done) : sizeof(guest_io);
		ssize_t n = pread(r.fd, guest_io, want, (off_t)(r.off + done));

		if (n <= 0) {
			rc = n ? -errno : 0;
			break;
		}
		for (ssize_t i = 0; i < n; i++)
			hash = (hash ^ guest_io[i]) * 0x100000001b3u;
		done += (uint64_t)n;
	}
	close(r.fd);
	say("fnv1a64 %016llx %llu\n", (unsigned long long)hash, (unsigned long long)done);
	return rc;
}

static int fill_run(int argc, char **argv)
{
	struct stat st;
	struct range r;
	uint64_t seed, done = 0;
	int flags = O_WRONLY | (stat(argv[1], &st) || S_ISREG(st.st_mode) ? O_CREAT : 0), rc;

	if (number(argv[4], &seed) || direct_flag(argc, argv, 5, &flags))
		return -1;
	rc = range_open(&r, argv[1], flags, argv[2], argv[3]);
	if (rc)
		return rc;
	while (done < r.len) {
		size_t len = r.len - done < sizeof(guest_io) ? (size_t)(r.len - done) : sizeof(guest_io);
		ssize_t n;

		pattern_fill(guest_io, len, r.off + done, seed);
		n = pwrite(r.fd, guest_io, len, (off_t)(r.off + done));
		if (n <= 0) {
			rc = n ? -errno : -EIO;
			break;
		}
		done += (uint64_t)n;
	}
	if (fsync(r.fd) && !rc)
		rc = -errno;
	close(r.fd);
	say("filled %llu\n", (unsigned long long)done);
	return rc;
}

static int verify_run(int argc, char **argv)
{
	uint64_t seed, done = 0, want_len;
	struct range r;
	int flags = O_RDONLY, rc;

	if (number(argv[4], &seed) || number(argv[3], &want_len) || direct_flag(argc, argv, 5, &flags))
		return -1;
	rc = range_open(&r, argv[1], flags, argv[2], argv[3]);
	if (rc)
		return rc;
	while (!rc && done < r.len) {
		size_t len = r.len - done < sizeof(guest_io) ? (size_t)(r.len - done) : sizeof(guest_io);
		ssize_t n = pread(r.fd, guest_io, len, (off_t)(r.off + done));
		size_t good;

		if (n <= 0) {
			rc = n ? -errno : -EIO;
			break;
		}
		good = pattern_check(guest_io, (size_t)n, r.off + done, seed);
		done += good;
		if (good < (size_t)n)
			rc = fail("differs at %llu: %02x", (unsigned long long)(r.off + done), guest_io[good]);
	}
	close(r.fd);
	if (!rc && done < want_len)
		rc = fail("ends at %llu", (unsigned long long)(r.off + done));
	say("verified %llu\n", (unsigned long long)done);
	return rc;
}

const struct command file_commands[] = {
	{"echo", 0, 1, echo_run, "echo TEXT"},
	{"mount", 3, 4, mount_run, "mount DEV DIR FSTYPE [OPTIONS]"},
	{"umount", 1, 1, umount_run, "umount DIR"},
	{"write", 1, 2, write_run, "write FILE TEXT"},
	{"append", 1, 2, append_run, "append FILE TEXT"},
	{"read", 1, 1, read_run, "read FILE"},
	{"ls", 0, 1, ls_run, "ls [DIR]"},
	{"stat", 1, 1, stat_run, "stat PATH"},
	{"await", 1, 2, await_run, "await PATH [gone]"},
	{"rm", 1, 2, rm_run, "rm [-r] PATH"},
	{"mkdir", 1, 1, mkdir_run, "mkdir DIR"},
	{"mv", 2, 2, mv_run, "mv OLD NEW"},
	{"ln", 2, 2, ln_run, "ln TEXT LINK"},
	{"sync", 0, 0, sync_run, "sync"},
	{"fsync", 1, 1, fsync_run, "fsync PATH"},
	{"drop-caches", 0, 0, drop_caches_run, "drop-caches"},
	{"sum", 1, 3, sum_run, "sum PATH [OFF [LEN]]"},
	{"fill", 4, 5, fill_run, "fill PATH OFF LEN SEED [direct]"},
	{"verify", 4, 5, verify_run, "verify PATH OFF LEN SEED [direct]"},
	{0},
};
