/* Part of a cairnd in which a thread makes a system call on a file when the test wants it, so that the thread gets
 * stuck in the file's file system.
 *
 * STUCK: a file that the test creates later, with three words: the name of the thread ("main": the loop's), what it
 * does ("open", "create", "close", or "hold": open, and close when the process ends), and the path. */
#include "base/loop.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_NS 1000000

struct order {
	char thread[16], what[16], path[256];
};

struct look {
	struct loop_timer *timer;
	const char *file;
	struct order order;
};

void __real_loop_run(struct loop *l);
void __wrap_loop_run(struct loop *l);

static void obey(const struct order *o)
{
	int fd = open(o->path, strcmp(o->what, "create") ? O_RDONLY : O_RDWR | O_CREAT, 0600);

	if (!strcmp(o->what, "close"))
		close(fd);
}

static void *thread_main(void *opaque)
{
	const struct order *o = opaque;

	pthread_setname_np(pthread_self(), o->thread);
	obey(o);
	return NULL;
}

static void look_fire(void *opaque)
{
	struct look *k = opaque;
	FILE *f = fopen(k->file, "r");
	pthread_t thread;

	if (!f) {
		loop_timer_arm(k->timer, loop_now_ns() + LOOK_NS);
		return;
	}
	if (fscanf(f, "%15s %15s %255s", k->order.thread, k->order.what, k->order.path) != 3)
		abort();
	fclose(f);
	if (!strcmp(k->order.thread, "main"))
		obey(&k->order);
	else if (pthread_create(&thread, NULL, thread_main, &k->order))
		abort();
}

void __wrap_loop_run(struct loop *l)
{
	struct look k = { .file = getenv("STUCK") };

	if (k.file && !loop_timer_new(l, look_fire, &k, &k.timer))
		loop_timer_arm(k.timer, loop_now_ns());
	__real_loop_run(l);
	loop_timer_free(k.timer);
}
