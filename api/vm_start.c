/* Start, stop by force, and taking back what an earlier daemon started. */
#include "api/vm.h"
#include "api/command.h"
#include "api/config.h"
#include "api/daemon.h"
#include "api/js.h"
#include "api/store.h"
#include "api/text.h"
#include "api/vm_life.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define QUIT_TIMEOUT_NS (5 * 1000000000ULL)

int vm_check_idle(const struct vm *vm, const char *what, struct err *e)
{
	if (vm->starting)
		return err_set(e, -EBUSY, ERR_BUSY, "VM '%s' is being started; %s it afterwards",
			vm->def->name, what);
	if (vm->destroying)
		return err_set(e, -EBUSY, ERR_BUSY, "VM '%s' is being stopped; %s it afterwards",
			vm->def->name, what);
	if (vm->proc && !vm_state_is_active(vm->state))
		return err_set(e, -EBUSY, ERR_BUSY, "VM '%s': its old process still ends; %s it "
			"afterwards", vm->def->name, what);
	return 0;
}

/* ---- start ---- */

/* Another VM that runs with one of these images? Two writers would destroy it; the image's
 * lock says so too, but cannot name the other. */
static int disk_check_free(struct vm *vm, unsigned i, const struct stat *st, struct err *e)
{
	struct daemon *d = vm->daemon;
	bool ours_writes = !vm->def->disks[i].read_only;

	for (size_t v = 0; v < d->nvms; v++) {
		struct vm *other = d->vms[v];

		if (other == vm || (!vm_state_is_active(other->state) && !other->starting))
			continue;
		for (unsigned k = 0; k < other->def->ndisks; k++) {
			const struct definition_disk *disk = &other->def->disks[k];
			struct stat their;

			if ((disk->read_only && !ours_writes) || stat(disk->layers[0].path, &their) < 0 ||
				their.st_ino != st->st_ino || their.st_dev != st->st_dev)
				continue;
			return err_set(e, -EBUSY, ERR_BUSY,
				"disks[%u].path: %s is in use by VM '%s'; shut that down first", i,
				vm->def->disks[i].layers[0].path, other->def->name);
		}
	}
	return 0;
}

static int disks_check_free(struct vm *vm, const struct config *c, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < c->vm.ndisks && !r; i++) {
		struct stat st;

		if (fstat(c->fds[c->vm.disks[i].fd[0]], &st) == 0)
			r = disk_check_free(vm, i, &st, e);
	}
	return r;
}

static void start_answer(struct vm *vm, const struct err *e)
{
	struct call *c = vm->start_call;
	struct json_object *o;

	vm->start_call = NULL;
	if (!c)
		return;
	if (e) {
		call_fail(c, e);
		return;
	}
	o = json_object_new_object();
	js_put_int(o, "id", vm->id);
	call_return(c, o);
}

static void start_failed(struct vm *vm, const struct err *e)
{
	log_error("start", "VM '%s': %s", vm->def->name, e->msg);
	snprintf(vm->reason, sizeof(vm->reason), "failed");
	snprintf(vm->detail, sizeof(vm->detail), "%.380s", e->msg);
	vm_save(vm);
	start_answer(vm, e);
}

static void start_done(void *opaque, int r, const struct vm_info *info, const struct err *e)
{
	struct vm *vm = opaque;
	struct err stopped;

	(void)info;
	vm->starting = false;
	if (r < 0) {
		if (vm->destroying) {
			err_set(&stopped, -ECANCELED, ERR_CANCELLED, "it was destroyed while starting");
			e = &stopped;
		}
		/* A refused configuration ends the process; one that is silent is ended. */
		if (r == -EREMOTEIO)
			vm_process_kill_after(vm->proc, QUIT_TIMEOUT_NS);
		else
			vm_process_kill(vm->proc);
		start_failed(vm, e);
		return;
	}
	vm->id = ++vm->daemon->next_id;
	if (vm->start_paused)
		vm_move(vm, VM_ASK_START_PAUSED, "user", NULL, 0);
	else
		vm_move(vm, VM_ASK_START, "booted", NULL, 0);
	start_answer(vm, NULL);
}

static int process_start(struct vm *vm, struct config *c, struct err *e)
{
	struct daemon *d = vm->daemon;
	CLEANUP_CLOSE int log_fd = -1;
	CLEANUP_CLOSE int end_fd = -1;
	struct vm_process_paths p = { .program = d->paths->vm_program, .run_dir = d->run_dir_fd,
		.name = vm->def->name };

	log_fd = store_open_file(d->store, vm->def->name, "log", O_WRONLY | O_APPEND, e);
	if (log_fd < 0)
		return log_fd;
	end_fd = store_open_file(d->store, vm->def->name, "end", O_RDWR | O_TRUNC, e);
	if (end_fd < 0)
		return end_fd;
	p.log_fd = log_fd;
	p.end_fd = end_fd;
	c->vm.log_fd = (uint16_t)config_add_fd(c, fcntl(log_fd, F_DUPFD_CLOEXEC, 3));
	c->vm.end_fd = (uint16_t)config_add_fd(c, fcntl(end_fd, F_DUPFD_CLOEXEC, 3));
	c->vm.log_level = (uint8_t)d->log_level;
	c->vm.start_paused = vm->start_paused;
	return vm_process_start(d->loop, &p, c, &vm_life_ops, vm, start_done, vm, &vm->proc, e);
}

