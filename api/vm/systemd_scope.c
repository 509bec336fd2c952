#include "api/vm/systemd_scope.h"
#include "api/access/spawn.h"
#include "api/definition/definition.h"
#include "api/vm/cgroup_tree.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/vm/vm_sandbox.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/hex.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/utf8.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SCOPE_TIMEOUT_NS (10 * 1000000000ULL)
#define MACHINE_TIMEOUT_NS (60 * 1000000000ULL) /* of the first answer; cairn-scope makes up to five calls of 10 s */
#define QUIET_NS (60 * 1000000000ULL)
#define UNIT_PREFIX "cairn-vm-"
#define UNIT_SUFFIX ".scope"
#define MACHINE_PREFIX "cairn-"
#define MACHINE_MAX 64 /* machined takes names of hosts */
#define MESSAGE_MAX (PATH_MAX + 64)
#define ABOUT_MAX 300

struct systemd_scope {
	struct systemd_scope *next; /* of host->scopes */
	struct vm_host *host;
	struct vm *vm;	 /* NULL: the VM has ended, and this waits for the end of the process */
	int sock, pidfd; /* of cairn-scope; owned. -1: none */
	struct loop_watch *said, *ended;
	struct loop_timer *timer;
	/* Set while the start waits. */
	void (*ready)(struct vm *vm, int r, const struct err *e);
	bool called_off;	 /* the start was */
	struct cgroup_tree tree; /* fd -1: there is no scope */
	pid_t told;		 /* the process that cairn-scope was asked to register; 0: none */
	char unit[UUID_TEXT + 40], machine[MACHINE_MAX + 1]; /* machine: "": not registered */
	char lack[300];
};

/* ---- the process ---- */

/* Free the scope's data when neither a VM nor a process needs it any more. */
static void scope_free(struct systemd_scope *s)
{
	struct systemd_scope **at = &s->host->scopes;

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	loop_unwatch(s->said);
	loop_unwatch(s->ended);
	loop_timer_free(s->timer);
	if (s->sock >= 0)
		close(s->sock);
	if (s->pidfd >= 0)
		close(s->pidfd);
	cgroup_tree_close(&s->tree);
	free(s);
}

/* cairn-scope ends when its socket is closed, and systemd ends the scope when no process is left in it. */
static void scope_process_release(struct systemd_scope *s)
{
	loop_unwatch(STEAL_PTR(s->said));
	if (s->sock >= 0)
		close(steal_fd(&s->sock));
	if (s->timer)
		loop_timer_disarm(s->timer);
}

static void process_kill(struct systemd_scope *s)
{
	scope_process_release(s);
	if (s->pidfd >= 0)
		pidfd_send_signal(s->pidfd, SIGKILL, NULL, 0);
}

static void process_ended(void *opaque, unsigned revents)
{
	struct systemd_scope *s = opaque;
	siginfo_t si = { 0 };

	(void)revents;
	if (waitid(P_PIDFD, (id_t)s->pidfd, &si, WEXITED | WNOHANG) < 0 || !si.si_pid)
		return;
	loop_unwatch(STEAL_PTR(s->ended));
	close(steal_fd(&s->pidfd));
	if (!s->vm)
		scope_free(s);
}

static void scope_answered(void *opaque, unsigned revents);

