#include "api/daemon.h"
#include "api/heartbeat.h"
#include "api/access/audit.h"
#include "api/access/authors.h"
#include "api/access/denial_log.h"
#include "api/access/fork_as.h"
#include "api/jobs/batch.h"
#include "api/jobs/commit.h"
#include "api/jobs/commit_ready.h"
#include "api/jobs/dump.h"
#include "api/jobs/exec.h"
#include "api/jobs/flatten.h"
#include "api/jobs/group_clone.h"
#include "api/jobs/group_snapshot.h"
#include "api/jobs/import.h"
#include "api/jobs/job.h"
#include "api/jobs/job_owner.h"
#include "api/jobs/job_recover.h"
#include "api/jobs/job_wait.h"
#include "api/jobs/pin_release.h"
#include "api/jobs/pool_volumes.h"
#include "api/jobs/pull.h"
#include "api/jobs/promote.h"
#include "api/jobs/rename.h"
#include "api/jobs/restart_process.h"
#include "api/jobs/save.h"
#include "api/jobs/snapshot_job.h"
#include "api/jobs/start_gate.h"
#include "api/jobs/undefine.h"
#include "api/jobs/volume_job.h"
#include "api/net/forwards.h"
#include "api/net/group_network.h"
#include "api/net/network.h"
#include "api/net/network_default.h"
#include "api/net/network_life.h"
#include "api/net/network_blocked.h"
#include "api/net/network_ports.h"
#include "api/net/network_watch.h"
#include "api/net/publish_restart.h"
#include "api/policy/approver.h"
#include "api/policy/autostart.h"
#include "api/policy/balancer.h"
#include "api/policy/hook_ask.h"
#include "api/policy/hooks.h"
#include "api/policy/host_shutdown.h"
#include "api/policy/idle.h"
#include "api/policy/pool_space.h"
#include "api/policy/pressure.h"
#include "api/policy/restart.h"
#include "api/policy/scheduler.h"
#include "api/policy/shutdown.h"
#include "api/policy/staged_run.h"
#include "api/policy/thresholds.h"
#include "api/policy/timetables.h"
#include "api/policy/transient.h"
#include "api/policy/web_hooks.h"
#include "api/policy/trends.h"
#include "api/policy/vm_space.h"
#include "api/qmp/qmp.h"
#include "api/qmp/qmp_handler.h"
#include "api/socket_keep.h"
#include "api/store/event_log.h"
#include "api/store/store.h"
#include "api/store/store_lock.h"
#include "api/vm/consoles.h"
#include "api/vm/former_files.h"
#include "api/vm/mirrors.h"
#include "api/vm/pin_scan.h"
#include "api/vm/pins.h"
#include "api/vm/pull_mark.h"
#include "api/vm/quota_use.h"
#include "api/vm/offline_process.h"
#include "api/vm/vm.h"
#include "api/vm/systemd_scope.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_log.h"
#include "api/vm/vm_sandbox.h"
#include "api/vm/vm_socket.h"
#include "api/vm/vm_spare.h"
#include "api/wire/close_async.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "api/wire/listen.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/notify.h"
#include "base/signals.h"
#include "base/uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define LOOP_ENTRIES 512
#define FILES_MAX 524288 /* as LimitNOFILE in cairnd.service */
#define STACK_BYTES (8 * MIB) /* the usual limit */
#define STACK_MIN_BYTES (1 * MIB)
#define ADOPT_TIMEOUT_NS (10 * 1000000000ULL)
#define FINISH_TIMEOUT_NS (10 * 1000000000ULL)

_Static_assert(EVENT_ID_COUNT <= CONN_EVENTS_MAX, "numbers of events");

/* Return an event, owned by the caller. data: taken. */
static struct json_object *event_make(enum event_id id, struct json_object *data)
{
	struct json_object *o = json_object_new_object(), *time = json_object_new_object();
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	js_put_int(time, "seconds", ts.tv_sec);
	js_put_int(time, "microseconds", ts.tv_nsec / 1000);
	js_put(o, "timestamp", time);
	js_put_str(o, "event", schema_event(DIALECT_DAEMON, id)->name);
	js_put(o, "data", data);
	return o;
}

