#include "api/net/port_calls.h"
#include "api/net/network.h"
#include "api/net/network_life.h"
#include "api/net/network_ports.h"
#include "api/net/network_process.h"
#include "api/vm/vm_host.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_NS (30 * 1000000000ULL)
/* Greatest number of calls of one process. cairn-net takes 256, but the request has at most 1 MiB. */
#define TOGETHER_MAX 100

struct port_call {
	struct port_call *next; /* in `waiting` */
	struct port_work *work; /* NULL: it waits */
	struct port_calls *all;
	char network[NETWORK_NAME_MAX + 1];
	bool up;
	bool alone; /* the process that it shared has failed */
	struct json_object *port; /* owned */
	void (*done)(void *opaque, int r, struct json_object *answer, const struct err *e);
	void *opaque;
};

/* A process under way. */
struct port_work {
	struct port_work *next;
	struct port_calls *all;
	char network[NETWORK_NAME_MAX + 1];
	struct network_process *process;
	struct port_call *calls[TOGETHER_MAX]; /* NULL: forgotten */
	size_t n;
};

struct port_calls {
	struct vm_host *host;
	struct port_call *waiting; /* oldest first */
	struct port_work *works;
	struct loop_task task;
	bool posted;
};

static void calls_run(struct loop_task *t);

static struct port_calls *calls_of(struct vm_host *host)
{
	if (!host->port_calls) {
		host->port_calls = must_alloc(calloc(1, sizeof(*host->port_calls)));
		*host->port_calls = (struct port_calls){ .host = host, .task = { .run = calls_run } };
	}
	return host->port_calls;
}

static void calls_post(struct port_calls *all)
{
	if (!all->posted)
		loop_post(all->host->loop, &all->task);
	all->posted = true;
}

static void call_end(struct port_call *c, int r, struct json_object *answer, const struct err *e)
{
	c->done(c->opaque, r, r < 0 ? NULL : answer, e);
	json_object_put(c->port);
	free(c);
}

/* Each call is taken out of the work before its done(), which may free others. */
static void work_end(struct port_work *w, int r, struct json_object *answers, const struct err *e)
{
	for (size_t i = 0; i < w->n; i++)
		if (w->calls[i])
			call_end(STEAL_PTR(w->calls[i]), r, json_object_is_type(answers, json_type_array) ? json_object_array_get_idx(answers, i) : answers, e);
}

static void work_free(struct port_work *w)
{
	struct port_work **at = &w->all->works;

	while (*at && *at != w)
		at = &(*at)->next;
	if (*at)
		*at = w->next;
	free(w);
}

/* Let the calls wait again, each for a process of its own. */
static void work_split(struct port_work *w)
{
	struct port_call *first = NULL, **end = &first;

	for (size_t i = 0; i < w->n; i++) {
		struct port_call *c = w->calls[i];

		if (!c)
			continue;
		c->work = NULL;
		c->alone = true;
		*end = c;
		end = &c->next;
	}
	*end = w->all->waiting;
	w->all->waiting = first;
}

static void work_done(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct port_work *w = opaque;
	struct port_calls *all = w->all;
	struct json_object *answers = w->n > 1 ? js_get_array(answer, "ports") : answer;
	bool complete = w->n == 1 || (answers && json_object_array_length(answers) == w->n);

	w->process = NULL; /* ends by itself */
	if (w->n > 1 && r != -ETIMEDOUT && (r < 0 || !complete))
		work_split(w);
	else
		work_end(w, r, answers, e);
	work_free(w);
	calls_post(all);
}

static int request_make(const struct port_work *w, bool up, const struct network *n, struct json_object **ret, struct err *e)
{
	struct json_object *list = w->n > 1 ? json_object_new_array() : NULL;
	int r = network_request_make(n, up ? "port-up" : "port-down", n->live, ret, e);

	if (r < 0) {
		json_object_put(list);
		return r;
	}
	for (size_t i = 0; i < w->n && list; i++)
		json_object_array_add(list, json_object_get(w->calls[i]->port));
	js_put(*ret, list ? "ports" : "port", list ? list : json_object_get(w->calls[0]->port));
	return 0;
}

