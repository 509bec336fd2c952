/* store_unread: the list of files in the state folder that the daemon does not use: files of a newer Cairn and files
 * that cannot be read, which it must not change either, and damaged definitions.
 *
 * Threading: the loop's thread adds files while it loads; any thread may call store_unread_check(). */
#ifndef CAIRN_API_STORE_STORE_UNREAD_H
#define CAIRN_API_STORE_STORE_UNREAD_H

#include <pthread.h>
#include <stdbool.h>

struct err;

struct store_unread {
	pthread_mutex_t mutex;
	struct unread_file *first;
};

void store_unread_init(struct store_unread *u);
void store_unread_done(struct store_unread *u);

enum store_unread_kind {
	STORE_DAMAGED,	  /* the file was moved aside */
	STORE_NEWER,	  /* a newer Cairn wrote it */
	STORE_UNREADABLE, /* reading it failed, as on a disk with errors */
};

/* Note a file. Replaces an earlier note for the same name and path.
 * name: the VM whose folder has the file, or that the file names; NULL: none. */
void store_unread_note(struct store_unread *u, const char *name, const char *path, enum store_unread_kind kind,
	const char *why);

/* Remove the notes about the VM's damaged definition. */
void store_unread_forget_damaged(struct store_unread *u, const char *name);

bool store_unread_knows(struct store_unread *u, const char *path);

/* Check that the daemon may change the file, and files of the VM. name, path: NULL: do not check. Returns 0; -ENOTSUP:
 * a newer Cairn wrote it; -EIO: it cannot be read. */
int store_unread_check(struct store_unread *u, const char *name, const char *path, struct err *e);

/* Call found() for each VM with noted files, once. sentence: the reason and what to do. */
void store_unread_each(struct store_unread *u, void (*found)(void *opaque, const char *name, const char *sentence),
	void *opaque);

#endif
