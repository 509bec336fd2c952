/* fs_space: measures the space of file systems. The daemon itself does so, so that a VM that writes nothing gets an
 * event when other programs fill its file system, without a wake-up of its process. A file system is identified by its
 * device number (st_dev). The daemon asks the mount point that has this number in /proc/self/mountinfo, so it follows
 * no path of a user, and holds no file, which would keep the file system mounted. It measures on threads (fork_as.h),
 * so a file system that hangs blocks one thread.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_FS_SPACE_H
#define CAIRN_API_POLICY_FS_SPACE_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct fork_as_result;
struct fs_spaces;
struct helpers;
struct space_fill;

/* helpers: borrowed. looked: called from the loop when a look has succeeded. The caller owns the object. */
struct fs_spaces *fs_spaces_new(struct helpers *helpers, void (*looked)(void *opaque, uint64_t dev), void *opaque);
void fs_spaces_free(struct fs_spaces *all); /* NULL allowed */
/* Name a file system for the next fs_spaces_measure(). */
void fs_spaces_want(struct fs_spaces *all, uint64_t dev);
/* Drop the file systems that were not named since the last call, and measure those without a figure, unless a
 * measurement is under way. again: measure all. Do this at longer intervals, because the rate of filling is computed
 * from two measurements. */
void fs_spaces_measure(struct fs_spaces *all, bool again);
/* Return the figures of a file system; NULL: none. Borrowed until the loop's next turn. */
const struct space_fill *fs_spaces_of(const struct fs_spaces *all, uint64_t dev);

/* Find a file system among the mount points, and get its space in out->sizes: its bytes, and the free ones. 0: its
 * nodes are no files of it, as in /dev. arg: its uint64_t number. For tests.
 * Returns 0; -ENOENT: it is not mounted here; -errno. */
int fs_space_run(const void *arg, struct fork_as_result *out, struct err *e);

#endif
