#include "api/net/network_programs.h"
#include "api/net/network.h"
#include "api/vm/vm_host.h"
#include "api/wire/json.h"
#include "base/backoff.h"
#include "base/loop.h"
#include "base/util.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <unistd.h>

enum { DNSMASQ, NAMES, PROGRAMS };

static const struct {
	const char *key, *name;
} kinds[PROGRAMS] = { [DNSMASQ] = { "pid", "dnsmasq" }, [NAMES] = { "names_pid", "cairn-dns" } };

/* A minute's delay is reached after the sixth end in a row. When a program has run for five minutes, the delays begin
 * anew. */
static const struct backoff_rule again = { .delay_s = 1, .max_delay_s = 60, .tries = 1, .window_s = 300 };

struct program {
	struct network_programs *owner;
	int64_t pid; /* 0: none */
	int pidfd;   /* -1: not watched */
	struct loop_watch *watch;
};

struct network_programs {
	struct network *network;
	struct program list[PROGRAMS];
	struct backoff backoff;
	struct loop_timer *timer;
	void (*ended)(struct network *n, const char *program);
	bool (*check)(struct network *n);
};

static void program_close(struct program *p)
{
	loop_unwatch(p->watch);
	p->watch = NULL;
	if (p->pidfd >= 0)
		close(p->pidfd);
	p->pidfd = -1;
	p->pid = 0;
}

static void check_later(struct network_programs *p)
{
	uint64_t now = loop_now_ns();

	loop_timer_arm(p->timer, now + backoff_slow(&again, &p->backoff, now));
}

static void timer_fire(void *opaque)
{
	struct network_programs *p = opaque;

	if (p->network->state == NETWORK_ACTIVE && !p->check(p->network))
		check_later(p);
}

static void program_ended(void *opaque, unsigned revents)
{
	struct program *p = opaque;
	struct network *n = p->owner->network;

	(void)revents;
	program_close(p);
	if (n->state != NETWORK_ACTIVE)
		return;
	check_later(p->owner);
	p->owner->ended(n, kinds[p - p->owner->list].name);
}

static struct network_programs *programs_new(struct network *n)
{
	struct network_programs *p = must_alloc(calloc(1, sizeof(*p)));

	p->network = n;
	for (int i = 0; i < PROGRAMS; i++)
		p->list[i] = (struct program){ .owner = p, .pidfd = -1 };
	if (loop_timer_new(n->host->loop, timer_fire, p, &p->timer) < 0)
		abort();
	return p;
}

void network_programs_watch(struct network *n, struct json_object *answer, void (*ended)(struct network *n, const char *program),
	bool (*check)(struct network *n))
{
	if (!js_get(answer, kinds[DNSMASQ].key))
		return;
	if (!n->programs)
		n->programs = programs_new(n);
	n->programs->ended = ended;
	n->programs->check = check;
	for (int i = 0; i < PROGRAMS; i++) {
		struct program *p = &n->programs->list[i];
		int64_t pid = js_get_int(answer, kinds[i].key, 0);

		if (pid == p->pid)
			continue;
		program_close(p);
		p->pidfd = pid > 0 ? pidfd_open((pid_t)pid, 0) : -1;
		if (p->pidfd >= 0 && loop_watch(n->host->loop, p->pidfd, POLLIN, program_ended, p, &p->watch) == 0)
			p->pid = pid;
		else
			program_close(p);
	}
}

void network_programs_notice(struct network *n)
{
	for (int i = 0; n->programs && i < PROGRAMS; i++) {
		struct program *p = &n->programs->list[i];
		struct pollfd end = { .fd = p->pidfd, .events = POLLIN };

		if (p->pidfd >= 0 && poll(&end, 1, 0) > 0)
			program_ended(p, POLLIN);
	}
}

void network_programs_free(struct network_programs *p)
{
	if (!p)
		return;
	for (int i = 0; i < PROGRAMS; i++)
		program_close(&p->list[i]);
	loop_timer_free(p->timer);
	free(p);
}
