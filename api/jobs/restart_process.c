#include "api/jobs/restart_process.h"
#include "api/definition/definition.h"
#include "api/jobs/job.h"
#include "api/jobs/job_owner.h"
#include "api/jobs/job_recover.h"
#include "api/jobs/save.h"
#include "api/schema/call.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_handover.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/shell_word.h"

#include <errno.h>

#define CANCEL_TIMEOUT_NS (10 * 1000000000ULL)

static struct json_object *result_new(const char *way, uint64_t pause_ns)
{
	struct json_object *result = json_object_new_object();

	js_put_str(result, "way", way);
	if (pause_ns)
		js_put_uint(result, "pause", pause_ns);
	return result;
}

/* ---- by handing the VM over ---- */

static void call_answer(struct job *j)
{
	struct call *call = j->opaque;

	j->opaque = NULL;
	if (call)
		call_return_job(call, j);
}

static void handover_asked(void *opaque)
{
	call_answer(opaque);
}

/* Save and start the VM, because it cannot be handed over. why: the reason, which the job's result reports; kept in
 * j->e. */
static void save_instead(struct job *j, const struct err *why)
{
	struct call *call = j->opaque;
	struct err e;

	j->opaque = NULL;
	j->e = *why;
	if (save_managed_for(j, call, &e) == 0)
		return;
	if (call)
		call_return_job(call, j);
	job_fail(j, &e);
}

static void handover_done(void *opaque, int r, const struct vm_info *info, const struct err *e)
{
	struct job *j = opaque;
	struct json_object *result;

	if (r == -ENOTSUP) {
		save_instead(j, e);
		return;
	}
	call_answer(j);
	if (r < 0) {
		job_fail(j, e);
		return;
	}
	result = result_new("handover", info->handover_pause_ns);
	job_put_rounds(result, info->handover_rounds, info->handover_throttle, info->handover_stopped);
	job_succeed(j, result);
}

static void cancel_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)a;
	/* The VM's process has begun no handover before the request. */
	if (r == -EREMOTEIO && !vm_handover_cancel(opaque))
		log_info("restart-process", "cannot cancel the handover: %s", e->msg);
}

static void handover_cancel(struct job *j)
{
	if (j->vm->proc)
		vm_process_request(j->vm->proc, VM_MSG_CANCEL, NULL, 0, -1, CANCEL_TIMEOUT_NS, cancel_answered, j->vm);
}

int restart_process(struct vm *vm, const char *job_id, struct call *call, struct err *e)
{
	static const struct vm_handover_ops ops = { handover_asked, handover_done };
	struct job *j;
	int r;

	if (vm_machine_is_pending(vm))
		return err_set(e, -EBUSY, ERR_WRONG_STATE,
			"VM '%s' was redefined while it runs, and a new process would take the new definition; shut the VM "
			"down and start it", vm->def->name);
	r = job_new(vm, "restart-process", job_id, &j, e);
	if (r < 0)
		return r;
	vm->operation.kind = VM_OP_JOB; /* job_new() has set VM_OP_SAVE, but the job begins with a handover */
	j->cancel = handover_cancel;
	j->opaque = call;
	if (call)
		job_owner_set(j, call);
	vm_hand_over(vm, &ops, j);
	return 0;
}

/* ---- by a save and a start ---- */

void restart_process_clear(struct vm *vm)
{
	if (!vm_has(vm, VM_FACT_CONTINUES))
		return;
	vm_set(vm, VM_FACT_CONTINUES, false);
	vm_save(vm);
}

static void restart_done(void *opaque, int r, const struct err *e)
{
	struct vm *vm = opaque;
	struct json_object *result;
	uint64_t stopped_ns = vm->operation.stopped_ns;
	struct err err;

	restart_process_clear(vm);
	if (r < 0) {
		err_set(&err, r, e->cls, "%.280s; the VM is saved; start it with: cairn start %s", e->msg, shell_word(vm->def->name).s);
		job_fail(vm->operation.job, &err);
		return;
	}
	result = result_new("save", stopped_ns && vm->state == VM_RUNNING ? loop_now_ns() - stopped_ns : 0);
	if (vm->operation.job->e.msg[0])
		js_put_str(result, "why", vm->operation.job->e.msg);
	job_succeed(vm->operation.job, result);
}

void restart_process_saved(struct vm *vm)
{
	struct vm_start_opts opts = { .state_fd = -1, .by_job = true, .done = restart_done, .opaque = vm };

	if (vm_is_starting(vm)) { /* a client's start waits for the save */
		restart_process_clear(vm);
		job_succeed(vm->operation.job, NULL);
		return;
	}
	vm->operation.job->cancel = NULL;
	if (vm->host->server) /* NULL: this daemon still loads the VMs; restart_process_resume() follows */
		vm_start(vm, &opts);
}

/* ---- a job that an earlier daemon began ---- */

static bool is_due(const struct vm *vm)
{
	return vm_has(vm, VM_FACT_CONTINUES) && vm->state == VM_SAVED;
}

/* Make the earlier daemon's job the VM's owner again, so that the job keeps its id. restart_process_resume() starts the
 * VM later. */
static void restart_take_back(struct vm *vm)
{
	struct job *j;
	struct err e;

	/* After a boot of the host, autostart decides which VMs run. */
	if (!is_due(vm) || vm->host->new_boot || job_adopt(vm, "restart-process", &j, &e) < 0)
		restart_process_clear(vm);
	else
		vm->operation.kind = VM_OP_JOB;
}

void restart_process_resume(struct vm *vm)
{
	/* A start that has failed is answered later (vm_start_over()), and then the job fails. */
	if (is_due(vm) && !vm->proc && vm->operation.kind == VM_OP_JOB && !vm_is_starting(vm))
		restart_process_saved(vm);
}

static void restart_adopted(struct vm *vm, const struct vm_info *info)
{
	(void)info;
	/* If no save is under way, the save has failed, or the VM already runs in its new process: the job is over. */
	if (vm->operation.kind != VM_OP_SAVE_ADOPTED)
		restart_process_clear(vm);
}

static void restart_run_over(struct vm *vm, bool was_active, bool rebooting)
{
	(void)was_active;
	(void)rebooting;
	if (is_due(vm) && !vm->operation.kind)
		restart_take_back(vm); /* the adopted process ended without an answer */
	restart_process_resume(vm);
}

const struct vm_observer restart_process_observer = { .run_over = restart_run_over, .adopted = restart_adopted,
	.start_lost = restart_take_back, .found_off = restart_take_back };
