/* Starts a VM and stops it by force. */
#include "api/vm/vm.h"
#include "api/access/authors.h"
#include "api/access/client_file.h"
#include "api/access/open_as.h"
#include "api/definition/vm_config.h"
#include "api/schema/call.h"
#include "api/store/store.h"
#include "api/vm/image_users.h"
#include "api/vm/observer.h"
#include "api/vm/offline_process.h"
#include "api/vm/nvram.h"
#include "api/vm/pull_mark.h"
#include "api/vm/working_set_file.h"
#include "api/vm/vm_ahead.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_disk_free.h"
#include "api/vm/vm_gone.h"
#include "api/vm/vm_life.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/shell_word.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUIT_TIMEOUT_NS (5 * 1000000000ULL)
#define STOPPED "the VM was destroyed while starting"

/* ---- checking that the images are free ---- */

static int disk_check_free(struct vm *vm, unsigned i, const struct file_id *image, struct err *e)
{
	char key[32];

	snprintf(key, sizeof(key), "disks[%u].path", i);
	return vm_disk_check_free(vm, NULL, &vm_live(vm)->disks[i], image, key, e);
}

static int disks_check_free(struct vm *vm, const struct config *c, struct err *e)
{
	int r = 0;

	vm->ndisk_ids = c->vm.ndisks;
	for (unsigned i = 0; i < c->vm.ndisks && !r; i++) {
		struct file_id *image = &vm->disk_ids[i];

		r = config_identify(c, c->vm.disks[i].fd[0], image);
		/* A fork has just created its clones' images. This check would look at the disks of all active VMs for
		 * each clone. */
		if (!r && !(vm->start.opts.forked && !vm_live(vm)->disks[i].read_only))
			r = disk_check_free(vm, i, image, e);
		else if (r < 0)
			r = err_set_errno(e, r, "disks[%u].path", i);
	}
	return r;
}

/* ---- the managed save ---- */

/* A start that waits until the renaming of the managed save, or the definition that the VM is to run with, is on stable
 * storage. */
struct start_hold {
	struct store_work work;
	struct vm *vm;
	struct config config;
};

static void start_held(struct store_work *work);

static struct start_hold *hold_new(struct vm *vm, const struct config *c)
{
	struct start_hold *h = must_alloc(malloc(sizeof(*h)));

	*h = (struct start_hold){ { .done = start_held, .loop = vm->host->loop }, vm, *c };
	return h;
}

/* Wait for vm_live_replace(). c: taken. Returns 1: start_held() continues the start. */
static int live_hold(struct vm *vm, const struct config *c)
{
	vm->start.kind = VM_OP_START_HOLDS;
	vm_save_first(vm, &hold_new(vm, c)->work);
	return 1;
}

/* Rename the managed save to SAVE_MANAGED_USED before the VM resumes from it or boots without it. The guest then
 * changes its disks, so the state must not be used later, even after a crash of the daemon or the host.
 * Returns 1: c was taken, and start_held() continues the start; -errno. */
static int managed_hold(struct vm *vm, const struct config *c, struct err *e)
{
	struct start_hold *h = hold_new(vm, c);
	int r = store_rename_file(vm->host->store, vm->def->name, SAVE_MANAGED, SAVE_MANAGED_USED, STORE_WITH_WORK,
		&h->work, e);
	if (r < 0) {
		free(h);
		return r;
	}
	vm->start.holds_save = true;
	vm->start.kind = VM_OP_START_HOLDS;
	return 1;
}

/* Find out whether the start uses a managed save.
 * *ret_hold: the start resumes or drops the managed save. *ret_fd: set if the start resumes it; owned.
 * Returns 0; -ENOENT: the VM is saved, the file is gone, and the start is not to drop it; -errno. */
static int managed_find(struct vm *vm, bool *ret_hold, int *ret_fd, struct err *e)
{
	struct store *s = vm->host->store;

	*ret_hold = false;
	if (vm->state != VM_SAVED)
		return 0;
	if (!store_has_file(s, vm->def->name, SAVE_MANAGED))
		return vm->start.opts.force_boot ? 0 :
			err_set(e, -ENOENT, ERR_NOT_FOUND,
				"the VM's managed save is gone; to boot the VM: cairn start --force-boot %s",
				shell_word(vm->def->name).s);
	*ret_hold = true;
	if (vm->start.opts.force_boot)
		return 0;
	*ret_fd = store_open_file(s, vm->def->name, SAVE_MANAGED, O_RDWR, e);
	if (*ret_fd < 0)
		return *ret_fd;
	vm->start.opts.paused = vm->start.opts.paused || vm_has(vm, VM_FACT_SAVED_PAUSED);
	return 0;
}

