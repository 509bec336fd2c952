#include "api/jobs/save.h"
#include "api/definition/definition.h"
#include "api/jobs/job.h"
#include "api/jobs/job_owner.h"
#include "api/jobs/job_recover.h"
#include "api/jobs/outfile.h"
#include "api/jobs/restart_process.h"
#include "api/schema/call.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CANCEL_TIMEOUT_NS (10 * 1000000000ULL)

/* One wait of a managed save's job for the store. There are two: until state.json says how the VM continues after the
 * save (managed_begin()), and until the saved state's file has its final name (managed_stored()). The VM, and with it
 * the job, may end meanwhile. */
struct save_wait {
	struct store_work work;
	struct job *job; /* NULL: concluded */
	int fd, definition; /* first wait: SAVE_MANAGED_TMP and the definition's file; owned. -1: none */
	struct vm_save_devices devices; /* of the definition */
	struct call *call; /* answered after the first wait; NULL: none */
	char id[JOB_ID_MAX + 1];
};

/* ---- saving a VM ---- */

/* Write the definition with which the VM runs into a memfd. The VM's process adds it to the saved state, so that the
 * state can be restored without the VM's definition. ret_devices: its
 * disks and interfaces. */
static int definition_open(const struct vm *vm, int *ret_fd, struct vm_save_devices *ret_devices, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(vm_live(vm));
	const char *text = json_object_to_json_string_ext(o,
		JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	CLEANUP_CLOSE int fd = memfd_create("definition", MFD_CLOEXEC);
	int r = fd < 0 ? -errno : write_full(fd, text, strlen(text));

	if (!r && lseek(fd, 0, SEEK_SET) < 0)
		r = -errno;
	if (r < 0)
		return err_set_errno(e, r, "cannot pass the definition to the VM's process");
	*ret_fd = steal_fd(&fd);
	*ret_devices = (struct vm_save_devices){ .ndisks = vm_live(vm)->ndisks, .ninterfaces = vm_live(vm)->ninterfaces };
	for (unsigned i = 0; i < ret_devices->ndisks; i++)
		memcpy(ret_devices->disks[i], vm_live(vm)->disks[i].id, sizeof(ret_devices->disks[i]));
	for (unsigned i = 0; i < ret_devices->ninterfaces; i++)
		memcpy(ret_devices->interfaces[i], vm_live(vm)->interfaces[i].id, sizeof(ret_devices->interfaces[i]));
	return 0;
}

/* Return the length of the request's body. */
static size_t devices_bytes(const struct vm *vm)
{
	if (vm_process_knows(vm->proc, VM_KNOWS_SAVE_INTERFACES))
		return sizeof(struct vm_save_devices);
	return vm_process_knows(vm->proc, VM_KNOWS_SAVE_DISKS) ? offsetof(struct vm_save_devices, interfaces) : 0;
}

static void tmp_remove(struct vm *vm)
{
	struct err e;

	if (store_remove_file(vm->host->store, vm->def->name, SAVE_MANAGED_TMP, STORE_EVENTUALLY, NULL, &e) < 0)
		log_warn("save", "VM '%s': %s", vm->def->name, e.msg);
}

static void save_finish(struct vm *vm, const struct err *e)
{
	tmp_remove(vm);
	restart_process_clear(vm);
	job_fail(vm->operation.job, e);
}

/* Handle the answer to VM_MSG_SAVE: on an error, fail the job. Success is only reported when the process has ended
 * (save_gone(), managed_stored()), because it holds the disks until then. */
static void save_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)a;
	if (r < 0 && vm_is_saving(vm))
		save_finish(vm, e);
}

static void cancel_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)a;
	if (r < 0 && r != -ESRCH)
		log_info("save", "VM '%s': cannot cancel the save: %s", vm->def->name, e->msg);
}

static void save_cancel(struct job *j)
{
	if (j->vm->proc && !j->opaque)
		vm_process_request(j->vm->proc, VM_MSG_CANCEL, NULL, 0, -1, CANCEL_TIMEOUT_NS,
			cancel_done, j->vm);
}

/* Ask the VM's process to save into a file of the state folder. fds: the file for the state, and the definition's file;
 * borrowed. */
static void save_ask(struct vm *vm, const struct vm_save_devices *devices, const int fds[2])
{
	vm_cgroup_make_room(vm);
	vm_process_request_fds(vm->proc, VM_MSG_SAVE, devices, devices_bytes(vm), fds, 2, VM_PROCESS_NO_TIMEOUT, save_done, vm);
}

static int save_job(struct vm *vm, const char *type, const char *job_id, struct job **ret_j, struct err *e)
{
	int r = job_new(vm, type, job_id, ret_j, e);

	if (r < 0)
		return r;
	(*ret_j)->cancel = save_cancel;
	return 0;
}

