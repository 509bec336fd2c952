#include "api/vm/vm_spare.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/vm/vm.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_process.h"
#include "api/vm/vm_sandbox.h"
#include "api/vm/vm_socket.h"
#include "api/vm/vm_spawn.h"
#include "api/vm/vm_uid.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* From the end of the fork on: the client's next command is to find the processors free. */
#define MAKE_AFTER_NS 1000000ULL
#define IDLE_NS (60 * 1000000000ULL)

enum spare_state {
	SPARE_WANTED,	/* not spawned yet */
	SPARE_SPAWNED,	/* by a thread, which may not have ended */
	SPARE_STARTS,	/* loads its program and confines itself */
	SPARE_READY,
	SPARE_RESERVED, /* and a clone that is being made has its UUID */
	SPARE_ENDS,	/* killed, and not reaped yet */
};

struct vm_spare {
	struct vm_host *host;
	struct vm_spare *next;
	enum spare_state state;
	uid_t owner, uid;
	uint8_t uuid[16];
	struct stat program; /* the file that was spawned */
	struct vm_spawn *spawn; /* NULL: not begun, or ended */
	struct loop_watch *spawn_watch, *pid_watch, *sock_watch;
	struct loop_timer *timer; /* makes the spare, and ends it when it was idle */
	pid_t pid;
	int pidfd, sock; /* owned; -1: none */
};

static uid_t owner_of(const struct definition *def)
{
	return def->rights ? def->rights->uid : geteuid();
}

static void spare_unlink(struct vm_spare *s)
{
	struct vm_spare **at = &s->host->spares;

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
}

/* Remove the spare from the list; its process is reaped or has another owner. */
static void spare_free(struct vm_spare *s)
{
	spare_unlink(s);
	loop_unwatch(s->spawn_watch);
	loop_unwatch(s->pid_watch);
	loop_unwatch(s->sock_watch);
	loop_timer_free(s->timer);
	if (s->pidfd >= 0)
		close(s->pidfd);
	if (s->sock >= 0)
		close(s->sock);
	free(s);
}

static void spare_kill(struct vm_spare *s)
{
	if (s->pidfd >= 0)
		pidfd_send_signal(s->pidfd, SIGKILL, NULL, 0);
}

/* End a spare that nobody needs. A process that is being spawned is killed once it exists. */
static void spare_end(struct vm_spare *s)
{
	if (s->state == SPARE_WANTED) {
		spare_free(s);
		return;
	}
	loop_timer_disarm(s->timer);
	loop_unwatch(STEAL_PTR(s->sock_watch));
	s->state = SPARE_ENDS;
	spare_kill(s);
}

static void process_ended(void *opaque, unsigned revents)
{
	struct vm_spare *s = opaque;
	struct vm_host *host = s->host;
	siginfo_t si = { 0 };

	(void)revents;
	if (waitid(P_PIDFD, (id_t)s->pidfd, &si, WEXITED | WNOHANG) == 0 && s->state != SPARE_ENDS)
		log_info("spare", "a process made ahead (pid %d) has ended: %s %d", (int)s->pid,
			si.si_code == CLD_EXITED ? "exit status" : "signal", si.si_status);
	spare_free(s);
	vm_cgroups_sweep(host);
}

/* Take a reply of the process. Returns 1; 0: there is none yet; -errno: it has ended, or sent something else. */
static int reply_take(int sock)
{
	char buf[CHANNEL_BODY_MAX] __attribute__((aligned(16)));
	struct channel_msg m;
	int r = channel_recv_no_fds(sock, VM_MSG_VERSION, vm_msg_from_vm, VM_MSG_TYPE_COUNT, buf, &m);

	if (r == -EAGAIN)
		return 0;
	return r < 0 ? r : r == 1 && m.head.type == VM_MSG_REPLY ? 1 : -EPROTO;
}

bool vm_spare_answered(int sock)
{
	return reply_take(sock) == 1;
}

static void sock_ready(void *opaque, unsigned revents)
{
	struct vm_spare *s = opaque;

	(void)revents;
	if (s->state == SPARE_STARTS && reply_take(s->sock) == 1) {
		s->state = SPARE_READY;
		return;
	}
	/* The spare sends no further message. At the end of its socket, process_ended() follows. */
	loop_unwatch(STEAL_PTR(s->sock_watch));
}

