#include "api/vm/offline_process.h"
#include "api/access/client_file.h"
#include "api/access/open_as.h"
#include "api/definition/vm_config.h"
#include "api/store/store.h"
#include "api/vm/image_users.h"
#include "api/vm/observer.h"
#include "api/vm/pull_mark.h"
#include "api/vm/vm.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_disk_free.h"
#include "api/vm/vm_guest_event.h"
#include "api/vm/vm_log.h"
#include "api/vm/vm_socket.h"
#include "api/vm/vm_uid.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define QUIT_TIMEOUT_NS (5 * 1000000000ULL)
/* Time limit for the end of an offline process that an earlier daemon started. It is longer, because that process may
 * be working on a request. */
#define OLD_QUIT_TIMEOUT_NS (30 * 1000000000ULL)
#define NAMED_IMAGES_BYTES 300 /* of the paths in an error */

/* A request, from offline_request_with() until done() was called. */
struct wanted {
	struct wanted *next; /* next in the queue, while queued */
	struct offline_process *offline;
	enum vm_msg_type type;
	void *body;
	size_t len;
	struct client_file *file; /* owned; NULL: none */
	int *fds; /* owned */
	unsigned nfds;
	uint64_t timeout_ns;
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e);
	void *opaque;
};

/* A callback of offline_wait(). */
struct waiter {
	struct waiter *next;
	void (*run)(void *opaque);
	void *opaque;
};

struct offline_process {
	struct vm *vm;
	struct vm_process *proc; /* NULL: not started yet, could not be started, or has ended */
	bool configured;	 /* the process accepts requests */
	bool ending;		 /* the process accepts no more requests: new ones wait for the next process */
	struct open_as *opener;	 /* opens the VM's files for the process; NULL: not under way */
	unsigned asked;		 /* number of requests sent and not answered */
	struct wanted *first, **last;
	struct waiter *waiters;
	bool stuck;		 /* the process was killed and has not ended: new requests fail */
	struct loop_task failed; /* fails the requests from the loop if the process cannot be started */
	struct loop_task hung;	 /* fails them from the loop if the process is stuck */
	bool hung_queued;
	struct err e;
};

/* Print the name of the offline process's socket: the VM's name after a dot. No VM's name begins with a dot, so no VM
 * has a socket of that name. */
static void socket_name(const struct vm *vm, char buf[VM_NAME_MAX + 2])
{
	snprintf(buf, VM_NAME_MAX + 2, ".%s", vm->def->name);
}

static struct wanted *wanted_take(struct offline_process *i)
{
	struct wanted *w = i->first;

	if (!w)
		return NULL;
	i->first = w->next;
	if (!i->first)
		i->last = &i->first;
	return w;
}

static void wanted_free(struct wanted *w)
{
	if (!w)
		return;
	client_file_free(w->file);
	for (unsigned k = 0; k < w->nfds; k++)
		close(w->fds[k]);
	free(w->fds);
	free(w->body);
	free(w);
}

const struct err *offline_name_user(const struct vm *vm, const struct err *e, struct err *named)
{
	const struct file_id none = { .dev = UINT64_MAX, .ino = UINT64_MAX };
	const struct definition *def = vm->def;

	for (uint32_t i = 0; e && e->cls == ERR_BUSY && i < def->ndisks; i++)
		if (def->disks[i].nlayers && vm_disk_check_free(vm, NULL, &def->disks[i], &none, def->disks[i].id, named) < 0)
			return named;
	return e;
}

static void all_fail(struct offline_process *i, int r, const struct err *e)
{
	static const struct vm_answer none;
	struct wanted *list = i->first;
	struct err named;

	e = offline_name_user(i->vm, e, &named);
	i->first = NULL;
	i->last = &i->first;
	while (list) {
		struct wanted *w = list;

		list = w->next;
		w->done(w->opaque, r, &none, e);
		wanted_free(w);
	}
}

