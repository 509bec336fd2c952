/* store: reads and writes the state folder. Each VM has a folder with definition.json, state.json, log and end. Every
 * JSON file has a "version" and is replaced atomically. Formats: docs/state.md.
 *
 * A thread writes most files, in the order of the requests, because the daemon's loop must not wait for a disk. VMs'
 * states are written without completion, some milliseconds late if nobody waits; a newer state replaces a queued one of
 * the same VM. When a client defines or undefines a VM or sets a permission, this is on stable storage before the call
 * is answered; a struct store_work reports the completion.
 *
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_STORE_STORE_H
#define CAIRN_API_STORE_STORE_H

#include "base/err.h"
#include "base/loop.h"

#include <stddef.h>
#include <stdbool.h>

struct json_object;
struct store;
struct store_takeover;
struct store_writer;

/* Reports the completion of one operation of the store's thread. The caller owns the object, sets loop and done, and
 * keeps the object until done() is called. */
struct store_work {
	/* Called once, from the loop. */
	void (*done)(struct store_work *w);
	void (*run)(struct store_work *w); /* for PENDING_RUN (store_writer.h): called once, from the thread */
	int r; /* 0; -errno, and then e is set */
	struct err e;
	/* Used by the store; the caller sets only loop. */
	struct store_writer *writer;
	struct loop *loop;
	struct loop_task task;
	unsigned draft;
};

/* When a change of a file takes effect, and when it is on stable storage. */
enum store_durability {
	/* No guarantee. The thread writes the file's newest content in its turn and logs a failure. A removed file is
	 * gone at return, but may reappear after a power cut. */
	STORE_EVENTUALLY,
	STORE_SOON,	 /* in place at return, even if the daemon is killed then; on stable storage soon after */
	STORE_NOW,	 /* on stable storage at return; waits for the disk */
	STORE_WITH_WORK, /* done by the thread in its turn; on stable storage when w is done */
};

/* Open the state folder, create it if needed, and lock it. Starts the thread.
 * t: as for store_lock() (store_lock.h).
 * Returns 0; -EBUSY: another daemon holds the lock; -errno. */
int store_open(const char *dir, const struct store_takeover *t, struct store **ret_s, struct err *e);
/* Whether a daemon that was killed and has not ended, because a file system does not answer, had the folder before. Its
 * sockets are open. */
bool store_took_over(const struct store *s);
/* Finish all writes, end the thread and release the lock. NULL allowed. */
void store_close(struct store *s);

/* Load all VMs and call found() for each.
 *
 * A damaged file is renamed to *.damaged and logged; the other files are loaded. A file of an older version is upgraded
 * (store_version.h) and written again soon after; the old file is kept as *.vN. If a newer Cairn wrote one of a VM's
 * files, found() is not called for that VM, and the store does not change its files. A folder without a definition,
 * which a daemon left that ended while it created or removed a VM, is removed, unless it has a damaged definition.
 * found: borrows the objects. state NULL: there is none, or it is damaged or unreadable. */
void store_load(struct store *s, void (*found)(void *opaque, const char *name,
	struct json_object *definition, struct json_object *state), void *opaque);
/* Call found() for each VM that could not be loaded because its definition is damaged or a newer Cairn wrote a file.
 * sentence: the reason and what to do. */
void store_each_unread(struct store *s, void (*found)(void *opaque, const char *name, const char *sentence),
	void *opaque);
/* Return whether there is such a VM. */
bool store_has_unread(struct store *s);
/* Check that a newer Cairn wrote no file of the VM. Returns 0; -ENOTSUP. */
int store_check_vm(struct store *s, const char *name, struct err *e);
/* Whether a newer Cairn wrote the file, which lies beside the VMs' folder and was loaded before. store_put() then does
 * not change the file. */
bool store_is_newer(struct store *s, const char *file);
/* Return whether there is a file of this name beside the VMs' folder, readable or not, or the daemon cannot know it. */
bool store_has_side_file(struct store *s, const char *file);
/* Read a file beside the VMs' folder if a newer Cairn wrote the file. The caller owns the object, which is not
 * converted to this version. e: set with the object: why this Cairn does not change the file. Returns NULL if no newer
 * Cairn wrote the file. */
