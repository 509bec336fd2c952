#include "api/vm/vm_ahead.h"
#include "api/access/open_as.h"
#include "api/definition/vm_config.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_gone.h"
#include "api/vm/vm_answer.h"
#include "api/vm/vm_log.h"
#include "api/vm/vm_process.h"
#include "api/vm/vm_socket.h"
#include "api/vm/vm_spare.h"
#include "api/vm/vm_uid.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

/* A spare that has not answered by then hangs. */
#define ANSWER_NS (500 * 1000000ULL)

/* state.json is written in the background. Before the process starts, the number of the run is written to the file
 * "end". If a daemon finds a higher number there than in state.json, state.json does not know of the last start. */
static int run_note(struct vm *vm, int end_fd, struct err *e)
{
	/* The zeros before it are written, too: the process maps the event (vmm/kvm/end_file.h), and a hole could find
	 * the file system full. */
	struct {
		uint8_t event[VM_END_RAN];
		uint64_t ran, run, version, before;
	} note = { .ran = VM_RAN_NOT, .run = vm->run + 1, .version = VM_MSG_VERSION, .before = vm->state == VM_SAVED ?
		VM_BEFORE_SAVED : vm->state == VM_CRASHED ? VM_BEFORE_CRASHED : VM_BEFORE_SHUT_OFF };
	int r = pwrite_full(end_fd, &note, sizeof(note), 0);

	_Static_assert(offsetof(typeof(note), run) == VM_END_RUN && offsetof(typeof(note), version) == VM_END_VERSION &&
		offsetof(typeof(note), before) == VM_END_BEFORE, "where they are read");
	if (r < 0)
		return err_set_errno(e, r, "cannot record the start of VM '%s' in its file \"end\", so the VM "
			"was not started", vm->def->name);
	vm->run = note.run;
	return 0;
}

static void wait_end(struct start_process *s)
{
	loop_unwatch(STEAL_PTR(s->watch));
	loop_timer_free(STEAL_PTR(s->timer));
	s->ready = NULL;
}

void start_process_free(struct start_process *s)
{
	if (!s)
		return;
	wait_end(s);
	vm_process_free(s->proc);
	if (s->log_fd >= 0)
		close(s->log_fd);
	if (s->end_fd >= 0)
		close(s->end_fd);
	if (s->spare_fd >= 0)
		close(s->spare_fd);
	free(s);
}

/* Let the VM's spare become the process. Returns false if there is none, or on errors: then spawn one. */
static bool spare_use(struct vm *vm, const struct vm_process_paths *p, const struct vm_process_ops *ops, struct start_process *s)
{
	struct vm_host *host = vm->host;
	struct vm_spare_process spare;
	struct err e;
	int r;

	if (!vm_spare_take(vm, &spare))
		return false;
	r = vm_cgroup_enter(&p->place, &e);
	if (!r)
		r = vm_process_start_spare(host->loop, p, &spare, ops, vm, &s->proc, &e);
	if (r < 0) {
		log_info("spare", "VM '%s' gets a new process instead of the one made ahead: %s", vm->def->name, e.msg);
		vm_spare_process_end(host, &spare);
		return false;
	}
	vm->uid = spare.uid;
	s->spare_fd = spare.sock;
	return true;
}

/* ahead: a spare may become the process. */
static int process_begin(struct vm *vm, bool limits_memory, bool ahead, const struct vm_process_ops *ops, struct start_process **ret,
	struct err *e)
{
	struct vm_host *host = vm->host;
	struct vm_process_paths p = { .program = host->paths->vm_program, .closer = host->closer,
		.sandbox = host->sandbox, .run_dir = host->run_dir_fd, .name = vm->def->name };
	struct start_process *s = must_alloc(malloc(sizeof(*s)));
	bool done = false;
	int r;

	*s = (struct start_process){ .vm = vm, .log_fd = -1, .end_fd = -1, .spare_fd = -1 };
	r = s->log_fd = vm_log_open(vm, e);
	if (r >= 0)
		r = s->end_fd = store_open_file(host->store, vm->def->name, "end", O_RDWR | O_CREAT | O_TRUNC, e);
	if (r >= 0)
		r = run_note(vm, s->end_fd, e);
	p.log_fd = s->log_fd;
	p.end_fd = s->end_fd;
	vm_cgroup_place(vm, limits_memory, false, &p.place);
	if (!r && ahead)
		done = spare_use(vm, &p, ops, s);
	if (!r && !done)
		r = vm_uid_choose(vm, e);
	p.uid = vm->uid;
	if (!r && !done)
		r = vm_process_start(host->loop, &p, ops, vm, &s->proc, e);
	if (r < 0)
		start_process_free(s);
	else
		*ret = s;
	return r;
}