/* Free the object and close its channel; the process then ends by itself. No callback follows. NULL allowed. */
static void offline_free(struct offline_process *i)
{
	if (!i)
		return;
	open_as_free(i->opener);
	vm_process_free(i->proc);
	while (i->first)
		wanted_free(wanted_take(i));
	while (i->waiters) {
		struct waiter *w = i->waiters;

		i->waiters = w->next;
		free(w);
	}
	free(i);
}

/* ---- starting and ending the process ---- */

static void quit_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct offline_process *i = opaque;

	(void)a;
	(void)e;
	if (r < 0 && r != -ESRCH)
		vm_process_kill(i->proc);
}

static void process_quit(struct offline_process *i, uint64_t timeout_ns)
{
	i->ending = true;
	vm_process_request(i->proc, VM_MSG_QUIT, NULL, 0, -1, timeout_ns, quit_done, i);
	vm_process_kill_after(i->proc, timeout_ns);
}

static void process_quit_if_unused(struct offline_process *i)
{
	if (!i->asked && !i->first && !i->ending)
		process_quit(i, QUIT_TIMEOUT_NS);
}

static void request_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct wanted *w = opaque;
	struct offline_process *i = w->offline;
	struct err named;

	w->done(w->opaque, r, a, r < 0 ? offline_name_user(i->vm, e, &named) : e); /* may queue another request */
	wanted_free(w);
	i->asked--;
	/* If the process has ended, do not ask it to quit: offline_ended() follows. */
	if (r != -ESRCH && r != -EPIPE)
		process_quit_if_unused(i);
}

static void wanted_send(struct offline_process *i)
{
	struct wanted *w;

	while ((w = wanted_take(i))) {
		i->asked++;
		vm_process_request_with(i->proc, w->type, w->body, w->len, STEAL_PTR(w->file), w->fds, w->nfds, w->timeout_ns,
			request_answered, w);
	}
}

static void config_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct offline_process *i = opaque;

	(void)a;
	if (r < 0) {
		i->ending = true;
		if (r == -EREMOTEIO)
			vm_process_kill_after(i->proc, QUIT_TIMEOUT_NS);
		else
			vm_process_kill(i->proc);
		all_fail(i, r, e);
		return;
	}
	i->configured = true;
	wanted_send(i);
	process_quit_if_unused(i);
}

static void offline_event(void *opaque, const struct vm_event *ev)
{
	struct offline_process *i = opaque;

	if (ev->kind == VM_EVENT_SNAPSHOT_RECOVERED)
		vm_guest_event(i->vm, ev);
	if (ev->kind == VM_EVENT_PROGRESS)
		vm_notify(i->vm, progress, ev);
}

static void offline_start(struct offline_process *i);

static void waiters_run(struct waiter *list)
{
	while (list) {
		struct waiter *w = list;

		list = w->next;
		w->run(w->opaque); /* may free the VM */
		free(w);
	}
}

/* Continue without a process: start the next one if requests are queued, else free the object. Then run the waiters. */
static void offline_next(struct offline_process *i)
{
	struct waiter *waiters = i->waiters;
	struct vm *vm = i->vm;

	i->waiters = NULL;
	if (i->first) {
		offline_start(i);
	} else {
		vm->offline = NULL;
		offline_free(i);
		vm_start_resume(vm);
	}
	waiters_run(waiters);
}

static void offline_ended(void *opaque, const struct vm_process_end *end)
{
	char name[VM_NAME_MAX + 2];
	struct offline_process *i = opaque;
	struct vm *vm = i->vm;

	(void)end;
	socket_name(vm, name);
	vm_socket_remove(vm->host->run_dir_fd, name);
	vm_process_free(i->proc);
	i->proc = NULL;
	i->configured = i->ending = i->stuck = false;
	vm_cgroups_sweep(vm->host);
	offline_next(i);
}

