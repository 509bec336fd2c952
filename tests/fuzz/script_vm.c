#include "tests/fuzz/fuzz_api.h"
#include "tests/fuzz/script_vm.h"

#include "api/vm/vm_spawn.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define VMS_MAX 32u
#define ANSWERS_MAX 64u
#define STACK_BYTES 16384u
#define TURN_NS 1000000u

struct pretended {
	pid_t pid; /* 0: none */
	int pidfd; /* needed because the pid may be reused once the daemon has reaped the child */
	int listening, sock;
	enum vm_phase phase;
};

struct vm_spawn {
	pid_t pid;
	int done_fd; /* readable from the beginning */
};

static struct pretended vms[VMS_MAX];
static _Alignas(64) char stacks[VMS_MAX][STACK_BYTES];
static const char *answers[ANSWERS_MAX];
static unsigned first_answer, nanswers;

int __wrap_vm_spawn_begin(const struct vm_process_paths *paths, const char *option, int sock, struct vm_spawn **ret, struct err *e);
int __wrap_vm_spawn_fd(const struct vm_spawn *s);
int __wrap_vm_spawn_end(struct vm_spawn *s, pid_t *ret_pid, struct err *e);
void __real_loop_run_once(struct loop *l, uint64_t timeout_ns);
void __wrap_loop_run_once(struct loop *l, uint64_t timeout_ns);
int __real_vm_socket_peek_pid(int sock, pid_t *ret_pid);
int __wrap_vm_socket_peek_pid(int sock, pid_t *ret_pid);

/* ---- VM processes ---- */

/* Body of the child. It shares memory and fds with this process, so creating it is cheap; it must
 * touch neither. It must not call functions that a sanitizer intercepts, because it shares this
 * thread's data. */
__attribute__((no_sanitize("address", "undefined", "thread"))) static int child_main(void *unused)
{
	(void)unused;
	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		syscall(SYS_pause);
	return 0;
}

static void vm_hang_up(struct pretended *v)
{
	if (v->listening >= 0)
		close(v->listening);
	if (v->sock >= 0)
		close(v->sock);
	v->listening = v->sock = -1;
}

static void vm_kill(struct pretended *v)
{
	vm_hang_up(v);
	pidfd_send_signal(v->pidfd, SIGKILL, NULL, 0);
}

/* Spawn on this thread: the kernel would kill the child when another thread that spawned it ends
 * (PR_SET_PDEATHSIG), and the table of VMs has no lock. A process that is to take a VM over only waits. */
int __wrap_vm_spawn_begin(const struct vm_process_paths *paths, const char *option, int sock, struct vm_spawn **ret, struct err *e)
{
	struct pretended *v = vms;

	(void)paths;
	while (v < vms + VMS_MAX && v->pid)
		v++;
	if (v == vms + VMS_MAX) {
		close(sock);
		return err_set(e, -EAGAIN, ERR_BUSY, "the script has started %u VM processes", VMS_MAX);
	}
	*v = (struct pretended){ .sock = -1, .listening = -1 };
	v->pid = clone(child_main, stacks[v - vms] + STACK_BYTES, CLONE_VM | CLONE_FILES | CLONE_PIDFD | SIGCHLD, NULL, &v->pidfd);
	must(v->pid > 0);
	if (strcmp(option, "--listen"))
		close(sock);
	else
		v->listening = sock;
	*ret = malloc(sizeof(**ret));
	must(*ret != NULL);
	**ret = (struct vm_spawn){ .pid = v->pid, .done_fd = eventfd(1, EFD_CLOEXEC) };
	must((*ret)->done_fd >= 0);
	return 0;
}

int __wrap_vm_spawn_fd(const struct vm_spawn *s)
{
	return s->done_fd;
}

int __wrap_vm_spawn_end(struct vm_spawn *s, pid_t *ret_pid, struct err *e)
{
	(void)e;
	*ret_pid = s->pid;
	close(s->done_fd);
	free(s);
	return 0;
}

/* The peer credentials are those of this process. Identify the VM by its socket's name. */
int __wrap_vm_socket_peek_pid(int sock, pid_t *ret_pid)
{
	struct sockaddr_un peer = { 0 }, own = { 0 };
	socklen_t len = sizeof(peer);
	int r = __real_vm_socket_peek_pid(sock, ret_pid);

	if (r < 0 || getpeername(sock, (struct sockaddr *)&peer, &len) < 0)
		return -ESRCH;
	for (unsigned i = 0; i < VMS_MAX; i++) {
		len = sizeof(own);
		if (vms[i].listening < 0 || !vms[i].pid ||
			getsockname(vms[i].listening, (struct sockaddr *)&own, &len) < 0 ||
			strncmp(own.sun_path, peer.sun_path, sizeof(own.sun_path)))
			continue;
		*ret_pid = vms[i].pid;
		return 0;
	}
	return -ESRCH;
}

