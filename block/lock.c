#include "block/lock.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define LOCK_USED 100
#define LOCK_UNSHARED 200

/* QEMU's permission bits that matter for a file. */
enum lock_perm { PERM_CONSISTENT_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3, PERM_COUNT = 4 };

#define LOCK_READER (1u << PERM_CONSISTENT_READ)
#define LOCK_WRITER (LOCK_READER | 1u << PERM_WRITE | 1u << PERM_RESIZE)
#define LOCK_NOT_SHARED (1u << PERM_WRITE | 1u << PERM_RESIZE)

static int lock_byte(int fd, int cmd, short type, off_t byte, struct flock *ret)
{
	*ret = (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
	return fcntl(fd, cmd, ret) < 0 ? -errno : 0;
}

static int lock_set(int fd, off_t base, unsigned perms)
{
	struct flock f;
	int r = 0;

	for (unsigned p = 0; p < PERM_COUNT && !r; p++)
		if (perms & 1u << p)
			r = lock_byte(fd, F_OFD_SETLK, F_RDLCK, base + (off_t)p, &f);
	return r;
}

/* Returns the first of perms whose byte another process has locked; -1: none. */
static int lock_conflict(int fd, off_t base, unsigned perms)
{
	struct flock f;

	for (int p = 0; p < PERM_COUNT; p++)
		if ((perms & 1u << p) &&
			!lock_byte(fd, F_OFD_GETLK, F_WRLCK, base + p, &f) && f.l_type != F_UNLCK)
			return p;
	return -1;
}

void lock_release(int fd)
{
	struct flock f = { .l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = LOCK_USED,
		.l_len = LOCK_UNSHARED - LOCK_USED + PERM_COUNT };

	(void)fcntl(fd, F_OFD_SETLK, &f);
}

int lock_acquire(int fd, bool writer, const char *name, struct err *e)
{
	unsigned used = writer ? LOCK_WRITER : LOCK_READER;
	int r = lock_set(fd, LOCK_USED, used);

	if (!r)
		r = lock_set(fd, LOCK_UNSHARED, LOCK_NOT_SHARED);
	if (r == -EAGAIN || r == -EACCES)
		goto busy; /* another program has an exclusive lock */
	if (r < 0) {
		/* The file system has no OFD locks. Continue without a lock, as QEMU does. */
		log_warn(name, "the file system has no OFD locks (%s): nothing protects this "
			"image from a second writer", strerror(-r));
		return 0;
	}
	if (lock_conflict(fd, LOCK_UNSHARED, used) < 0 &&
		lock_conflict(fd, LOCK_USED, LOCK_NOT_SHARED) < 0)
		return 0;
busy:
	lock_release(fd);
	return err_set(e, -EBUSY, ERR_BUSY,
		writer ? "%s is in use by another process; stop the VM or tool that has it open"
		       : "%s is open for writing in another process; stop it, or open the image "
			 "without a lock (-U) and accept an inconsistent view",
		name);
}
