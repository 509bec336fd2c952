#include "api/access/file_thread.h"
#include "api/access/fork_as.h"
#include "base/channel.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/loop.h"
#include "base/relay.h"
#include "base/util.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The work of a thread has two messages of 96 KiB on it. The thread sanitizer needs 800 KiB for the same frames. */
#define STACK_BYTES ((LOCKDOWN_SANITIZED ? 2048 : 512) * 1024)
#define IDLE_MAX 4
#define VERSION 1
#define JOB 1 /* type of the messages to the threads: a pointer to the job, its relay and its input */

struct file_threads {
	pthread_mutex_t mutex;
	pthread_cond_t apart; /* no thread shares the daemon's table of files */
	struct loop *loop; /* NULL: it is gone */
	unsigned refs; /* of the loop, each thread and each job */
	unsigned n, idle; /* number of threads, and of those that wait for a job */
	unsigned sharing; /* number of threads that have no table of files of their own yet */
	int tx, rx; /* all threads receive their jobs from rx, which has the same number in their tables of files */
	int wake_fd; /* the loop's; likewise */
	struct file_job *posted; /* jobs whose task is queued in the loop */
};

struct file_job {
	struct file_threads *all;
	unsigned refs; /* of the thread, and of the loop until it has the result. With all->mutex */
	struct loop_task task;
	struct file_job *next; /* in all->posted */
	/* Of the loop. */
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e); /* NULL: not to be called */
	void *opaque;
	/* Written before the job is sent. */
	int (*run)(const void *arg, struct fork_as_result *out, struct err *e);
	void *arg;
	void (*drop)(void *arg);
	bool has_relay, has_input, keep;
	atomic_bool given_up; /* the loop's file_job_free() */
	/* Written by the thread before it posts the task. */
	struct fork_as_result result;
	int r;
	struct err e;
};

static void threads_unref(struct file_threads *all)
{
	bool last;

	pthread_mutex_lock(&all->mutex);
	last = !--all->refs;
	pthread_mutex_unlock(&all->mutex);
	if (last)
		free(all);
}

static void job_unref(struct file_job *j)
{
	struct file_threads *all = j->all;
	bool last;

	pthread_mutex_lock(&all->mutex);
	last = !--j->refs;
	pthread_mutex_unlock(&all->mutex);
	if (!last)
		return;
	j->drop(j->arg);
	free(j);
	threads_unref(all);
}

/* ---- the threads ---- */

/* Give the thread a table of files with only those that it needs. Containers refuse unshare(), but not this. */
static int files_unshare(struct file_threads *all)
{
	unsigned low = (unsigned)MIN(all->rx, all->wake_fd), high = (unsigned)MAX(all->rx, all->wake_fd);
	int r = close_range(high + 1, ~0U, CLOSE_RANGE_UNSHARE) < 0 ? -errno : 0;

	pthread_mutex_lock(&all->mutex);
	if (!--all->sharing)
		pthread_cond_signal(&all->apart);
	pthread_mutex_unlock(&all->mutex);
	if (r < 0)
		return r;
	if ((high > low + 1 && close_range(low + 1, high - 1, 0) < 0) || (low > 3 && close_range(3, low - 1, 0) < 0))
		return -errno;
	return 0;
}

/* Give the result to the loop. Returns false if the loop is gone. */
static bool result_post(struct file_job *j)
{
	bool there;

	pthread_mutex_lock(&j->all->mutex);
	there = j->all->loop != NULL;
	if (there) {
		j->next = j->all->posted;
		j->all->posted = j;
		loop_post(j->all->loop, &j->task);
	}
	pthread_mutex_unlock(&j->all->mutex);
	return there;
}

static void held_close(const int *held, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		close(held[i]);
}

/* failed: why the thread cannot work; 0: it can. */
static void job_run(struct file_job *j, int relay, int input, int failed)
{
	struct fork_as_result *out = &j->result;
	uint16_t at[CHANNEL_FDS_MAX];
	int held[CHANNEL_FDS_MAX];
	unsigned n;

	out->input = input;
	out->given_up = &j->given_up;
	j->r = failed ? err_set_errno(&j->e, failed, "a thread for files") : j->run(j->arg, out, &j->e);
	if (!j->r)
		j->r = fork_as_identify(out, &j->e);
	if (!out->nheld && out->input >= 0)
		close(out->input);
	/* The loop may change and free the result. */
	n = out->nheld;
	memcpy(held, out->held, n * sizeof(*held));
	memcpy(at, out->held_at, n * sizeof(*at));
	failed = j->r;
	if (!result_post(j)) {
		job_unref(j); /* in place of the loop */
		failed = -ECANCELED;
	}
	if (!failed && n && relay >= 0)
		relay_serve(relay, held, at, n, j->keep);
	if (relay >= 0)
		close(relay);
	held_close(held, n);
}

/* Wait for a job. Returns NULL: the daemon has ended. */
static struct file_job *job_wait(const struct file_threads *all, int *relay, int *input)
{
	static const struct channel_type types[] = { [JOB] = { sizeof(struct file_job *), sizeof(struct file_job *), 2, true } };
	_Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct file_job *j;
	struct channel_msg m;
	unsigned n = 0;

	if (channel_recv(all->rx, VERSION, types, ARRAY_SIZE(types), buf, &m) != 1)
		return NULL;
	memcpy(&j, m.body, sizeof(j));
	*relay = j->has_relay && n < m.nfds ? m.fds[n++] : -1;
	*input = j->has_input && n < m.nfds ? m.fds[n] : -1;
	return j;
}