/* The process has not ended after SIGKILL, which may take long: answer the waiting callers. */
static void offline_stuck(void *opaque)
{
	struct offline_process *i = opaque;
	struct waiter *waiters;
	struct err e;

	i->stuck = true;
	all_fail(i, offline_hung_set(i->vm, &e), &e);
	waiters = i->waiters;
	i->waiters = NULL;
	vm_start_resume(i->vm);
	waiters_run(waiters);
}

static const struct vm_process_ops images_ops = { .event = offline_event, .gone = offline_ended, .stuck = offline_stuck };

static int process_start(struct offline_process *i, struct config *c, struct err *e)
{
	struct vm_host *host = i->vm->host;
	CLEANUP_CLOSE int log_fd = -1;
	char name[VM_NAME_MAX + 2];
	struct vm_process_paths p = { .program = host->paths->vm_program, .closer = host->closer,
		.sandbox = host->sandbox, .run_dir = host->run_dir_fd, .name = name, .end_fd = -1 };
	int r;

	socket_name(i->vm, name);
	log_fd = vm_log_open(i->vm, e);
	if (log_fd < 0)
		return log_fd;
	p.log_fd = log_fd;
	c->vm.log_fd = (uint16_t)config_add_fd(c, fcntl(log_fd, F_DUPFD_CLOEXEC, 3));
	c->vm.log_level = (uint8_t)host->log_level;
	c->vm.clone_copiers = i->vm->operation.copiers;
	memcpy(c->vm.former, i->vm->former, sizeof(c->vm.former));
	pull_mark_add(i->vm, &c->vm);
	r = vm_uid_choose(i->vm, e);
	p.uid = i->vm->uid;
	/* Clones' files may be in memory. */
	vm_cgroup_place(i->vm, !i->vm->operation.copiers && vm_cgroup_may_limit_memory(c), false, &p.place);
	if (!r)
		r = vm_process_start(host->loop, &p, &images_ops, i, &i->proc, e);
	if (!r)
		vm_process_configure(i->proc, c, false, config_answered, i);
	return r;
}

static void start_failure_report(struct loop_task *t)
{
	struct offline_process *i = container_of(t, struct offline_process, failed);

	all_fail(i, -EREMOTEIO, &i->e);
	offline_next(i);
}

static void stuck_report(struct loop_task *t)
{
	struct offline_process *i = container_of(t, struct offline_process, hung);
	struct err e;

	i->hung_queued = false;
	if (i->stuck) /* it may have ended since then */
		all_fail(i, offline_hung_set(i->vm, &e), &e);
}

static void offline_opened(void *opaque, int r, struct config *c, const struct err *e)
{
	struct offline_process *i = opaque;

	i->opener = NULL;
	if (r < 0) {
		i->e = *e;
	} else {
		r = process_start(i, c, &i->e);
		config_done(c);
	}
	if (r < 0) {
		i->failed.run = start_failure_report;
		loop_post(i->vm->host->loop, &i->failed);
	}
}

static void offline_start(struct offline_process *i)
{
	/* Linked clones may have a frozen image open, too, so open it read-only. */
	open_as_open(i->vm->host->helpers, i->vm->def, image_is_frozen(i->vm) ? OPEN_AS_WRITTEN_READ : OPEN_AS_WRITTEN,
		offline_opened, i, &i->opener);
}

/* ---- requests ---- */

static struct offline_process *offline_new(struct vm *vm)
{
	struct offline_process *i = calloc(1, sizeof(*i));

	if (!i)
		abort(); /* otherwise done() of the request would never be called */
	i->vm = vm;
	i->last = &i->first;
	return i;
}

static struct offline_process *offline_of(struct vm *vm)
{
	if (!vm->offline) {
		vm->offline = offline_new(vm);
		offline_start(vm->offline);
	}
	return vm->offline;
}

void offline_start_copiers(struct vm *vm, unsigned copiers)
{
	vm->operation.copiers = (uint8_t)copiers;
	offline_of(vm);
}

