/* store_file: what is done to the files of the state folder, on whatever thread: each by its whole path. All wait for
 * the disk but store_file_put() without sync, store_file_switch() and store_folder_clear(). Return 0 or -errno. */
#ifndef CAIRN_API_STORE_STORE_FILE_H
#define CAIRN_API_STORE_STORE_FILE_H

#include <stdbool.h>
#include <stdint.h>

struct err;

/* Holds the memory dumps in a VM's folder. */
#define DUMPS_FOLDER "dumps"
/* The largest is the table of permissions: 4096 entries, each with a name. */
#define STORE_FILE_MAX (4 * 1024 * 1024)

/* The state folder's, with the daemon's pid in it. -EBUSY: another daemon has it. *ret_fd: owned; the lock goes with it. */
int store_lock(const char *dir, int *ret_fd, struct err *e);
/* No sentence. */
int store_folder_sync(const char *path);
/* The same, of one that may have been removed since. */
int store_folder_settle(const char *path, struct err *e);
/* The file, its folder, and the folder of that: one that is there, or has been removed since. No sentence. */
int store_file_settle(const char *path);
/* Not in one step: for a file that nobody reads yet. */
int store_file_put(const char *path, const char *text, bool sync, struct err *e);
/* In one step, but not on stable storage; folders are made if need be. */
int store_file_switch(const char *path, const char *text, struct err *e);
/* Each file of the folder that is called NAME.json. What was left half by store_file_switch() is removed. */
void store_folder_each(const char *path, void (*found)(void *opaque, const char *name), void *opaque);
/* Those whose names begin so. */
void store_files_drop(const char *folder, const char *prefix);
/* What could not be loaded is not saved. */
int store_size_check(const char *path, const char *text, struct err *e);
/* A damaged file becomes *.damaged, with a line in the log. */
void store_put_aside(const char *path, const char *why);
/* Another name, *.vN, for what an older Cairn wrote, before that is written anew: for whoever goes back to it. */
void store_keep_old(const char *path, int64_t version);
/* One that is not there: 0. */
int store_file_remove(const char *path, struct err *e);
/* Of a VM: what is known to lie in it, and then itself, unless there is more. */
int store_folder_clear(const char *path, struct err *e);
int store_folder_clear_for_good(const char *path, struct err *e);
/* A file or a folder, to beside where it was. */
int store_move(const char *path, const char *to, struct err *e);
/* Of a VM, with its next definition in it as STORE_RENAMED. */
int store_folder_rename(const char *path, const char *text, const char *to, struct err *e);

#endif
