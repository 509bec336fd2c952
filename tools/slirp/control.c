#include "tools/slirp/control.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

void control_init(struct control *c, int fd)
{
	*c = (struct control){ .fd = fd };
}

/* A daemon that is gone is none of our concern: the VM lives on, and the next one asks for nothing.
 * False: it does not read just now. */
static bool message_send(struct control *c, unsigned forward)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "{\"forward\": %u}", forward);

	if (send(c->fd, text, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return true;
	if (errno == EAGAIN || errno == EINTR)
		return false;
	c->fd = -1;
	return true;
}

void control_tell(struct control *c, unsigned forward, uint64_t now_ns)
{
	c->forwards[forward].pending = c->fd >= 0;
	control_run(c, now_ns);
}

uint64_t control_run(struct control *c, uint64_t now_ns)
{
	uint64_t next_ns = UINT64_MAX;

	for (unsigned i = 0; i < ARRAY_SIZE(c->forwards) && c->fd >= 0; i++) {
		if (!c->forwards[i].pending)
			continue;
		if (c->forwards[i].next_ns <= now_ns) {
			c->forwards[i].pending = !message_send(c, i);
			c->forwards[i].next_ns = now_ns + CONTROL_INTERVAL_NS;
		}
		if (c->forwards[i].pending)
			next_ns = MIN(next_ns, c->forwards[i].next_ns);
	}
	return next_ns;
}
