#include "api/jobs/dump.h"
#include "api/definition/definition.h"
#include "api/jobs/job.h"
#include "api/jobs/job_recover.h"
#include "api/jobs/outfile.h"
#include "api/store/store.h"
#include "api/store/store_file.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_gone.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_TIMEOUT_NS (10 * 1000000000ULL)
#define CORE ".core"
#define TMP ".tmp"
/* Greatest number of bytes of the VM's name in a file's name, because a file's name is limited to NAME_MAX. */
#define NAME_PART 200

/* Data of a dump job; freed when the job concludes. */
struct work {
	struct job *job;
	struct vm *vm;
	enum dump_then then;
	char path[PATH_MAX]; /* path of the file; "": unknown */
	int folder;	     /* fd of the folder `dumps`, for a dump by policy; else -1 */
	char file[NAME_PART + 64];
	struct json_object *result; /* set when the dump is complete */
	void (*over)(void *opaque, int r, const struct err *e);
	void *opaque;
};

static void work_release(struct job *j)
{
	struct work *w = j->opaque;

	if (w->folder >= 0)
		close(w->folder);
	json_object_put(w->result);
	free(w);
}

static bool is_by_policy(const struct work *w)
{
	return w->then == DUMP_THEN_RESUME || w->then == DUMP_THEN_END;
}

/* ---- events of a dump ---- */

static const char *status_name(const struct dump_state *s)
{
	static const char *const names[] = { "none", "active", "completed", "failed" };

	return names[s->status];
}

struct json_object *dump_state_to_json(const struct vm *vm)
{
	bool active = vm->dump->status == DUMP_ACTIVE && vm->operation.job;
	struct json_object *o = json_object_new_object();

	js_put_str(o, "status", status_name(vm->dump));
	js_put_uint(o, "completed", active ? vm->operation.job->done : vm->dump->completed);
	js_put_uint(o, "total", active ? vm->operation.job->total : vm->dump->total);
	return o;
}

static void emit_completed(struct vm *vm, const char *path, const struct err *e)
{
	struct json_object *data = json_object_new_object();

	js_put(data, "result", dump_state_to_json(vm));
	if (*path)
		js_put_str(data, "path", path);
	if (e)
		js_put_str(data, "error", e->msg);
	vm_emit(vm, EVENT_DUMP_COMPLETED, data);
}

/* ---- the folder of dumps by policy ---- */

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && !strcmp(s + n - m, end);
}

/* Count the files with a suffix and find the oldest. but: leave this one out; "": none. oldest: untouched if there is
 * none. */