/* Remove the managed save that the start has used or dropped; if the start failed or has to wait again (used is false),
 * give the file its name back. The removal needs no sync of its own: the VM's state is written to the same folder
 * afterwards, which syncs the folder. */
static void managed_release(struct vm *vm, bool used)
{
	struct store *s = vm->host->store;
	struct err e;
	int r;

	if (!vm->start.holds_save)
		return;
	vm->start.holds_save = false;
	r = used ? store_remove_file(s, vm->def->name, SAVE_MANAGED_USED, STORE_EVENTUALLY, NULL, &e) :
		   store_rename_file(s, vm->def->name, SAVE_MANAGED_USED, SAVE_MANAGED, STORE_SOON, NULL, &e);
	if (r < 0)
		log_error("start", "VM '%s': cannot rename or remove its managed save: %s", vm->def->name, e.msg);
}

static void start_next(struct vm_host *host);

/* Let the start wait until vm_start_resume(). A queued start can have its place. */
static void start_wait(struct vm *vm)
{
	vm->start.kind = VM_OP_START_WAITS;
	start_next(vm->host);
}

/* Answer the calls of vm-destroy that ended a start before it had a process. */
static void stop_answer(struct vm *vm)
{
	if (vm->proc)
		return; /* the end of the process answers them */
	vm->stop.kind = VM_OP_NONE;
	vm_answer_gone(vm);
}

static void start_answer(struct vm *vm, int r, const struct err *e)
{
	struct vm_start_opts opts = vm->start.opts;
	struct vm_host *host = vm->host;

	memset(&vm->start.opts, 0, sizeof(vm->start.opts));
	vm->start.opts.state_fd = -1;
	if (opts.state_fd >= 0)
		close(opts.state_fd);
	client_file_free(opts.state_file);
	if (opts.done)
		opts.done(opts.opaque, r, e);
	start_next(host);
}

/* ---- starting the process ---- */

/* Empty the file "end" after a failed start, so that the next daemon does not count this run as started, even if
 * state.json is not written. */
static void end_file_clear(struct vm *vm)
{
	CLEANUP_CLOSE int fd = -1;
	struct err e;

	fd = store_open_file(vm->host->store, vm->def->name, "end", O_RDWR | O_CREAT | O_TRUNC, &e);
	if (fd < 0)
		log_warn("start", "VM '%s': %s", vm->def->name, e.msg);
}

void vm_note_failed_start(struct vm *vm, enum vm_reason reason, const char *why)
{
	bool sleeps = vm_sleeps(vm);

	snprintf(vm->detail, sizeof(vm->detail), "%s%.350s", sleeps ? "waking failed: " : "", why);
	utf8_clean(vm->detail); /* the cut may be within a character */
	if (!sleeps) { /* a VM that the idle policy has saved stays so, so that a client can wake it later */
		vm->reason = reason;
		vm->value = 0;
	}
	vm_save(vm);
}

static void start_fail(struct vm *vm, const struct err *e)
{
	log_error("start", "VM '%s': %s", vm->def->name, e->msg);
	managed_release(vm, false);
	end_file_clear(vm);
	if (vm->start.sets_live)
		vm_live_drop(vm);
	vm_note_failed_start(vm, e->cls == ERR_CANCELLED ? VM_REASON_DESTROYED : VM_REASON_FAILED, e->msg);
	vm_emit_change(vm, vm->state);
	vm_notify(vm, start_failed);
	stop_answer(vm);
	start_answer(vm, -EREMOTEIO, e);
}

/* End the process of a failed start. vm_start_over() answers the start when the process has ended or is stuck, so that
 * a client that then starts or undefines the VM normally finds neither the process nor its locks. */
static void start_undo(struct vm *vm, int r, const struct err *e)
{
	vm->start.failed = must_alloc(malloc(sizeof(*e)));
	*vm->start.failed = *e;
	end_file_clear(vm); /* not only in start_fail(), because this daemon may be killed while the process ends */
	/* A process that has rejected its configuration ends by itself. */
	if (r == -EREMOTEIO)
		vm_process_kill_after(vm->proc, QUIT_TIMEOUT_NS);
	else
		vm_process_kill(vm->proc);
}

