#include "api/heartbeat.h"
#include "api/store/store.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/notify.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct heartbeat {
	struct store *store;
	struct loop_timer *timer;
	struct store_work work;
	int notify_fd;
	uint64_t period_ns;
};

static void beat_done(struct store_work *w)
{
	struct heartbeat *h = container_of(w, struct heartbeat, work);

	notify_send(h->notify_fd, "WATCHDOG=1");
	loop_timer_arm(h->timer, loop_now_ns() + h->period_ns);
}

static void timer_fire(void *opaque)
{
	struct heartbeat *h = opaque;

	store_after(h->store, &h->work);
}

/* Return the time between two beats: a third of the manager's limit, so that a late one does no harm. 0: none asked. */
static uint64_t period_read(void)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	bool ours = usec && (!pid || strtol(pid, NULL, 10) == getpid());
	uint64_t us = ours ? strtoull(usec, NULL, 10) : 0;

	/* VM processes must not inherit them. */
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
	return us < UINT64_MAX / 1000 ? us * 1000 / 3 : 0;
}

int heartbeat_new(struct loop *l, struct store *s, int notify_fd, struct heartbeat **ret, struct err *e)
{
	uint64_t period_ns = period_read();
	struct heartbeat *h;

	*ret = NULL;
	if (!period_ns || notify_fd < 0)
		return 0;
	h = calloc(1, sizeof(*h));
	if (!h || loop_timer_new(l, timer_fire, h, &h->timer) < 0) {
		free(h);
		return err_set_errno(e, -ENOMEM, "heartbeat");
	}
	h->store = s;
	h->work = (struct store_work){ .done = beat_done, .loop = l };
	h->notify_fd = notify_fd;
	h->period_ns = period_ns;
	timer_fire(h);
	*ret = h;
	return 0;
}

void heartbeat_free(struct heartbeat *h)
{
	if (!h)
		return;
	loop_timer_free(h->timer);
	free(h);
}