static unsigned files_count(int folder, const char *end, const char *but, char oldest[NAME_MAX + 1])
{
	struct timespec t = { 0 };
	struct dirent **list;
	int n = scandirat(folder, ".", &list, NULL, NULL);
	unsigned count = 0;

	for (int i = 0; i < n; i++) {
		struct stat st;

		if (ends_with(list[i]->d_name, end) && strcmp(list[i]->d_name, but) != 0 &&
			fstatat(folder, list[i]->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
			(!count++ || st.st_mtim.tv_sec < t.tv_sec ||
				(st.st_mtim.tv_sec == t.tv_sec && st.st_mtim.tv_nsec < t.tv_nsec))) {
			snprintf(oldest, NAME_MAX + 1, "%s", list[i]->d_name);
			t = st.st_mtim;
		}
		free(list[i]);
	}
	if (n >= 0)
		free(list);
	return count;
}

/* Remove all files with a suffix except `but` and the newest `keep` of the others. */
static void files_remove(int folder, const char *end, const char *but, unsigned keep)
{
	char name[NAME_MAX + 1];

	while (files_count(folder, end, but, name) > keep) {
		int r = store_file_unlink(folder, name);

		if (r < 0) {
			log_warn("dump", "%s: %s", name, strerror(-r));
			break;
		}
	}
}

static int core_open(struct work *w, struct err *e)
{
	char name[sizeof(w->file)], stamp[32];
	time_t now = time(NULL);
	struct tm tm;
	int fd;

	w->folder = store_open_folder(w->vm->host->store, w->vm->def->name, DUMPS_FOLDER, w->path,
		sizeof(w->path), e);
	if (w->folder < 0)
		return w->folder;
	files_remove(w->folder, CORE TMP, "", 0);
	gmtime_r(&now, &tm);
	strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &tm);
	snprintf(name, sizeof(name), "%.*s-%s" CORE, NAME_PART, w->vm->def->name, stamp);
	snprintf(w->file, sizeof(w->file), "%s", name);
	if (strlen(w->path) + strlen(name) + 2 > sizeof(w->path))
		return err_set_errno(e, -ENAMETOOLONG, "%s", w->path);
	strcat(strcat(w->path, "/"), name);
	strcat(name, TMP);
	fd = openat(w->folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? err_set_errno(e, -errno, "%s", w->path) : fd;
}

/* Find the file that the VM's process writes for an earlier daemon; without one, core_keep() has nothing to name. */
static void core_find(struct work *w)
{
	char name[NAME_MAX + 1] = "";
	struct err e;
	size_t n;

	w->folder = store_open_folder(w->vm->host->store, w->vm->def->name, DUMPS_FOLDER, w->path, sizeof(w->path), &e);
	if (w->folder >= 0)
		files_count(w->folder, CORE TMP, "", name);
	n = strlen(name);
	if (n && n < sizeof(w->file) && strlen(w->path) + n + 2 <= sizeof(w->path)) {
		snprintf(w->file, sizeof(w->file), "%.*s", (int)(n - strlen(TMP)), name);
		strcat(strcat(w->path, "/"), w->file);
		return;
	}
	if (w->folder >= 0)
		close(steal_fd(&w->folder));
	w->path[0] = 0;
}

/* A dump that was renamed, until its new name is on stable storage. */
struct kept {
	struct store_work work;
	int folder;
	char file[NAME_MAX + 1];
};

static void core_stored(struct store_work *w)
{
	struct kept *k = container_of(w, struct kept, work);

	/* The clock may have been set back since the others. */
	if (!w->r)
		files_remove(k->folder, CORE, k->file, DUMPS_KEPT - 1);
	close(k->folder);
	free(k);
}

/* Give a dump by policy its final name. core_stored() removes older dumps when that name is on stable storage: before,
 * a power cut could undo the rename. */
static int core_keep(struct work *w, struct err *e)
{
	char tmp[sizeof(w->file) + sizeof(TMP)], file[sizeof(DUMPS_FOLDER) + sizeof(w->file)];
	struct vm_host *host = w->vm->host;
	struct kept *k;

	if (w->folder < 0)
		return 0;
	snprintf(tmp, sizeof(tmp), "%s" TMP, w->file);
	if (renameat(w->folder, tmp, w->folder, w->file) < 0)
		return err_set_errno(e, -errno, "%s", w->path);
	k = must_alloc(malloc(sizeof(*k)));
	*k = (struct kept){ .work = { .loop = host->loop, .done = core_stored }, .folder = steal_fd(&w->folder) };
	snprintf(k->file, sizeof(k->file), "%s", w->file);
	snprintf(file, sizeof(file), DUMPS_FOLDER "/%s", w->file);
	store_sync_file(host->store, &k->work, w->vm->def->name, file);
	return 0;
}

/* ---- after a dump ---- */

static bool is_crash_to_dump(const struct vm *vm)
{
	unsigned how = vm_live(vm)->on_crash;

	return vm->state == VM_PRESERVED &&
		(how == VM_ACTION_COREDUMP_DESTROY || how == VM_ACTION_COREDUMP_RESTART);
}

static bool is_bite_to_dump(const struct vm *vm)
{
	return vm->state == VM_PAUSED && vm->value == VM_WATCHDOG_DUMP && vm->reason == VM_REASON_WATCHDOG;
}

static void reply_ignore(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)a;
	if (r < 0 && r != -ESRCH)
		log_warn("dump", "VM '%s': %s", vm->def->name, e->msg);
}

static void dump_ask(struct vm *vm, enum vm_msg_type type,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque)
{
	vm_process_request(vm->proc, type, NULL, 0, -1, REQUEST_TIMEOUT_NS, done, opaque);
}

/* After a dump by policy, resume the VM or end its process, unless the VM's state has changed meanwhile. */
static void then_do(struct vm *vm, enum dump_then then)
{
	if (!vm->proc || vm_is_stopping(vm))
		return;
	if (then == DUMP_THEN_RESUME && is_bite_to_dump(vm))
		dump_ask(vm, VM_MSG_CONT, reply_ignore, vm);
	if (then == DUMP_THEN_END && vm->state == VM_PRESERVED) {
		vm_set(vm, VM_FACT_CRASH_DUMPED, true);
		dump_ask(vm, VM_MSG_QUIT, reply_ignore, vm);
	}
}

static struct json_object *result_of(const struct work *w, const struct vm_snapshot_done *d)
{
	struct json_object *o = json_object_new_object();

