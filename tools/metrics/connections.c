#include "tools/metrics/connections.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <sys/socket.h>

#define REQUEST_SECONDS 10

void connections_init(struct connections *c, int crowd)
{
	c->crowd = crowd;
	pthread_mutex_init(&c->lock, NULL);
	for (int i = 0; i < CONNECTIONS_MAX; i++)
		c->rows[i] = (struct connection){ .fd = -1 };
}

/* The library closes the fd once its thread sees the end. */
static void connection_end(struct connection *c)
{
	shutdown(c->fd, SHUT_RDWR);
	c->ended = true;
}

int connections_add(struct connections *c, int fd)
{
	struct connection *oldest = NULL;
	int row = -1, used = 0;
	LOCK_GUARD(&c->lock);

	for (int i = 0; i < CONNECTIONS_MAX; i++) {
		struct connection *at = &c->rows[i];

		used += at->fd >= 0 && !at->ended;
		if (at->fd < 0)
			row = i;
		else if (at->since_ns && !at->ended && (!oldest || at->since_ns < oldest->since_ns))
			oldest = at;
	}
	if (used >= c->crowd && oldest)
		connection_end(oldest);
	if (row >= 0)
		c->rows[row] = (struct connection){ .fd = fd, .since_ns = clock_monotonic_ns(), .session = -1 };
	return row;
}

void connections_remove(struct connections *c, int row)
{
	LOCK_GUARD(&c->lock);

	if (row >= 0)
		c->rows[row].fd = -1;
}

int connections_count(struct connections *c)
{
	int n = 0;
	LOCK_GUARD(&c->lock);

	for (int i = 0; i < CONNECTIONS_MAX; i++)
		n += c->rows[i].fd >= 0;
	return n;
}

static void row_set(struct connections *c, int row, uint64_t since_ns, int session)
{
	LOCK_GUARD(&c->lock);

	if (row < 0)
		return;
	c->rows[row].since_ns = since_ns;
	c->rows[row].session = session;
}

void connections_answer(struct connections *c, int row, int session)
{
	row_set(c, row, 0, session);
}

void connections_wait(struct connections *c, int row)
{
	row_set(c, row, clock_monotonic_ns(), -1);
}

void connections_end(struct connections *c, int session, int except)
{
	LOCK_GUARD(&c->lock);

	for (int i = 0; i < CONNECTIONS_MAX; i++)
		if (c->rows[i].fd >= 0 && !c->rows[i].ended && i != except && c->rows[i].session == session)
			connection_end(&c->rows[i]);
}

void connections_expire(struct connections *c)
{
	uint64_t now;
	LOCK_GUARD(&c->lock);

	now = clock_monotonic_ns(); /* with the lock: no row is younger */
	for (int i = 0; i < CONNECTIONS_MAX; i++) {
		struct connection *at = &c->rows[i];

		if (at->fd >= 0 && at->since_ns && !at->ended && now - at->since_ns > REQUEST_SECONDS * CLOCK_NS_PER_S)
			connection_end(at);
	}
}