bool script_vms_is_one(pid_t pid)
{
	for (unsigned i = 0; i < VMS_MAX; i++)
		if (vms[i].pid == pid)
			return true;
	return false;
}

pid_t script_vms_kill_one(void)
{
	for (unsigned i = 0; i < VMS_MAX; i++)
		if (vms[i].pid && vms[i].listening >= 0) {
			vm_kill(&vms[i]);
			return vms[i].pid;
		}
	return 0;
}

void script_vms_kill_all(void)
{
	while (script_vms_kill_one()) {
	}
}

void script_vms_end(void)
{
	siginfo_t gone;

	for (unsigned i = 0; i < VMS_MAX; i++) {
		if (!vms[i].pid)
			continue;
		vm_kill(&vms[i]);
		waitid(P_PIDFD, (id_t)vms[i].pidfd, &gone, WEXITED); /* fails when the daemon has reaped it */
		close(vms[i].pidfd);
		vms[i].pid = 0;
	}
	first_answer = nanswers = 0;
}

/* ---- messages ---- */

struct message {
	unsigned type;
	size_t len;
	union {
		uint8_t bytes[CHANNEL_BODY_MAX];
		struct vm_reply reply;
		struct vm_info info;
		struct vm_event event;
		struct vm_snapshots snapshots;
		struct vm_snapshot_done done;
	};
};