void vm_start_over(struct vm *vm)
{
	struct err *e = vm->start.failed;

	if (!e)
		return;
	vm->start.failed = NULL;
	vm->start.kind = VM_OP_NONE;
	start_fail(vm, e);
	free(e);
}

static void start_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;
	const char *by = vm->start.opts.woken_by && *vm->start.opts.woken_by ? vm->start.opts.woken_by : NULL;
	enum vm_reason reason = by ? VM_REASON_WOKEN : vm->start.from_state ? VM_REASON_RESTORED : VM_REASON_BOOTED;
	struct err stopped;

	if (r < 0) {
		if (vm_is_stopping(vm)) {
			err_set(&stopped, -ECANCELED, ERR_CANCELLED, STOPPED);
			e = &stopped;
		}
		start_undo(vm, r, e);
		return;
	}
	vm->start.kind = VM_OP_NONE;
	vm->id = ++vm->host->next_id;
	vm_set(vm, VM_FACT_SAVED_PAUSED, false);
	if (vm->start.was_ahead && vm->start.limits_memory)
		vm_cgroup_limit_memory(vm);
	managed_release(vm, true);
	if (vm->start.opts.paused)
		vm_move(vm, VM_ASK_START_PAUSED, vm->start.from_state ? reason : VM_REASON_USER, a->note, 0);
	else
		vm_move(vm, VM_ASK_START, reason, by ? by : a->note, 0);
	vm_notify(vm, started);
	start_answer(vm, 0, NULL);
}

/* Pass the working-set file: the pages that the guest touches first after a restore or a revert. A fork's clone gets
 * none, because its RAM maps the fork's memory and is not loaded. */
static void working_sets_add(struct vm *vm, struct config *c)
{
	struct err e = { 0 };
	int fd = vm->start.opts.forked ? -1 : working_set_file_open(vm, &e);

	if (fd >= 0)
		c->vm.working_sets_fd = (uint16_t)config_add_fd(c, fd);
	else if (!vm->start.opts.forked)
		log_info("vm", "VM '%s' starts without the list of memory to restore first, so a restore may be slower: %s",
			vm->def->name, e.msg);
}

static int check_called_off(const struct vm *vm, struct err *e)
{
	return vm->start.opts.called_off ? err_set(e, -ECANCELED, ERR_CANCELLED, STOPPED) : 0;
}

static int check_host_shutdown(const struct vm *vm, struct err *e)
{
	return vm->host->host_shutdown || vm->start.opts.too_late ?
		err_set(e, -EBUSY, ERR_BUSY, "the VMs are being stopped (cairn daemon-stop)") : 0;
}

/* Set the boot order of the start. A VM that resumes a state needs one, too, for its next reset. */
static int boot_set(struct vm *vm, struct config *c, struct err *e)
{
	const struct boot_choice *b = &vm->start.opts.boot;

	if ((b->first || b->menu) && vm->start.from_state)
		return err_set(e, -EINVAL, ERR_INVALID, "the VM resumes its saved state, so it does not boot; to drop that state and "
			"boot: cairn start --force-boot with --boot or --bootmenu");
	return config_choose_boot(vm_live(vm), b, c, e);
}