/* failed: the thread can do no job. Returns whether it waits for another one. */
static bool thread_rests(struct file_threads *all, int failed)
{
	bool rests;

	pthread_mutex_lock(&all->mutex);
	rests = !failed && all->loop && all->idle < IDLE_MAX;
	if (rests)
		all->idle++;
	else
		all->n--;
	pthread_mutex_unlock(&all->mutex);
	return rests;
}

static void *file_thread_main(void *opaque)
{
	struct file_threads *all = opaque;
	int failed = files_unshare(all), relay, input;
	struct file_job *j;

	do {
		j = job_wait(all, &relay, &input);
		if (!j)
			break; /* the daemon ends, and with it the thread's memory */
		job_run(j, relay, input, failed);
		job_unref(j);
	} while (thread_rests(all, failed));
	threads_unref(all);
	return NULL;
}

/* ---- the loop ---- */

static void result_take(struct loop_task *task)
{
	struct file_job *j = container_of(task, struct file_job, task), **at = &j->all->posted;
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e) = j->done;

	pthread_mutex_lock(&j->all->mutex);
	while (*at != j)
		at = &(*at)->next;
	*at = j->next;
	pthread_mutex_unlock(&j->all->mutex);
	j->done = NULL;
	if (done)
		done(j->opaque, j->r, &j->result, &j->e);
	job_unref(j);
}

void file_job_free(struct file_job *j)
{
	if (!j)
		return;
	j->done = NULL;
	atomic_store(&j->given_up, true);
}

static int thread_start(struct file_threads *all)
{
	pthread_attr_t attr;
	pthread_t thread;
	int r = pthread_attr_init(&attr);

	if (r)
		return -r;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (!r)
		r = pthread_create(&thread, &attr, file_thread_main, all);
	pthread_attr_destroy(&attr);
	return -r;
}

/* Make sure that a thread waits for the job. */
static int thread_find(struct file_threads *all, struct err *e)
{
	bool idle, full;
	int r;

	pthread_mutex_lock(&all->mutex);
	idle = all->idle;
	full = !idle && all->n == FILE_THREADS_MAX;
	all->idle -= idle;
	if (!idle && !full) {
		all->n++;
		all->sharing++;
		all->refs++;
	}
	pthread_mutex_unlock(&all->mutex);
	if (full)
		return err_set(e, -EBUSY, ERR_BUSY, "%u threads that work on files have not ended; a file system of root's does not "
			"answer: repair or unmount it", FILE_THREADS_MAX);
	r = idle ? 0 : thread_start(all);
	if (!r)
		return 0;
	pthread_mutex_lock(&all->mutex);
	all->n--;
	all->sharing--;
	all->refs--;
	pthread_mutex_unlock(&all->mutex);
	return err_set_errno(e, r, "cannot start a thread for files");
}

int file_job_begin(struct file_threads *all, const struct file_job_spec *s, struct file_job **ret, struct err *e)
{
	struct file_job *j = must_alloc(calloc(1, sizeof(*j)));
	int fds[2], r = thread_find(all, e);
	unsigned n = 0;

	if (r < 0) {
		free(j);
		return r;
	}
	*j = (struct file_job){ .all = all, .refs = 2, .task = { .run = result_take }, .done = s->done, .opaque = s->opaque,
		.run = s->run, .arg = s->arg, .drop = s->drop, .has_relay = s->relay > 0, .has_input = s->input > 0, .keep = s->keep };
	if (j->has_relay)
		fds[n++] = s->relay;
	if (j->has_input)
		fds[n++] = s->input;
	pthread_mutex_lock(&all->mutex);
	all->refs++; /* before the thread has the job, which it may end */
	pthread_mutex_unlock(&all->mutex);
	r = channel_send(all->tx, VERSION, JOB, 0, &j, sizeof(j), fds, n);
	if (!r) {
		*ret = j;
		return 0;
	}
	free(j);
	pthread_mutex_lock(&all->mutex);
	all->refs--;
	all->idle++; /* the thread continues waiting */
	pthread_mutex_unlock(&all->mutex);
	return err_set_errno(e, r, "a thread for files");
}

struct file_threads *file_threads_new(struct loop *l)
{
	struct file_threads *all = must_alloc(calloc(1, sizeof(*all)));
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		abort(); /* as without memory */
	*all = (struct file_threads){ .mutex = PTHREAD_MUTEX_INITIALIZER, .apart = PTHREAD_COND_INITIALIZER, .loop = l,
		.refs = 1, .tx = pair[0], .rx = pair[1], .wake_fd = loop_wake_fd(l) };
	return all;
}

void file_threads_free(struct file_threads *all)
{
	if (!all)
		return;
	pthread_mutex_lock(&all->mutex);
	all->loop = NULL;
	while (all->sharing) /* a thread that begins would keep the file that reuses the number of rx */
		pthread_cond_wait(&all->apart, &all->mutex);
	pthread_mutex_unlock(&all->mutex);
	for (struct file_job *j; (j = all->posted);) { /* the loop runs no more tasks, and no thread posts any */
		all->posted = j->next;
		job_unref(j);
	}
	close(all->tx); /* idle threads end at the end of the stream */
	close(all->rx);
	threads_unref(all);
}
