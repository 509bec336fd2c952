#include "vmm/machine/machine_consoles.h"
#include "base/channel.h"
#include "base/err.h"
#include "devices/console.h"
#include "devices/virtio/virtio_vsock.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int machine_console_attach(struct machine *m, const struct vm_console *want, int fd, struct err *e)
{
	if (want->kind > VM_CONSOLE_VIRTIO)
		return err_set(e, -EINVAL, ERR_INVALID, "a console request needs a kind");
	if (!m->consoles[want->kind])
		return err_set(e, -ENOENT, ERR_NOT_FOUND,
			"the VM has no virtio console; set \"console\": {\"virtio\": true}");
	return console_attach(m->consoles[want->kind], fd, want->history,
		(struct console_user){ want->user, want->group, 0 }, e);
}

/* ---- connections to the guest's vsock ports ---- */

struct vsock_wait {
	void (*done)(void *opaque, uint64_t seq, int r, const struct err *e);
	void *opaque;
	uint64_t seq;
};

static void vsock_done(void *opaque, int r, const struct err *e)
{
	struct vsock_wait w = *(struct vsock_wait *)opaque;

	free(opaque);
	w.done(w.opaque, w.seq, r, e);
}

static int vsock_begin(struct machine *m, const struct channel_msg *msg, struct vsock_wait *w, struct err *e)
{
	const struct vm_vsock *want = msg->body;

	if (msg->nfds != 1)
		return err_set(e, -EINVAL, ERR_INVALID, "a vsock request needs a socket");
	if (!m->vsock)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"the VM runs without a vsock device; set \"vsock\": true, shut the VM down and start it");
	return virtio_vsock_connect(m->vsock, want->port, msg->fds[0], &(struct console_user){ want->user, want->group, want->agent },
		vsock_done, w, e);
}

int machine_vsock_connect(struct machine *m, struct channel_msg *msg,
	void (*done)(void *opaque, uint64_t seq, int r, const struct err *e), void *opaque, struct err *e)
{
	struct vsock_wait *w = malloc(sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	*w = (struct vsock_wait){ done, opaque, msg->head.seq };
	r = vsock_begin(m, msg, w, e);
	if (r < 0)
		free(w);
	else
		msg->nfds = 0;
	return r;
}

/* ---- detaching clients ---- */

/* id: 1 + a number; 0: none. */
static bool is_among(uint32_t id, const uint32_t *numbers, uint32_t n)
{
	while (id && n && numbers[n - 1] != id - 1)
		n--;
	return id && n;
}

struct stay {
	const uint32_t *ids;
	uint32_t nusers, ngroups;
	bool agents;
};

static bool may_stay(const void *opaque, struct console_user who)
{
	const struct stay *stay = opaque;

	return who.agent != stay->agents || is_among(who.user, stay->ids, stay->nusers) ||
		is_among(who.group, stay->ids + stay->nusers, stay->ngroups);
}

int machine_consoles_end(struct machine *m, const struct vm_console_end *list, size_t len, struct err *e)
{
	struct stay stay = { list->ids, list->nusers & ~VM_CONSOLE_END_AGENTS, list->ngroups, list->nusers & VM_CONSOLE_END_AGENTS };
	uint64_t n = (uint64_t)stay.nusers + stay.ngroups;

	if (n > VM_CONSOLE_IDS_MAX || len != offsetof(struct vm_console_end, ids) + n * sizeof(list->ids[0]))
		return err_set(e, -EINVAL, ERR_INVALID, "the list of users and groups is malformed");
	for (unsigned kind = VM_CONSOLE_SERIAL; kind <= VM_CONSOLE_VIRTIO; kind++)
		console_end(m->consoles[kind], may_stay, &stay);
	if (m->vsock)
		virtio_vsock_end(m->vsock, may_stay, &stay);
	return 0;
}

void machine_consoles_print(const struct machine *m, const char *text)
{
	char line[sizeof(((struct vm_agent *)NULL)->text) + 8];
	int n = snprintf(line, sizeof(line), "\r\n[%s]\r\n", text);

	for (unsigned kind = VM_CONSOLE_SERIAL; kind <= VM_CONSOLE_VIRTIO; kind++)
		if (m->consoles[kind])
			console_write(m->consoles[kind], line, (size_t)n);
}