/* Start the process for the calls of the work. Returns 0: work_done() follows; 1: there is nothing to do; -errno. */
static int work_start(struct port_work *w, bool up, struct err *e)
{
	CLEANUP_JS struct json_object *request = NULL;
	struct vm_host *host = w->all->host;
	const struct network *n = network_find_name(host, w->network);
	int r;

	if (!n || !n->live) /* the rules went with the network */
		return up ? err_set(e, -ENOENT, ERR_WRONG_STATE, "network '%s' has stopped; start it with: cairn net-start %s", w->network, w->network) : 1;
	r = request_make(w, up, n, &request, e);
	return r ? r : network_process_start(host->loop, host->paths->net_program, request, TIMEOUT_NS, work_done, w, &w->process, e);
}

/* Return whether the call would remove the rules of another VM's tap, which has the name of a removed tap. */
static bool is_for_another_tap(const struct port_call *c)
{
	return !c->up && network_ports_has_tap(c->all->host, c->network, js_get_str_or(c->port, "tap", ""));
}

/* End the call without a process if it is for another tap. Returns whether it was. */
static bool other_tap_end(struct port_call **at)
{
	struct port_call *c = *at;

	if (!is_for_another_tap(c))
		return false;
	*at = c->next;
	call_end(c, 0, NULL, NULL);
	return true;
}

/* Take the call and those that can share its process out of the queue. */
static struct port_work *work_new(struct port_calls *all, struct port_call **first)
{
	struct port_work *w = must_alloc(calloc(1, sizeof(*w)));
	bool up = (*first)->up, alone = (*first)->alone;

	*w = (struct port_work){ .next = all->works, .all = all };
	snprintf(w->network, sizeof(w->network), "%s", (*first)->network);
	all->works = w;
	for (struct port_call **at = first; *at && w->n < TOGETHER_MAX && !(alone && w->n);) {
		struct port_call *c = *at;

		if (strcmp(c->network, w->network) != 0) {
			at = &c->next;
			continue;
		}
		/* Keep the order: a new tap may have the name of a removed one. */
		if (c->up != up || c->alone != alone || is_for_another_tap(c))
			break;
		*at = c->next;
		c->work = w;
		w->calls[w->n++] = c;
	}
	return w;
}

static bool is_busy(const struct port_calls *all, const char *network)
{
	for (const struct port_work *w = all->works; w; w = w->next)
		if (!strcmp(w->network, network))
			return true;
	return false;
}

static void calls_run(struct loop_task *t)
{
	struct port_calls *all = container_of(t, struct port_calls, task);
	struct port_call **at = &all->waiting;

	all->posted = false;
	while (*at) {
		struct json_object *none;
		struct port_work *w;
		struct err e;
		bool up = (*at)->up;
		int r;

		if (is_busy(all, (*at)->network)) {
			at = &(*at)->next;
			continue;
		}
		if (other_tap_end(at)) {
			at = &all->waiting;
			continue;
		}
		w = work_new(all, at);
		r = work_start(w, up, &e);
		if (!r)
			continue;
		none = json_object_new_object();
		work_end(w, MIN(r, 0), none, &e);
		json_object_put(none);
		work_free(w);
		at = &all->waiting; /* done() may have changed the queue */
	}
}

struct port_call *port_call_begin(struct vm_host *host, const char *network, bool up, struct json_object *port,
	void (*done)(void *opaque, int r, struct json_object *answer, const struct err *e), void *opaque)
{
	struct port_calls *all = calls_of(host);
	struct port_call *c = must_alloc(calloc(1, sizeof(*c))), **end = &all->waiting;

	*c = (struct port_call){ .all = all, .up = up, .port = port, .done = done, .opaque = opaque };
	snprintf(c->network, sizeof(c->network), "%s", network);
	while (*end)
		end = &(*end)->next;
	*end = c;
	calls_post(all);
	return c;
}

/* Its process continues: the next change of the network's ports removes the rules of removed taps. */
void port_call_free(struct port_call *c)
{
	struct port_call **at = c ? &c->all->waiting : NULL;

	if (!c)
		return;
	while (*at && *at != c)
		at = &(*at)->next;
	if (*at)
		*at = c->next;
	for (size_t i = 0; c->work && i < c->work->n; i++)
		if (c->work->calls[i] == c)
			c->work->calls[i] = NULL;
	json_object_put(c->port);
	free(c);
}

void port_calls_free(struct vm_host *host)
{
	struct port_calls *all = STEAL_PTR(host->port_calls);

	while (all && all->works) {
		network_process_free(all->works->process);
		work_free(all->works);
	}
	free(all);
}