struct json_object *store_read_newer(struct store *s, const char *file, struct err *e);
/* Let store_check_vm() and store_each_unread() treat a loaded VM as if a newer Cairn had written one of its files,
 * because a newer Cairn wrote `file`, which lies beside the VMs' folder and names the VM. The caller then removes the
 * VM from the registry. name: NULL: only the file is not changed. why: the reason, for errors. */
void store_leave_vm(struct store *s, const char *name, const char *file, const char *why);
/* Return whether the VM has only a damaged definition, which was written at this time (ns since 1970; 0: unknown) or
 * later, and which has no other uuid. */
bool store_is_damaged_since(struct store *s, const char *name, const char *uuid, uint64_t since_ns);
/* Rename to *.damaged a definition that is JSON but invalid. */
void store_quarantine(struct store *s, const char *name, const char *why);
/* Rename to *.damaged a file beside the VMs' folder that is JSON but invalid. */
void store_set_aside(struct store *s, const char *file, const char *why);
/* The same for a file in a VM's folder other than its definition. */
void store_set_vm_file_aside(struct store *s, const char *name, const char *file, const char *why);

/* A new definition is first written as a draft, which is on stable storage when w is done. The caller then keeps it, so
 * that it becomes definition.json, or drops it; both take effect at return. A power cut may lose a kept definition
 * until store_sync_file() is done.
 * is_new: there is no VM of that name, but one that could not be renamed may still have its folder: then -EEXIST. */
void store_write_draft(struct store *s, struct store_work *w, struct json_object *definition);
int store_keep_draft(struct store *s, const struct store_work *w, const char *name, bool is_new, struct err *e);
void store_drop_draft(struct store *s, const struct store_work *w);
/* Sync a file of a VM, its folder and that folder's folder. A file that is gone is no failure. */
void store_sync_file(struct store *s, struct store_work *w, const char *name, const char *file);
/* Return whether the done() of some work is still to be called. If so, the caller runs the loop and asks again. NULL
 * allowed. */
bool store_owes(const struct store *s);
/* Write the definition of a VM. At return, the definition survives the daemon's end; it is on stable storage soon
 * after.
 * is_new: as for store_keep_draft().
 * marker: also create an empty file of this name in the VM's folder, before the definition. NULL: none.
 * Returns 0; -errno. */
int store_save_definition_soon(struct store *s, const char *name, struct json_object *definition, bool is_new,
	const char *marker, struct err *e);
/* Remove the marker, with the durability of store_save_definition_soon(). Returns 0; -errno. */
int store_remove_marker(struct store *s, const char *name, const char *marker, struct err *e);
/* Let the thread begin nothing until store_release(). Between the two, the loop's thread creates and renames files:
 * each of these operations could wait in the kernel for a sync. The functions that wait for the thread may be called.
 */
void store_hold(struct store *s);
void store_release(struct store *s);
/* Wait until the thread has done all queued work. */
void store_drain(struct store *s);
#define STORE_BATCHES "batches" /* a folder beside the VMs' folder */
#define STORE_GROUPS "groups"	/* another one: api/jobs/group_job.h */
/* Rename a VM's folder to `to`. When w is done, the folder has its new name and `definition` as STORE_RENAMED, on
 * stable storage. Writes that were queued before go to the old name first. Afterwards store_rename_end() renames
 * STORE_RENAMED to definition.json.
 * definition: with the new name.
 * Returns 0; -errno: nothing is done, and w stays the caller's. */
#define STORE_RENAMED "renamed.json"
int store_rename(struct store *s, struct store_work *w, const char *name, const char *to,
	struct json_object *definition, struct err *e);
void store_rename_end(struct store *s, struct store_work *w, const char *name);
/* Call found() for each VM folder that has the file. */
void store_each_with(struct store *s, const char *file, void (*found)(void *opaque, const char *name),
	void *opaque);
/* Copy a file of at most STORE_COPY_MAX bytes (store_file.h) from the folder of the VM `from` to that of `to`. When w
 * is done, the copy is on stable storage, or there is no such file. */
