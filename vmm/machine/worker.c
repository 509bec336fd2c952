#include "vmm/machine/worker.h"
#include "base/err.h"
#include "base/util.h"
#include "vmm/kvm/thread_filter.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#define WORKER_STACK_BYTES (256 * 1024)

struct worker {
	const struct kvm *kvm;
	const char *name;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool has_thread;
	struct work *head, **tail;
	bool stop;
};

static void task_run(struct loop_task *t)
{
	struct work *w = container_of(t, struct work, task);

	w->done(w);
}

static struct work *work_take(struct worker *w, bool *ret_stop)
{
	struct work *work;

	pthread_mutex_lock(&w->lock);
	while (!w->head && !w->stop)
		pthread_cond_wait(&w->cond, &w->lock);
	work = w->head;
	if (work) {
		w->head = work->next;
		if (!w->head)
			w->tail = &w->head;
	}
	*ret_stop = w->stop;
	pthread_mutex_unlock(&w->lock);
	return work;
}

static void *worker_thread(void *opaque)
{
	struct worker *w = opaque;
	struct work *work;
	bool stop;

	pthread_setname_np(pthread_self(), w->name);
	thread_filter_enter(w->kvm, THREAD_WORKER, NULL, -1);
	while ((work = work_take(w, &stop))) {
		work->run(work);
		if (stop)
			continue;
		work->task.run = task_run;
		loop_post(work->home, &work->task);
	}
	return NULL;
}

struct worker *worker_new(const struct kvm *k, const char *name)
{
	struct worker *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->kvm = k;
	w->name = name;
	w->tail = &w->head;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
	return w;
}

int worker_start(struct worker *w, struct err *e)
{
	pthread_attr_t attr;
	sigset_t all, old;
	int r;

	if (w->has_thread)
		return 0;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, WORKER_STACK_BYTES);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&w->thread, &attr, worker_thread, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	w->has_thread = !r;
	return r ? err_set_errno(e, -r, "cannot start the thread '%s'", w->name) : 0;
}

void worker_submit(struct worker *w, struct loop *home, struct work *work)
{
	work->home = home;
	work->next = NULL;
	pthread_mutex_lock(&w->lock);
	*w->tail = work;
	w->tail = &work->next;
	pthread_mutex_unlock(&w->lock);
	/* A signal before the unlock wakes the thread on this CPU, and it waits for the mutex: two switches more. */
	pthread_cond_signal(&w->cond);
}

void worker_free(struct worker *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
	if (w->has_thread)
		pthread_join(w->thread, NULL);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->cond);
	free(w);
}