static void message_begin(struct message *m, const struct pretended *v, unsigned type)
{
	memset(m, 0, sizeof(*m));
	m->type = type;
	switch (type) {
	case VM_MSG_INFO:
		m->len = sizeof(m->info);
		m->info.phase = (uint8_t)v->phase;
		m->info.vcpus = m->info.ndisks = 1;
		strcpy(m->info.disks[0].id, "vda");
		break;
	case VM_MSG_SNAPSHOTS:
		m->snapshots.total = m->snapshots.n = 1;
		strcpy(m->snapshots.list[0].id, "1");
		strcpy(m->snapshots.list[0].name, "s1");
		m->snapshots.list[0].state = VM_SNAPSHOT_RUNNING;
		m->len = offsetof(struct vm_snapshots, list) + sizeof(m->snapshots.list[0]);
		break;
	case VM_MSG_SNAPSHOT_DONE:
		m->len = sizeof(m->done);
		break;
	case VM_MSG_SPACES:
		m->len = sizeof(struct vm_spaces);
		break;
	case VM_MSG_EVENT:
		m->len = sizeof(m->event);
		m->event.phase = (uint8_t)v->phase;
		break;
	default:
		m->len = sizeof(m->reply);
	}
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void bytes_put(struct message *m, unsigned long at, const char *hex)
{
	for (; hex_digit(hex[0]) >= 0 && hex_digit(hex[1]) >= 0 && at < CHANNEL_BODY_MAX; hex += 2, at++) {
		m->bytes[at] = (uint8_t)(hex_digit(hex[0]) << 4 | hex_digit(hex[1]));
		m->len = MAX(m->len, at + 1);
	}
}

/* Apply a script line's words to a message. Returns false when no message is to be sent. */
static bool words_apply(const char *words, const struct pretended *v, struct message *m)
{
	char *end;

	for (const char *p = words; *p; p += strcspn(p, " "), p += strspn(p, " ")) {
		unsigned long n = strtoul(p, &end, 10);

		if (*p == '-')
			return false;
		if (!strncmp(p, "cut=", 4))
			m->len = MIN(strtoul(p + 4, NULL, 10), (unsigned long)CHANNEL_BODY_MAX);
		else if (end != p && *end == ':')
			bytes_put(m, n, end + 1);
		else if (end != p && n < 100)
			message_begin(m, v, (unsigned)n);
	}
	return true;
}

static void message_send(struct pretended *v, const struct message *m, uint64_t seq)
{
	if (v->sock >= 0)
		(void)channel_send(v->sock, VM_MSG_VERSION, (uint16_t)m->type, seq, m->bytes, m->len, NULL, 0);
}

static void phase_tell(struct pretended *v, enum vm_phase phase, enum vm_reason reason)
{
	static struct message m;

	v->phase = phase;
	message_begin(&m, v, VM_MSG_EVENT);
	m.event.kind = VM_EVENT_PHASE;
	m.event.reason = (uint8_t)reason;
	message_send(v, &m, 0);
	if (phase == VM_PHASE_ENDED)
		vm_kill(v);
}

void script_vms_say(const char *words)
{
	static struct message m;

	for (unsigned i = 0; i < VMS_MAX; i++)
		if (vms[i].pid && vms[i].sock >= 0) {
			message_begin(&m, &vms[i], VM_MSG_EVENT);
			if (words_apply(words, &vms[i], &m))
				message_send(&vms[i], &m, 0);
			return;
		}
}

void script_vms_answer_next(const char *words)
{
	if (nanswers < ANSWERS_MAX)
		answers[nanswers++] = words;
}

/* ---- requests ---- */

static unsigned answer_type(unsigned request)
{
	switch (request) {
	case VM_MSG_QUERY:
		return VM_MSG_INFO;
	case VM_MSG_SNAPSHOT_LIST:
	case VM_MSG_SNAPSHOT_SIZE:
		return VM_MSG_SNAPSHOTS;
	case VM_MSG_SPACE:
		return VM_MSG_SPACES;
	case VM_MSG_SNAPSHOT_CREATE:
	case VM_MSG_SNAPSHOT_REVERT:
	case VM_MSG_FORK:
	case VM_MSG_DUMP:
		return VM_MSG_SNAPSHOT_DONE;
	default:
		return VM_MSG_REPLY;
	}
}

static void request_answer(struct pretended *v, const struct channel_msg *m)
{
	static struct message answer;

	if (m->head.type == VM_MSG_CONFIG)
		v->phase = ((const struct vm_config *)m->body)->start_paused ? VM_PHASE_PAUSED : VM_PHASE_RUNNING;
	if (m->head.type == VM_MSG_STOP || m->head.type == VM_MSG_CONT)
		phase_tell(v, m->head.type == VM_MSG_STOP ? VM_PHASE_PAUSED : VM_PHASE_RUNNING, VM_REASON_USER);
	message_begin(&answer, v, answer_type(m->head.type));
	if (first_answer == nanswers || words_apply(answers[first_answer++], v, &answer))
		message_send(v, &answer, m->head.seq);
	if (m->head.type == VM_MSG_POWERDOWN)
		phase_tell(v, VM_PHASE_ENDED, VM_REASON_GUEST_SHUTDOWN);
	else if (m->head.type == VM_MSG_QUIT || m->head.type == VM_MSG_SAVE)
		phase_tell(v, VM_PHASE_ENDED, m->head.type == VM_MSG_SAVE ? VM_REASON_SAVED : VM_REASON_USER);
}

static void vm_serve(struct pretended *v)
{
	static char body[CHANNEL_BODY_MAX] __attribute__((aligned(16)));
	siginfo_t gone = { 0 };
	struct channel_msg m;
	int fd = accept4(v->listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), r;

	if (fd >= 0) {
		if (v->sock >= 0)
			close(v->sock);
		v->sock = fd;
	}
	if ((waitid(P_PIDFD, (id_t)v->pidfd, &gone, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD) || gone.si_pid) {
		vm_hang_up(v); /* the daemon killed the child */
		return;
	}
	while (v->sock >= 0) {
		r = channel_recv(v->sock, VM_MSG_VERSION, vm_msg_to_vm, VM_MSG_TYPE_COUNT, body, &m);
		if (r == -EAGAIN)
			return;
		if (r <= 0 && r != -ECONNRESET) {
			if (r == -EPROTO)
				abort(); /* the daemon sent an invalid message */
			close(v->sock);
			v->sock = -1;
			return;
		}
		if (r == 1) {
			request_answer(v, &m);
			channel_msg_close_fds(&m);
		}
	}
}

static void vms_serve(void)
{
	for (unsigned i = 0; i < VMS_MAX; i++)
		if (vms[i].pid && vms[i].listening >= 0) {
			fcntl(vms[i].listening, F_SETFL, O_NONBLOCK);
			vm_serve(&vms[i]);
		}
}

/* Serve the VMs in every loop iteration, also while the daemon starts and ends. */
void __wrap_loop_run_once(struct loop *l, uint64_t timeout_ns)
{
	vms_serve();
	__real_loop_run_once(l, timeout_ns < TURN_NS ? timeout_ns : TURN_NS);
	vms_serve();
}
