/* loop: time-outs, timers that change each other, tasks from many threads. */
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/base/loop_group.h"

#define MS 1000000ULL

static int loop_setup(void **state)
{
	struct err e;

	return loop_new(8, (struct loop **)state, &e);
}

static int loop_teardown(void **state)
{
	loop_free(*state);
	return 0;
}

static void run_for(struct loop *l, uint64_t ns)
{
	uint64_t end = loop_now_ns() + ns;

	for (uint64_t now = loop_now_ns(); now < end; now = loop_now_ns())
		loop_run_once(l, end - now);
	loop_run_once(l, 0); /* timers that came due while this process had no CPU */
}

/* ---- run_once, stop ---- */

static void test_run_once_waits_no_longer_than_told(void **state)
{
	uint64_t t0 = loop_now_ns(), took;

	loop_run_once(*state, 0);
	took = loop_now_ns() - t0;
	assert_in_range(took, 0, 20000 * MS);
	t0 = loop_now_ns();
	run_for(*state, 30 * MS);
	took = loop_now_ns() - t0;
	assert_in_range(took, 30 * MS, 20000 * MS);
}

static void test_stop_before_run(void **state)
{
	loop_stop(*state);
	loop_run(*state); /* returns at once and consumes the request */
	loop_stop(*state);
	loop_stop(*state);
	loop_run(*state);
}

static void test_refused_ring_is_an_error(void **state)
{
	struct loop *l = (struct loop *)state;
	struct err e = { 0 };

	assert_true(loop_new(0, &l, &e) < 0);
	assert_int_equal(e.cls, ERR_HOST);
	assert_ptr_equal(l, state); /* untouched on error */
	loop_free(NULL);
}

/* ---- timers ---- */

struct tick {
	struct loop *loop;
	struct loop_timer *timer, *other;
	unsigned fired, rearm;
	unsigned *order, order_at;
	uint64_t period_ns, deadline_ns, fired_ns;
};

static void tick_fire(void *opaque)
{
	struct tick *t = opaque;

	t->fired++;
	t->fired_ns = loop_now_ns();
	if (t->order)
		t->order_at = (*t->order)++;
	if (t->rearm) {
		t->rearm--;
		loop_timer_arm(t->timer, loop_now_ns() + t->period_ns);
	}
	if (t->other)
		loop_timer_disarm(t->other);
}

static void test_timers_fire_in_order_of_deadline(void **state)
{
	enum { N = 200 };
	struct tick t[N] = { 0 };
	uint64_t now = loop_now_ns();
	unsigned order = 0, seed = 3;

	for (unsigned i = 0; i < N; i++) {
		t[i].order = &order;
		assert_int_equal(loop_timer_new(*state, tick_fire, &t[i], &t[i].timer), 0);
		/* Armed twice: only the last time counts. */
		loop_timer_arm(t[i].timer, now);
		t[i].deadline_ns = now + 10 * MS + (uint64_t)rand_r(&seed) % 1000 * 10000;
		loop_timer_arm(t[i].timer, t[i].deadline_ns);
	}
	for (unsigned i = 0; i < N; i += 3)
		loop_timer_disarm(t[i].timer);
	run_for(*state, 40 * MS);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(t[i].fired, i % 3 != 0);
		if (t[i].fired)
			assert_true(t[i].fired_ns >= t[i].deadline_ns);
		for (unsigned k = 0; k < i; k++)
			if (t[i].fired && t[k].fired && t[i].deadline_ns != t[k].deadline_ns)
				assert_int_equal(t[i].order_at < t[k].order_at,
					t[i].deadline_ns < t[k].deadline_ns);
	}
	for (unsigned i = 0; i < N; i++)
		loop_timer_free(t[i].timer);
}

static void test_rearmed_in_its_own_callback(void **state)
{
	struct tick t = { .rearm = 9, .period_ns = 1 * MS };

	assert_int_equal(loop_timer_new(*state, tick_fire, &t, &t.timer), 0);
	loop_timer_arm(t.timer, loop_now_ns());
	while (t.fired < 10)
		loop_run_once(*state, 10 * MS);
	run_for(*state, 5 * MS);
	assert_int_equal(t.fired, 10);
	loop_timer_free(t.timer);
}

/* Both are due in the same iteration; the one that fires first removes the other. */
static void test_disarmed_in_another_ones_callback(void **state)
{
	struct tick a = { 0 }, b = { 0 };

	assert_int_equal(loop_timer_new(*state, tick_fire, &a, &a.timer), 0);
	assert_int_equal(loop_timer_new(*state, tick_fire, &b, &b.timer), 0);
	a.other = b.timer;
	b.other = a.timer;
	loop_timer_arm(a.timer, loop_now_ns() - 1000);
	loop_timer_arm(b.timer, loop_now_ns() - 1000);
	run_for(*state, 5 * MS);
	assert_int_equal(a.fired + b.fired, 1);
	loop_timer_free(a.timer);
	loop_timer_free(b.timer);
}

static void free_fire(void *opaque)
{
	struct tick *t = opaque;

	t->fired++;
	loop_timer_free(t->timer);
	loop_timer_free(t->other);
}

static void test_freed_in_its_own_callback(void **state)
{
	struct tick a = { 0 }, b = { 0 };

	assert_int_equal(loop_timer_new(*state, free_fire, &a, &a.timer), 0);
	assert_int_equal(loop_timer_new(*state, tick_fire, &b, &b.timer), 0);
	a.other = b.timer;
	loop_timer_arm(a.timer, 1);
	loop_timer_arm(b.timer, 2);
	run_for(*state, 5 * MS);
	assert_int_equal(a.fired, 1);
	assert_int_equal(b.fired, 0);
}