static void wait_release(struct job *j)
{
	struct save_wait *w = j->opaque;

	w->job = NULL;
}

static struct save_wait *wait_new(struct job *j, void (*done)(struct store_work *w))
{
	struct save_wait *w = must_alloc(calloc(1, sizeof(*w)));

	*w = (struct save_wait){ .work = { .done = done, .loop = j->host->loop }, .job = j, .fd = -1, .definition = -1 };
	memcpy(w->id, j->id, sizeof(w->id));
	j->opaque = w;
	j->release = wait_release;
	return w;
}

/* Free the wait. Returns its job; NULL if the job has concluded. */
static struct job *wait_free(struct save_wait *w)
{
	struct job *j = w->job;

	if (j) {
		j->opaque = NULL;
		j->release = NULL;
	}
	if (w->fd >= 0)
		close(w->fd);
	if (w->definition >= 0)
		close(w->definition);
	free(w);
	return j;
}

int save_to_file(struct vm *vm, struct client_file **file, const char *job_id, struct job **ret_j, struct err *e)
{
	CLEANUP_CLOSE int definition = -1;
	struct vm_save_devices devices;
	int r = vm_check_claim(vm, VM_CLAIM_JOB, "save it", e);

	if (!r && vm_has(vm, VM_FACT_EPHEMERAL))
		r = err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "VM '%.200s' is ephemeral: its disks, which the state needs, are removed when it ends; use "
			"cairn managedsave, or make it persistent with cairn define", vm->def->name);
	if (!r)
		r = outfile_check(*file, O_RDWR, "the state", e);
	if (!r)
		r = definition_open(vm, &definition, &devices, e);
	if (r < 0)
		return r;
	tmp_remove(vm); /* left by a managed save that failed while no daemon ran */
	r = save_job(vm, "save", job_id, ret_j, e);
	if (r < 0)
		return r;
	vm_cgroup_make_room(vm);
	vm_process_request_with(vm->proc, VM_MSG_SAVE, &devices, devices_bytes(vm), STEAL_PTR(*file), &definition, 1, VM_PROCESS_NO_TIMEOUT, save_done,
		vm);
	return 0;
}

/* Answer the call, if there is one, with the job's id. If the job continues, the request to save was sent before, so
 * the save continues even if this daemon ends. */
static void begin_answer(const struct save_wait *w)
{
	struct json_object *o;

	if (!w->call)
		return;
	o = json_object_new_object();
	js_put_str(o, "job", w->id);
	call_return(w->call, o);
}

static void managed_begin(struct store_work *work)
{
	struct save_wait *w = container_of(work, struct save_wait, work);
	struct vm *vm = w->job && vm_is_saving(w->job->vm) ? w->job->vm : NULL;
	bool cancelled = vm && w->job->cancelling;
	struct err e;

	if (vm && vm->proc && !cancelled)
		save_ask(vm, &w->devices, (const int[]){ w->fd, w->definition });
	begin_answer(w);
	wait_free(w);
	if (cancelled) {
		err_set(&e, -ECANCELED, ERR_CANCELLED, "the save was cancelled");
		save_finish(vm, &e);
	}
}

static int managed_files(struct vm *vm, int *ret_fd, int *ret_definition, struct vm_save_devices *ret_devices, struct err *e)
{
	const char *other = vm_disks_are_pending(vm) ? "disk" : vm_has_other_interfaces(vm) ? "interface" : NULL;
	int r;

	if (other)
		return vm_refuse_other(vm, other, "so that start could not resume the saved state: use cairn save, or", e);
	r = definition_open(vm, ret_definition, ret_devices, e);
	if (r < 0)
		return r;
	tmp_remove(vm); /* use a new file: a process may still write to the old one */
	*ret_fd = store_open_file(vm->host->store, vm->def->name, SAVE_MANAGED_TMP, O_RDWR | O_CREAT, e);
	return *ret_fd < 0 ? *ret_fd : 0;
}

/* Begin the save after state.json is stored. fd, definition: taken. */
static void managed_save(struct job *j, int fd, int definition, const struct vm_save_devices *devices, struct call *call)
{
	struct save_wait *w = wait_new(j, managed_begin);

	/* The save may continue after this daemon's end, so state.json must record how the VM continues afterwards. */
	vm_save(j->vm);
	w->fd = fd;
	w->definition = definition;
	w->devices = *devices;
	w->call = call;
	store_after(j->host->store, &w->work);
}

int save_managed(struct vm *vm, enum save_then then, const char *job_id, struct call *call,
	struct job **ret_j, struct err *e)
{
	CLEANUP_CLOSE int fd = -1;
	CLEANUP_CLOSE int definition = -1;
	struct vm_save_devices devices;
	int r = vm_check_claim(vm, VM_CLAIM_JOB, "save it", e);