/* ---- making one ---- */

static int spawned_watch(struct vm_spare *s)
{
	struct loop *l = s->host->loop;
	int r;

	s->pidfd = pidfd_open(s->pid, 0);
	r = s->pidfd < 0 ? -errno : loop_watch(l, s->pidfd, POLLIN, process_ended, s, &s->pid_watch);
	if (r < 0) {
		kill(s->pid, SIGKILL);
		waitpid(s->pid, NULL, 0);
		return r;
	}
	if (s->state == SPARE_ENDS) {
		spare_kill(s);
		return 0;
	}
	s->state = SPARE_STARTS;
	return loop_watch(l, s->sock, POLLIN, sock_ready, s, &s->sock_watch);
}

static void spawn_ready(void *opaque, unsigned revents)
{
	struct vm_spare *s = opaque;
	struct err e;
	int r;

	(void)revents;
	loop_unwatch(STEAL_PTR(s->spawn_watch));
	r = vm_spawn_end(STEAL_PTR(s->spawn), &s->pid, &e);
	if (!r)
		r = spawned_watch(s);
	if (!r)
		return;
	log_debug("spare", "no process is made ahead: %s", strerror(-r));
	if (s->pid_watch)
		spare_end(s);
	else
		spare_free(s);
}

/* Without a memory limit, as any process of a clone until its files are known. */
static void place_fill(const struct vm_spare *s, struct cgroup_place *place)
{
	const struct cgroup_tree *t = vm_cgroup_tree_of_host(s->host);

	*place = (struct cgroup_place){ .tree = t };
	if (t)
		uuid_print(s->uuid, place->name);
}

