/* store_writer: a thread that runs queued file operations in order: the store's, and that of the audit log.
 *
 * Threading: all functions are for the loop's thread. */
#ifndef CAIRN_API_STORE_STORE_WRITER_H
#define CAIRN_API_STORE_STORE_WRITER_H

#include "base/err.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct pending;
struct store_unread;
struct store_work;

enum pending_kind {
	PENDING_WRITE,	/* replace the file atomically with text */
	PENDING_DRAFT,	/* write text to the file and sync the file, not its folder */
	PENDING_SYNC_FILE, /* sync the file, and its folder if that is needed (ordered_device) */
	PENDING_SYNC_NEW_FILE, /* the same, and that folder's folder, because the file's folder may be new */
	PENDING_CLEAR,	/* remove a VM's folder */
	PENDING_RENAME, /* write text as STORE_RENAMED into a VM's folder, then rename the folder to `to` */
	PENDING_MOVE,	/* rename a file or folder to `to`, in the same folder */
	PENDING_COPY,	/* copy the file, if it exists, to the file `to` */
	PENDING_REMOVE, /* remove the file, if it exists */
	PENDING_SYNC_FOLDER,	/* sync a folder, if it still exists */
	PENDING_END,	/* replace the first `text` of the file by `to`, sync the file, and remove it */
	PENDING_NONE,	/* do nothing; completes after all earlier operations */
	PENDING_RUN,	/* call work->run() */
};

struct store_writer {
	struct store_unread *unread;
	const char *name;
	const char *dir; /* borrowed: the state folder's path; NULL: do not check it. Set it and dir_fd before store_writer_start() */
	int dir_fd; /* borrowed */
	pthread_t thread;
	bool runs;
	pthread_mutex_t mutex;
	pthread_cond_t changed; /* signalled when an operation is queued or done, and at the end */
	struct pending *first;
	const struct pending *writing; /* the operation that runs; several files that are synced together are a list */
	/* A PENDING_WRITE without completion begins so long after it was queued, unless the thread has other work or
	 * the loop's thread waits. */
	uint64_t write_delay_ns;
	/* From store_ordered_device(); 0: none. If a file of this folder has its name before its sync, the folder
	 * needs no sync. Set it before store_writer_start(). */
	dev_t ordered_device;
	bool stop;
	bool awaited;	  /* the loop's thread waits, so no operation is delayed */
	bool held;	  /* store_writer_hold() */
	unsigned failures; /* of syncs without completion */
	struct err last_failure;
	unsigned owed;	  /* struct store_work whose done() was not called yet; only the loop's thread uses it */
};

/* Initialize w. name: the thread's; static. unread: borrowed; the writer does not overwrite files that this list calls
 * a newer Cairn's; NULL: PENDING_WRITE is not used. */
void store_writer_init(struct store_writer *w, const char *name, struct store_unread *unread);
/* Start the thread. Returns 0; -errno. */
int store_writer_start(struct store_writer *w, struct err *e);
/* Finish all queued operations, then end the thread. */
void store_writer_done(struct store_writer *w);

/* Queue an operation without completion. The new operation replaces a queued one of the same kind, on the same path and
 * without completion, because only the newest content matters. But a PENDING_WRITE stays behind each renaming and
 * removal in its folder. path: copied; text: taken. */
void store_writer_put(struct store_writer *w, enum pending_kind kind, const char *path, char *text);
/* Queue an operation and report its completion: work->done() is called on work->loop. path, to: copied; text: taken. */
void store_writer_work(struct store_writer *w, enum pending_kind kind, const char *path, char *text,
	struct store_work *work);
void store_writer_work_to(struct store_writer *w, enum pending_kind kind, const char *path, const char *to, char *text,
	struct store_work *work);
/* As store_writer_work_to(), but queue the operation before the PENDING_WRITE operations without completion that are at
 * the end of the queue. */
void store_writer_work_ahead(struct store_writer *w, enum pending_kind kind, const char *path, const char *to, char *text,
	struct store_work *work);

/* Return how many syncs without completion have failed so far.
 * ret_last: the error of the last one; NULL: not wanted. */
unsigned store_writer_failures(struct store_writer *w, struct err *ret_last);

/* Begin no operation until store_writer_release(), unless a function below waits for one: file operations of the loop's
 * thread would wait in the kernel for a sync of the same folder or file system. */
void store_writer_hold(struct store_writer *w);
void store_writer_release(struct store_writer *w);
/* Wait until all operations are done; with _path, those on the path; with _leaving, each PENDING_CLEAR and
 * PENDING_RENAME of the folder, or to it, after which its name is free. */
void store_writer_drain(struct store_writer *w);
void store_writer_drain_path(struct store_writer *w, const char *path);
void store_writer_drain_leaving(struct store_writer *w, const char *folder);
/* Drop the queued operations without completion whose path begins with `folder`. */
void store_writer_drop(struct store_writer *w, const char *folder);

#endif
