/* fork_images: the files of live clones' disks. The author of each of the source's disks (api/access/authors.h) checks,
 * opens and measures its image and the clones' files of that disk. The processes of several authors pass their open
 * files on, one to the next, and the last one holds all of them for the source's process.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_FORK_IMAGES_H
#define CAIRN_API_JOBS_FORK_IMAGES_H

#include <stdbool.h>
#include <stdint.h>

struct client_file;
struct definition_disk;
struct err;
struct fork_images;
struct helpers;
struct rights;

typedef void fork_images_done(void *opaque, int r, const struct err *e);

/* h: borrowed. done() is not called after fork_images_free(). */
struct fork_images *fork_images_new(struct helpers *h);
void fork_images_free(struct fork_images *x); /* NULL allowed */

/* Add a disk: its image, and then each clone's file. All are made before the first of the functions below. There are at
 * most CHANNEL_FDS_MAX - 1 files in all.
 * author: copied; NULL: the daemon's own rights. path: borrowed. Returns 0; -ENOMEM. */
int fork_images_add_disk(struct fork_images *x, const struct rights *author, const char *path);
void fork_images_add_copy(struct fork_images *x, const char *path);
/* Note that clones get copies of the last disk with the content of so many layers. disk: borrowed until the check has
 * begun to run. */
void fork_images_add_copied(struct fork_images *x, const struct definition_disk *disk, unsigned nlayers);
bool fork_images_any(const struct fork_images *x);
/* The number of disks that are copied. */
unsigned fork_images_ncopied(const struct fork_images *x);

/* Check that each image is a regular file, and that no clone's file exists. done() may be called at once.
 * Errors: as of fork_files_check(). */
void fork_images_check(struct fork_images *x, fork_images_done *done, void *opaque);
/* Bytes that a clone's copies of disks add to a quota, as the check found them. */
uint64_t fork_images_bytes(const struct fork_images *x);

/* Open the images for reading and create the clones' files. state_fd: borrowed for the call. On -EEXIST, no file is
 * left that was created here; after another error, files may be left.
 * Returns 0; -errno, and then done() is not called. */
int fork_images_open(struct fork_images *x, int state_fd, fork_images_done *done, void *opaque, struct err *e);
/* Return the process that holds, after fork_images_open(), the state's file and then all files in the order in which
 * they were added. Owned by the caller; NULL: there is none. */
struct client_file *fork_images_take(struct fork_images *x);

/* Measure the files of the first clone. done() may be called at once; r is 0. */
void fork_images_measure(struct fork_images *x, fork_images_done *done, void *opaque);
/* The space that the first clone's file of each disk occupies, by the disk's number in the order of adding. */
const uint64_t *fork_images_sizes(const struct fork_images *x);

#endif