int start_process_spawn(struct vm *vm, bool limits_memory, const struct vm_process_ops *ops, struct start_process **ret, struct err *e)
{
	return process_begin(vm, limits_memory, false, ops, ret, e);
}

static void ahead_gone(void *opaque, const struct vm_process_end *end)
{
	struct vm *vm = opaque;
	void (*ready)(struct vm *vm, int r, const struct err *e) = vm->start.ahead->ready;

	(void)end;
	vm_socket_remove(vm->host->run_dir_fd, vm->def->name);
	start_process_free(STEAL_PTR(vm->start.ahead));
	vm_cgroups_sweep(vm->host);
	vm_tell_gone(vm);
	if (ready)
		ready(vm, 0, NULL);
}

void vm_start_ahead(struct vm *vm)
{
	static const struct vm_process_ops ops = { .gone = ahead_gone };
	struct err e;

	if (vm->def->systemd_scope) /* the start waits for the scope, and the process is created there */
		return;
	/* The files of the VM are not known yet. */
	if (process_begin(vm, false, true, &ops, &vm->start.ahead, &e) < 0)
		log_warn("start", "VM '%s': %s", vm->def->name, e.msg);
}

/* ---- the answer of a process that was a spare ---- */

static void wait_over(struct start_process *s)
{
	void (*ready)(struct vm *vm, int r, const struct err *e) = s->ready;

	wait_end(s);
	if (ready)
		ready(s->vm, 0, NULL);
}

static void answer_late(void *opaque)
{
	struct start_process *s = opaque;

	/* The daemon may have stood still longer than the process. */
	s->answered = vm_spare_answered(s->spare_fd);
	wait_over(s);
}

static void answer_ready(void *opaque, unsigned revents)
{
	struct start_process *s = opaque;

	(void)revents;
	s->answered = vm_spare_answered(s->spare_fd);
	wait_over(s);
}

/* Nothing keeps a spare from answering, so usually the answer is there before the configuration. */
static int ahead_prepare(struct vm *vm, const struct config *c, void (*ready)(struct vm *vm, int r, const struct err *e), struct err *e)
{
	struct start_process *s = vm->start.ahead;
	struct loop *l = vm->host->loop;

	(void)c;
	(void)e;
	if (!s || s->spare_fd < 0 || (s->answered = vm_spare_answered(s->spare_fd)))
		return 0;
	if (loop_timer_new(l, answer_late, s, &s->timer) < 0 || loop_watch(l, s->spare_fd, POLLIN, answer_ready, s, &s->watch) < 0) {
		wait_end(s);
		return 0;
	}
	loop_timer_arm(s->timer, loop_now_ns() + ANSWER_NS);
	s->ready = ready;
	return 1;
}

static void ahead_called_off(struct vm *vm)
{
	if (vm->start.ahead && vm->start.ahead->ready)
		wait_over(vm->start.ahead);
}

struct start_process *start_process_ahead(struct vm *vm, const struct vm_process_ops *ops)
{
	struct start_process *s = STEAL_PTR(vm->start.ahead);

	if (!s)
		return NULL;
	if (s->spare_fd >= 0 && !s->answered) {
		log_info("spare", "VM '%s' gets a new process, because the one made ahead (pid %d) does not answer", vm->def->name,
			(int)vm_process_pid(s->proc));
		vm_process_kill(s->proc);
		vm_process_detach(STEAL_PTR(s->proc));
		start_process_free(s);
		return NULL;
	}
	vm_process_set_ops(s->proc, ops, vm);
	return s;
}

bool vm_start_ahead_kill(struct vm *vm)
{
	if (vm->start.ahead)
		vm_process_kill(vm->start.ahead->proc);
	return vm->start.ahead != NULL;
}

void vm_open_ahead_drop(struct vm *vm)
{
	struct config *c = STEAL_PTR(vm->start.ahead_files);

	open_as_free(STEAL_PTR(vm->start.ahead_opener));
	if (c)
		config_done(c);
	free(c);
}

static void start_removed(struct vm *vm)
{
	vm_open_ahead_drop(vm);
	start_process_free(vm->start.ahead);
}

const struct vm_observer start_observer = { .removed = start_removed, .start_prepare = ahead_prepare, .start_called_off = ahead_called_off };