/* Let the process of a clone wait for the state, if it may not be written yet. */
static int state_wait_add(const struct vm *vm, struct config *c, struct err *e)
{
	int fd;

	if (!vm->start.opts.state_ready_fd)
		return 0;
	fd = fcntl(vm->start.opts.state_ready_fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return err_set_errno(e, -errno, "the clone's state");
	c->vm.state_later = 1;
	c->vm.state_ready_fd = (uint16_t)config_add_fd(c, fd);
	return c->vm.state_ready_fd == VM_NO_FD ? err_set(e, -EMFILE, ERR_INVALID, "the VM has too many files") : 0;
}

static int process_start(struct vm *vm, struct config *c, struct err *e)
{
	struct vm_host *host = vm->host;
	struct start_process *s = NULL;
	int r = check_host_shutdown(vm, e); /* a stop of all VMs may have begun while the start waited */

	if (!r)
		r = check_called_off(vm, e);
	if (!r)
		r = boot_set(vm, c, e);
	if (!r)
		r = nvram_add(vm, vm_live(vm), c, e);
	if (!r)
		r = state_wait_add(vm, c, e);
	if (!r)
		s = start_process_ahead(vm, &vm_life_ops);
	vm->start.limits_memory = !r && vm_cgroup_may_limit_memory(c);
	vm->start.was_ahead = s != NULL;
	if (!s && !r)
		r = start_process_spawn(vm, vm->start.limits_memory, &vm_life_ops, &s, e);
	if (r < 0)
		return r;
	c->vm.log_fd = (uint16_t)config_add_fd(c, steal_fd(&s->log_fd));
	c->vm.end_fd = (uint16_t)config_add_fd(c, steal_fd(&s->end_fd));
	working_sets_add(vm, c);
	c->vm.log_level = (uint8_t)host->log_level;
	c->vm.start_paused = vm->start.opts.paused;
	c->vm.for_revert = vm->start.opts.for_revert;
	c->vm.eager = vm->start.opts.eager;
	c->vm.forked = vm->start.opts.forked;
	c->vm.pins_readable = vm->start.opts.pins_readable;
	c->vm.hint_hostname = vm->start.opts.hint_hostname;
	memcpy(c->vm.former, vm->former, sizeof(c->vm.former));
	vm->proc = STEAL_PTR(s->proc);
	vm_process_configure(vm->proc, c, vm->start.opts.waits, start_done, vm);
	start_process_free(s);
	return 0;
}

/* Add the saved state that the VM resumes, if any, to the configuration. state_fd can be used once, but only clones of
 * a fork have one, and their starts never begin anew: hooks cannot delay them, and VM_OP_MAKE excludes an offline
 * process. *ret_hold: as for managed_find(). */
static int state_add(struct vm *vm, struct config *c, bool *ret_hold, struct err *e)
{
	const struct client_file *held = vm->start.opts.state_file;
	/* The file is held until the start is over. */
	int fd = held ? fcntl(client_file_relay(held), F_DUPFD_CLOEXEC, 3) : steal_fd(&vm->start.opts.state_fd);
	int r = held && fd < 0 ? err_set_errno(e, -errno, "the saved state") : 0;

	*ret_hold = false;
	if (fd < 0 && !r)
		r = managed_find(vm, ret_hold, &fd, e);
	vm->start.from_state = !r && fd >= 0;
	if (fd < 0 || r < 0)
		return r;
	c->vm.restore_held = held != NULL;
	c->vm.restore_fd = (uint16_t)config_add_fd(c, fd);
	if (c->vm.restore_fd == VM_NO_FD)
		return err_set(e, -EMFILE, ERR_INVALID, "the VM has too many files");
	return 0;
}

static int prepare_next(struct vm *vm, const struct config *c, struct err *e);

/* An offline process began meanwhile: its end calls vm_start_resume(), unless it is stuck. */
static void offline_await(struct vm *vm)
{
	struct err e;

	managed_release(vm, false);
	if (offline_check(vm, &e) < 0) {
		vm->start.kind = VM_OP_NONE;
		start_fail(vm, &e);
	} else {
		start_wait(vm);
	}
}

/* The host is prepared for the VM as far as an observer does that: ask the next one, or start the process. */
static void start_prepared(struct vm *vm, int r, const struct err *e)
{
	struct config *c = vm->start.config;
	struct err own;

	if (!r && !vm->offline && !vm->start.opts.called_off) {
		r = prepare_next(vm, c, &own);
		e = &own;
		if (r > 0)
			return;
	}
	vm->start.config = NULL;
	/* After -EAGAIN, the observer calls vm_start_resume(). */
	if ((vm->offline || r == -EAGAIN) && !vm->start.opts.called_off) {
		offline_await(vm);
	} else {
		vm->start.kind = VM_OP_NONE;
		if (!r || vm->start.opts.called_off) {
			r = process_start(vm, c, &own);
			e = &own;
		}
		if (r < 0)
			start_fail(vm, e);
		else
			vm->start.kind = VM_OP_START;
	}
	config_done(c);
	free(c);
}

/* Ask the next observers to prepare the host. Returns 0: all have; 1: one is at work, and start_prepared() continues;
 * -errno. */
static int prepare_next(struct vm *vm, const struct config *c, struct err *e)
{
	const struct vm_observer *const *all = vm->host->observers;
	int r = 0;

	while (!r && all && all[vm->start.prepared]) {
		const struct vm_observer *o = all[vm->start.prepared++];

		r = o->start_prepare ? o->start_prepare(vm, c, start_prepared, e) : 0;
	}
	return r;
}

/* Have the host prepared for the VM, and start its process. Returns 0: the process was spawned; 1: c was taken, and
 * start_prepared() continues; -errno. */
static int start_prepare(struct vm *vm, struct config *c, struct err *e)
{
	int r;

	vm->start.prepared = 0;
	r = prepare_next(vm, c, e);
	if (r <= 0)
		return r ? r : process_start(vm, c, e);
	vm->start.config = must_alloc(malloc(sizeof(*c)));
	*vm->start.config = *c;
	vm->start.kind = VM_OP_START_PORTS;
	return 1;
}

/* Check --max-running and --max-memory. */
static int check_room(const struct vm *vm, struct err *e)
{
	const struct vm_host *host = vm->host;
	const struct daemon_limits *l = &host->paths->limits;
	uint64_t own_bytes = vm_live(vm)->ram_bytes, bytes = own_bytes;
	unsigned n = 0;

	for (size_t i = 0; i < host->nvms && (l->running || l->memory_bytes); i++) {
		const struct vm *v = host->vms[i];

		if (v == vm || (!vm_state_is_active(v->state) && !vm_is_starting(v)))
			continue;
		bytes += vm_live(v)->ram_bytes;
		n++;
	}
	if (l->running && n >= l->running)
		return err_set(e, -EBUSY, ERR_BUSY, "%u VMs run, and cairnd has --max-running %u; shut a VM down "
			"first", n, l->running);
	if (l->memory_bytes && bytes > l->memory_bytes)
		return err_set(e, -EBUSY, ERR_BUSY, "the VM needs %llu MiB; with it, the running VMs would have %llu "
			"MiB, and cairnd has --max-memory %lluM; shut a VM down first",
			(unsigned long long)own_bytes >> 20, (unsigned long long)bytes >> 20,
			(unsigned long long)l->memory_bytes >> 20);
	return 0;
}

/* Continue the start after the files were opened. c: taken. Returns 0: the process was spawned; 1: start_held() or
 * start_prepared() continues; -errno. */
static int start_with(struct vm *vm, struct config *c, struct err *e)
{
	bool hold = false;
	int r = disks_check_free(vm, c, e);

	pull_mark_add(vm, &c->vm);
	/* The VM may have been redefined, or linked clones made, while the start waited. */
	if (!r)
		r = image_check_writable(vm, "start", e);
	if (!r)
		r = check_room(vm, e);
	if (!r)
		r = vm_ask(vm, start_add, c, e);
	if (!r)
		r = state_add(vm, c, &hold, e);
	if (!r && hold)
		r = managed_hold(vm, c, e);
	else if (!r && vm->start.sets_live)
		r = live_hold(vm, c);
	if (!r)
		r = start_prepare(vm, c, e);
	if (r <= 0)
		config_done(c);
	return r;
}

static void start_held(struct store_work *work)
{
	struct start_hold *h = container_of(work, struct start_hold, work);
	struct vm *vm = h->vm;
	struct err e = work->e;
	int r = work->r;

	if (vm->offline && !vm->start.opts.called_off) {
		offline_await(vm);
	} else {
		vm->start.kind = VM_OP_NONE;
		if (!r)
			r = check_called_off(vm, &e);
		if (!r)
			r = start_prepare(vm, &h->config, &e);
		if (r < 0)
			start_fail(vm, &e);
		else if (!r)
			vm->start.kind = VM_OP_START;
	}
	if (r <= 0)
		config_done(&h->config);
	free(h);
}

static void start_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct vm *vm = opaque;
	struct err own;

	vm->start.opener = NULL;
	if (vm->offline) {
		if (!r)
			config_done(c);
		offline_await(vm);
		return;
	}
	if (r == -EADDRINUSE && vm_ask(vm, start_retries)) {
		start_wait(vm);
		return;
	}
	vm->start.kind = VM_OP_NONE;
	if (!r) {
		r = start_with(vm, c, &own);
		e = &own;
	}
	if (r < 0)
		start_fail(vm, e);
	else if (!r)
		vm->start.kind = VM_OP_START;
}