static void daemon_emit(void *opaque, enum event_id id, const char *vm, const uint8_t *uuid, struct json_object *data)
{
	struct vm_host *h = opaque;
	CLEANUP_JS struct json_object *o = event_make(id, data ? data : json_object_new_object());
	char text[UUID_TEXT];

	data = js_get(o, "data");
	if (uuid) {
		uuid_print(uuid, text);
		if (!schema_event(DIALECT_DAEMON, id)->passing)
			journal_send_event(&h->journal, vm, text, schema_event(DIALECT_DAEMON, id)->name, data);
	}
	js_put_str(data, "vm", vm);
	if (uuid)
		js_put_str(data, VM_UUID_KEY, text);
	hooks_notify(h->hooks, o);
	web_hooks_notify(h->web_hooks, o);
	if (h->events && !schema_event(DIALECT_DAEMON, id)->passing)
		event_log_add(h->events, o);
	if (h->server && schema_event(DIALECT_DAEMON, id)->admins)
		server_notify_admins(h->server, o, uuid, id);
	else if (h->server)
		server_broadcast(h->server, o, uuid, id);
	if (uuid)
		qmp_emit(h, id, vm, uuid, o);
}

/* Cancel the jobs whose users have lost the role that they need. */
static void jobs_check_roles(struct vm_host *h)
{
	job_owners_check(h);
	exec_check_roles(h);
	volume_jobs_check_roles(h);
}

static void permissions_changed(void *opaque)
{
	struct vm_host *h = opaque;
	CLEANUP_JS struct json_object *told = event_make(EVENT_ROLES_CHANGED, json_object_new_object());

	if (h->server)
		server_permissions_changed(h->server, told);
	consoles_check_all(h);
	if (h->server)
		jobs_check_roles(h);
	job_waits_check_roles(h);
}

/* The order of this list determines the order of events, of members in state.json and of lines in the log:
 * - when a VM ends, host_shutdown is called before restart, which may schedule a start;
 * - state.json has schedule, restart and shutdown in this order;
 * - save continues an adopted VM's save job before idle looks for that job;
 * - job_owner looks for the jobs that all others have continued, or ended with the VM's process;
 * - idle stops counting before forwards decides whether its sockets wake the VM. */
static const struct vm_observer *const observers[] = { &command_observer, &quota_observer, &staged_run_observer, &host_shutdown_observer, &scheduler_observer, &timetables_observer, &restart_observer, &transient_observer,
	&shutdown_observer, &job_observer, &job_wait_observer, &save_observer, &snapshot_job_observer, &restart_process_observer, &dump_observer, &idle_observer,
	&forwards_observer, &hook_ask_observer, &start_gate_before_observer, &network_ports_observer, &network_blocked_observer, &start_gate_observer, &group_network_observer,
	&qmp_observer, &pin_release_observer, &pull_mark_observer, &former_files_observer, &mirrors_observer, &pull_observer, &commit_observer, &commit_ready_observer,
	&flatten_observer, &trends_observer, &vm_space_observer, &thresholds_observer, &pressure_observer, &balancer_observer, &job_owner_observer, &vm_cgroup_observer,
	&systemd_scope_observer, &approver_observer, &start_observer, &offline_observer, NULL };

/* ---- loading state, and adopting VMs ---- */

/* Leave a VM to the newer Cairn that wrote keys or words into its file, as after the return to an earlier release. */
static void newer_note(struct store *s, const char *name, const char *which, const struct err *e)
{
	char file[sizeof("vms//definition.json") + VM_NAME_MAX];

	snprintf(file, sizeof(file), "vms/%s/%s.json", name, which);
	store_leave_vm(s, name, file, e->msg);
}

/* Put a damaged definition aside. */
static void unread_note(struct store *s, const char *name, const struct err *e)
{
	if (e->cls == ERR_UNSUPPORTED)
		newer_note(s, name, "definition", e);
	else
		store_quarantine(s, name, e->msg);
}