	if (w->path[0])
		js_put_str(o, "path", w->path);
	js_put_uint(o, "pause", d ? d->pause_ns : 0);
	js_put_uint(o, "duration", d ? d->total_ns : 0);
	js_put_uint(o, "written", d ? d->ram_bytes_written : 0);
	job_put_tracking(o, d);
	return o;
}

/* Conclude the job, which frees w. After a dump by policy, then_do() follows even if the dump failed, so that a full
 * disk does not keep the VM from continuing. */
static void work_end(struct work *w, const struct err *e)
{
	struct work was = *w;

	if (e) {
		job_fail(w->job, e);
	} else {
		w->result = NULL;
		job_succeed(w->job, was.result);
	}
	if (was.over)
		was.over(was.opaque, e ? -EREMOTEIO : 0, e);
	then_do(was.vm, was.then);
}

static void dump_stopped(struct vm *vm, void *opaque)
{
	(void)vm;
	work_end(opaque, NULL);
}

static void dump_resumed(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct work *w = opaque;

	reply_ignore(w->vm, r, a, e);
	work_end(w, NULL);
}

static void work_resume_pending(struct work *w)
{
	struct vm *vm = w->vm;
	bool there = vm->proc && !vm_is_stopping(vm);

	if (there && w->then == DUMP_THEN_CRASH) {
		vm_when_gone(vm, dump_stopped, w);
		vm_destroy(vm, NULL);
	} else if (there && w->then == DUMP_THEN_RESET) {
		dump_ask(vm, VM_MSG_RESET, reply_ignore, vm);
		dump_ask(vm, VM_MSG_CONT, dump_resumed, w);
	} else {
		work_end(w, NULL);
	}
}

static void dump_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct work *w = opaque;
	struct vm *vm = w->vm;
	uint64_t all = vm_live(vm)->ram_bytes;
	struct err why;

	if (r < 0)
		why = *e;
	else
		r = core_keep(w, &why);
	if (r < 0 && w->folder >= 0)
		files_remove(w->folder, CORE TMP, "", 0);
	*vm->dump = (struct dump_state){ r < 0 ? DUMP_FAILED : DUMP_COMPLETED, r < 0 ? w->job->done : all, all };
	emit_completed(vm, r < 0 ? "" : w->path, r < 0 ? &why : NULL);
	if (r < 0) {
		work_end(w, &why);
		return;
	}
	w->result = result_of(w, a->snapshot);
	w->job->cancel = NULL;
	work_resume_pending(w);
}

static void work_cancel(struct job *j)
{
	if (j->vm->proc)
		dump_ask(j->vm, VM_MSG_CANCEL, reply_ignore, j->vm);
}

/* ---- starting a dump ---- */

static void work_own(struct work *w)
{
	w->job->opaque = w;
	w->job->release = work_release;
	w->job->cancel = work_cancel;
	*w->vm->dump = (struct dump_state){ DUMP_ACTIVE, 0, vm_live(w->vm)->ram_bytes };
}

/* Start the job and send the request for the dump, into a file of the state folder (fd; borrowed) or of a client (file;
 * NULL: none; taken on success, and then NULL). w: taken. */
static int work_start(struct work *w, int fd, struct client_file **file, const struct job_name *name, struct job **ret_j, struct err *e)
{
	struct vm_dump body = { .stay = w->then == DUMP_THEN_CRASH || w->then == DUMP_THEN_RESET, .then = (uint8_t)w->then };
	size_t len = vm_process_knows(w->vm->proc, VM_KNOWS_DUMP_THEN) ? sizeof(body) : offsetof(struct vm_dump, then);
	int r = job_new_named(w->vm, "dump", name, &w->job, e);

	if (r < 0) {
		if (w->folder >= 0)
			close(w->folder);
		free(w);
		return r;
	}
	work_own(w);
	job_progress(w->job, 0, w->vm->dump->total);
	if (ret_j)
		*ret_j = w->job;
	vm_cgroup_make_room(w->vm);
	if (file)
		vm_process_request_with(w->vm->proc, VM_MSG_DUMP, &body, len, STEAL_PTR(*file), NULL, 0,
			VM_PROCESS_NO_TIMEOUT, dump_done, w);
	else
		vm_process_request(w->vm->proc, VM_MSG_DUMP, &body, len, fd, VM_PROCESS_NO_TIMEOUT, dump_done, w);
	return 0;
}

static struct work *work_new(struct vm *vm, enum dump_then then)
{
	struct work *w = must_alloc(calloc(1, sizeof(*w)));

