#include "api/vm/vm_handover.h"
#include "api/store/store.h"
#include "api/vm/consoles.h"
#include "api/vm/disk_change.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_interface.h"
#include "api/vm/vm_life.h"
#include "api/vm/vm_log.h"
#include "api/vm/vm_uid.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define QUERY_TIMEOUT_NS (10 * 1000000000ULL)
#define QUIT_TIMEOUT_NS (5 * 1000000000ULL)

struct vm_handover {
	struct vm_process *successor; /* the new process; NULL: not started yet, ended, or it is vm->proc now */
	int pair; /* while the new process is spawned: the end of its socket pair for the VM's process; owned. -1: none */
	const struct vm_handover_ops *ops;
	void *opaque;
};

static void handover_end(struct vm *vm, int r, const struct vm_info *info, const struct err *e)
{
	struct vm_handover h = *vm->handover;

	free(vm->handover);
	vm->handover = NULL;
	if (h.pair >= 0)
		close(h.pair);
	if (h.successor) {
		/* The successor ends by itself when the VM's process closes the socket pair. Kill it nevertheless: the
		 * VM's process may not have received the request. */
		vm_process_kill(h.successor);
		vm_process_detach(h.successor);
	}
	h.ops->done(h.opaque, r, info, e);
}

/* ---- the successor ---- */

/* Free the successor, which has ended before the daemon learned that the VM was handed over. If the VM's process still
 * has the VM, it notices that the socket pair is closed, and reports the failure. */
static void successor_gone(void *opaque, const struct vm_process_end *end)
{
	struct vm *vm = opaque;

	(void)end;
	vm_process_free(vm->handover->successor);
	vm->handover->successor = NULL;
}

static void successor_spawned(void *opaque, int r, const struct err *e);

static const struct vm_process_ops successor_ops = { .spawned = successor_spawned, .gone = successor_gone };

static int successor_start(struct vm *vm, struct err *e)
{
	struct vm_host *host = vm->host;
	CLEANUP_CLOSE int log_fd = vm_log_open(vm, e);
	CLEANUP_CLOSE int end_fd = log_fd < 0 ? -1 : store_open_file(host->store, vm->def->name, "end", O_RDWR, e);
	struct vm_process_paths p = { .program = host->paths->vm_program, .closer = host->closer, .sandbox = host->sandbox,
		.run_dir = host->run_dir_fd, .name = vm->def->name, .log_fd = log_fd, .end_fd = end_fd };

	int r;

	if (log_fd < 0 || end_fd < 0)
		return log_fd < 0 ? log_fd : end_fd;
	r = vm_uid_choose(vm, e);
	p.uid = vm->uid;
	vm_cgroup_place(vm, false, true, &p.place);
	return r ? r :
		vm_process_start_successor(host->loop, &p, &successor_ops, vm, &vm->handover->successor, &vm->handover->pair, e);
}

/* ---- the request ---- */

static void handover_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)a;
	/* On success the process ends without an answer, and vm_handover_follow() continues. */
	if (!vm->handover || !r || r == -ESRCH)
		return;
	handover_end(vm, r == -EREMOTEIO && e->cls == ERR_UNSUPPORTED ? -ENOTSUP : -EREMOTEIO, NULL, e);
}

static int handover_ask(struct vm *vm, struct err *e)
{
	CLEANUP_CLOSE int state = memfd_create("state", MFD_CLOEXEC);
	CLEANUP_CLOSE int pair = steal_fd(&vm->handover->pair);

	if (state < 0)
		return err_set_errno(e, -errno, "cannot create a file in memory for the VM's state");
	vm_process_request_fds(vm->proc, VM_MSG_HANDOVER, NULL, 0, (const int[]){ pair, state }, 2, VM_PROCESS_NO_TIMEOUT,
		handover_answered, vm);
	vm->handover->ops->asked(vm->handover->opaque);
	return 0;
}

/* Only now is the VM's process asked: it pauses the VM, and must not wait for a program that the host still loads. */
static void successor_spawned(void *opaque, int r, const struct err *e)
{
	struct vm *vm = opaque;
	struct err own;

	if (!r) {
		r = handover_ask(vm, &own);
		e = &own;
	}
	if (r < 0)
		handover_end(vm, r, NULL, e);
}

