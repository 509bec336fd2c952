/* file_pool: threads that perform file operations for the loop on epoll. (The loop on io_uring uses file_job_run().)
 *
 * All functions belong to the loop's thread, except file_job_run(). */
#ifndef CAIRN_BASE_FILE_POOL_H
#define CAIRN_BASE_FILE_POOL_H

#include <stdint.h>
#include <sys/uio.h>

/* Several threads keep a device's queue filled. With more than four, thread switches cost more than the fuller queue
 * gains. */
#define FILE_POOL_THREADS_MAX 4

enum file_job_kind { FILE_JOB_READ, FILE_JOB_WRITE, FILE_JOB_SYNC, FILE_JOB_FALLOCATE };

struct file_job {
	struct file_job *next;
	void *owner; /* belongs to the caller */
	enum file_job_kind kind;
	int fd, mode;
	unsigned niov;
	const struct iovec *iov; /* must stay valid until the job is done; &one for a single iovec */
	struct iovec one;
	uint64_t offset; /* UINT64_MAX: the file's current position */
	uint64_t len;	 /* length of a FALLOCATE */
	int res;	 /* the system call's result, or -errno */
};

struct file_pool;

/* Create a pool without threads; jobs create them.
 * event_fd: an eventfd, signalled when jobs are done; the pool duplicates it.
 * Returns NULL if memory or fds are short. */
struct file_pool *file_pool_new(int event_fd);
/* End the threads and free the pool. If a job still runs, such as a write to a stopped terminal, the threads are
 * detached, and the last of them frees the pool. Queued jobs are dropped. */
void file_pool_free(struct file_pool *p);
/* Queue a job. The caller has allocated it with malloc(); the pool owns it until file_pool_take() returns it. If the
 * pool has no thread and cannot create one, the job runs at once. */
void file_pool_submit(struct file_pool *p, struct file_job *job);
/* Returns the jobs that are done, linked by next, in the order of their ends; NULL: none. */
struct file_job *file_pool_take(struct file_pool *p);
/* Perform the job on this thread. */
void file_job_run(struct file_job *job);

#endif
