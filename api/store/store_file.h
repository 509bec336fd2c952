/* store_file: operations on the files of the state folder, by absolute path. Only functions whose
 * comments say that they sync wait for the disk. Functions that return int return 0 or -errno.
 *
 * Threading: any thread. */
#ifndef CAIRN_API_STORE_STORE_FILE_H
#define CAIRN_API_STORE_STORE_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct err;

/* Name of the folder, in a VM's folder, that holds the memory dumps. */
#define DUMPS_FOLDER "dumps"
/* Limit for a JSON file. For example, the table of permissions may have 4096 entries, each with a name. */
#define STORE_FILE_MAX (4 * 1024 * 1024)
#define STORE_COPY_MAX (16 * 1024 * 1024)

/* Return the device of a folder's file system if the sync of a file that was made or renamed there also brings to
 * stable storage its name, and all changes of names before: XFS, and ext4 with a journal. Both write changes of names
 * in the order in which they were made, and these acts change the file's inode, which the sync writes. After a
 * removal, the folder needs a sync there, too. Returns 0 if the file system is another one or unknown. */
dev_t store_ordered_device(const char *folder);
/* Check that the state folder's path leads to the folder that was opened. fd: of that folder. Returns -EIO if not. */
int store_place_check(int fd, const char *path, struct err *e);
/* Sync a folder. */
int store_folder_sync(const char *path);
/* Sync a folder, if it still exists. */
int store_folder_sync_err(const char *path, struct err *e);
/* Begin to write a file's content to the disk, if the file still exists; do not wait. */
void store_file_sync_start(const char *path);
/* Sync a file, if it still exists. */
int store_file_sync(const char *path, struct err *e);
/* Sync a file, then its folder, if they still exist. */
int store_file_sync_named(const char *path, struct err *e);
/* Write a file, not atomically: for files that nobody reads yet. sync: sync the file, not its folder. */
int store_file_put(const char *path, const char *text, bool sync, struct err *e);
/* Replace a file atomically, without a sync. Creates missing folders. */
int store_file_switch(const char *path, const char *text, struct err *e);
/* Call found() for each NAME.json in the folder. Removes temporary files that store_file_switch() left in a crash. */
void store_folder_each(const char *path, void (*found)(void *opaque, const char *name), void *opaque);
/* Remove the folder's files whose names begin with `prefix`. */
void store_files_drop(const char *folder, const char *prefix);
/* Check that the text has at most STORE_FILE_MAX bytes. -EFBIG: it has more, and could not be loaded again. */
int store_size_check(const char *path, const char *text, struct err *e);
/* Rename a damaged file to *.damaged and log that. */
void store_put_aside(const char *path, const char *why);
/* Hard-link an older Cairn's file as *.vN before it is overwritten, so that users can go back to that Cairn. */
void store_keep_old(const char *path, int64_t version);
/* unlinkat() and rename() for files that may be large, such as saved memory. To free the blocks of such a file takes
 * seconds when it has many extents, so the last reference to it is closed on a thread of its own.
 * dir: as for unlinkat(). Return 0; -errno. */
int store_file_unlink(int dir, const char *path);
int store_file_rename(const char *from, const char *to);
/* Replace `to` atomically by a copy of a file of at most STORE_COPY_MAX bytes, and sync. Returns 0 also if there is no
 * such file. */
int store_file_copy(const char *path, const char *to, struct err *e);
/* Remove a file and sync its folder. Returns 0 also if the file does not exist. */
int store_file_remove(const char *path, struct err *e);
/* Replace the first text `from` in the first 512 bytes of a file by `to`, which is as long, in place; sync the file's
 * data; and remove the file, also after an error. Returns 0; -EBADMSG: the text is not there; -errno. */
int store_file_end(const char *path, const char *from, const char *to, struct err *e);
/* Remove the known files in a VM's folder and all memory dumps, then the folder, unless it has other files. */
int store_folder_clear(const char *path, struct err *e);
/* Like store_folder_clear(), and sync the folder and the one above. */
int store_folder_clear_for_good(const char *path, struct err *e);
/* Rename a file or a folder within its folder, and sync that folder. */
int store_move(const char *path, const char *to, struct err *e);
/* Write `text` to STORE_RENAMED in a VM's folder, then rename the folder to `to` and sync. */
int store_folder_rename(const char *path, const char *text, const char *to, struct err *e);

#endif
