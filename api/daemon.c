#include "api/daemon.h"
#include "api/access/audit.h"
#include "api/access/denial_log.h"
#include "api/access/rights.h"
#include "api/jobs/batch.h"
#include "api/jobs/import.h"
#include "api/jobs/job.h"
#include "api/jobs/rename.h"
#include "api/jobs/undefine.h"
#include "api/net/forwards.h"
#include "api/policy/autostart.h"
#include "api/policy/host_shutdown.h"
#include "api/policy/scheduler.h"
#include "api/qmp/qmp.h"
#include "api/store/event_log.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/vm/vm_life.h"
#include "api/vm/vm_socket.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "api/wire/listen.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>

#define LOOP_ENTRIES 256
#define ADOPT_TIMEOUT_NS (2 * 1000000000ULL)
#define FINISH_TIMEOUT_NS (2 * 1000000000ULL)

struct json_object *daemon_version(void)
{
	struct json_object *o = json_object_new_object(), *qemu = json_object_new_object();

	/* The dialect: QEMU 7.2's, which is what clients look at. */
	js_put_int(qemu, "micro", 0);
	js_put_int(qemu, "minor", 2);
	js_put_int(qemu, "major", 7);
	js_put(o, "qemu", qemu);
	js_put_str(o, "package", "Cairn " CAIRN_VERSION);
	return o;
}

void daemon_emit(struct daemon *d, enum event_id id, const char *vm, struct json_object *data)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct json_object *time = json_object_new_object();
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	js_put_int(time, "seconds", ts.tv_sec);
	js_put_int(time, "microseconds", ts.tv_nsec / 1000);
	js_put(o, "timestamp", time);
	js_put_str(o, "event", schema_event(DIALECT_DAEMON, id)->name);
	if (!data)
		data = json_object_new_object();
	if (vm)
		js_put_str(data, "vm", vm);
	js_put(o, "data", data);
	if (d->events && !schema_event(DIALECT_DAEMON, id)->passing)
		event_log_add(d->events, o);
	if (d->server && schema_event(DIALECT_DAEMON, id)->admins)
		server_tell_admins(d->server, o);
	else if (d->server)
		server_broadcast(d->server, o, vm);
	if (vm)
		qmp_emit(d, id, vm, o);
}

/* ---- loading ---- */

static void vm_found(void *opaque, const char *name, struct json_object *definition,
	struct json_object *state)
{
	struct daemon *d = opaque;
	struct definition *def = NULL;
	struct vm *vm;
	struct err e;
	CLEANUP_FREE struct rights *rights = NULL;
	int r = rights_take(definition, &rights, &e);

	if (!r)
		r = definition_parse(definition, NULL, &def, &e);
	if (!r && strcmp(def->name, name))
		r = err_set(&e, -EINVAL, ERR_CORRUPT, "it is in the folder of VM '%s'", name);
	else if (!r && (!definition_has_uuid(def) || vm_find_uuid(d, def->uuid)))
		r = err_set(&e, -EINVAL, ERR_CORRUPT, "its uuid is missing or another VM's");
	if (r < 0) {
		store_quarantine(d->store, name, e.msg);
		definition_free(def);
		return;
	}
	def->rights = STEAL_PTR(rights);
	if (vm_add(d, def, &vm) < 0) {
		definition_free(def);
		return;
	}
	vm->is_template = store_has_file(d->store, name, VM_TEMPLATE_FILE);
	if (state)
		vm_load_state(vm, state);
	if (vm->id > d->next_id)
		d->next_id = vm->id;
}

static void permissions_found(struct daemon *d)
{
	CLEANUP_JS struct json_object *o = store_load_file(d->store, PERMISSIONS_FILE);

	permissions_load(&d->permissions, js_get(o, "permissions"));
}

/* One whose definition is damaged has its folder still. */
static bool vm_is_there(void *opaque, const char *name)
{
	struct daemon *d = opaque;

	return vm_find(d, name) || store_has_file(d->store, name, "");
}

/* A daemon may have forgotten a VM, and ended before it forgot who could do what with it. */
static void permissions_mend(struct daemon *d)
{
	if (permissions_prune(&d->permissions, vm_is_there, d))
		daemon_keep_permissions(d, NULL);
}