/* Start cairn-scope. Returns 0; -errno. */
static int process_start(struct systemd_scope *s, char *const *argv)
{
	const char *program = s->host->paths->scope_program;
	CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	CLEANUP_CLOSE int theirs = -1;
	int pair[2], r;

	if (null < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	s->sock = pair[0];
	theirs = pair[1];
	r = spawn_watched(s->host->loop, &(struct spawn_spec){ .path = program, .argv = argv, .fds = (const int[]){ theirs, null, -1 },
		.nfds = 3, .death_signal = SIGKILL }, process_ended, s, &s->pidfd, &s->ended);
	return r ? r : loop_watch(s->host->loop, s->sock, POLLIN, scope_answered, s, &s->said);
}

/* ---- the VM's side ---- */

static struct systemd_scope *scope_new(struct vm *vm)
{
	struct systemd_scope *s = must_alloc(calloc(1, sizeof(*s)));

	*s = (struct systemd_scope){ .next = vm->host->scopes, .host = vm->host, .vm = vm, .sock = -1, .pidfd = -1,
		.tree = { .fd = -1, .holder = -1 } };
	vm->host->scopes = s;
	vm->scope = s;
	return s;
}

/* The VM's process has ended, so its group is not read any more. */
static void scope_release(struct vm *vm)
{
	struct systemd_scope *s = STEAL_PTR(vm->scope);

	vm->scope_tree = NULL;
	if (!s)
		return;
	/* A process that still waits for systemd or machined has nothing to keep. */
	if (s->tree.fd < 0 || (s->told && !s->machine[0]))
		process_kill(s);
	else
		scope_process_release(s);
	s->vm = NULL;
	s->ready = NULL;
	if (s->pidfd < 0)
		scope_free(s);
}

__attribute__((format(printf, 2, 3))) static void scope_lacks(struct systemd_scope *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s->lack, sizeof(s->lack), fmt, ap);
	va_end(ap);
	utf8_clean(s->lack);
	log_warn("sandbox", "VM '%s': %s: %s", s->vm->def->name, s->tree.fd < 0 ? "no scope of systemd" : "no machine of systemd-machined",
		s->lack);
}

/* Let the start continue, which may free s. */
static void start_continue(struct systemd_scope *s)
{
	bool required = s->host->sandbox && s->host->sandbox->required && s->tree.fd < 0;
	void (*ready)(struct vm *vm, int r, const struct err *e) = s->ready;
	struct err e;

	s->ready = NULL;
	if (required)
		err_set(&e, -EPERM, ERR_HOST, "the VM has no scope of systemd, and cairnd runs with --require-sandbox: %.200s", s->lack);
	if (ready)
		ready(s->vm, required ? -EPERM : 0, &e);
}

/* ---- messages of cairn-scope: "scope FOLDER", "machine NAME", "error WHY" or "note WHY" ---- */

static void scope_got(struct systemd_scope *s, const char *folder)
{
	const char *last = strrchr(folder, '/');
	int r = last && !strcmp(last + 1, s->unit) ? cgroup_tree_join(folder, &s->tree) : -EPROTO;

	loop_timer_disarm(s->timer);
	if (r < 0) {
		scope_lacks(s, "%.150s: %s", folder, strerror(-r));
		process_kill(s);
	} else {
		s->vm->scope_tree = &s->tree;
		log_info("sandbox", "VM '%s': scope %s", s->vm->def->name, s->unit);
	}
	start_continue(s);
}

static void machine_got(struct systemd_scope *s, const char *name)
{
	loop_timer_disarm(s->timer);
	s->lack[0] = 0;
	snprintf(s->machine, sizeof(s->machine), "%s", name);
	log_info("sandbox", "VM '%s': machine %s", s->vm->def->name, s->machine);
}

/* cairn-scope may try again, and then reports the result. */
static void machine_failed(struct systemd_scope *s, const char *why)
{
	loop_timer_disarm(s->timer);
	scope_lacks(s, "%s", why);
}

static void scope_failed(struct systemd_scope *s, const char *why)
{
	scope_lacks(s, "%s", why);
	process_kill(s);
	start_continue(s);
}

static void scope_answered(void *opaque, unsigned revents)
{
	struct systemd_scope *s = opaque;
	char text[MESSAGE_MAX], *value;
	ssize_t n = recv(s->sock, text, sizeof(text) - 1, MSG_DONTWAIT);

	(void)revents;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	text[n < 0 ? 0 : n] = 0;
	value = strchr(text, ' ');
	if (value)
		*value++ = 0;
	if (value && s->ready && !strcmp(text, "scope"))
		scope_got(s, value);
	else if (value && s->ready && !strcmp(text, "error"))
		scope_failed(s, value);
	else if (value && !s->ready && !strcmp(text, "machine"))
		machine_got(s, value);
	else if (value && !s->ready && !strcmp(text, "note"))
		machine_failed(s, value);
	else if (s->ready)
		scope_failed(s, "systemd-run made none; see the daemon's log, and the journal");
	else if (s->told && !s->machine[0]) {
		scope_lacks(s, "cairn-scope ended; see the daemon's log");
		scope_process_release(s);
	} else
		scope_process_release(s); /* the scope lives as long as the VM's process */
}