static void vm_found(void *opaque, const char *name, struct json_object *definition,
	struct json_object *state)
{
	struct vm_host *h = opaque;
	struct definition *def = NULL;
	struct vm *vm;
	struct err e;
	int r = authors_parse_stored(definition, &def, &e);

	if (!r && strcmp(def->name, name))
		r = err_set(&e, -EINVAL, ERR_CORRUPT, "its name differs from that of its folder, '%s'", name);
	else if (!r && (!uuid_is_set(def->uuid) || vm_find_uuid(h, def->uuid)))
		r = err_set(&e, -EINVAL, ERR_CORRUPT, "its uuid is missing or belongs to another VM");
	if (r < 0) {
		unread_note(h->store, name, &e);
		definition_free(def);
		return;
	}
	if (vm_add(h, def, &vm) < 0) {
		definition_free(def);
		return;
	}
	vm_set(vm, VM_FACT_TEMPLATE, store_has_file(h->store, name, VM_TEMPLATE_FILE));
	vm_load_transient(vm);
	if (state && vm_load_state(vm, state, &e) < 0) {
		newer_note(h->store, name, "state", &e);
		vm_remove(vm);
		return;
	}
	if (vm->id > h->next_id)
		h->next_id = vm->id;
}

static void permissions_found(struct vm_host *h)
{
	CLEANUP_JS struct json_object *o = store_load_file(h->store, NULL, PERMISSIONS_FILE);
	struct err e;
	int r = permissions_load_file(&h->permissions, o, &e);

	if (r == -ENOTSUP)
		store_leave_vm(h->store, NULL, PERMISSIONS_FILE, e.msg);
	else if (r < 0)
		store_set_aside(h->store, PERMISSIONS_FILE, e.msg);
}

/* Return whether the entry's VM exists. A VM with a damaged definition is not loaded, but still has its folder. */
static bool vm_is_there(void *opaque, const struct permission *e)
{
	struct vm_host *h = opaque;

	return vm_find_uuid(h, e->uuid) || (!vm_find_name(h, e->vm) && store_has_file(h->store, e->vm, ""));
}

static const uint8_t *uuid_of_vm(void *opaque, const char *name)
{
	const struct vm *vm = vm_find_name(opaque, name);

	return vm ? vm->def->uuid : NULL;
}

/* Remove the permissions for VMs that do not exist: an earlier daemon may have ended after it removed a VM and before
 * it removed the VM's permissions. */
static void permissions_remove_orphans(struct vm_host *h)
{
	bool found = permissions_find_vms(&h->permissions, uuid_of_vm, h);

	if (permissions_prune(&h->permissions, vm_is_there, h) || found)
		permissions_store(&h->permissions, h->loop, h->store, NULL);
}

static void jobs_found(struct vm_host *h)
{
	CLEANUP_JS struct json_object *o = store_load_file(h->store, NULL, "jobs.json");

	if (o)
		jobs_load(h, o);
	jobs_recover(h, o);
}

/* Report a VM that was not loaded, but whose process still runs with its images. */
static void unread_found(void *opaque, const char *name, const char *sentence)
{
	struct vm_host *h = opaque;
	int sock = -1, r = vm_find(h, name) ? -EEXIST : vm_socket_connect(h->run_dir_fd, name, false, &sock);

	if (r < 0 && r != -EAGAIN)
		return;
	log_error("state", "VM '%s' runs unmanaged: %s", name, sentence);
	if (sock >= 0)
		vm_socket_close(sock, h->closer);
}

/* Whether the stored states prove that the socket with the VM's old name belongs to the VM: a running VM without a
 * socket of today's name has one with the old name. */
static bool old_socket_is_of(const struct vm_host *h, const struct vm *vm)
{
	for (size_t i = 0; i < h->nvms && vm_socket_old_name_is_hash(vm->def->name); i++) {
		const struct vm *other = h->vms[i];

		if (other == vm || !vm_socket_old_names_meet(other->def->name, vm->def->name))
			continue;
		if (!vm_state_is_active(vm->state) ||
			(vm_state_is_active(other->state) && !vm_socket_exists(h->run_dir_fd, other->def->name)))
			return false;
	}
	return true;
}

