#include "api/heartbeat.h"
#include "api/store/store.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/notify.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define WITHOUT_MANAGER_NS (20 * 1000000000ULL)

struct heartbeat {
	struct store *store;
	struct loop_timer *timer;
	struct store_work work; /* under way since asked_ns; asked_ns 0: it is not */
	uint64_t asked_ns, period_ns;
	int notify_fd; /* -1: no service manager asks for beats */
	bool stalled;
};

static void writer_done(struct store_work *w)
{
	struct heartbeat *h = container_of(w, struct heartbeat, work);

	if (h->stalled)
		log_warn("store", "the disk of the state folder works again, after %llu s",
			(unsigned long long)((loop_now_ns() - h->asked_ns) / 1000000000));
	h->stalled = false;
	h->asked_ns = 0;
}

static void writer_watch(struct heartbeat *h)
{
	uint64_t now_ns = loop_now_ns();

	if (!h->asked_ns) {
		h->asked_ns = now_ns;
		store_after(h->store, &h->work);
	} else if (!h->stalled && now_ns - h->asked_ns >= 2 * h->period_ns) {
		h->stalled = true;
		log_error("store", "writes to the state folder have not ended for %llu s; changes of VMs wait for its disk",
			(unsigned long long)((now_ns - h->asked_ns) / 1000000000));
	}
}

static void timer_fire(void *opaque)
{
	struct heartbeat *h = opaque;

	if (h->notify_fd >= 0)
		notify_send(h->notify_fd, "WATCHDOG=1");
	writer_watch(h);
	loop_timer_arm(h->timer, loop_now_ns() + h->period_ns);
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
	h = calloc(1, sizeof(*h));
	if (!h || loop_timer_new(l, timer_fire, h, &h->timer) < 0) {
		free(h);
		return err_set_errno(e, -ENOMEM, "heartbeat");
	}
	h->store = s;
	h->work = (struct store_work){ .done = writer_done, .loop = l };
	h->notify_fd = period_ns ? notify_fd : -1;
	h->period_ns = period_ns ? period_ns : WITHOUT_MANAGER_NS;
	loop_timer_arm(h->timer, loop_now_ns() + h->period_ns); /* not before READY=1 */
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
