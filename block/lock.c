#include "block/lock.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define LOCK_USED 100
#define LOCK_UNSHARED 200
#define LOCK_OURS 300

/* Numbers of QEMU's permissions that matter for a file; see lock.h. */
enum lock_perm { PERM_CONSISTENT_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3, PERM_COUNT = 4 };

#define LOCK_READER (1u << PERM_CONSISTENT_READ)
#define LOCK_WRITER (LOCK_READER | 1u << PERM_WRITE | 1u << PERM_RESIZE)
#define LOCK_NOT_SHARED (1u << PERM_WRITE | 1u << PERM_RESIZE)

/* The bytes from LOCK_OURS on, which only Cairn uses. */
enum lock_pin { PIN_READER = 0, PIN_KEEPER = 1, PIN_COUNT = 2 };

/* The bytes that each mode locks: bit n of a field is byte n from LOCK_USED, LOCK_UNSHARED or LOCK_OURS on. */
static const struct lock_bits {
	unsigned used, unshared, ours;
} modes[] = {
	[LOCK_AS_READER] = { LOCK_READER, LOCK_NOT_SHARED, 0 },
	[LOCK_AS_WRITER] = { LOCK_WRITER, LOCK_NOT_SHARED, 0 },
	[LOCK_AS_WRITER_BESIDE_PINS] = { LOCK_WRITER, LOCK_NOT_SHARED, 1u << PIN_KEEPER },
	[LOCK_AS_PIN_READER] = { LOCK_READER, 1u << PERM_RESIZE, 1u << PIN_READER },
};

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
		.l_len = LOCK_OURS - LOCK_USED + PIN_COUNT };

	(void)fcntl(fd, F_OFD_SETLK, &f);
}

static void lock_clear(int fd, off_t base, unsigned perms)
{
	struct flock f;

	for (unsigned p = 0; p < PERM_COUNT; p++)
		if (perms & 1u << p)
			(void)lock_byte(fd, F_OFD_SETLK, F_UNLCK, base + (off_t)p, &f);
}

void lock_reduce(int fd)
{
	const struct lock_bits *m = &modes[LOCK_AS_READER];

	lock_clear(fd, LOCK_USED, ~m->used);
	lock_clear(fd, LOCK_UNSHARED, ~m->unshared);
	lock_clear(fd, LOCK_OURS, ~m->ours);
}

/* Returns whether only readers of a pin forbid the permissions of a writer. */
static bool only_pins_forbid(int fd)
{
	return lock_conflict(fd, LOCK_UNSHARED, LOCK_WRITER & ~(1u << PERM_RESIZE)) < 0 &&
	       lock_conflict(fd, LOCK_OURS, 1u << PIN_READER) >= 0;
}

/* Returns whether the writer that has the image open keeps all pins. */
static bool writer_keeps_pins(int fd)
{
	return lock_conflict(fd, LOCK_OURS, 1u << PIN_KEEPER) >= 0;
}

static bool is_free(int fd, enum lock_mode mode)
{
	const struct lock_bits *m = &modes[mode];

	if (lock_conflict(fd, LOCK_UNSHARED, m->used) >= 0 &&
		!(mode == LOCK_AS_WRITER_BESIDE_PINS && only_pins_forbid(fd)))
		return false;
	if (mode == LOCK_AS_PIN_READER)
		return lock_conflict(fd, LOCK_USED, LOCK_NOT_SHARED) < 0 || writer_keeps_pins(fd);
	return lock_conflict(fd, LOCK_USED, LOCK_NOT_SHARED) < 0;
}

static int is_busy(int fd, enum lock_mode mode, const char *name, struct err *e)
{
	bool writer = mode == LOCK_AS_WRITER || mode == LOCK_AS_WRITER_BESIDE_PINS, pins;

	lock_release(fd);
	pins = only_pins_forbid(fd) && lock_conflict(fd, LOCK_USED, LOCK_NOT_SHARED) < 0;
	if (writer && pins)
		return err_set(e, -EBUSY, ERR_BUSY, "%s holds the content of other VMs' disks (live clones), which are "
			"in use; stop those VMs first", name);
	return err_set(e, -EBUSY, ERR_BUSY,
		writer ? "%s is in use by another process; stop the VM or tool that has it open"
		       : "%s is " LOCK_WRITTEN "; stop the VM or tool that has it open",
		name);
}

int lock_acquire(int fd, enum lock_mode mode, const char *name, struct err *e)
{
	const struct lock_bits *m = &modes[mode];
	int r = lock_set(fd, LOCK_USED, m->used);

	if (!r)
		r = lock_set(fd, LOCK_UNSHARED, m->unshared);
	if (!r)
		r = lock_set(fd, LOCK_OURS, m->ours);
	if (r == -EAGAIN || r == -EACCES)
		return is_busy(fd, mode, name, e); /* another program has an exclusive lock */
	if (r < 0) {
		/* The file system has no OFD locks. Continue without a lock, as QEMU does. */
		log_warn(name, "the file system has no OFD locks (%s): nothing protects this "
			"image from a second writer", strerror(-r));
		return 0;
	}
	return is_free(fd, mode) ? 0 : is_busy(fd, mode, name, e);
}
