#include "api/net/usernet.h"
#include "api/access/authors.h"
#include "api/access/spawn.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "api/vm/vm_socket.h"
#include "base/cleanup.h"
#include "base/egress.h"
#include "base/err.h"
#include "base/host_name.h"
#include "base/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define FORWARD_FD 5 /* first fd of the forwards' sockets, after frames and control */
#define PUBLISHED_FD 4 /* the same for cairn-publish, which has no frames */
/* A frame costs about the same at any length and never leaves the host, so frames are large (docs/slirp.md). */
#define MTU 65520
#define MTU_TEXT "65520"
/* Requested socket buffer for frames; the kernel may give less. */
#define QUEUE_BYTES (4 * 1024 * 1024)

/* ---- control sockets ---- */

#define SOCKET_NAME_MAX (VM_NAME_MAX + 24)

/* Print the name of an interface's control socket. The name begins with two dots, because sockets of VMs have names
 * without a dot, and sockets of offline processes names with one (offline_process.c). An id has no colon. */
static void socket_name(const char *vm, const char *id, char buf[SOCKET_NAME_MAX])
{
	snprintf(buf, SOCKET_NAME_MAX, "..%.15s:%s", id, vm);
}

/* The same for a process that a daemon of before interfaces could be detached has started. */
static void old_socket_name(const char *vm, unsigned at, char buf[SOCKET_NAME_MAX])
{
	snprintf(buf, SOCKET_NAME_MAX, "..%u-%s", at, vm);
}

static int control_connect(int run_dir, const char *name, int *ret_fd)
{
	int off = 0, r = vm_socket_connect(run_dir, name, false, ret_fd);

	/* With the credentials that a VM's socket asks for, close_async_recv() would take each message for one with
	 * fds. */
	if (!r && setsockopt(*ret_fd, SOL_SOCKET, SO_PASSCRED, &off, sizeof(off)) < 0) {
		r = -errno;
		close(steal_fd(ret_fd));
	}
	return r;
}

int usernet_connect(int run_dir, const char *vm, const char *id, unsigned at, int *ret_fd)
{
	char name[SOCKET_NAME_MAX];
	int r;

	socket_name(vm, id, name);
	r = control_connect(run_dir, name, ret_fd);
	if (!r)
		return 0;
	old_socket_name(vm, at, name);
	return control_connect(run_dir, name, ret_fd);
}

/* For a connected socket, the kernel reports the process that last called listen() on the listening socket: the daemon
 * did so first, then cairn-slirp. If the process has exited, SO_PEERCRED's pid may be stale, so ignore the pidfd. */
int usernet_pidfd(int control)
{
	struct ucred cred;
	CLEANUP_CLOSE int fd = -1;
	socklen_t size = sizeof(fd);

	if (getsockopt(control, SOL_SOCKET, SO_PEERPIDFD, &fd, &size) < 0) {
		size = sizeof(cred);
		if (getsockopt(control, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0 || cred.pid <= 0)
			return -1;
		fd = pidfd_open(cred.pid, 0); /* Linux before 6.5 has no SO_PEERPIDFD */
	}
	return fd < 0 || poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 0) ? -1 : steal_fd(&fd);
}

void usernet_remove_socket(int run_dir, const char *vm, const char *id)
{
	char name[SOCKET_NAME_MAX];

	socket_name(vm, id, name);
	vm_socket_remove(run_dir, name);
}

void usernet_remove_old_socket(int run_dir, const char *vm, unsigned at)
{
	char name[SOCKET_NAME_MAX];

	old_socket_name(vm, at, name);
	vm_socket_remove(run_dir, name);
}

void usernet_link(int run_dir, const char *from, const char *to, const char *id)
{
	char old[SOCKET_NAME_MAX], new[SOCKET_NAME_MAX];
	struct err e;

	socket_name(from, id, old);
	socket_name(to, id, new);
	vm_socket_link(run_dir, old, new, &e);
}

int usernet_order_failed(const char *program, const char *id, int r, struct err *e)
{
	switch (r) {
	case -ENOENT:
	case -EPIPE:
		return err_set(e, -ENOENT, ERR_WRONG_STATE, "interface %s has no network: its link is down, or its %s has ended; the "
			"VM's next start begins a new one", id, program);
	case -EBUSY:
		return err_set(e, r, ERR_BUSY, "another change of interface %s is under way; repeat the command", id);
	case -ETIMEDOUT:
		return err_set(e, r, ERR_TIMEOUT, "the %s of interface %s does not answer; it may be of an earlier release. The VM's next "
			"start begins a new one; if this one answers later, the change takes effect then", program, id);
	default:
		return err_set(e, r, ERR_HOST, "the %s of interface %s cannot make the change", program, id);
	}
}