/* Duplicate the descriptors for the queued request. If one cannot be duplicated, the request lacks it, and the process
 * rejects the request. */
static void wanted_take_fds(struct wanted *w, const int *fds, unsigned nfds)
{
	w->fds = must_alloc(calloc(nfds + 1, sizeof(*w->fds)));
	for (unsigned k = 0; k < nfds; k++) {
		int fd = fcntl(fds[k], F_DUPFD_CLOEXEC, 3);

		if (fd >= 0)
			w->fds[w->nfds++] = fd;
	}
}

void offline_request(struct vm *vm, enum vm_msg_type type, const void *body, size_t len,
	uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque)
{
	offline_request_with(vm, type, body, len, NULL, NULL, 0, timeout_ns, done, opaque);
}

void offline_request_with(struct vm *vm, enum vm_msg_type type, const void *body, size_t len, struct client_file *file,
	const int *fds, unsigned nfds, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque)
{
	struct offline_process *i = offline_of(vm);
	struct wanted *w = calloc(1, sizeof(*w));

	if (!w || !(w->body = malloc(len + 1)))
		abort();
	if (len)
		memcpy(w->body, body, len);
	w->offline = i;
	w->type = type;
	w->len = len;
	w->file = file;
	wanted_take_fds(w, fds, nfds);
	w->timeout_ns = timeout_ns;
	w->done = done;
	w->opaque = opaque;
	*i->last = w;
	i->last = &w->next;
	if (i->configured && !i->ending)
		wanted_send(i);
	if (i->stuck && !i->hung_queued) {
		i->hung_queued = true;
		i->hung.run = stuck_report;
		loop_post(vm->host->loop, &i->hung);
	}
}

bool offline_wait(struct vm *vm, void (*run)(void *opaque), void *opaque)
{
	struct waiter *w;

	if (!vm->offline || vm->offline->stuck)
		return false;
	w = must_alloc(malloc(sizeof(*w)));
	*w = (struct waiter){ vm->offline->waiters, run, opaque };
	vm->offline->waiters = w;
	return true;
}

int offline_check(const struct vm *vm, struct err *e)
{
	return vm->offline && vm->offline->stuck ? offline_hung_set(vm, e) : 0;
}

int offline_hung_set(const struct vm *vm, struct err *e)
{
	const struct definition *def = vm->def;
	char images[NAMED_IMAGES_BYTES] = "";
	size_t at = 0;

	for (uint32_t i = 0; i < def->ndisks && at < sizeof(images); i++)
		if (def->disks[i].nlayers && def->disks[i].layers[0].path)
			at += (size_t)snprintf(images + at, sizeof(images) - at, "%s%s", at ? ", " : "", def->disks[i].layers[0].path);
	return err_set(e, -ETIMEDOUT, ERR_TIMEOUT, "the images of VM '%.120s' do not answer (%s); repair or unmount their file system, then "
		"try again", vm->def->name, images);
}

/* ---- a process that an earlier daemon left ---- */

static void old_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)opaque;
	(void)r;
	(void)a;
	(void)e;
}

void offline_end_old(struct vm *vm)
{
	struct offline_process *i = offline_new(vm);
	char name[VM_NAME_MAX + 2];
	struct vm_process_paths p = { .closer = vm->host->closer, .run_dir = vm->host->run_dir_fd, .name = name, .log_fd = -1,
		.end_fd = -1 };
	struct err e;

	socket_name(vm, name);
	if (vm_process_adopt(vm->host->loop, &p, &images_ops, i, old_answered, i, &i->proc, &e) < 0) {
		offline_free(i);
		return;
	}
	log_info("state", "VM '%s': ending the offline process that an earlier daemon started", vm->def->name);
	vm->offline = i;
	process_quit(i, OLD_QUIT_TIMEOUT_NS);
}

static void offline_removed(struct vm *vm)
{
	offline_free(vm->offline);
}

const struct vm_observer offline_observer = { .removed = offline_removed };