void store_copy_file(struct store *s, struct store_work *w, const char *from, const char *to, const char *file);
/* Remove a VM's folder as store_folder_clear() does.
 * w: NULL: wait until the folder is gone. Otherwise the definition is gone at return, and w is done when the
 * rest is gone, on stable storage.
 * Returns 0; -errno: with w, nothing has changed, and w stays the caller's; without w, some files may be gone. */
int store_remove(struct store *s, const char *name, struct store_work *w, struct err *e);

/* Write a JSON file; it gets its "version".
 * vm: the VM whose folder has the file; NULL: `file` lies beside the VMs' folder, or is "FOLDER/NAME.json"
 * there. d: STORE_SOON only for files that are always written so.
 * w: for STORE_WITH_WORK, otherwise NULL.
 * Returns 0; -errno: nothing is done, and w stays the caller's. */
int store_put(struct store *s, const char *vm, const char *file, struct json_object *o, enum store_durability d,
	struct store_work *w, struct err *e);
/* Load a JSON file. vm: as for store_put(). The caller owns the object. Returns NULL if there is no such file,
 * if it is damaged or unreadable, or if a newer Cairn wrote it. */
struct json_object *store_load_file(struct store *s, const char *vm, const char *file);
/* Remove a file. vm, d: as for store_put().
 * w: for STORE_WITH_WORK; may be set for STORE_SOON: w is done when the removal and all earlier changes, except
 * STORE_EVENTUALLY ones, are on stable storage.
 * Returns 0, also if there is no such file; -errno: w stays the caller's. */
int store_remove_file(struct store *s, const char *vm, const char *file, enum store_durability d,
	struct store_work *w, struct err *e);
/* Replace the first text `from` of a file beside the VMs' folder by `to` in place, and then remove the file. w is done
 * when the replacement and all earlier changes, except STORE_EVENTUALLY ones, are on stable storage; the removal need
 * not be. This takes one sync without a change of the file system's structure. from: within the first 512 bytes, which
 * a disk writes at once or not at all. to: as long as from.
 * Returns 0; -errno: nothing is done, and w stays the caller's. */
int store_end_file(struct store *s, const char *file, const char *from, const char *to, struct store_work *w, struct err *e);
/* Rename a file in a VM's folder. d: not STORE_EVENTUALLY. w: as for store_put(). Returns 0 or -errno. */
int store_rename_file(struct store *s, const char *name, const char *from, const char *to,
	enum store_durability d, struct store_work *w, struct err *e);
/* Call w->run() on the thread, after all work that was queued before, such as a renaming of the VM's folder.
 * path: gets the path of the file in the VM's folder. Returns 0; -errno: w stays the caller's. */
int store_run(struct store *s, const char *name, const char *file, char *path, size_t size, struct store_work *w, struct err *e);
/* Return whether there is a folder of this name among those of the VMs. Waits for removals and renames under way. */
bool store_has_folder(struct store *s, const char *name);
/* Return whether the VM's folder has the file. */
bool store_has_file(struct store *s, const char *name, const char *file);
/* Complete w after all work that was queued before. */
void store_after(struct store *s, struct store_work *w);
/* Return how many syncs of STORE_SOON have failed so far. ret_last: the error of the last one; NULL: not wanted. */
unsigned store_failures(struct store *s, struct err *ret_last);
/* Call found() for each NAME.json in a folder beside the VMs' folder. Removes temporary files there. */
void store_each_file(struct store *s, const char *folder, void (*found)(void *opaque, const char *name),
	void *opaque);

#define STORE_NVRAM "nvram" /* the VM's UEFI variables: devices/legacy/flash_file.h */
/* Open a file in the VM's folder. flags: for open(2); with O_CREAT, mode 0600. Returns an owned fd or -errno. */
int store_open_file(struct store *s, const char *name, const char *file, int flags, struct err *e);

/* Return when the file's content was written, in ns since 1970; 0: unknown. name: a VM's; NULL: the file lies beside
 * the VMs' folder. */
uint64_t store_file_time(struct store *s, const char *name, const char *file);

/* Open a folder in the VM's folder, and create it if needed. path: gets its path. Returns an owned fd or -errno. */
int store_open_folder(struct store *s, const char *name, const char *folder, char *path, size_t size,
	struct err *e);

#endif
