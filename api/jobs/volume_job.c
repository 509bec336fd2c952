#include "api/jobs/volume_job.h"
#include "api/access/fork_as.h"
#include "api/access/rights.h"
#include "api/jobs/job.h"
#include "api/jobs/job_owner.h"
#include "api/jobs/pool_volumes.h"
#include "api/schema/call.h"
#include "api/vm/vm_host.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define POLL_NS 250000000ULL /* interval of reads of the progress */
#define KILL_NS (5 * 1000000000ULL) /* after a cancel, until work that continues is killed */
#define GIVE_UP_NS (5 * 1000000000ULL) /* after that, until the job ends without it */

struct volume_job {
	struct fork_as *process; /* NULL: it has answered */
	struct loop_timer *timer;
	struct rights *who; /* owned; NULL: root or the daemon's own user */
	int progress; /* see pool_volumes.h; a file of fixed size */
	uint64_t told; /* by the last event of progress */
	uint64_t kill_ns; /* 0: the job is not cancelled */
};

static const char *type_of(const struct volume_work *w)
{
	return w->act == VOLUME_CLONE ? "volume-clone" : "volume-create";
}

/* Return the work of a job of this module; NULL: it is another one's, or has ended. */
static struct volume_job *volume_job_of(const struct job *j)
{
	return !strcmp(j->type, "volume-clone") || !strcmp(j->type, "volume-create") ? j->opaque : NULL;
}

/* The work continues if the daemon ends. */
static void work_free(struct volume_job *v)
{
	loop_timer_free(v->timer);
	if (v->progress >= 0)
		close(v->progress);
	free(v->who);
	free(v);
}

static void work_release(struct job *j)
{
	work_free(j->opaque);
}

/* ---- progress ---- */

/* Read the file of progress, which the user's process writes.
 * Returns ten thousandths of the whole. *ret_total: the whole in bytes. */
static unsigned progress_read(int fd, uint64_t *ret_total)
{
	char text[VOLUME_PROGRESS_BYTES];
	unsigned whole, parts;
	const char *last;

	if (pread(fd, text, sizeof(text), 0) != (ssize_t)sizeof(text))
		return 0;
	memcpy(ret_total, text + VOLUME_PROGRESS_TOTAL_AT, sizeof(*ret_total));
	*ret_total = MIN(*ret_total, (uint64_t)INT64_MAX);
	text[VOLUME_PROGRESS_TOTAL_AT] = 0;
	last = memrchr(text, '(', VOLUME_PROGRESS_TOTAL_AT);
	if (!last || sscanf(last, "(%3u.%2u/100%%)", &whole, &parts) != 2)
		return 0;
	return MIN(100 * whole + parts, 10000U);
}

static void progress_poll(void *opaque)
{
	struct job *j = opaque;
	struct volume_job *v = j->opaque;
	uint64_t total = 0, done, now = loop_now_ns();
	unsigned part = progress_read(v->progress, &total);

	done = total / 10000 * part + total % 10000 * part / 10000;
	if (total && (done > v->told || total != j->total)) {
		job_progress(j, done, total);
		if (j->told_ns >= now) /* else it was too soon after the last event */
			v->told = done;
	}
	if (v->kill_ns && now >= v->kill_ns + GIVE_UP_NS) {
		fork_as_give_up(v->process); /* calls work_done() */
		return;
	}
	if (v->kill_ns && now >= v->kill_ns)
		fork_as_kill(v->process);
	loop_timer_arm(v->timer, now + POLL_NS);
}

/* ---- the end ---- */

static void work_done(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct job *j = opaque;
	struct volume_job *v = j->opaque;
	struct err own;

	(void)res;
	v->process = NULL;
	j->cancel = NULL;
	if (j->cancelling && r == -ETIMEDOUT)
		err_set(&own, r, ERR_CANCELLED, "the job was cancelled, but its process has not ended: a file system does not answer; repair or "
			"unmount it. It may have an incomplete volume then");
	else if (r < 0 && j->cancelling)
		err_set(&own, -ECANCELED, ERR_CANCELLED, "the job was cancelled, and made no volume");
	if (r < 0)
		job_fail(j, j->cancelling ? &own : e);
	else
		job_succeed(j, NULL);
}

static void cancelled(struct job *j)
{
	struct volume_job *v = j->opaque;

	v->kill_ns = loop_now_ns() + KILL_NS;
	fork_as_terminate(v->process);
}

void volume_jobs_check_roles(struct vm_host *host)
{
	for (struct job *j = host->jobs; j; j = j->next) {
		const struct volume_job *v = volume_job_of(j);
		struct peer who;
		char why[96];

		if (!v || !v->who || !j->cancel || j->cancelling)
			continue;
		who = rights_peer(v->who);
		if (server_role(host->server, &who, NULL) >= ROLE_OPERATOR)
			continue;
		snprintf(why, sizeof(why), "user %u, who began the job, has lost the role operator for all VMs", (unsigned)who.uid);
		job_denial_audit(host, NULL, j->id, who.uid, why);
		job_deny(j, why, NULL); /* the job ends later */
	}
}

/* ---- the begin ---- */

static int count_check(const struct call *c, struct err *e)
{
	unsigned n = 0;

	for (const struct job *j = c->host->jobs; j; j = j->next)
		n += j->uid == c->uid && j->status != JOB_CONCLUDED && volume_job_of(j);
	if (n < VOLUME_USER_JOBS_MAX || uid_is_root_or_own(c->uid))
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY, "user %u makes %u volumes already; wait for one, or cancel its job (cairn jobs)", (unsigned)c->uid, n);
}

static int progress_make(struct err *e)
{
	CLEANUP_CLOSE int fd = memfd_create("progress", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, VOLUME_PROGRESS_BYTES) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_set_errno(e, -errno, "the file of progress");
	return steal_fd(&fd);
}

static int work_begin(struct job *j, const struct volume_work *w, struct err *e)
{
	struct volume_job *v = j->opaque;
	struct fork_as_spec s = { .of_client = true, .rights = v->who, .run = volume_work_run, .arg = w, .who = "who sent the command",
		.what = "making the volume", .timeout_ns = FORK_AS_NO_TIMEOUT, .input = v->progress, .done = work_done, .opaque = j };

	return fork_as_begin(j->host->helpers, &s, &v->process, e);
}

int volume_job_begin(const struct call *c, const struct volume_work *w, const char *id, struct job **ret_j, struct err *e)
{
	struct volume_job *v;
	struct job *j;
	int r = count_check(c, e);

	if (r < 0)
		return r;
	v = must_alloc(calloc(1, sizeof(*v)));
	r = v->progress = progress_make(e);
	if (r >= 0)
		r = rights_of_peer(&c->who, &v->who, e);
	if (!r)
		r = job_new_of_host(c->host, type_of(w), id, &j, e);
	if (r < 0) {
		work_free(v);
		return r;
	}
	job_note_volume(j, js_get_str(c->args, "pool"), w->act == VOLUME_CLONE ? w->copy : w->name);
	j->opaque = v;
	j->release = work_release;
	j->cancel = cancelled;
	*ret_j = j;
	r = loop_timer_new(c->host->loop, progress_poll, j, &v->timer);
	if (r < 0)
		err_set_errno(e, r, "the job's timer");
	if (!r)
		r = work_begin(j, w, e);
	if (r < 0) {
		j->cancel = NULL;
		job_fail(j, e);
	} else {
		loop_timer_arm(v->timer, loop_now_ns() + POLL_NS);
	}
	return 0;
}
