/* store_unread: files of the state folder that are there and not made use of: those of a newer Cairn, which are not
 * changed, either, and definitions that are damaged. They are noted by the loop's thread while it loads, and
 * looked for by any. */
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

/* name: the VM's, in whose folder it lies, or which is named in it; NULL: beside them. What was noted of both before is
 * replaced. */
void store_unread_note(struct store_unread *u, const char *name, const char *path, bool newer, const char *why);

bool store_unread_knows(struct store_unread *u, const char *path);

/* 0; -ENOTSUP with a sentence: the file, or one of the VM (NULL: look for the file alone), is a newer Cairn's. */
int store_unread_check(struct store_unread *u, const char *name, const char *path, struct err *e);

/* Of each VM, one. The sentence says what to do. */
void store_unread_each(struct store_unread *u, void (*found)(void *opaque, const char *name, const char *sentence),
	void *opaque);

#endif
