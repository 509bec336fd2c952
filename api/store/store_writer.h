/* store_writer: the store's thread. What is to be done to its files is done in the order in which it was put. */
#ifndef CAIRN_API_STORE_STORE_WRITER_H
#define CAIRN_API_STORE_STORE_WRITER_H

#include <pthread.h>
#include <stdbool.h>

struct err;
struct pending;
struct store_unread;
struct store_work;

enum pending_kind {
	PENDING_WRITE,	/* in one step */
	PENDING_DRAFT,	/* the file alone */
	PENDING_SETTLE, /* it is written, and has to reach stable storage with the folders that it lies in */
	PENDING_CLEAR,	/* path is a VM's folder */
	PENDING_RENAME, /* path is a VM's folder; text lies in it as STORE_RENAMED, and it becomes `to` */
	PENDING_MOVE,	/* path becomes `to`, beside it */
	PENDING_REMOVE, /* the file, if it is there */
	PENDING_SYNC,	/* path is a VM's folder */
	PENDING_NONE,	/* but what was queued before it is done */
};

struct store_writer {
	struct store_unread *unread;
	pthread_t thread;
	bool runs;
	pthread_mutex_t mutex;
	pthread_cond_t changed; /* work, idleness or the end */
	struct pending *first;
	const struct pending *writing;
	bool stop;
	unsigned leaving; /* VMs' folders that are to be cleared or renamed */
	unsigned owed;	  /* works that are not done: the loop's thread alone looks at it */
};

/* unread: borrowed; what is in it is not written over. */
void store_writer_init(struct store_writer *w, struct store_unread *unread);
int store_writer_start(struct store_writer *w, struct err *e);
/* What was put is done first. */
void store_writer_done(struct store_writer *w);

/* path: copied; text: taken. Replaces what waits for the same file, and nobody waits for: only the newest matters. */
void store_writer_put(struct store_writer *w, enum pending_kind kind, const char *path, char *text);
/* For somebody who waits, and is told from their loop. to: copied. */
void store_writer_work(struct store_writer *w, enum pending_kind kind, const char *path, char *text,
	struct store_work *work);
void store_writer_work_to(struct store_writer *w, enum pending_kind kind, const char *path, const char *to, char *text,
	struct store_work *work);

/* Wait until all is done that was put; what concerns that path; what takes a VM's folder from its name: who gets the name
 * next has another. */
void store_writer_settle(struct store_writer *w);
void store_writer_settle_path(struct store_writer *w, const char *path);
void store_writer_settle_leaving(struct store_writer *w);
/* Forgets what waits to be written into a VM's folder, and nobody waits for. */
void store_writer_drop(struct store_writer *w, const char *folder);

#endif