/* Whether fewer than --max-starting starts are under way; more concurrent starts take longer than sequential ones.
 * Clones of a fork do not count: the fork limits their starts itself, and they may wait for its source. */
static bool start_has_room(const struct vm_host *host)
{
	unsigned under_way = 0;

	for (size_t i = 0; i < host->nvms; i++)
		under_way += host->vms[i]->start.kind >= VM_OP_START_OPENS && !host->vms[i]->start.opts.forked;
	return under_way < host->paths->limits.starting;
}

/* Queue the start if --max-starting starts are under way. Clones of a fork are not queued: a fork that fails removes
 * them, and does not check whether their starts are queued. Returns whether the start was queued. */
static bool start_has_to_wait(struct vm *vm)
{
	struct vm **end = &vm->host->starts_wait;

	if (vm->start.opts.forked || start_has_room(vm->host))
		return false;
	while (*end)
		end = &(*end)->start.next;
	*end = vm;
	vm->start.next = NULL;
	vm->start.kind = VM_OP_START_QUEUED;
	return true;
}

/* ---- opening the files, also before the start ---- */

static void opened_ahead(void *opaque, int r, struct config *c, const struct err *e)
{
	struct vm *vm = opaque;

	if (vm->start.kind == VM_OP_START_OPENS) { /* the start has taken the opener over */
		start_opened(vm, r, c, e);
		return;
	}
	vm->start.ahead_opener = NULL;
	if (r < 0)
		return;
	vm->start.ahead_files = must_alloc(malloc(sizeof(*c)));
	*vm->start.ahead_files = *c;
}