static void jobs_found(struct daemon *d)
{
	CLEANUP_JS struct json_object *o = store_load_file(d->store, "jobs.json");

	if (o)
		jobs_load(d, o);
	jobs_recover(d);
}

/* Its process may run on, with its images. */
static void unread_found(void *opaque, const char *name, const char *sentence)
{
	struct daemon *d = opaque;
	CLEANUP_CLOSE int sock = -1;

	if (!vm_find(d, name) && vm_socket_connect(d->run_dir_fd, name, &sock) == 0)
		log_error("state", "VM '%s' runs, and nobody manages it: %s", name, sentence);
}

/* Clients are let in when it is known how every VM is. */
static void take_back_all(struct daemon *d)
{
	uint64_t until = loop_now_ns() + ADOPT_TIMEOUT_NS, now;

	for (size_t i = 0; i < d->nvms; i++)
		vm_take_back(d->vms[i]);
	while (d->adopting && (now = loop_now_ns()) < until)
		loop_run_once(d->loop, until - now);
}

/* ---- what was told, and is not so ---- */

/* Of each VM, by its place in the table: the state that the last event of it told of. */
struct told {
	struct daemon *daemon;
	enum vm_state *states;
	bool *known; /* an event of it was met */
	size_t left;
};

static bool states_read(void *opaque, struct json_object *ev)
{
	struct told *t = opaque;
	struct json_object *data = js_get(ev, "data");
	const char *name = js_get_str(data, "vm"), *kind = js_get_str(ev, "event"),
		   *word = js_get_str(data, "state");
	struct vm *vm = name ? vm_find(t->daemon, name) : NULL;
	size_t i;

	if (!vm || !kind || (strcmp(kind, "VM_STATE_CHANGE") && strcmp(kind, "VM_UNDEFINED")))
		return true;
	i = vm_index_after(t->daemon, vm->def->name) - 1;
	if (t->known[i])
		return true;
	t->known[i] = true; /* of one that was undefined, and is another now: nothing */
	t->states[i] = word ? vm_state_from_word(word) : vm->state;
	return --t->left > 0;
}

/* An event is told at once, and the state is written by a thread: a daemon that was killed may
 * have told of more than the next one knows. Whoever follows the events is told how it is. */
static void states_correct(struct daemon *d)
{
	CLEANUP_FREE enum vm_state *states = calloc(d->nvms + 1, sizeof(*states));
	CLEANUP_FREE bool *known = calloc(d->nvms + 1, sizeof(*known));
	struct told t = { d, states, known, d->nvms };

	if (!states || !known || !d->nvms)
		return;
	event_log_backwards(d->events, "\"VM_", states_read, &t);
	for (size_t i = 0; i < d->nvms; i++)
		if (known[i] && states[i] != d->vms[i]->state)
			vm_emit_change(d->vms[i], states[i]);
}

/* ---- start and end ---- */

static void signal_ready(void *opaque, unsigned revents)
{
	(void)revents;
	loop_stop(opaque);
}

static int signals_watch(struct daemon *d, int *ret_fd, struct loop_watch **ret_w, struct err *e)
{
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	*ret_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	r = *ret_fd < 0 ? -errno :
		loop_watch(d->loop, *ret_fd, POLLIN, signal_ready, d->loop, ret_w);
	return r < 0 ? err_set_errno(e, r, "signals") : 0;
}

/* 500 clients and 100 VMs want more than the usual 1024. */
static void limits_raise(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0 || rl.rlim_cur == rl.rlim_max)
		return;
	rl.rlim_cur = rl.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &rl) < 0)
		log_warn("start", "cannot raise the number of open files");
}

