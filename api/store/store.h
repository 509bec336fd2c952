/* store: the state folder. One folder per VM with definition.json, state.json, log and
 * end; every JSON file has a "version" and changes in one step.
 *
 * What is written goes through a thread, in the order in which it was given: the daemon's loop must not wait
 * for a disk. States are written behind, the newest of each VM last. Definitions, their removal and the
 * permissions are on stable storage before the call is answered: a struct store_work tells when. */
#ifndef CAIRN_API_STORE_STORE_H
#define CAIRN_API_STORE_STORE_H

#include "base/err.h"
#include "base/loop.h"

#include <stddef.h>
#include <stdbool.h>

struct json_object;
struct store;
struct store_writer;

/* Work of the store's thread that somebody waits for; lies in what they have of it, until done() begins. */
struct store_work {
	/* From the loop, once. */
	void (*done)(struct store_work *w);
	int r; /* 0 or -errno; then e has the sentence */
	struct err e;
	/* the store's */
	struct store_writer *writer;
	struct loop *loop;
	struct loop_task task;
	unsigned draft;
};

/* When a change of a file has to be in place, and on stable storage. */
enum store_durability {
	/* No promise. A file is written in its turn, the newest content only, and a failure is logged. A
	 * removed file is gone at return, and may come back after a power cut. */
	STORE_EVENTUALLY,
	STORE_SOON,	 /* in place at return, whatever becomes of this process; on stable storage soon after */
	STORE_NOW,	 /* on stable storage at return; waits for the disk */
	STORE_WITH_WORK, /* in its turn; on stable storage when w is done */
};

/* Makes the folder and takes its lock.
 * Returns 0; -EBUSY: another daemon has it; -errno with a sentence. */
int store_open(const char *dir, struct store **ret_s, struct err *e);
/* Writes what is outstanding and lets go of the lock. NULL allowed. */
void store_close(struct store *s);

/* Each VM's definition, and its state (NULL: none, or damaged). A damaged file is renamed
 * to *.damaged with a line in the log, and the rest is loaded. One of an older version is lifted to the present one
 * (store_version.h), written so soon after, and kept as *.vN. A VM of which a newer Cairn wrote a file is not found, and
 * nothing of it is changed. Objects are borrowed. */
void store_load(struct store *s, void (*found)(void *opaque, const char *name,
	struct json_object *definition, struct json_object *state), void *opaque);
/* VMs that are not found, each with a sentence that says why, and what to do: damaged, or a newer Cairn's. */
void store_each_unread(struct store *s, void (*found)(void *opaque, const char *name, const char *sentence),
	void *opaque);
/* 0; -ENOTSUP with such a sentence: there is one of that name, and a newer Cairn's. */
int store_check_vm(struct store *s, const char *name, struct err *e);
/* A file beside the VMs' folder that was loaded: is it a newer Cairn's? It is not written then, which is told. */
bool store_is_newer(struct store *s, const char *file);
/* Such a file as it is, with e saying why it is left; NULL: it is none. */
struct json_object *store_read_newer(struct store *s, const char *file, struct err *e);
/* A VM that was found, and is named in one: from here on as if a file of its own were newer. */
void store_leave_vm(struct store *s, const char *name, const char *file, const char *why);
/* Renames a VM's definition that parsed as JSON but is none. */
void store_quarantine(struct store *s, const char *name, const char *why);

/* w->loop and w->done are set for all that take a struct store_work.
 *
 * A definition that is not in force yet is a draft: on stable storage when w is done. Then it is kept, which
 * puts it in force for whoever loads the folder, or dropped; both at once. What was kept may be lost with the
 * power until store_sync_definition() is done. */
void store_write_draft(struct store *s, struct store_work *w, struct json_object *definition);
int store_keep_draft(struct store *s, const struct store_work *w, const char *name, struct err *e);
void store_drop_draft(struct store *s, const struct store_work *w);
void store_sync_definition(struct store *s, struct store_work *w, const char *name);
/* Is there work that is not done yet? Its done() comes if the loop goes on. NULL allowed. */
bool store_owes(const struct store *s);
/* Of a new VM, with an empty file of the name `marker` beside it, unless that is NULL: there when it returns,
 * whatever becomes of this process; on stable storage soon after. */
int store_save_definition_soon(struct store *s, const char *name, struct json_object *definition,
	const char *marker, struct err *e);
/* The same for taking the marker away. */
int store_remove_marker(struct store *s, const char *name, const char *marker, struct err *e);
/* Waits until all that was given to be written behind is on disk. */
void store_settle(struct store *s);
/* A VM's folder gets the name `to`. definition says that name, and lies in it as STORE_RENAMED when w is
 * done; all is on stable storage then. What was queued before goes into the folder while it has its old name.
 * store_rename_end() puts that definition in force. Returns 0; -errno: nothing is done, and w stays the
 * caller's. */
#define STORE_RENAMED "renamed.json"
int store_rename(struct store *s, struct store_work *w, const char *name, const char *to,
	struct json_object *definition, struct err *e);
void store_rename_end(struct store *s, struct store_work *w, const char *name);
/* Each VM's folder that has such a file. */
void store_each_with(struct store *s, const char *file, void (*found)(void *opaque, const char *name),
	void *opaque);
/* Remove the whole folder of a VM.
 * w: NULL: wait until the folder is gone. Otherwise the definition is gone at return, and w is done when the
 * rest is gone, on stable storage.
 * Returns 0; -errno: nothing has changed, and w stays the caller's. */
int store_remove(struct store *s, const char *name, struct store_work *w, struct err *e);

/* Write a JSON file; it gets its "version".
 * vm: the VM whose folder has the file; NULL: `file` lies beside the VMs' folder, or is "FOLDER/NAME.json"
 * there. d: STORE_SOON only for files of such a FOLDER.
 * w: for STORE_WITH_WORK, otherwise NULL.
 * Returns 0; -errno: nothing is done, and w stays the caller's. */
int store_put(struct store *s, const char *vm, const char *file, struct json_object *o, enum store_durability d,
	struct store_work *w, struct err *e);
/* Load a JSON file. vm: as for store_put(). The caller puts the object. Returns NULL if there is no such file,
 * if it is damaged, or if a newer Cairn wrote it. */
struct json_object *store_load_file(struct store *s, const char *vm, const char *file);
/* Remove a file. vm, d, w: as for store_put(). Returns 0, also if there is no such file; -errno. */
int store_remove_file(struct store *s, const char *vm, const char *file, enum store_durability d,
	struct store_work *w, struct err *e);
/* Rename a file in a VM's folder. d: not STORE_EVENTUALLY. w: as for store_put(). Returns 0 or -errno. */
int store_rename_file(struct store *s, const char *name, const char *from, const char *to,
	enum store_durability d, struct store_work *w, struct err *e);
/* Is there such a file in the VM's folder? */
bool store_has_file(struct store *s, const char *name, const char *file);
/* w is done when all that was queued before it is. */
void store_after(struct store *s, struct store_work *w);
/* Each NAME.json of such a folder. */
void store_each_file(struct store *s, const char *folder, void (*found)(void *opaque, const char *name),
	void *opaque);

/* Opens a file in the VM's folder. flags: with O_CREAT it is made if need be. Returns an owned fd or -errno. */
int store_open_file(struct store *s, const char *name, const char *file, int flags, struct err *e);

/* A folder in the VM's folder, made if need be; its path into path. Returns an owned fd or -errno. */
int store_open_folder(struct store *s, const char *name, const char *folder, char *path, size_t size,
	struct err *e);

#endif