void vm_start(struct vm *vm, struct call *call, bool paused)
{
	struct config c;
	struct err e;
	int r = vm_check_idle(vm, "start", &e);

	if (r < 0) {
		if (call)
			call_fail(call, &e);
		return;
	}
	vm->start_call = call;
	vm->start_paused = paused;
	r = config_open(vm->def, &c, &e);
	if (!r) {
		r = disks_check_free(vm, &c, &e);
		if (!r)
			r = process_start(vm, &c, &e);
		config_done(&c);
	}
	if (r < 0)
		start_failed(vm, &e);
	else
		vm->starting = true;
}

/* ---- stop by force ---- */

static void quit_done(void *opaque, int r, const struct vm_info *info, const struct err *e)
{
	struct vm *vm = opaque;

	(void)info;
	(void)e;
	if (r < 0 && r != -ESRCH && vm->proc)
		vm_process_kill(vm->proc);
}

void vm_destroy(struct vm *vm, struct call *call)
{
	call->next = vm->gone_calls;
	vm->gone_calls = call;
	if (vm->destroying)
		return;
	vm->destroying = true;
	if (vm->starting) {
		vm_process_kill(vm->proc);
		return;
	}
	vm_process_request(vm->proc, VM_MSG_QUIT, NULL, 0, -1, QUIT_TIMEOUT_NS, quit_done, vm);
	vm_process_kill_after(vm->proc, QUIT_TIMEOUT_NS);
}

/* ---- taking back ---- */

static void taken_back(struct vm *vm, const struct vm_info *info)
{
	const char *reason = vm_reason_name(info->reason);

	/* What we knew is kept where it says more than "running". */
	if (info->phase == VM_PHASE_RUNNING && vm->state != VM_RUNNING &&
		vm->state != VM_IN_SHUTDOWN)
		vm_move(vm, VM_SAW_TAKEN_BACK_RUNNING, reason, NULL, 0);
	else if (info->phase == VM_PHASE_PAUSED && vm->state != VM_PAUSED)
		vm_move(vm, VM_SAW_TAKEN_BACK_PAUSED, reason, info->detail, info->value);
	else if (info->phase == VM_PHASE_CRASHED && vm->state != VM_PRESERVED) {
		vm_move(vm, VM_SAW_TAKEN_BACK_RUNNING, NULL, NULL, 0);
		vm_move(vm, VM_SAW_PRESERVED, reason, info->detail, info->value);
	}
	if (vm->id < 0)
		vm->id = ++vm->daemon->next_id;
	log_info("state", "VM '%s' taken back: pid %d, %s", vm->def->name,
		(int)vm_process_pid(vm->proc), vm_state_name(vm->state));
}

static void adopt_done(void *opaque, int r, const struct vm_info *info, const struct err *e)
{
	struct vm *vm = opaque;

	vm->daemon->adopting--;
	if (r == 0 && info) {
		struct vm_info copy = *info;

		copy.detail[sizeof(copy.detail) - 1] = 0;
		text_clean(copy.detail);
		taken_back(vm, &copy);
		return;
	}
	if (r == -ESRCH)
		return; /* it was ending; life_gone() follows */
	log_warn("state", "VM '%s' runs and does not answer: %s", vm->def->name, e ? e->msg : "");
	if (!vm_state_is_active(vm->state))
		vm_move(vm, VM_SAW_TAKEN_BACK_RUNNING, "unknown", NULL, 0);
}

/* Its process is gone, and nobody watched: the end it left in its file, if it did. */
static void ended_unseen(struct vm *vm, int end_fd)
{
	struct vm_process_end end = { 0 };

	end.said = end_fd >= 0 && vm_process_read_end(end_fd, &end.event);
	vm_ended(vm, &end);
	if (!end.said)
		snprintf(vm->detail, sizeof(vm->detail), "its process ended while no daemon ran");
	vm_save(vm);
}

void vm_take_back(struct vm *vm)
{
	struct daemon *d = vm->daemon;
	CLEANUP_CLOSE int end_fd = -1;
	struct vm_process_paths p = { .run_dir = d->run_dir_fd, .name = vm->def->name,
		.log_fd = -1 };
	struct err e;
	int r;

	end_fd = store_open_file(d->store, vm->def->name, "end", O_RDONLY, &e);
	p.end_fd = end_fd;
	r = vm_process_adopt(d->loop, &p, &vm_life_ops, vm, adopt_done, vm, &vm->proc, &e);
	if (r == 0) {
		d->adopting++;
		return;
	}
	if (r != -ENOENT)
		log_warn("state", "VM '%s': %s", vm->def->name, e.msg);
	if (vm_state_is_active(vm->state))
		ended_unseen(vm, end_fd);
}