static int run_dir_open(struct daemon *d, struct err *e)
{
	int r = mkdir_all(d->paths->run_dir, 0700, e);

	if (r < 0)
		return r;
	d->run_dir_fd = open(d->paths->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return d->run_dir_fd < 0 ? err_set_errno(e, -errno, "%s", d->paths->run_dir) : 0;
}

/* What policies want of VMs by themselves, from here on. */
static void policies_go(struct daemon *d)
{
	for (size_t i = 0; i < d->nvms; i++) {
		struct vm *vm = d->vms[i];

		/* The host going down is no crash of a VM's. */
		if (vm->ended_unseen && !autostart_is_new_boot(d))
			vm_policies_apply(vm, vm->rebooting);
		vm->rebooting = vm->rebooting && vm->proc;
		vm->ended_unseen = false;
		restart_take_up(vm);
		shutdown_take_up(vm);
		if (vm->proc && vm_state_is_active(vm->state))
			forwards_taken_back(vm);
		idle_on_state_change(vm);
		forwards_on_state_change(vm);
	}
	autostart_go(d);
}

int daemon_open(struct daemon *d, struct err *e)
{
	gid_t operators = (gid_t)-1;
	int fd = d->paths->listening;
	int r = store_open(d->paths->state_dir, &d->store, e);

	if (!r)
		r = audit_open(d->paths->state_dir, &d->audit, e);
	if (!r)
		r = event_log_open(d->paths->state_dir, &d->events, e);
	if (!r)
		r = denial_log_open(d, &d->denials, e);
	if (!r && d->paths->listening < 0)
		r = listen_prepare(d->paths->socket, e);
	if (!r)
		r = run_dir_open(d, e);
	if (r < 0)
		return r;
	permissions_found(d);
	rename_resume_pending(d);
	store_load(d->store, vm_found, d);
	batch_leave_newer(d);
	autostart_load(d);
	jobs_found(d);
	store_each_unread(d->store, unread_found, d);
	take_back_all(d);
	batch_clear_up(d);
	import_clear_up(d);
	undefine_resume_pending(d);
	permissions_mend(d);
	jobs_settle(d);
	states_correct(d);
	if (fd < 0)
		r = listen_open(d->paths->socket, d->paths->system, &fd, &operators, e);
	else
		r = listen_adopt(d->paths->socket, d->paths->system, &operators, e);
	if (!r)
		r = server_new(d, d->paths->socket, fd, operators, &d->server, e);
	if (!r)
		r = qmp_open_all(d, e);
	if (!r)
		r = scheduler_new(d, &d->scheduler, e);
	if (!r)
		policies_go(d);
	return r;
}

/* Who has asked for what is being written is told. Clients that ask for ever more do not hold up the end. */
static void answers_finish(struct daemon *d)
{
	uint64_t until = loop_now_ns() + FINISH_TIMEOUT_NS, now;

	while (store_owes(d->store) && (now = loop_now_ns()) < until)
		loop_run_once(d->loop, until - now);
}

void daemon_close(struct daemon *d)
{
	answers_finish(d);
	if (d->store)
		store_settle(d->store); /* what it writes for a job is the job's, which goes now */
	if (d->server && d->paths->listening < 0)
		unlink(d->paths->socket);
	qmp_close_all(d);
	server_free(d->server);
	d->server = NULL;
	host_shutdown_free(d->host_shutdown);
	d->host_shutdown = NULL;
	autostart_free(d->autostart);
	scheduler_free(d->scheduler);
	d->scheduler = NULL;
	vm_free_all(d);
	forwards_processes_free(d);
	jobs_free(d);
	permissions_done(&d->permissions);
	denial_log_close(d->denials);
	audit_close(d->audit);
	event_log_close(d->events);
	d->events = NULL;
	store_close(d->store);
	if (d->run_dir_fd >= 0)
		close(d->run_dir_fd);
}

int daemon_run(const struct daemon_paths *p, int log_level, struct err *e)
{
	struct daemon d = { .paths = p, .run_dir_fd = -1, .log_level = log_level };
	struct loop_watch *signals = NULL;
	CLEANUP_CLOSE int signal_fd = -1;
	CLEANUP_CLOSE int notify_fd = notify_open();
	int r;

	unsetenv("NOTIFY_SOCKET"); /* not for VM processes */
	limits_raise();
	r = loop_new(LOOP_ENTRIES, &d.loop, e);
	if (r < 0)
		return r;
	r = signals_watch(&d, &signal_fd, &signals, e);
	if (!r)
		r = daemon_open(&d, e);
	if (!r) {
		log_info("start", "Cairn %s listens on %s; %zu VMs, state in %s", CAIRN_VERSION,
			p->socket, d.nvms, p->state_dir);
		notify_send(notify_fd, "READY=1");
		loop_run(d.loop);
		notify_send(notify_fd, "STOPPING=1");
		log_info("stop", "ending; VMs that run keep running");
	}
	daemon_close(&d);
	loop_unwatch(signals);
	loop_free(d.loop);
	return r;
}
