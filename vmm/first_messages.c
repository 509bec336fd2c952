#include "vmm/first_messages.h"
#include "base/channel.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/unix_socket.h"
#include "vmm/kvm/memory.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Wait until fd is readable. ms: at most; -1: without a limit. peer: the pidfd of the process that writes to fd; -1:
 * not known. Returns 0; -ETIMEDOUT; -EPIPE: that process has ended; -errno. */
static int readable_wait(int fd, int peer, int ms)
{
	struct pollfd p[] = { { .fd = fd, .events = POLLIN }, { .fd = peer, .events = POLLIN } };
	int r;

	do {
		r = poll(p, 2, ms);
	} while (r < 0 && errno == EINTR);
	if (r > 0)
		return p[0].revents ? 0 : -EPIPE;
	return r < 0 ? -errno : -ETIMEDOUT;
}

/* Get the pidfd of the process that connected. Returns an owned fd; -1: not known; -ESRCH: it has ended. */
static int peer_open(int sock)
{
	socklen_t size = sizeof(int);
	int fd = -1;

	if (!getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &size))
		return fd;
	return errno == ESRCH || errno == ENODATA ? -ESRCH : -1;
}

int first_messages_accept(int listen_fd, int ms, struct err *e)
{
	int r = readable_wait(listen_fd, -1, ms);

	if (!r) {
		r = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
		r = r < 0 ? -errno : r;
	}
	return r < 0 ? err_set_errno(e, r, "no client connected to send the configuration") : r;
}

/* A process that hands its VM over loads saved memory first, and a daemon that forks a VM waits for its state. Either
 * may take long. The wait ends with the daemon, even if another process has a copy of the daemon's socket: the next
 * daemon ends a process without a configuration. */
static int message_receive(struct first_messages *f, struct channel_msg *m, struct err *e)
{
	CLEANUP_CLOSE int peer = f->takes_over ? -1 : peer_open(f->fd);
	int r = readable_wait(f->fd, peer, peer == -ESRCH ? 0 : -1);

	if (!r)
		r = channel_recv(f->fd, VM_MSG_VERSION, vm_msg_to_vm, VM_MSG_TYPE_COUNT, f->buf, m);
	if (r <= 0)
		return err_set_errno(e, r ? r : -EPIPE, "the client sent no configuration");
	f->seq = m->head.seq;
	return 0;
}

/* ---- a clone's memory ---- */

static int memory_map(struct first_messages *f, struct channel_msg *m, struct err *e)
{
	const struct vm_memory *from = m->body;
	int r;

	if (!f->takes_over || m->nfds != 2 || from->ram_bytes < VM_RAM_MIN_BYTES || from->ram_bytes > VM_RAM_MAX_BYTES ||
		from->ram_bytes % 4096 || from->base_offset % 4096 || from->base_offset > INT64_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "the memory of a VM that is handed over lacks a file, or has a value "
			"out of range");
	f->memory = malloc(sizeof(*f->memory));
	if (!f->memory)
		return err_set_errno(e, -ENOMEM, "memory");
	r = memory_take_view(f->memory, from->ram_bytes, m->fds[1], m->fds[0], from->base_offset,
		f->pagemap_fd, e);
	if (!r)
		m->nfds = 0; /* taken */
	return r;
}

/* Map the memory, if that is not done, and read a piece of it. */
static int memory_receive(struct first_messages *f, struct channel_msg *m, struct err *e)
{
	struct vm_reply reply = { 0 };
	int r = f->memory ? 0 : memory_map(f, m, e);

	channel_msg_close_fds(m);
	if (!r)
		r = memory_read_copy(f->memory, e);
	if (r < 0)
		return r;
	r = channel_send(f->fd, VM_MSG_VERSION, VM_MSG_REPLY, f->seq, &reply, sizeof(reply), NULL, 0);
	return r < 0 ? err_set_errno(e, r, "cannot answer the process that hands the VM over") : 0;
}

/* ---- the configuration ---- */

static int config_take(struct first_messages *f, struct channel_msg *m, struct err *e)
{
	struct vm_config *cfg = m->body;
	int r;

	memset((char *)cfg + m->head.body_bytes, 0, sizeof(*cfg) - m->head.body_bytes);
	r = vm_config_take_held(cfg, m, e);
	if (!r)
		r = vm_config_check(cfg, m->nfds, e);
	if (r < 0)
		return r;
	if (cfg->taken_over && !f->takes_over)
		return err_set(e, -EINVAL, ERR_INVALID, "a VM can be handed over only to a process that was started for it");
	if (!cfg->taken_over && f->takes_over)
		return err_set(e, -EINVAL, ERR_INVALID, "this process was started to take a VM over");
	return 0;
}

int first_messages_receive(struct first_messages *f, const struct vm_config **ret_cfg, int *fds, unsigned *nfds, struct err *e)
{
	struct channel_msg m;
	int r;

	while (!(r = message_receive(f, &m, e)) && m.head.type == VM_MSG_MEMORY)
		if ((r = memory_receive(f, &m, e)) < 0)
			return r;
	if (r < 0)
		return r;
	if (m.head.type != VM_MSG_CONFIG) {
		channel_msg_close_fds(&m);
		return err_set(e, -EPROTO, ERR_WRONG_STATE, "the first message has to be a configuration");
	}
	r = config_take(f, &m, e);
	*ret_cfg = m.body;
	memcpy(fds, m.fds, m.nfds * sizeof(*fds));
	*nfds = m.nfds;
	return r;
}