	if (!r)
		r = managed_files(vm, &fd, &definition, &devices, e);
	if (!r)
		r = save_job(vm, "managed-save", job_id, ret_j, e);
	if (r < 0)
		return r;
	vm_set(vm, VM_FACT_SAVED_PAUSED, then == SAVE_THEN_PAUSED || (then != SAVE_THEN_RUNNING && vm->state == VM_PAUSED));
	vm_set(vm, VM_FACT_CONTINUES, false);
	if (call)
		job_owner_set(*ret_j, call);
	managed_save(*ret_j, steal_fd(&fd), steal_fd(&definition), &devices, call);
	return 0;
}

int save_managed_for(struct job *j, struct call *call, struct err *e)
{
	struct vm *vm = j->vm;
	struct vm_save_devices devices;
	int fd = -1, definition = -1, r = managed_files(vm, &fd, &definition, &devices, e);

	if (r < 0) {
		if (definition >= 0)
			close(definition);
		return r;
	}
	vm->operation.kind = VM_OP_SAVE;
	j->cancel = save_cancel;
	vm_set(vm, VM_FACT_SAVED_PAUSED, vm->state == VM_PAUSED);
	vm_set(vm, VM_FACT_CONTINUES, true);
	managed_save(j, fd, definition, &devices, call);
	return 0;
}

int save_drop_managed(struct vm *vm, struct store_work *w, struct err *e)
{
	int r = store_remove_file(vm->host->store, vm->def->name, SAVE_MANAGED, STORE_WITH_WORK, w, e);

	if (!r)
		vm_operation_begin(vm, &(struct vm_operation){ .kind = VM_OP_DROP_SAVED });
	return r;
}

void save_dropped(struct vm *vm, int r)
{
	vm_operation_end(vm);
	if (r < 0)
		return;
	vm_set(vm, VM_FACT_SAVED_PAUSED, false);
	vm_move(vm, VM_ASK_DROP_SAVED, VM_REASON_SAVE_DROPPED, NULL, 0);
}

/* ---- the end of a save ---- */

/* Handle the end of the renaming to SAVE_MANAGED, which is on stable storage or has failed: conclude the job, or start
 * the VM for restart-process. Then let a client's start continue, which had to wait for the renaming. */
static void managed_stored(struct store_work *work)
{
	struct save_wait *w = container_of(work, struct save_wait, work);
	struct err e = work->e;
	int r = work->r;
	struct job *j = wait_free(w);
	struct vm *vm = j ? j->vm : NULL;

	if (!j)
		return;
	vm->operation.kind = VM_OP_JOB; /* until the job has concluded */
	vm_notify(vm, save_over, r < 0 ? e.msg : "saved");
	if (r < 0) {
		restart_process_clear(vm);
		job_fail(j, &e);
	} else if (vm_has(vm, VM_FACT_CONTINUES)) {
		restart_process_saved(vm);
	} else {
		job_succeed(j, NULL);
	}
	vm_start_resume(vm);
}

static void save_ended(struct vm *vm)
{
	struct store *s = vm->host->store;
	struct save_wait *w = NULL;
	struct err e;
	int r;

	if (!store_has_file(s, vm->def->name, SAVE_MANAGED_TMP)) {
		vm_move(vm, VM_SAW_ENDED, VM_REASON_SAVED, NULL, 0);
		return;
	}
	/* If the job still has its struct save_wait, the daemon has not requested the save yet, and the process reports
	 * a save that this job did not request. */
	if (vm_is_saving(vm) && !vm->operation.job->opaque)
		w = wait_new(vm->operation.job, managed_stored);
	if (w)
		r = store_rename_file(s, vm->def->name, SAVE_MANAGED_TMP, SAVE_MANAGED, STORE_WITH_WORK, &w->work, &e);
	else
		r = store_rename_file(s, vm->def->name, SAVE_MANAGED_TMP, SAVE_MANAGED, STORE_SOON, NULL, &e);
	if (r < 0 && w)
		wait_free(w);
	else if (w)
		vm->operation.kind = VM_OP_SAVE_KEPT;
	vm_move(vm, r < 0 ? VM_SAW_ENDED : VM_SAW_SAVED, VM_REASON_SAVED, r < 0 ? e.msg : NULL, 0);
}

/* No process of the VM runs, and this daemon has not saved it. */
static void lost_save_end(struct vm *vm)
{
	tmp_remove(vm); /* of a save in which an earlier daemon was killed */
	if (vm->reason == VM_REASON_SAVED)
		job_lost_succeeded(vm, vm->state == VM_SAVED ? "managed-save" : "save");
}

