#include "base/file_pool.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#define STACK_BYTES (128 * 1024)

struct job_list {
	struct file_job *first, **tail;
};

struct file_pool {
	int event_fd;
	pthread_t threads[FILE_POOL_THREADS_MAX]; /* the loop's thread creates, and joins or detaches, them */
	unsigned nthreads;

	pthread_mutex_t lock; /* protects all fields below */
	pthread_cond_t work;  /* signalled when a job is queued for an idle thread, and to stop the threads */
	struct job_list queued, done;
	unsigned idle;	/* threads that wait for `work` */
	unsigned woken; /* signals for which no idle thread has woken up yet */
	unsigned busy;	/* threads that run a job */
	unsigned users; /* the owner and the threads; the last of them frees the pool */
	bool stop;
};

static void list_init(struct job_list *list)
{
	list->first = NULL;
	list->tail = &list->first;
}

static void list_append(struct job_list *list, struct file_job *job)
{
	job->next = NULL;
	*list->tail = job;
	list->tail = &job->next;
}

static struct file_job *list_pop(struct job_list *list)
{
	struct file_job *job = list->first;

	list->first = job->next;
	if (!list->first)
		list->tail = &list->first;
	return job;
}

static void list_free(struct job_list *list)
{
	while (list->first)
		free(list_pop(list));
}

/* ---- performing a job ---- */

static ssize_t job_transfer(const struct file_job *job, bool at_offset)
{
	int n = (int)job->niov;

	if (job->kind == FILE_JOB_READ)
		return at_offset ? preadv(job->fd, job->iov, n, (off_t)job->offset) : readv(job->fd, job->iov, n);
	return at_offset ? pwritev(job->fd, job->iov, n, (off_t)job->offset) : writev(job->fd, job->iov, n);
}

/* Make the system call. Pipes and sockets have no offset, so job->offset is ignored for them, as io_uring does. */
static ssize_t job_call(const struct file_job *job)
{
	ssize_t n;

	switch (job->kind) {
	case FILE_JOB_SYNC:
		return fdatasync(job->fd);
	case FILE_JOB_FALLOCATE:
		return fallocate(job->fd, job->mode, (off_t)job->offset, (off_t)job->len);
	default:
		break;
	}
	n = job->offset == UINT64_MAX ? -1 : job_transfer(job, true);
	return n < 0 && (job->offset == UINT64_MAX || errno == ESPIPE) ? job_transfer(job, false) : n;
}

void file_job_run(struct file_job *job)
{
	ssize_t n = job_call(job);

	job->res = n < 0 ? -errno : (int)n;
}

/* ---- the pool's threads ---- */

static void pool_unref(struct file_pool *p)
{
	unsigned left;

	pthread_mutex_lock(&p->lock);
	left = --p->users;
	pthread_mutex_unlock(&p->lock);
	if (left)
		return;
	list_free(&p->queued);
	list_free(&p->done);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	close(p->event_fd);
	free(p);
}

static void done_append(struct file_pool *p, struct file_job *job)
{
	uint64_t one = 1;
	bool first = !p->done.first;

	list_append(&p->done, job);
	/* Nobody reads the eventfd, so its counter only grows; it has room for 2^64 signals. */
	while (first && write(p->event_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* Wait for a job. Returns NULL if the pool is to end. p->lock is held. */
static struct file_job *job_wait(struct file_pool *p)
{
	while (!p->queued.first && !p->stop) {
		p->idle++;
		pthread_cond_wait(&p->work, &p->lock);
		p->idle--;
		if (p->woken)
			p->woken--;
	}
	return p->stop ? NULL : list_pop(&p->queued);
}

static void *pool_thread(void *opaque)
{
	struct file_pool *p = opaque;
	struct file_job *job;

	pthread_setname_np(pthread_self(), "loop-io");
	pthread_mutex_lock(&p->lock);
	while ((job = job_wait(p))) {
		p->busy++;
		pthread_mutex_unlock(&p->lock);
		file_job_run(job);
		pthread_mutex_lock(&p->lock);
		p->busy--;
		done_append(p, job);
	}
	pthread_mutex_unlock(&p->lock);
	pool_unref(p);
	return NULL;
}

/* Create a thread with all signals blocked: the process's signal handlers belong to other threads. Only the thread that
 * has made a call which a seccomp filter forbids, or a fault, handles its signal (vmm/sandbox.c). */
static int thread_new(struct file_pool *p)
{
	static const int own[] = { SIGSYS, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	pthread_attr_t attr;
	sigset_t all, old;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	sigfillset(&all);
	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		sigdelset(&all, own[i]);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&p->threads[p->nthreads], &attr, pool_thread, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -r;
}

/* ---- functions for the loop's thread ---- */

struct file_pool *file_pool_new(int event_fd)
{
	struct file_pool *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->event_fd = fcntl(event_fd, F_DUPFD_CLOEXEC, 0);
	if (p->event_fd < 0) {
		free(p);
		return NULL;
	}
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	list_init(&p->queued);
	list_init(&p->done);
	p->users = 1;
	return p;
}

void file_pool_free(struct file_pool *p)
{
	bool busy;

	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	busy = p->busy;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->nthreads; i++) {
		if (busy)
			pthread_detach(p->threads[i]);
		else
			pthread_join(p->threads[i], NULL);
	}
	pool_unref(p);
}

void file_pool_submit(struct file_pool *p, struct file_job *job)
{
	bool wake, more;

	pthread_mutex_lock(&p->lock);
	list_append(&p->queued, job);
	wake = p->idle > p->woken;
	p->woken += wake;
	more = !wake && p->nthreads < FILE_POOL_THREADS_MAX;
	p->users += more; /* count the new thread as a user of the pool */
	if (wake)
		pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->lock);
	if (!more)
		return;
	if (thread_new(p) == 0) {
		p->nthreads++;
		return;
	}
	pthread_mutex_lock(&p->lock);
	p->users--;
	if (!p->nthreads) {
		list_pop(&p->queued);
		file_job_run(job);
		done_append(p, job);
	}
	pthread_mutex_unlock(&p->lock);
}

struct file_job *file_pool_take(struct file_pool *p)
{
	struct file_job *first;

	pthread_mutex_lock(&p->lock);
	first = p->done.first;
	list_init(&p->done);
	pthread_mutex_unlock(&p->lock);
	return first;
}