/* Adopt the processes of all VMs. Waits for their answers, up to 10 s, so that clients see the true states. */
static void take_back_all(struct vm_host *h)
{
	uint64_t until = loop_now_ns() + ADOPT_TIMEOUT_NS, now;

	/* Before any VM's state changes. */
	for (size_t i = 0; i < h->nvms; i++)
		vm_set(h->vms[i], VM_FACT_OWNS_HASH, old_socket_is_of(h, h->vms[i]));
	for (size_t i = 0; i < h->nvms; i++)
		vm_take_back(h->vms[i]);
	while (h->adopting && (now = loop_now_ns()) < until)
		loop_run_once(h->loop, until - now);
}

/* If the list of pins was lost or damaged, complete the list from the disks of live clones. Without the list, the
 * clones' sources would not start. */
static void pins_complete(struct daemon *d)
{
	CLEANUP_JS struct json_object *line = json_object_new_object();
	struct pin_scan_result found;
	struct err e;

	if (!pins_are_incomplete(&d->host))
		return;
	pin_scan_all(&d->host, &found);
	if (!found.added && !found.unread) /* a new state folder has no list */
		return;
	err_set(&e, -EIO, ERR_CORRUPT, PINS_FILE " was lost or damaged; the daemon read it again from the disks of live clones: "
		"%u added, %u cannot be read", found.added, found.unread);
	log_warn("pins", "%s", e.msg);
	js_put_int(line, "time", (int64_t)clock_realtime_ns());
	js_put_int(line, "uid", geteuid());
	js_put_int(line, "pid", getpid());
	js_put_str(line, "command", "(pins found)");
	js_put_str(line, "outcome", err_class_name(ERR_CORRUPT));
	js_put_str(line, "error", e.msg);
	audit_add(d->host.audit, line);
}

/* ---- correcting reported states ---- */

struct told {
	struct vm_host *host;
	bool *found; /* for each VM, by its index in the registry: its last event was found */
	size_t left;
};

static bool told_read(void *opaque, struct json_object *ev)
{
	struct told *t = opaque;
	struct json_object *data = js_get(ev, "data");
	const char *name = js_get_str(data, "vm"), *kind = js_get_str(ev, "event"),
		   *word = js_get_str(data, "state");
	struct vm *vm = name ? vm_find(t->host, name) : NULL;
	size_t i;

	if (!vm || !kind || (strcmp(kind, "VM_STATE_CHANGE") && strcmp(kind, "VM_UNDEFINED")))
		return true;
	i = vm_index_after(t->host, vm->def->name) - 1;
	if (t->found[i])
		return true;
	t->found[i] = true;
	vm->is_told = word != NULL; /* a VM_UNDEFINED event, which has no state, is about an earlier VM of this name */
	if (word)
		vm->told = vm_state_from_word(word);
	return --t->left > 0;
}

/* Find the state in each VM's last event. */
static void states_told(struct vm_host *h)
{
	CLEANUP_FREE bool *found = calloc(h->nvms + 1, sizeof(*found));
	struct told t = { h, found, h->nvms };

	if (found && h->nvms)
		event_log_backwards(h->events, "\"VM_", told_read, &t);
}

/* Emit an event for each VM whose state differs from its last event, or whose start was lost. */
static void states_correct(struct vm_host *h)
{
	for (size_t i = 0; i < h->nvms; i++) {
		struct vm *vm = h->vms[i];
		enum vm_state from = vm->is_told ? vm->told : vm->state;

		if (from != vm->state || vm_has(vm, VM_FACT_START_LOST))
			vm_emit_change(vm, from);
		vm_set(vm, VM_FACT_START_LOST, false);
		vm->is_told = false;
	}
}

/* ---- start and end of the daemon ---- */

static void signal_ready(void *opaque, unsigned revents)
{
	(void)revents;
	loop_stop(opaque);
}

static int signals_watch(struct loop *loop, int *ret_fd, struct loop_watch **ret_w, struct err *e)
{
	static const int ends[] = { SIGTERM, SIGINT, 0 };
	int r;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	r = *ret_fd = signals_open(ends, NULL);
	if (r >= 0)
		r = loop_watch(loop, *ret_fd, POLLIN, signal_ready, loop, ret_w);
	return r < 0 ? err_set_errno(e, r, "signals") : 0;
}

