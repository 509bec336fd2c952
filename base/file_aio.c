#include "base/file_aio.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TAKE_MAX 64

struct file_aio {
	aio_context_t context;
	int event_fd;
	unsigned in_flight;
};

struct file_aio *file_aio_new(int event_fd, unsigned entries)
{
	struct file_aio *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->event_fd = event_fd;
	if (syscall(SYS_io_setup, entries, &a->context) < 0) {
		free(a);
		return NULL;
	}
	return a;
}

void file_aio_free(struct file_aio *a)
{
	if (!a)
		return;
	syscall(SYS_io_destroy, a->context);
	free(a);
}

int file_aio_submit(struct file_aio *a, struct file_job *job)
{
	struct iocb cb = {
		.aio_data = (uintptr_t)job,
		.aio_lio_opcode = job->kind == FILE_JOB_READ ? IOCB_CMD_PREADV : IOCB_CMD_PWRITEV,
		.aio_rw_flags = RWF_NOWAIT,
		.aio_fildes = (uint32_t)job->fd,
		.aio_buf = (uintptr_t)job->iov,
		.aio_nbytes = job->niov,
		.aio_offset = (int64_t)job->offset,
		.aio_flags = IOCB_FLAG_RESFD,
		.aio_resfd = (uint32_t)a->event_fd,
	}, *list = &cb;

	if (syscall(SYS_io_submit, a->context, 1, &list) != 1)
		return -errno;
	a->in_flight++;
	return 0;
}

struct file_job *file_aio_take(struct file_aio *a)
{
	struct file_job *first = NULL, **tail = &first;
	struct io_event events[TAKE_MAX];
	struct timespec now = { 0 };
	long n = TAKE_MAX;

	while (a->in_flight && n == TAKE_MAX) {
		n = syscall(SYS_io_getevents, a->context, 0, TAKE_MAX, events, &now);
		for (long i = 0; i < n; i++) {
			struct file_job *job = (struct file_job *)(uintptr_t)events[i].data;

			job->res = (int)events[i].res;
			job->next = NULL;
			*tail = job;
			tail = &job->next;
			a->in_flight--;
		}
	}
	return first;
}