/* Make the control socket. control: [0] the daemon's connection, [1] the listening socket for cairn-slirp. */
static int control_make(int run_dir, const char *vm, const char *id, int control[2], struct err *e)
{
	char name[SOCKET_NAME_MAX];
	int r;

	socket_name(vm, id, name);
	r = vm_socket_listen(run_dir, name, &control[1], e);
	if (r < 0)
		return r;
	r = control_connect(run_dir, name, &control[0]);
	return r < 0 ? err_set_errno(e, r, "interface %s", id) : 0;
}

/* ---- starting a process ---- */

struct args {
	char text[DEFINITION_FORWARDS_MAX][64];
	char *egress; /* owned; NULL: none */
	char *list[16 + 2 * DEFINITION_FORWARDS_MAX];
	size_t n;
};

static void arg_add(struct args *a, const char *option, const char *value)
{
	a->list[a->n++] = (char *)option;
	if (value)
		a->list[a->n++] = (char *)value;
	a->list[a->n] = NULL;
}

/* first: the fd of the first forward. */
static void forward_args_add(struct args *a, const struct definition_user *u, unsigned first)
{
	for (unsigned i = 0; i < u->nforwards; i++) {
		const struct definition_forward *f = &u->forwards[i];

		snprintf(a->text[i], sizeof(a->text[i]), "%s:%u:%s:%u", f->protocol == DEFINITION_UDP ? "udp" : "tcp",
			first + i, f->guest[0] ? f->guest : "-", f->to);
		arg_add(a, "--forward", a->text[i]);
	}
}

static void args_make(struct args *a, const struct definition *d, const struct definition_user *u, bool control)
{
	a->n = 0;
	arg_add(a, "cairn-slirp", NULL);
	arg_add(a, "--frames", "3");
	if (control)
		arg_add(a, "--control", "4");
	arg_add(a, "--network", u->network);
	arg_add(a, "--mtu", MTU_TEXT);
	if (host_label_is_valid(d->name)) /* DHCP may offer it to the guest */
		arg_add(a, "--hostname", d->name);
	if (a->egress)
		arg_add(a, "--egress", a->egress);
	if (u->restricted)
		arg_add(a, "--restrict", NULL);
	if (u->host_loopback)
		arg_add(a, "--host-loopback", NULL);
	forward_args_add(a, u, FORWARD_FD);
}

/* The common parameters of the starts of a VM's cairn-slirp processes, and the sockets of the next interface. */
struct plug {
	const struct definition *def;
	const char *program, *publish;
	int log_fd;
	const int *forwards; /* sockets of the next interface's forwards */
	int run_dir, frames[2], control[2];
};

static int process_run(const struct plug *p, const struct definition_interface *n, pid_t *ret_pid)
{
	const struct definition_user *u = &n->user;
	CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int fds[FORWARD_FD + DEFINITION_FORWARDS_MAX] = { null, null, p->log_fd, p->frames[1],
		p->run_dir < 0 ? null : p->control[1] };
	struct spawn_spec program = { .path = p->program, .rights = author_of_interface(p->def, n), .fds = fds,
		.nfds = FORWARD_FD + u->nforwards };
	struct args args = { .egress = n->egress ? egress_print(n->egress) : NULL };
	int r;

	if (null < 0 || (n->egress && !args.egress)) {
		free(args.egress);
		return null < 0 ? -errno : -ENOMEM;
	}
	for (unsigned i = 0; i < u->nforwards; i++)
		fds[FORWARD_FD + i] = p->forwards[i];
	args_make(&args, p->def, u, p->run_dir >= 0);
	program.argv = args.list;
	r = spawn_program(&program, ret_pid);
	free(args.egress);
	return r;
}

static int plug_in(struct plug *p, unsigned at, struct config *c, struct usernets *ret, struct err *e)
{
	const struct definition_user *u = &p->def->interfaces[at].user;
	struct usernet_process *process = &ret->list[ret->n];
	unsigned fd;
	int r = access(p->program, X_OK) < 0 ? -errno : process_run(p, &p->def->interfaces[at], &process->pid);

	if (r < 0)
		return err_set_errno(e, r, "interfaces[%u]: cannot start %s", at, p->program);
	process->at = at;
	process->control = steal_fd(&p->control[0]);
	ret->n++;
	p->forwards += u->nforwards;
	fd = config_add_fd(c, steal_fd(&p->frames[0]));
	c->vm.interfaces[at].tap_fd = (uint16_t)fd;
	c->vm.interfaces[at].mtu = MTU;
	return fd == VM_NO_FD ? err_set(e, -EMFILE, ERR_INVALID, "the VM has too many files") : 0;
}

