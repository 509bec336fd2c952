/* file_aio: direct I/O by the kernel's io_submit() for the loop on epoll.
 *
 * For a file opened with O_DIRECT, io_submit() passes reads and writes to the device without a thread. The usual
 * seccomp profiles of containers refuse io_uring, but allow io_submit(). For files in the page cache io_submit() would
 * block, so the loop passes their operations to file_pool. All functions belong to the loop's thread. */
#ifndef CAIRN_BASE_FILE_AIO_H
#define CAIRN_BASE_FILE_AIO_H

#include "base/file_pool.h"

struct file_aio;

/* Create a context for io_submit().
 * event_fd: an eventfd, borrowed, signalled when jobs are done.
 * entries: number of jobs that must fit in at a time.
 * Returns NULL if the kernel refuses or memory is short. */
struct file_aio *file_aio_new(int event_fd, unsigned entries);
/* Wait until no job runs, then free the object. */
void file_aio_free(struct file_aio *a);
/* Start a read or write on a file opened with O_DIRECT.
 * Returns 0, and file_aio_take() will return the job; -errno: the job did not start, so it needs a thread. */
int file_aio_submit(struct file_aio *a, struct file_job *job);
/* Returns jobs that are done, linked by next; NULL: none. A job whose res is -EAGAIN would have waited, for example
 * for the allocation of blocks, so it needs a thread. */
struct file_job *file_aio_take(struct file_aio *a);

#endif
