/* agent_fixture: the client of the guest agent, the agent's end of its port, and time limits that a test ends. */
#ifndef CAIRN_TESTS_AGENT_FIXTURE_H
#define CAIRN_TESTS_AGENT_FIXTURE_H

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "vmm/agent/agent.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MS 1000000ULL

struct fixture {
	struct loop *loop;
	struct agent *a;
	int guest; /* the agent's end of the socket */
	int host; /* the other end, borrowed from the agent */
	unsigned answers;
	int r;
	struct err e;
	char said[4096]; /* sent by the host so far */
	size_t nsaid;
};

/* The agent's timer for the command in progress: the first that agent_new() makes. */
static struct loop_timer *limit;

int __real_loop_timer_new(struct loop *l, void (*fire)(void *opaque), void *opaque, struct loop_timer **ret_t);
int __wrap_loop_timer_new(struct loop *l, void (*fire)(void *opaque), void *opaque, struct loop_timer **ret_t);
int __wrap_loop_timer_new(struct loop *l, void (*fire)(void *opaque), void *opaque, struct loop_timer **ret_t)
{
	int r = __real_loop_timer_new(l, fire, opaque, ret_t);

	if (!r && !limit)
		limit = *ret_t;
	return r;
}

/* Time limits are so long that they end only by limit_ends(), however long the host stands still. */
static inline int setup(void **state)
{
	static const struct agent_times times = {60000 * MS, 60000 * MS, 60000 * MS, 60000 * MS, 60000 * MS};
	struct fixture *f = calloc(1, sizeof(*f));
	int pair[2];

	log_set_fd(open("/dev/null", O_WRONLY));
	assert_int_equal(loop_new(16, &f->loop, &f->e), 0);
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	limit = NULL;
	assert_int_equal(agent_new(f->loop, pair[0], &times, &f->a, &f->e), 0);
	f->guest = pair[1];
	f->host = pair[0];
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	agent_free(f->a);
	loop_free(f->loop);
	close(f->guest);
	free(f);
	return 0;
}

static inline void answered(void *opaque, int r, const struct err *e)
{
	struct fixture *f = opaque;

	f->answers++;
	f->r = r;
	if (r < 0)
		f->e = *e;
}

static inline void freeze(struct fixture *f)
{
	f->answers = 0;
	assert_int_equal(agent_freeze(f->a, answered, f, &f->e), 0);
	assert_int_equal(f->answers, 0);
}

static inline void rounds(struct fixture *f, uint64_t ns)
{
	uint64_t until = loop_now_ns() + ns, now;

	while ((now = loop_now_ns()) < until)
		loop_run_once(f->loop, until - now);
	loop_run_once(f->loop, 0); /* timers that came due while this process had no CPU */
}

/* End the time limit of the command in progress. */
static inline void limit_ends(struct fixture *f)
{
	loop_timer_arm(limit, loop_now_ns());
	loop_run_once(f->loop, 10 * MS);
}

/* End time limits until done() is called. */
static inline void answer_wait(struct fixture *f)
{
	while (!f->answers)
		limit_ends(f);
}

/* Return the next line that the host sends; "" when there is none. */
static const char *heard(struct fixture *f)
{
	static char line[512];
	ssize_t n = recv(f->guest, f->said + f->nsaid, sizeof(f->said) - f->nsaid, MSG_DONTWAIT);
	char *end;

	f->nsaid += n > 0 ? (size_t)n : 0;
	end = memchr(f->said, '\n', f->nsaid);
	if (!end)
		return "";
	snprintf(line, sizeof(line), "%.*s", (int)(end - f->said), f->said);
	f->nsaid -= (size_t)(end + 1 - f->said);
	memmove(f->said, end + 1, f->nsaid);
	return line;
}

static inline void says(struct fixture *f, const char *text)
{
	assert_int_equal(send(f->guest, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	rounds(f, 2 * MS);
}

/* Receive a sync. Returns its id. */
static inline int64_t sync_heard(struct fixture *f)
{
	const char *line = heard(f);
	int64_t id = -1;

	assert_int_equal(
		sscanf(line,
			"\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%" SCNd64
			"}}",
			&id),
		1);
	return id;
}

static inline void sync_answer(struct fixture *f, int64_t id)
{
	char text[64];

	snprintf(text, sizeof(text), "\xff{\"return\": %" PRId64 "}\n", id);
	says(f, text);
}

struct port_news {
	unsigned n;
	bool open, answers;
};

static inline void port_changed(void *opaque, bool open, bool answers)
{
	struct port_news *p = opaque;

	p->n++;
	p->open = open;
	p->answers = answers;
}

static inline void freeze_heard(struct fixture *f)
{
	sync_answer(f, sync_heard(f));
	assert_string_equal(heard(f), "{\"execute\":\"guest-fsfreeze-freeze\"}");
}

static inline int64_t thaw_heard(struct fixture *f)
{
	int64_t id = sync_heard(f);

	assert_string_equal(heard(f), "{\"execute\":\"guest-fsfreeze-thaw\"}");
	return id;
}

/* Check that the agent accepts the next request. */
static inline void is_idle_again(struct fixture *f)
{
	freeze(f);
	freeze_heard(f);
	says(f, "{\"return\": 1}\n");
	assert_int_equal(f->answers, 1);
	assert_int_equal(f->r, 0);
}

#endif