static void pair_close(int fds[2])
{
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static int usernet_start(struct plug *p, unsigned at, struct config *c, struct usernets *ret, struct err *e)
{
	int bytes = QUEUE_BYTES, r = 0;

	p->frames[0] = p->frames[1] = p->control[0] = p->control[1] = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p->frames) < 0)
		r = err_set_errno(e, -errno, "interfaces[%u]", at);
	if (!r && p->run_dir >= 0)
		r = control_make(p->run_dir, p->def->name, p->def->interfaces[at].id, p->control, e);
	for (int i = 0; i < 2 && !r; i++)
		if (setsockopt(p->frames[i], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0)
			setsockopt(p->frames[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	if (!r)
		r = plug_in(p, at, c, ret, e);
	pair_close(p->frames);
	pair_close(p->control);
	return r;
}

/* Start a cairn-publish with the next `n` forwards. */
static int publish_run(const struct plug *p, unsigned at, unsigned n, pid_t *ret_pid)
{
	const struct definition_interface *face = &p->def->interfaces[at];
	struct definition_user u = { .nforwards = n };
	CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int fds[PUBLISHED_FD + DEFINITION_FORWARDS_MAX] = { null, null, p->log_fd, p->control[1] };
	struct spawn_spec program = { .path = p->publish, .rights = author_of_interface(p->def, face), .fds = fds, .nfds = PUBLISHED_FD + n };
	struct args args = { 0 };

	if (null < 0)
		return -errno;
	memcpy(u.forwards, face->user.forwards, n * sizeof(u.forwards[0]));
	for (unsigned i = 0; i < n; i++)
		fds[PUBLISHED_FD + i] = p->forwards[i];
	arg_add(&args, "cairn-publish", NULL);
	arg_add(&args, "--control", "3");
	forward_args_add(&args, &u, PUBLISHED_FD);
	program.argv = args.list;
	return spawn_program(&program, ret_pid);
}

static int publish_start(struct plug *p, unsigned at, unsigned n, struct usernet_process *ret, struct err *e)
{
	int r;

	p->control[0] = p->control[1] = -1;
	r = control_make(p->run_dir, p->def->name, p->def->interfaces[at].id, p->control, e);
	if (!r && (r = access(p->publish, X_OK) < 0 ? -errno : publish_run(p, at, n, &ret->pid)) < 0)
		err_set_errno(e, r, "interfaces[%u]: cannot start %s", at, p->publish);
	if (!r) {
		ret->at = at;
		ret->control = steal_fd(&p->control[0]);
		if (n)
			p->forwards += n;
	}
	pair_close(p->control);
	return r;
}

int usernet_publish(const struct definition *d, unsigned at, const char *publish, const int *fds, unsigned n, int log_fd, int run_dir,
	struct usernet_process *ret, struct err *e)
{
	struct plug p = { .def = d, .publish = publish, .log_fd = log_fd, .run_dir = run_dir, .forwards = fds };

	return publish_start(&p, at, n, ret, e);
}

/* Return how many forwards of the definition usernets_start() needs. */
static unsigned forwards_needed(const struct definition *d, const char *publish)
{
	unsigned n = 0;

	for (unsigned i = 0; i < d->ninterfaces; i++)
		if (!d->interfaces[i].link && (d->interfaces[i].type == DEFINITION_USER || (d->interfaces[i].type == DEFINITION_NETWORK && publish)))
			n += d->interfaces[i].user.nforwards;
	return n;
}

int usernets_start(struct config *c, const struct definition *d, const char *slirp, const char *publish, int log_fd, int run_dir,
	struct usernets *ret, struct err *e)
{
	int forwards[CHANNEL_FDS_MAX], r = 0;
	struct plug p = { .def = d, .program = slirp, .publish = publish, .log_fd = log_fd, .run_dir = run_dir, .forwards = forwards };
	unsigned n = c->nforwards;

	ret->n = 0;
	c->nfds -= n;
	c->nforwards = 0;
	memcpy(forwards, c->fds + c->nfds, n * sizeof(*forwards));
	if (n < forwards_needed(d, publish))
		r = err_set(e, -EBADF, ERR_GENERIC, "%u of the VM's forwards are not open", forwards_needed(d, publish) - n);
	for (unsigned i = 0; i < d->ninterfaces && !r; i++) {
		const struct definition_interface *face = &d->interfaces[i];

		if (face->type == DEFINITION_USER && !face->link)
			r = usernet_start(&p, i, c, ret, e);
		else if (face->type == DEFINITION_NETWORK && !face->link && face->user.nforwards && publish) {
			r = publish_start(&p, i, face->user.nforwards, &ret->list[ret->n], e);
			ret->n += !r;
		}
	}
	while (n)
		close(forwards[--n]);
	return r;
}