void vm_open_ahead(struct vm *vm)
{
	const struct definition *d = vm_live(vm);
	struct open_as *o = NULL;

	/* Sockets and the programs that serve them belong to the start. */
	if (vm_ask(vm, has_forwards) || d->vsock_path || d->vnc.on || d->nshares)
		return;
	open_as_open(vm->host->helpers, d, OPEN_AS_START, opened_ahead, vm, &o);
	vm->start.ahead_opener = o;
}

/* Use the files that were opened in advance. Returns whether there are any; then start_opened() has been called,
 * which may have freed the VM, or will be. */
static bool start_takes_files(struct vm *vm)
{
	struct config *c = STEAL_PTR(vm->start.ahead_files);

	if (c) {
		start_opened(vm, 0, c, NULL);
		free(c);
		return true;
	}
	if (!vm->start.ahead_opener)
		return false;
	vm->start.opener = STEAL_PTR(vm->start.ahead_opener);
	vm->start.kind = VM_OP_START_OPENS;
	return true;
}

static void start_now(struct vm *vm)
{
	struct open_as *o = NULL;

	/* The source of a fork's clones runs, so the host has all parts that their start needs. */
	vm->start.for_network = !vm->start.opts.forked && vm_ask(vm, start_waits);
	if (vm->start.for_network) {
		vm->start.kind = VM_OP_START_WAITS;
		return;
	}
	if (start_has_to_wait(vm) || start_takes_files(vm))
		return;
	open_as_open(vm->host->helpers, vm_live(vm), vm_ask(vm, has_forwards) ? OPEN_AS_START_HELD : OPEN_AS_START, start_opened, vm, &o);
	if (!o)
		return; /* start_opened() was called: vm may be freed, or wait for its managed save */
	vm->start.opener = o;
	vm->start.kind = VM_OP_START_OPENS;
}

/* Continue the queued starts that have room. */
static void start_next(struct vm_host *host)
{
	struct vm *vm;

	if (host->starts_continue) /* a start failed at once: the loop below, which called start_now(), continues */
		return;
	host->starts_continue = true;
	while ((vm = host->starts_wait) && start_has_room(host)) { /* a start that ended may have been queued itself */
		host->starts_wait = vm->start.next;
		vm->start.kind = VM_OP_NONE;
		start_now(vm);
	}
	host->starts_continue = false;
}

int vm_start_check(struct vm *vm, struct err *e)
{
	int r = offline_check(vm, e);

	if (!r)
		r = image_check_writable(vm, "start", e);
	if (!r)
		r = vm_ask(vm, start_check, e);
	if (!r)
		r = check_host_shutdown(vm, e);
	return r ? r : check_room(vm, e);
}