static void save_gone(struct vm *vm)
{
	struct err e;

	if (!vm_is_saving(vm))
		lost_save_end(vm);
	if (!vm_is_saving(vm) || vm->operation.kind == VM_OP_SAVE_KEPT)
		return;
	if (vm->reason == VM_REASON_SAVED && !vm_has(vm, VM_FACT_CONTINUES)) {
		job_succeed(vm->operation.job, NULL);
		return;
	}
	err_set(&e, -ESRCH, ERR_GENERIC, "the VM ended before the save was complete: %s (%s)",
		vm_state_name(vm->state), vm_reason_name(vm->reason));
	save_finish(vm, &e);
}

/* ---- recovery by the next daemon ---- */

static void save_taken_back(struct vm *vm, const struct vm_info *info)
{
	bool saving = info->phase == VM_PHASE_PAUSED && info->reason == VM_REASON_SAVING;
	struct store *s = vm->host->store;
	bool managed = store_has_file(s, vm->def->name, SAVE_MANAGED_TMP);
	bool stale = store_has_file(s, vm->def->name, SAVE_MANAGED_USED) ||
		store_has_file(s, vm->def->name, SAVE_MANAGED);
	struct job *j = NULL;
	struct err e;

	/* The VM runs, so its managed save is stale. */
	if (store_remove_file(s, vm->def->name, SAVE_MANAGED_USED, STORE_EVENTUALLY, NULL, &e) < 0 ||
		store_remove_file(s, vm->def->name, SAVE_MANAGED, STORE_EVENTUALLY, NULL, &e) < 0)
		log_error("save", "VM '%s': %s", vm->def->name, e.msg);
	if (stale)
		vm_save(vm); /* vm_save() also syncs the VM's folder */
	if (saving && job_adopt(vm, !managed ? "save" :
			vm_has(vm, VM_FACT_CONTINUES) ? "restart-process" : "managed-save", &j, &e) == 0) {
		j->cancel = save_cancel;
		vm->operation.kind = VM_OP_SAVE_ADOPTED;
	}
}

static void save_runs_on(struct vm *vm, const struct vm_event *ev)
{
	struct err e;

	if (vm_is_saving(vm) && ev->phase == VM_PHASE_PAUSED && ev->reason == VM_REASON_SAVING)
		vm->operation.stopped_ns = loop_now_ns();
	if (vm->operation.kind != VM_OP_SAVE_ADOPTED || ev->phase == VM_PHASE_CRASHED ||
		(ev->phase == VM_PHASE_PAUSED && ev->reason == VM_REASON_SAVING))
		return;
	err_set(&e, -EIO, ERR_GENERIC, "the VM was not saved; its log has the reason, see cairn log %s", shell_word(vm->def->name).s);
	save_finish(vm, &e);
}

static void save_not_used(struct vm *vm)
{
	struct store *s = vm->host->store;
	struct err e;

	if (store_has_file(s, vm->def->name, SAVE_MANAGED_USED) &&
		!store_has_file(s, vm->def->name, SAVE_MANAGED) &&
		store_rename_file(s, vm->def->name, SAVE_MANAGED_USED, SAVE_MANAGED, STORE_SOON, NULL, &e) < 0)
		log_error("save", "VM '%s': %s", vm->def->name, e.msg);
}

static void save_found_off(struct vm *vm)
{
	struct store *s = vm->host->store;
	bool saved;

	/* The save was renamed for a start, but state.json records no run after that: the start did not use the save.
	 * After a boot of the host, this is not certain. */
	if (vm->state == VM_SAVED && !vm_has(vm, VM_FACT_RUN_MISSED) && !vm->host->new_boot)
		save_not_used(vm);
	saved = store_has_file(s, vm->def->name, SAVE_MANAGED);
	if (store_has_file(s, vm->def->name, SAVE_MANAGED_USED))
		log_warn("save", "VM '%s': a start used its managed save, but no daemon saw the end of that run. The "
			"next start does not use the save. It is kept as %s in the VM's folder; if the VM has not run "
			"since, cairn restore can start from it",
			vm->def->name, SAVE_MANAGED_USED);
	if (saved && vm->state != VM_SAVED)
		vm_move(vm, VM_SAW_SAVED, VM_REASON_SAVED, NULL, 0);
	else if (!saved && vm->state == VM_SAVED)
		vm_move(vm, VM_ASK_DROP_SAVED, VM_REASON_SAVE_GONE, NULL, 0);
	lost_save_end(vm);
}

const struct vm_observer save_observer = { .phase_seen = save_runs_on, .process_saved = save_ended, .run_ended = save_gone,
	.adopted = save_taken_back, .start_lost = save_not_used, .found_off = save_found_off };