/* Raise the limit of open files: the clients (up to CONN_MAX) and the VMs, six files each, need more than the usual
 * 1024. Root may exceed the hard limit. */
static void files_limit_raise(void)
{
	struct rlimit rl, more = { FILES_MAX, FILES_MAX };

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0 || (rl.rlim_max < FILES_MAX && !setrlimit(RLIMIT_NOFILE, &more)))
		return;
	rl.rlim_cur = rl.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &rl) < 0)
		log_warn("start", "cannot raise the number of open files");
}

/* Raise the limit of the main thread's stack, which grows up to it. Messages of VM processes are on this stack. */
static int stack_limit_raise(struct err *e)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_STACK, &rl) < 0 || rl.rlim_cur >= STACK_BYTES)
		return 0;
	rl.rlim_cur = MIN(rl.rlim_max, STACK_BYTES);
	if (setrlimit(RLIMIT_STACK, &rl) < 0 || rl.rlim_cur < STACK_MIN_BYTES)
		return err_set(e, -ENOMEM, ERR_HOST, "the stack is limited to %llu KiB; cairnd needs %llu: raise the hard limit (ulimit -s)",
			(unsigned long long)(rl.rlim_cur / KIB), STACK_MIN_BYTES / KIB);
	return 0;
}

static int run_dir_open(struct vm_host *h, struct err *e)
{
	int r = mkdir_all(h->paths->run_dir, 0700, e);

	if (r < 0)
		return r;
	h->run_dir_fd = open(h->paths->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return h->run_dir_fd < 0 ? err_set_errno(e, -errno, "%s", h->paths->run_dir) : 0;
}

/* Apply the policies to the loaded VMs: restarts, planned shutdowns, idleness, forwards, autostart. */
static void policies_go(struct vm_host *h)
{
	struct network *n;

	for (size_t i = 0; i < h->nvms; i++) {
		struct vm *vm = h->vms[i];

		/* If the host went down, the VM did not crash. */
		if (vm_has(vm, VM_FACT_ENDED_UNSEEN) && !h->new_boot)
			restart_apply_policies(vm, vm_has(vm, VM_FACT_REBOOTS));
		vm_set(vm, VM_FACT_REBOOTS, vm_has(vm, VM_FACT_REBOOTS) && vm->proc);
		vm_set(vm, VM_FACT_ENDED_UNSEEN, false);
		restart_take_up(vm);
		restart_process_resume(vm);
		shutdown_take_up(vm);
		if (vm->proc && vm_state_is_active(vm->state))
			forwards_adopted(vm);
		network_ports_lead_all(vm);
		if (vm->proc)
			publish_restarts_take_up(vm);
		idle_on_state_change(vm);
		forwards_on_state_change(vm);
	}
	for (size_t i = 0; (n = network_at(h, i)); i++)
		if (n->state == NETWORK_ACTIVE) {
			network_ports_notify(n);
			network_ports_sweep(n);
		}
	autostart_go(h);
}

/* Open the state folder, load its files other than those of VMs, and listen on the daemon's socket. */
static int state_open(struct daemon *d, struct err *e)
{
	struct vm_host *h = &d->host;
	const struct store_takeover takeover = { h->paths->socket, h->paths->replace };
	int r = store_open(h->paths->state_dir, &takeover, &h->store, e);

	if (!r)
		r = audit_open(h->loop, h->paths->state_dir, &h->audit, e);
	if (!r)
		audit_copy_to_journal(h->audit, h->paths->journal);
	if (!r && h->paths->audit_required)
		audit_require(h->audit);
	if (!r)
		r = event_log_open(h->paths->state_dir, &h->events, e);
	if (!r)
		r = denial_log_open(h->loop, &h->sink, h->audit, &d->commands.denials, e);
	if (!r && h->paths->listening < 0)
		r = listen_prepare(h->paths->socket, store_took_over(h->store), e);
	if (!r)
		r = run_dir_open(h, e);
	return r;
}

/* Load all VMs and networks, adopt those that run, and complete or undo operations that an earlier daemon left
 * unfinished. The order of these steps matters. */
static void state_load(struct daemon *d)
{
	struct vm_host *h = &d->host;

	permissions_found(h);
	quotas_load(&h->quotas, h->store);
	pools_load(&h->pools, h->store);
	h->pins_wait_ns = pin_release_wait_ns();
	pins_load(h);
	rename_resume_pending(h);
	store_load(h->store, vm_found, h);
	batch_leave_newer(h);
	batch_mark(h);
	networks_load(h);
	autostart_load(h);
	jobs_found(h);
	store_each_unread(h->store, unread_found, h);
	networks_take_back(h);
	if (geteuid() == 0)
		network_watch_begin(h);
	network_default_define(h);
	states_told(h);
	take_back_all(h);
	vm_cgroups_sweep(h);
	pins_complete(d);
	batch_clear_up(h);
	import_clear_up(h);
	undefine_resume_pending(h);
	promote_resume_pending(h);
	group_snapshot_clear_up(h);
	group_clone_clear_up(h);
	permissions_remove_orphans(h);
	jobs_recover_end(h);
	states_correct(h);
}

/* Listen, and serve clients from now on. */
static int clients_serve(struct daemon *d, struct err *e)
{
	struct vm_host *h = &d->host;
	gid_t operators = (gid_t)-1;
	int fd = h->paths->listening;
	int r = fd < 0 ? listen_open(h->paths->socket, h->paths->system, &fd, &operators, e) :
			 listen_adopt(h->paths->socket, h->paths->system, &operators, e);

	if (!r)
		r = server_new(h->loop, &command_server_ops, &d->commands, h->paths->socket, fd, operators, h->closer,
			&h->server, e);
	if (!r) {
		consoles_begin(h);
		jobs_check_roles(h);
		r = qmp_open_all(h, e);
	}
	return r;
}

int daemon_open(struct daemon *d, struct err *e)
{
	struct vm_host *h = &d->host;
	int r;

	journal_open(&h->journal, "events of VMs", h->paths->journal);
	d->commands.host = h;
	d->commands.handlers[DIALECT_DAEMON] = command_handlers;
	d->commands.handlers[DIALECT_QEMU] = qmp_handlers;
	h->sink = (struct event_sink){ daemon_emit, h };
	h->observers = observers;
	h->permissions.changed = permissions_changed;
	h->permissions.opaque = h;
	r = state_open(d, e);
	if (r < 0)
		return r;
	state_load(d);
	r = clients_serve(d, e);
	if (!r)
		r = scheduler_new(h, &h->scheduler, e);
	if (!r)
		r = timetables_new(h, command_run_as, &d->commands, &h->timetables, e);
	if (!r)
		r = approver_new(h, command_run_approved, &d->commands, &h->approver, e);
	if (r < 0)
		return r;
	h->pool_space = pool_space_new(h);
	h->threshold_watch = thresholds_new(h, command_run_as, &d->commands);
	vm_space_load(h);
	h->web_hooks = web_hooks_new(h);
	policies_go(h);
	return transients_new(h, &h->transients, e);
}

/* Answer the clients that wait for writes. The time limit keeps clients that send further commands from delaying the
 * end. */
static void answers_finish(struct daemon *d)
{
	struct vm_host *h = &d->host;
	uint64_t until = loop_now_ns() + FINISH_TIMEOUT_NS, now;

	while ((store_owes(h->store) || audit_owes(h->audit)) && (now = loop_now_ns()) < until)
		loop_run_once(h->loop, until - now);
}

void daemon_close(struct daemon *d)
{
	struct vm_host *h = &d->host;

	trends_finish(h);
	if (h->store)
		permissions_finish(&h->permissions, h->store);
	answers_finish(d);
	if (h->store)
		store_drain(h->store); /* jobs own the store_work of their writes, and are freed below */
	if (h->server && h->paths->listening < 0)
		unlink(h->paths->socket);
	qmp_close_all(h);
	server_free(h->server);
	h->server = NULL;
	host_shutdown_free(h->host_shutdown);
	h->host_shutdown = NULL;
	autostart_free(h->autostart);
	scheduler_free(h->scheduler);
	h->scheduler = NULL;
	pool_space_free(h->pool_space);
	h->pool_space = NULL;
	vm_spaces_finish(h);
	transients_free(h->transients);
	h->transients = NULL;
	thresholds_free(h->threshold_watch);
	h->threshold_watch = NULL;
	web_hooks_free(h->web_hooks);
	h->web_hooks = NULL;
	timetables_free(h->timetables);
	h->timetables = NULL;
	approver_free(h->approver);
	h->approver = NULL;
	vm_free_all(h);
	fork_as_free(h->program.look);
	trends_free(h);
	pressure_free(h);
	balancer_free(h);
	vm_spares_free(h);
	systemd_scopes_free(h);
	loop_timer_free(h->consoles_retry);
	loop_timer_free(h->cgroup_sweep);
	loop_timer_free(h->pins_timer);
	pins_free(h->pins);
	forwards_processes_free(h);
	network_watch_free(h->network_watch);
	network_ports_free(h);
	networks_free(h);
	job_waits_free(h);
	pool_volumes_free(h);
	jobs_free(h);
	permissions_done(&h->permissions);
	quotas_done(&h->quotas);
	pools_done(&h->pools);
	denial_log_close(d->commands.denials);
	audit_close(h->audit);
	event_log_close(h->events);
	h->events = NULL;
	journal_close(&h->journal);
	store_close(h->store);
	if (h->run_dir_fd >= 0)
		close(h->run_dir_fd);
}

int daemon_run(const struct daemon_paths *p, int log_level, struct err *e)
{
	struct daemon d = { .host = { .paths = p, .run_dir_fd = -1, .log_level = log_level } };
	struct loop_watch *signals = NULL;
	struct heartbeat *heartbeat = NULL;
	struct socket_keep *socket = NULL;
	struct vm_sandbox sandbox;
	CLEANUP_CLOSE int signal_fd = -1;
	CLEANUP_CLOSE int notify_fd = notify_open();
	int r;

	unsetenv("NOTIFY_SOCKET"); /* VM processes must not inherit it */
	files_limit_raise();
	r = stack_limit_raise(e);
	if (!r)
		r = loop_new(LOOP_ENTRIES, &d.host.loop, e);
	if (r < 0)
		return r;
	vm_sandbox_prepare(p, notify_fd >= 0, &sandbox);
	d.host.sandbox = &sandbox;
	d.host.closer = closer_new();
	d.host.helpers = helpers_new(d.host.loop, d.host.closer, p->groups_program);
	d.host.hooks = hooks_new(d.host.loop, p->hook_program, p->hooks_dir);
	d.host.logs = vm_logs_new(&d.host, p->log_program);
	r = signals_watch(d.host.loop, &signal_fd, &signals, e);
	if (!r)
		r = daemon_open(&d, e);
	if (!r)
		r = heartbeat_new(d.host.loop, d.host.store, notify_fd, &heartbeat, e);
	if (!r && p->listening < 0 && !p->system)
		r = socket_keep_new(&d.host, &socket, e);
	if (!r) {
		log_info("start", "Cairn %s listens on %s; %zu VMs, state in %s", CAIRN_VERSION,
			p->socket, d.host.nvms, p->state_dir);
		hooks_check(d.host.hooks);
		notify_send(notify_fd, "READY=1");
		loop_run(d.host.loop);
		notify_send(notify_fd, "STOPPING=1");
		log_info("stop", "ending; running VMs keep running");
	}
	socket_keep_free(socket);
	daemon_close(&d);
	heartbeat_free(heartbeat);
	loop_unwatch(signals);
	hook_asks_free(&d.host);
	hooks_free(d.host.hooks);
	helpers_free(d.host.helpers);
	closer_free(d.host.closer);
	vm_logs_free(d.host.logs);
	vm_sandbox_done(&sandbox);
	loop_free(d.host.loop);
	return r;
}