struct greedy {
	struct loop *loop;
	struct loop_timer *timer;
	unsigned fired;
};

static void greedy_fire(void *opaque)
{
	struct greedy *g = opaque;

	g->fired++;
	loop_timer_arm(g->timer, 1); /* long in the past */
}

struct stop_task {
	struct loop_task task;
	struct loop *loop;
};

static void task_stop(struct loop_task *t)
{
	loop_stop(container_of(t, struct stop_task, task)->loop);
}

/* A timer that is always late must not starve the rest of the loop. */
static void test_timer_in_the_past_does_not_starve_the_loop(void **state)
{
	struct greedy g = { .loop = *state };
	struct stop_task s = { .task = { .run = task_stop }, .loop = *state };

	assert_int_equal(loop_timer_new(*state, greedy_fire, &g, &g.timer), 0);
	loop_timer_arm(g.timer, 1);
	loop_post(*state, &s.task);
	loop_run(*state);
	assert_true(g.fired > 0);
	loop_timer_free(g.timer);
}

static void test_timer_outlives_the_loop(void **state)
{
	struct loop_timer *t;
	struct tick k = { 0 };
	struct loop *l;
	struct err e;

	(void)state;
	assert_int_equal(loop_new(8, &l, &e), 0);
	assert_int_equal(loop_timer_new(l, tick_fire, &k, &t), 0);
	loop_timer_arm(t, loop_now_ns());
	loop_free(l);
	loop_timer_free(t);
	loop_timer_free(NULL);
	assert_int_equal(k.fired, 0);
}

/* ---- tasks ---- */

enum { THREADS = 4, PER_THREAD = 25000 };

struct counted_task {
	struct loop_task task;
	struct posting *p;
	unsigned thread, index;
};

struct posting {
	struct loop *loop;
	struct counted_task *tasks;
	unsigned next_index[THREADS];
	unsigned done, out_of_order;
};

static void task_count(struct loop_task *t)
{
	struct counted_task *c = container_of(t, struct counted_task, task);
	struct posting *p = c->p;

	if (c->index != p->next_index[c->thread])
		p->out_of_order++;
	p->next_index[c->thread] = c->index + 1;
	if (++p->done == THREADS * PER_THREAD)
		loop_stop(p->loop);
}

static void *poster(void *opaque)
{
	struct counted_task *mine = opaque;

	for (unsigned i = 0; i < PER_THREAD; i++)
		loop_post(mine->p->loop, &mine[i].task);
	return NULL;
}

/* 100,000 tasks from 4 threads: each runs once, in the order of posting per thread, and the last
 * one does not miss its wake-up (loop_run would hang). */
static void test_posts_from_several_threads(void **state)
{
	struct posting p = { .loop = *state };
	pthread_t th[THREADS];

	p.tasks = calloc(THREADS * PER_THREAD, sizeof(*p.tasks));
	for (unsigned i = 0; i < THREADS * PER_THREAD; i++)
		p.tasks[i] = (struct counted_task){ .task = { .run = task_count },
			.p = &p,
			.thread = i / PER_THREAD,
			.index = i % PER_THREAD };
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&th[i], NULL, poster, &p.tasks[i * PER_THREAD]), 0);
	loop_run(*state);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(th[i], NULL);
	loop_run_once(*state, 0);
	assert_int_equal(p.done, THREADS * PER_THREAD);
	assert_int_equal(p.out_of_order, 0);
	free(p.tasks);
}

struct again_task {
	struct loop_task task;
	struct loop *loop;
	unsigned left;
};

static void task_again(struct loop_task *t)
{
	struct again_task *a = container_of(t, struct again_task, task);

	if (a->left-- > 1)
		loop_post(a->loop, t);
	else
		loop_stop(a->loop);
}

static void test_task_that_posts_itself(void **state)
{
	struct again_task a = { .task = { .run = task_again }, .loop = *state, .left = 1000 };

	loop_post(*state, &a.task);
	loop_run(*state);
	assert_int_equal(a.left, 0);
}

/* ---- idle ---- */

static void *stop_later(void *opaque)
{
	usleep(100000);
	loop_stop(opaque);
	return NULL;
}

/* No periodic wake-ups: waiting for 100 ms costs almost no CPU time. */
static void test_idle_loop_sleeps(void **state)
{
	struct timespec a, b;
	pthread_t th;
	uint64_t ns;

	assert_int_equal(pthread_create(&th, NULL, stop_later, *state), 0);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
	loop_run(*state);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
	pthread_join(th, NULL);
	ns = (uint64_t)(b.tv_sec - a.tv_sec) * 1000000000ULL + (uint64_t)b.tv_nsec -
	     (uint64_t)a.tv_nsec;
	assert_in_range(ns, 0, 5 * MS);
}

int main(void)
{
#define LOOP_TEST(t) cmocka_unit_test_setup_teardown(t, loop_setup, loop_teardown)
	const struct CMUnitTest tests[] = {
		LOOP_TEST(test_run_once_waits_no_longer_than_told),
		LOOP_TEST(test_stop_before_run),
		cmocka_unit_test(test_refused_ring_is_an_error),
		LOOP_TEST(test_timers_fire_in_order_of_deadline),
		LOOP_TEST(test_rearmed_in_its_own_callback),
		LOOP_TEST(test_disarmed_in_another_ones_callback),
		LOOP_TEST(test_freed_in_its_own_callback),
		LOOP_TEST(test_timer_in_the_past_does_not_starve_the_loop),
		cmocka_unit_test(test_timer_outlives_the_loop),
		LOOP_TEST(test_posts_from_several_threads),
		LOOP_TEST(test_task_that_posts_itself),
		LOOP_TEST(test_idle_loop_sleeps),
	};

	return loop_group_run(tests);
}
