#include "vmm/send_queue.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

/* Ten times the longest answer: requests wait only for a daemon that has stood still for long. */
#define KEPT_BYTES_MAX (1u << 20)

struct waiting_msg {
	struct waiting_msg *next;
	enum vm_msg_type type;
	uint64_t seq;
	size_t len;
	bool repeats; /* a newer event of the same kind and device replaces it */
	_Alignas(16) uint8_t body[];
};

/* Return whether a guest can cause the event as often as it wants, or only its latest value matters. */
static bool event_repeats(const struct vm_event *ev)
{
	switch (ev->kind) {
	case VM_EVENT_GUEST_PANICKED:
	case VM_EVENT_IO_ERROR:
	case VM_EVENT_NEEDS_RESET:
	case VM_EVENT_PROGRESS:
	case VM_EVENT_WATCHDOG:
	case VM_EVENT_RESET_DELAYED:
	case VM_EVENT_AGENT:
	case VM_EVENT_LINK_LOST:
	case VM_EVENT_TRAY:
	case VM_EVENT_BALLOON:
		return true;
	case VM_EVENT_POWERDOWN:
		return !ev->value;
	case VM_EVENT_RESET:
		return ev->value;
	default:
		return false;
	}
}

/* Unlink the message at *at and free it. */
static void waiting_remove(struct send_queue *q, struct waiting_msg **at)
{
	struct waiting_msg *m = *at;

	*at = m->next;
	if (!m->next)
		q->last = at;
	if (!m->repeats)
		q->kept_bytes -= sizeof(*m) + m->len;
	free(m);
}

/* Remove a waiting event that a newer one replaces. The newer one goes to the end of the queue, because its order among
 * the answers and the other events matters. */
static void event_replace(struct send_queue *q, const struct vm_event *ev)
{
	for (struct waiting_msg **at = &q->first; *at; at = &(*at)->next) {
		const struct vm_event *old = (const struct vm_event *)(*at)->body;

		if (!(*at)->repeats || old->kind != ev->kind || strncmp(old->device, ev->device, sizeof(ev->device)))
			continue;
		waiting_remove(q, at);
		q->replaced += ev->kind != VM_EVENT_PROGRESS;
		return;
	}
}

static int waiting_add(struct send_queue *q, enum vm_msg_type type, uint64_t seq, const void *body, size_t len)
{
	bool repeats = type == VM_MSG_EVENT && event_repeats(body);
	struct waiting_msg *m = malloc(sizeof(*m) + len);

	if (!m)
		return -ENOMEM;
	*m = (struct waiting_msg){ .type = type, .seq = seq, .len = len, .repeats = repeats };
	if (len)
		memcpy(m->body, body, len);
	if (repeats)
		event_replace(q, body);
	else
		q->kept_bytes += sizeof(*m) + len;
	if (!q->first)
		q->last = &q->first;
	*q->last = m;
	q->last = &m->next;
	return 0;
}

int send_queue_send(struct send_queue *q, int sock, enum vm_msg_type type, uint64_t seq, const void *body, size_t len)
{
	int r = q->first ? -EAGAIN : channel_send(sock, VM_MSG_VERSION, (uint16_t)type, seq, body, len, NULL, 0);

	return r == -EAGAIN ? waiting_add(q, type, seq, body, len) : r;
}

int send_queue_flush(struct send_queue *q, int sock)
{
	while (q->first) {
		const struct waiting_msg *m = q->first;
		int r = channel_send(sock, VM_MSG_VERSION, (uint16_t)m->type, m->seq, m->body, m->len, NULL, 0);

		if (r < 0)
			return r == -EAGAIN ? 0 : r;
		waiting_remove(q, &q->first);
	}
	if (q->replaced)
		log_guest(NULL, "control: %llu events were left out while the daemon did not read",
			(unsigned long long)q->replaced);
	q->replaced = 0;
	return 0;
}

void send_queue_finish(struct send_queue *q, int sock)
{
	while (q->first) {
		poll(&(struct pollfd){ .fd = sock, .events = POLLOUT }, 1, -1);
		if (send_queue_flush(q, sock) < 0)
			send_queue_clear(q);
	}
}

void send_queue_clear(struct send_queue *q)
{
	while (q->first)
		waiting_remove(q, &q->first);
	q->replaced = 0;
}

bool send_queue_waits(const struct send_queue *q)
{
	return q->first;
}

bool send_queue_full(const struct send_queue *q)
{
	return q->kept_bytes > KEPT_BYTES_MAX;
}