static void handover_queried(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;
	struct err own;

	if (!vm->handover || r == -ESRCH)
		return; /* life_ended() follows */
	if (!r && (!a->info->hands_over || vm_compat_is_old(vm))) {
		r = err_set(&own, -ENOTSUP, ERR_UNSUPPORTED, "an older version of Cairn started the VM's process");
		e = &own;
	}
	if (!r) {
		r = successor_start(vm, &own);
		e = &own;
	}
	if (r < 0)
		handover_end(vm, r, NULL, e);
}

bool vm_handover_cancel(struct vm *vm)
{
	struct err e;

	if (!vm->handover || vm->handover->pair < 0)
		return false;
	err_set(&e, -ECANCELED, ERR_CANCELLED, "the restart was cancelled");
	handover_end(vm, -ECANCELED, NULL, &e);
	return true;
}

void vm_hand_over(struct vm *vm, const struct vm_handover_ops *ops, void *opaque)
{
	vm->handover = must_alloc(calloc(1, sizeof(*vm->handover)));
	*vm->handover = (struct vm_handover){ NULL, -1, ops, opaque };
	vm_process_request(vm->proc, VM_MSG_QUERY, NULL, 0, -1, QUERY_TIMEOUT_NS, handover_queried, vm);
}

/* ---- the end of the old process ---- */

/* Repeat the request of vm_destroy() to the new process, because the old process has not carried it out. */
static void quit_again(struct vm *vm)
{
	vm_process_kill_after(vm->proc, QUIT_TIMEOUT_NS);
	vm_process_request(vm->proc, VM_MSG_QUIT, NULL, 0, -1, VM_PROCESS_NO_TIMEOUT, NULL, NULL);
}

static void followed(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	if (r == -ESRCH)
		return; /* the new process has ended, too; life_ended() follows */
	if (r < 0) {
		log_warn("state", "VM '%s': the process that took the VM over does not answer: %s", vm->def->name, e->msg);
	} else {
		struct vm_info info = *a->info;

		disk_change_compare(vm, &info);
		vm_interfaces_compare(vm, &info);
		vm_report_phase(vm, &info);
		log_info("state", "VM '%s' continues in process %d", vm->def->name, (int)vm_process_pid(vm->proc));
	}
	if (vm_is_stopping(vm))
		quit_again(vm);
	consoles_handed_over(vm);
	if (vm->handover)
		handover_end(vm, r, r < 0 ? NULL : a->info, e);
}

bool vm_handover_follow(struct vm *vm, const struct vm_process_end *end)
{
	struct vm_process_paths p = { .closer = vm->host->closer, .run_dir = vm->host->run_dir_fd, .name = vm->def->name, .log_fd = -1, .end_fd = -1,
		.owns_hash = vm_has(vm, VM_FACT_OWNS_HASH) };
	struct vm_process *old = vm->proc, *next = vm->handover ? vm->handover->successor : NULL;
	CLEANUP_CLOSE int end_fd = -1;
	struct err e;
	int r;

	if (!(vm_has(vm, VM_FACT_HANDS_OVER) || end->unanswered || end->replaced) || end->said || end->protocol)
		return false;
	if (vm->handover && vm->handover->pair >= 0)
		return false; /* the process was not asked yet */
	vm_set(vm, VM_FACT_HANDS_OVER, false); /* do this only once for each handover */
	if (next && end->signaled) {
		/* It is not known whether the VM was handed over before the signal: kill the new process, and wait for
		 * its end. */
		vm_process_kill(next);
		r = 0;
	} else if (next) {
		r = vm_process_connect(next, &p, followed, vm, &e);
	} else {
		end_fd = store_open_file(vm->host->store, vm->def->name, "end", O_RDONLY, &e);
		p.end_fd = end_fd;
		/* A new daemon's query that has no answer is passed on below, with its own function. */
		r = vm_process_adopt(vm->host->loop, &p, &vm_life_ops, vm, end->unanswered ? NULL : followed, vm, &next, &e);
	}
	if (r < 0)
		return false;
	if (vm->handover)
		vm->handover->successor = NULL;
	vm->proc = next;
	vm_process_set_ops(next, &vm_life_ops, vm);
	if (!end->signaled)
		vm_process_pass_requests(old, next);
	if (end->unanswered && vm_is_stopping(vm))
		quit_again(vm);
	return true;
}

void vm_handover_abandon(struct vm *vm)
{
	struct err e;

	vm_set(vm, VM_FACT_HANDS_OVER, false);
	if (!vm->handover)
		return;
	err_set(&e, -ESRCH, ERR_GENERIC, "the VM ended before its new process ran: %s (%s)", vm_state_name(vm->state), vm_reason_name(vm->reason));
	handover_end(vm, -ESRCH, NULL, &e);
}