void vm_start(struct vm *vm, const struct vm_start_opts *opts)
{
	bool waits = vm->offline || vm->operation.kind == VM_OP_SAVE_KEPT;
	struct err e;
	int r = opts->by_job ? 0 : vm_check_claim(vm, VM_CLAIM_START, "start it", &e);
	bool sets_live = !r && opts->definition;

	if (sets_live)
		vm_live_replace(vm, opts->definition);
	else
		definition_free(opts->definition);
	if (!r)
		r = vm_start_check(vm, &e);
	if (r < 0) {
		if (sets_live) {
			vm_live_drop(vm);
			vm_save(vm);
		}
		if (opts->state_fd >= 0)
			close(opts->state_fd);
		client_file_free(opts->state_file);
		if (opts->done)
			opts->done(opts->opaque, r, &e);
		return;
	}
	vm->start.opts = *opts;
	vm->start.opts.definition = NULL;
	vm->start.sets_live = sets_live;
	vm_set(vm, VM_FACT_OFF_ASKED, false);
	vm_notify(vm, start_asked, opts);
	if (waits)
		vm->start.kind = VM_OP_START_WAITS;
	else
		start_now(vm);
}

void vm_start_resume(struct vm *vm)
{
	struct err e;

	if (vm->start.kind != VM_OP_START_WAITS)
		return;
	vm->start.kind = VM_OP_NONE;
	if (offline_check(vm, &e) < 0)
		start_fail(vm, &e);
	else
		start_now(vm);
}

/* The first VM whose start waits for an observer without success; NULL: none. */
static struct vm *start_find_free(const struct vm_host *host)
{
	for (size_t i = 0; i < host->nvms; i++) {
		struct vm *vm = host->vms[i];

		if (vm->start.kind == VM_OP_START_WAITS && vm->start.for_network && !vm_ask(vm, start_waits))
			return vm;
	}
	return NULL;
}

void vm_starts_resume(struct vm_host *host)
{
	struct vm *vm;

	while ((vm = start_find_free(host)))
		vm_start_resume(vm);
}

/* ---- stop by force ---- */

static void quit_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)a;
	(void)e;
	if (r < 0 && r != -ESRCH && vm->proc)
		vm_process_kill(vm->proc);
}

static void start_unqueue(struct vm *vm)
{
	struct vm **at = &vm->host->starts_wait;

	while (*at != vm)
		at = &(*at)->start.next;
	*at = vm->start.next;
}

/* End a start that has no process yet. A helper that is opening the VM's files continues, and closes them itself. */
static void start_stop(struct vm *vm)
{
	struct err e;

	switch (vm->start.kind) {
	case VM_OP_START_QUEUED:
		start_unqueue(vm);
		break;
	case VM_OP_START_OPENS:
		open_as_free(vm->start.opener);
		vm->start.opener = NULL;
		break;
	case VM_OP_START_HOLDS:
	case VM_OP_START_PORTS:
		/* Wait for the step on the host that has begun. Then check_called_off() ends the start. */
		vm->start.opts.called_off = true;
		vm->stop.kind = VM_OP_STOP;
		vm_notify(vm, start_called_off);
		return;
	default: /* VM_OP_START_WAITS: vm_start_resume() finds no start then */
		break;
	}
	vm->start.kind = VM_OP_NONE;
	err_set(&e, -ECANCELED, ERR_CANCELLED, STOPPED);
	start_fail(vm, &e);
}

void vm_destroy(struct vm *vm, struct call *call)
{
	if (call) {
		call->next = vm->stop.calls;
		vm->stop.calls = call;
	}
	if (vm_is_stopping(vm)) {
		/* This answers the new call, too, if the process stays stuck. */
		if (vm->stop.stuck)
			vm_process_kill(vm->proc);
		vm->stop.stuck = false;
		return;
	}
	if (vm_is_starting(vm) && vm->start.kind != VM_OP_START) {
		start_stop(vm); /* may free the VM */
		return;
	}
	vm->stop.kind = VM_OP_STOP;
	if (vm->start.kind == VM_OP_START) {
		vm_process_kill(vm->proc);
		return;
	}
	vm_process_request(vm->proc, VM_MSG_QUIT, NULL, 0, -1, QUIT_TIMEOUT_NS, quit_done, vm);
	vm_process_kill_after(vm->proc, QUIT_TIMEOUT_NS);
}

void vm_start_call_off(struct vm *vm)
{
	if (vm->start.kind == VM_OP_START)
		vm_destroy(vm, NULL);
	else if (vm_is_starting(vm)) {
		vm->start.opts.called_off = true;
		vm_notify(vm, start_called_off);
	}
}

void vm_start_limit(struct vm *vm)
{
	vm->start.opts.waits = false;
	if (vm->start.kind == VM_OP_START && vm->proc)
		vm_process_configure_limit(vm->proc);
}