static int sockets_make(struct vm_spare *s, int *ret_theirs)
{
	int pair[2], on = 1, flags;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	s->sock = pair[0];
	*ret_theirs = pair[1];
	flags = fcntl(s->sock, F_GETFL);
	return flags < 0 || fcntl(s->sock, F_SETFL, flags | O_NONBLOCK) < 0 ||
		setsockopt(s->sock, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ? -errno : 0;
}

static int spawn_begin(struct vm_spare *s, struct err *e)
{
	struct vm_host *host = s->host;
	CLEANUP_CLOSE int none = open("/dev/null", O_RDWR | O_CLOEXEC);
	CLEANUP_CLOSE int theirs = -1;
	struct vm_process_paths p = { .program = host->paths->vm_program, .closer = host->closer, .sandbox = host->sandbox,
		.run_dir = host->run_dir_fd, .log_fd = none, .end_fd = -1, .whole = true };
	int r = none < 0 || stat(p.program, &s->program) < 0 ? -errno : 0;

	if (!r)
		r = host->sandbox ? vm_sandbox_check(host->sandbox, e) : 0;
	if (!r)
		r = vm_uid_find(host, s->uuid, NULL, &s->uid, e);
	if (!r)
		r = sockets_make(s, &theirs);
	if (r < 0)
		return r;
	p.uid = s->uid;
	place_fill(s, &p.place);
	r = vm_spawn_begin(&p, VM_PROCESS_SPARE, steal_fd(&theirs), &s->spawn, e);
	return r < 0 ? r : loop_watch(host->loop, vm_spawn_fd(s->spawn), POLLIN, spawn_ready, s, &s->spawn_watch);
}

static void spare_fire(void *opaque)
{
	struct vm_spare *s = opaque;
	struct err e;

	if (s->state != SPARE_WANTED) {
		spare_end(s);
		return;
	}
	if (s->host->host_shutdown || spawn_begin(s, &e) < 0) {
		if (s->spawn && vm_spawn_end(STEAL_PTR(s->spawn), &s->pid, &e) == 0) {
			kill(s->pid, SIGKILL);
			waitpid(s->pid, NULL, 0);
		}
		spare_free(s);
		return;
	}
	s->state = SPARE_SPAWNED;
	loop_timer_arm(s->timer, loop_now_ns() + IDLE_NS);
}

void vm_spare_make(struct vm_host *host, const struct definition *def)
{
	uint8_t uuid[UUID_BYTES];
	uid_t owner = owner_of(def);
	struct vm_spare *s;
	unsigned n = 0;
	struct err e;

	for (s = host->spares; s; s = s->next, n++)
		if (s->owner == owner && s->state < SPARE_RESERVED)
			return;
	/* The start waits for the scope, and the process is created there. */
	if (def->systemd_scope || host->host_shutdown || n >= VM_SPARES_MAX || uuid_make(uuid, &e) < 0)
		return;
	s = must_alloc(calloc(1, sizeof(*s)));
	*s = (struct vm_spare){ .host = host, .next = host->spares, .owner = owner, .pid = -1, .pidfd = -1, .sock = -1 };
	memcpy(s->uuid, uuid, sizeof(s->uuid));
	host->spares = s;
	if (loop_timer_new(host->loop, spare_fire, s, &s->timer) < 0)
		spare_free(s);
	else
		loop_timer_arm(s->timer, loop_now_ns() + MAKE_AFTER_NS);
}

/* ---- taking one ---- */

static struct vm_spare *spare_find(const struct vm_host *host, const uint8_t uuid[16])
{
	struct vm_spare *s = host->spares;

	while (s && memcmp(s->uuid, uuid, sizeof(s->uuid)))
		s = s->next;
	return s;
}

static bool program_is_same(const struct vm_spare *s)
{
	const struct stat *was = &s->program;
	struct stat now;

	return stat(s->host->paths->vm_program, &now) == 0 && now.st_dev == was->st_dev && now.st_ino == was->st_ino &&
		now.st_size == was->st_size && now.st_mtim.tv_sec == was->st_mtim.tv_sec &&
		now.st_mtim.tv_nsec == was->st_mtim.tv_nsec && now.st_ctim.tv_sec == was->st_ctim.tv_sec &&
		now.st_ctim.tv_nsec == was->st_ctim.tv_nsec;
}

bool vm_spare_reserve(struct vm_host *host, struct definition *def)
{
	struct vm_spare *s = host->spares;

	while (s && (s->owner != owner_of(def) || s->state != SPARE_READY))
		s = s->next;
	if (!s || def->systemd_scope)
		return false;
	if (vm_find_uuid(host, s->uuid) || !program_is_same(s)) {
		spare_end(s);
		return false;
	}
	s->state = SPARE_RESERVED;
	loop_timer_disarm(s->timer);
	memcpy(def->uuid, s->uuid, sizeof(def->uuid));
	return true;
}

bool vm_spare_take(struct vm *vm, struct vm_spare_process *ret)
{
	struct vm_spare *s = spare_find(vm->host, vm->def->uuid);

	if (!s || s->state != SPARE_RESERVED || s->owner != owner_of(vm->def))
		return false;
	*ret = (struct vm_spare_process){ s->pid, s->pidfd, s->sock, s->uid };
	s->pidfd = s->sock = -1;
	spare_free(s);
	return true;
}

/* The child is put back into the list, so that process_ended() reaps it. */
void vm_spare_process_end(struct vm_host *host, struct vm_spare_process *p)
{
	struct vm_spare *s = must_alloc(calloc(1, sizeof(*s)));

	*s = (struct vm_spare){ .host = host, .next = host->spares, .state = SPARE_ENDS, .owner = (uid_t)-1, .uid = p->uid,
		.pid = p->pid, .pidfd = p->pidfd, .sock = p->sock };
	host->spares = s;
	if (loop_watch(host->loop, s->pidfd, POLLIN, process_ended, s, &s->pid_watch) < 0)
		abort(); /* the child would never be reaped */
	spare_kill(s);
}

void vm_spare_drop(struct vm_host *host, const uint8_t uuid[16])
{
	struct vm_spare *s = spare_find(host, uuid);

	if (s && s->state != SPARE_ENDS)
		spare_end(s);
}

bool vm_spares_have_uid(const struct vm_host *host, uid_t uid)
{
	const struct vm_spare *s = host->spares;

	while (s && s->uid != uid)
		s = s->next;
	return uid && s;
}

bool vm_spares_have(const struct vm_host *host, const uint8_t uuid[16])
{
	return spare_find(host, uuid);
}

void vm_spares_free(struct vm_host *host)
{
	struct err e;

	while (host->spares) {
		struct vm_spare *s = host->spares;

		if (s->spawn && vm_spawn_end(STEAL_PTR(s->spawn), &s->pid, &e) == 0)
			kill(s->pid, SIGKILL);
		spare_kill(s);
		spare_free(s);
	}
}
