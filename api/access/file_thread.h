/* file_thread: threads that work on the daemon's own files, such as those of root's definitions. A file system that
 * hangs blocks such a thread, not the daemon's loop. A thread holds the files until the process that needs them has
 * taken them (base/relay.h), and closes them. Each thread has a table of open files of its own. So no process that
 * the daemon forks inherits these files, and a blocked thread holds neither the daemon's lock nor its sockets. Idle
 * threads are reused, so a start spends a tenth of the time that a process would take (fork_as.h).
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_ACCESS_FILE_THREAD_H
#define CAIRN_API_ACCESS_FILE_THREAD_H

#include <stdbool.h>

struct err;
struct file_job;
struct file_threads;
struct fork_as_result;
struct loop;

/* Most threads at a time. A thread outlasts its work only if a file system blocks it. */
#define FILE_THREADS_MAX 256

struct file_job_spec {
	/* Runs on the thread, and may not touch the daemon's files. It keeps all files in out->held. */
	int (*run)(const void *arg, struct fork_as_result *out, struct err *e);
	void *arg; /* taken on success: the thread frees it with drop() */
	void (*drop)(void *arg);
	int relay, input; /* borrowed for the call; 0: none. run() finds the input as out->input */
	bool keep; /* serve the held files until the relay's other end is closed, not once */
	/* Called once on the loop; never after file_job_free(). res: borrowed; res->files describes the held files. */
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e);
	void *opaque;
};

/* l: borrowed. */
struct file_threads *file_threads_new(struct loop *l);
/* Threads that have not ended continue, and do not access the loop, which has stopped. NULL allowed. */
void file_threads_free(struct file_threads *all);

/* *ret is valid until done() is called or file_job_free(). Returns 0; -EBUSY: too many threads hang; -errno. On errors,
 * done() is not called. */
int file_job_begin(struct file_threads *all, const struct file_job_spec *s, struct file_job **ret, struct err *e);
/* Let the thread continue alone; done() is not called. NULL allowed. */
void file_job_free(struct file_job *j);

#endif