static void timed_out(void *opaque)
{
	struct systemd_scope *s = opaque;

	if (s->called_off) {
		scope_failed(s, "the start was called off");
	} else if (s->ready) {
		s->host->scopes_after_ns = loop_now_ns() + QUIET_NS;
		scope_failed(s, "systemd did not answer within 10 s; see systemctl status, then start the VM again");
	} else {
		scope_lacks(s, "systemd-machined did not answer; see systemctl status systemd-machined");
	}
}

/* ---- asking ---- */

/* Print the name of the machine: with the VM's name, if machined takes that, else with its uuid. */
static void machine_print(const struct vm *vm, char buf[MACHINE_MAX + 1])
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
	const char *name = vm->def->name;
	char uuid[UUID_TEXT];
	size_t n = strlen(name);

	uuid_print(vm->def->uuid, uuid);
	if (n && n + strlen(MACHINE_PREFIX) <= MACHINE_MAX && strspn(name, allowed) == n && name[0] != '-' && name[n - 1] != '-')
		snprintf(buf, MACHINE_MAX + 1, MACHINE_PREFIX "%s", name);
	else
		snprintf(buf, MACHINE_MAX + 1, MACHINE_PREFIX "%s", uuid);
}

/* Ask for the registration of the VM's process. how: "new", "moved": it took the VM over, or "adopted". */
static void machine_ask(struct vm *vm, const char *how)
{
	struct systemd_scope *s = vm->scope;
	pid_t pid = vm->proc ? vm_process_pid(vm->proc) : -1;
	char text[256], uuid[UUID_TEXT], machine[MACHINE_MAX + 1];

	if (!s || s->tree.fd < 0 || s->sock < 0 || pid <= 0 || s->told == pid)
		return;
	s->told = pid;
	hex_print(vm->def->uuid, sizeof(vm->def->uuid), uuid);
	machine_print(vm, machine);
	snprintf(text, sizeof(text), "%s %s %s %d", how, machine, uuid, (int)pid);
	if (send(s->sock, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		scope_lacks(s, "cairn-scope: %s", strerror(errno));
	else
		loop_timer_arm(s->timer, loop_now_ns() + MACHINE_TIMEOUT_NS);
}

/* Returns 0: cairn-scope asks systemd; -errno: lack says why. */
static int scope_ask(struct systemd_scope *s)
{
	char about[ABOUT_MAX], uuid[UUID_TEXT];
	char *const argv[] = { (char *)"cairn-scope", s->unit, about, NULL };
	int r;

	uuid_print(s->vm->def->uuid, uuid);
	snprintf(s->unit, sizeof(s->unit), UNIT_PREFIX "%s-%llu" UNIT_SUFFIX, uuid, (unsigned long long)s->vm->run + 1);
	snprintf(about, sizeof(about), "VM %.200s of Cairn", s->vm->def->name);
	if (geteuid()) {
		scope_lacks(s, "only root's daemon asks for one; remove systemd_scope from the definition");
		return -EPERM;
	}
	if (loop_now_ns() < s->host->scopes_after_ns) {
		scope_lacks(s, "systemd did not answer another VM within the last minute; see systemctl status, then start the VM again");
		return -EBUSY;
	}
	r = loop_timer_new(s->host->loop, timed_out, s, &s->timer);
	if (!r)
		r = process_start(s, argv);
	if (r < 0)
		scope_lacks(s, "cannot start cairn-scope: %s", strerror(-r));
	else
		loop_timer_arm(s->timer, loop_now_ns() + SCOPE_TIMEOUT_NS);
	return r;
}

/* ---- as an observer ---- */

static int scope_on_prepare(struct vm *vm, const struct config *c, void (*ready)(struct vm *vm, int r, const struct err *e), struct err *e)
{
	struct systemd_scope *s;

	(void)c;
	if (!vm_live(vm)->systemd_scope || vm->scope_tree) /* a start that had to wait again has its scope */
		return 0;
	scope_release(vm);
	s = scope_new(vm);
	if (!scope_ask(s)) {
		s->ready = ready;
		return 1;
	}
	process_kill(s);
	if (!vm->host->sandbox || !vm->host->sandbox->required)
		return 0;
	err_set(e, -EPERM, ERR_HOST, "the VM has no scope of systemd, and cairnd runs with --require-sandbox: %.200s", s->lack);
	scope_release(vm);
	return -EPERM;
}

static void scope_on_called_off(struct vm *vm)
{
	if (!vm->scope || !vm->scope->ready)
		return;
	vm->scope->called_off = true;
	loop_timer_arm(vm->scope->timer, loop_now_ns());
}

static void scope_on_started(struct vm *vm)
{
	machine_ask(vm, "new");
}

/* The process may be another one, which took the VM over. */
static void scope_on_phase_known(struct vm *vm)
{
	if (vm->scope && vm->scope->told)
		machine_ask(vm, "moved");
}

/* If there is a process, its end follows. */
static void scope_on_start_failed(struct vm *vm)
{
	if (!vm->proc)
		scope_release(vm);
}

/* Find the scope of an adopted VM's process, which is in a group that has the VM's uuid as its name. Returns 0, and
 * cuts the path behind the scope; -ENOENT: it has none. */
static int scope_find(const struct vm *vm, char path[PATH_MAX], const char **ret_unit)
{
	char mount[192], uuid[UUID_TEXT], *at;
	size_t n;

	if (!cgroup_mount(mount, sizeof(mount)))
		return -ENOENT;
	cgroup_folder(mount, vm_process_pid(vm->proc), path, PATH_MAX);
	uuid_print(vm->def->uuid, uuid);
	at = strrchr(path, '/');
	if (!at || strcmp(at + 1, uuid))
		return -ENOENT;
	*at = 0;
	at = strrchr(path, '/');
	n = at ? strlen(at) : 0;
	if (n <= strlen(UNIT_SUFFIX) || strncmp(at + 1, UNIT_PREFIX, strlen(UNIT_PREFIX)) || strcmp(at + n - strlen(UNIT_SUFFIX), UNIT_SUFFIX))
		return -ENOENT;
	*ret_unit = at + 1;
	return 0;
}

/* The scope of a VM outlives the daemon; cairn-scope enters it again. */
static void scope_on_adopted(struct vm *vm, const struct vm_info *info)
{
	char path[PATH_MAX];
	char *const argv[] = { (char *)"cairn-scope", (char *)"--again", path, NULL };
	struct systemd_scope *s;
	const char *unit;

	(void)info;
	if (!vm_live(vm)->systemd_scope || vm->scope || vm_process_pid(vm->proc) <= 0)
		return;
	s = scope_new(vm);
	if (scope_find(vm, path, &unit) < 0 || cgroup_tree_join(path, &s->tree) < 0) {
		scope_lacks(s, "it was started without one; see the daemon's log of that time");
		return;
	}
	snprintf(s->unit, sizeof(s->unit), "%s", unit);
	vm->scope_tree = &s->tree;
	if (loop_timer_new(s->host->loop, timed_out, s, &s->timer) < 0 || process_start(s, argv) < 0) {
		process_kill(s);
		scope_lacks(s, "cannot start cairn-scope; see the daemon's log");
		return;
	}
	machine_ask(vm, "adopted");
}

const struct vm_observer systemd_scope_observer = { .start_prepare = scope_on_prepare, .start_called_off = scope_on_called_off,
	.started = scope_on_started, .start_failed = scope_on_start_failed, .phase_known = scope_on_phase_known,
	.adopted = scope_on_adopted, .run_ended = scope_release, .removed = scope_release };

/* ---- for the daemon ---- */

const char *systemd_scope_lack(const struct vm *vm)
{
	return vm->scope && vm->scope->lack[0] ? vm->scope->lack : NULL;
}

struct json_object *systemd_scope_to_json(const struct vm *vm)
{
	const struct systemd_scope *s = vm->scope;
	struct json_object *o = s ? json_object_new_object() : NULL;

	if (s && s->tree.fd >= 0)
		js_put_str(o, "unit", s->unit);
	if (s && s->machine[0])
		js_put_str(o, "machine", s->machine);
	if (s && s->lack[0])
		js_put_str(o, "lack", s->lack);
	return o;
}

void systemd_scopes_free(struct vm_host *host)
{
	while (host->scopes)
		scope_free(host->scopes);
}