	w->vm = vm;
	w->then = then;
	w->folder = -1;
	return w;
}

int dump_begin(struct vm *vm, const struct dump_request *q, struct job **ret_j, struct err *e)
{
	struct job_name name = { .id = q->job_id, .qmp_id = "" };
	int r = vm_check_claim(vm, VM_CLAIM_JOB, "dump its memory", e);
	struct work *w;

	if (!r)
		r = outfile_check(*q->file, O_WRONLY, "a dump", e);
	if (!r && !vm->proc)
		r = err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%s' is off: it has no memory to dump", vm->def->name);
	if (r < 0)
		return r;
	w = work_new(vm, q->then);
	snprintf(w->path, sizeof(w->path), "%s", q->path ? q->path : "");
	w->over = q->over;
	w->opaque = q->opaque;
	return work_start(w, -1, q->file, &name, ret_j, e);
}

/* ---- dumps by policy ---- */

static void policy_begin(struct vm *vm, enum dump_then then)
{
	struct job_name name = { .qmp_id = "" };
	struct work *w = work_new(vm, then);
	CLEANUP_CLOSE int fd = -1;
	struct err e;
	int r;

	fd = core_open(w, &e);
	if (fd < 0) {
		work_release(&(struct job){ .opaque = w });
		r = fd;
	} else {
		r = work_start(w, fd, NULL, &name, NULL, &e);
	}
	if (r == 0)
		return;
	log_error("dump", "VM '%s' cannot be dumped: %s", vm->def->name, e.msg);
	*vm->dump = (struct dump_state){ DUMP_FAILED, 0, vm_live(vm)->ram_bytes };
	emit_completed(vm, "", &e);
	then_do(vm, then);
}

static bool job_is_dump(const struct job *j)
{
	return j && !strcmp(j->type, "dump");
}

static void dump_by_policy(struct vm *vm)
{
	bool crashed = is_crash_to_dump(vm);

	if (job_is_dump(vm->operation.job) && is_by_policy(vm->operation.job->opaque)) /* this daemon adopted the dump */
		return;
	vm_set(vm, VM_FACT_DUMP_DUE, false);
	if (!vm->proc || vm_is_stopping(vm) || (!crashed && !is_bite_to_dump(vm)))
		return;
	if (vm->operation.job)
		vm_set(vm, VM_FACT_DUMP_DUE, true);
	else
		policy_begin(vm, crashed ? DUMP_THEN_END : DUMP_THEN_RESUME);
}

/* Start a dump that waited for the VM's job. */
static void dump_job_over(struct vm *vm)
{
	if (vm_has(vm, VM_FACT_DUMP_DUE))
		dump_by_policy(vm);
}

/* ---- dumps of an earlier daemon ---- */

static void adopted_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct work *w = opaque;
	struct err why;

	if (r == -EREMOTEIO && e->cls == ERR_WRONG_STATE) { /* the dump ended before the process had VM_MSG_WORK */
		err_set(&why, -EIO, ERR_GENERIC, "the daemon ended while the job was under way, so its result is unknown. Next: "
			"cairn dump %s FILE", shell_word(w->vm->def->name).s);
		e = &why;
		if (is_by_policy(w)) { /* dump again */
			w->then = DUMP_THEN_NOTHING;
			vm_set(w->vm, VM_FACT_DUMP_DUE, true);
		}
	}
	dump_done(w, r, a, e);
}

/* The VM's process continues a dump when its daemon ends. */
static void dump_adopt(struct vm *vm, const struct vm_info *info)
{
	struct work *w;
	struct job *j;
	struct err e;

	if (info->work != VM_MSG_DUMP || job_adopt(vm, "dump", &j, &e) < 0)
		return;
	w = work_new(vm, info->work_then < DUMP_THEN_COUNT ? info->work_then : DUMP_THEN_NOTHING);
	w->job = j;
	work_own(w);
	if (is_by_policy(w))
		core_find(w);
	log_info("dump", "VM '%s': its process continues the dump of %s", vm->def->name, j->id);
	vm_process_request(vm->proc, VM_MSG_WORK, NULL, 0, -1, VM_PROCESS_NO_TIMEOUT, adopted_answered, w);
}

static void dump_added(struct vm *vm)
{
	vm->dump = must_alloc(calloc(1, sizeof(*vm->dump)));
}

static void dump_removed(struct vm *vm)
{
	free(vm->dump);
}

const struct vm_observer dump_observer = { .added = dump_added, .removed = dump_removed, .phase_known = dump_by_policy,
	.dump_due = dump_job_over, .adopted = dump_adopt };
