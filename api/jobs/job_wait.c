#include "api/jobs/job_wait.h"
#include "api/jobs/job.h"
#include "api/schema/call.h"
#include "api/vm/observer.h"
#include "api/vm/vm_host.h"
#include "api/wire/peer.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* Waits of one user at a time, other than root and the daemon's own. */
#define WAITS_OF_USER_MAX 256u

struct job_wait {
	struct job_wait *next;
	struct call *call;
	struct loop_timer *timer; /* NULL: no time limit */
	char id[JOB_ID_MAX + 1];
};

static bool is_denied(struct vm_host *host, const struct job_wait *w)
{
	const struct job *j = job_find(host, w->id);

	return j && call_role_for(w->call, job_vm_uuid(j)) < ROLE_VIEWER;
}

/* Answer a call that is in no list any more, and free the wait. */
static void wait_answer(struct job_wait *w, struct vm_host *host)
{
	struct call *c = w->call;
	struct job *j = job_find(host, w->id);
	struct err e;

	if (!j) {
		err_set(&e, -ENOENT, ERR_NOT_FOUND, "job %s was dismissed meanwhile", w->id);
		call_fail(c, &e);
	} else if (is_denied(host, w)) {
		err_set(&e, -EPERM, ERR_PERMISSION, "you have lost the role for the VM of job %s", w->id);
		call_fail(c, &e);
	} else {
		call_return(c, job_to_json(j));
	}
	loop_timer_free(w->timer);
	free(w);
}

static bool is_over(struct vm_host *host, const struct job_wait *w)
{
	const struct job *j = job_find(host, w->id);

	return !j || j->status == JOB_CONCLUDED;
}

static void waits_end(struct vm_host *host, bool (*ends)(struct vm_host *host, const struct job_wait *w))
{
	struct job_wait *over = NULL, **at = &host->job_waits;

	while (*at) {
		struct job_wait *w = *at;

		if (!ends(host, w)) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		w->next = over;
		over = w;
	}
	while (over) {
		struct job_wait *w = over;

		over = w->next;
		wait_answer(w, host);
	}
}

static void on_job_concluded(struct vm_host *host, const char *name)
{
	(void)name;
	waits_end(host, is_over);
}

void job_waits_check_roles(struct vm_host *host)
{
	waits_end(host, is_denied);
}

const struct vm_observer job_wait_observer = { .job_concluded = on_job_concluded };

static void wait_expired(void *opaque)
{
	struct job_wait *w = opaque, **at = &w->call->host->job_waits;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	wait_answer(w, w->call->host);
}

/* End the waits whose client has gone, and check the user's bound. */
static int bound_check(struct call *c, struct err *e)
{
	struct job_wait **at = &c->host->job_waits;
	unsigned n = 0;

	while (*at) {
		struct job_wait *w = *at;

		if (w->call->conn || w->call->done) {
			n += w->call->uid == c->uid;
			at = &w->next;
		} else {
			*at = w->next;
			wait_answer(w, c->host);
		}
	}
	return n < WAITS_OF_USER_MAX || uid_is_root_or_own(c->uid) ? 0
		: err_set(e, -EBUSY, ERR_BUSY, "%u of your clients wait for jobs; end some of them, or wait for JOB_STATUS_CHANGE", n);
}

int job_wait_begin(struct call *c, const char *id, uint64_t timeout_ns, struct err *e)
{
	const struct job *j = job_find(c->host, id);
	struct job_wait *w;

	if (!j)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no job '%.63s'. Next: cairn jobs", id);
	if (j->status != JOB_CONCLUDED && bound_check(c, e) < 0)
		return -EBUSY;
	w = must_alloc(calloc(1, sizeof(*w)));
	w->call = c;
	snprintf(w->id, sizeof(w->id), "%s", j->id);
	if (j->status == JOB_CONCLUDED) {
		wait_answer(w, c->host);
		return 0;
	}
	if (timeout_ns && loop_timer_new(c->host->loop, wait_expired, w, &w->timer) < 0) {
		free(w);
		return err_set(e, -ENOMEM, ERR_HOST, "job-wait: no memory for a timer");
	}
	if (timeout_ns)
		loop_timer_arm(w->timer, loop_now_ns() + timeout_ns);
	account_call_end(&c->account); /* so the user's other calls need not wait for the job */
	w->next = c->host->job_waits;
	c->host->job_waits = w;
	return 0;
}

void job_waits_free(struct vm_host *host)
{
	struct err e;

	while (host->job_waits) {
		struct job_wait *w = host->job_waits;

		host->job_waits = w->next;
		err_set(&e, -ECANCELED, ERR_CANCELLED, "the daemon ends; ask query-jobs of the next daemon about job %s", w->id);
		call_fail(w->call, &e);
		loop_timer_free(w->timer);
		free(w);
	}
}
