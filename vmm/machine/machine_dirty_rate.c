#include "vmm/machine/machine_dirty_rate.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "snapshot/fault_tracker.h"
#include "vmm/kvm/page_samples.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_page.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A step takes so long and some microseconds more, unless a page has to be read from swap. */
#define STEP_NS 400000ULL
#define PAUSE_NS 1000000ULL

struct machine_dirty_rate {
	struct machine *m;
	struct loop_timer *timer;
	struct page_samples *samples; /* NULL: no measurement is under way */
	uint32_t n, at, changed;
	bool second; /* the second look at the samples */
	uint64_t begin_ns[2], end_ns[2]; /* of the looks */
	struct vm_dirty_rate result;
};

static void samples_drop(struct machine_dirty_rate *d)
{
	loop_timer_disarm(d->timer);
	page_samples_free(d->samples);
	d->samples = NULL;
}

/* Publish the result to the daemon, which reads the page without asking. */
static void result_set(struct machine_dirty_rate *d, const struct vm_dirty_rate *result)
{
	d->result = *result;
	machine_page_update(d->m);
}

static int sample_take(struct machine_dirty_rate *d)
{
	const struct fault_tracker *t = d->m->tracker;
	int r = d->second ? page_samples_changed(d->samples, d->at) :
		page_samples_note(d->samples, d->at, t && fault_tracker_loads(t));

	d->changed += r > 0;
	return MIN(r, 0);
}

static void measured(struct machine_dirty_rate *d)
{
	/* One look may take longer than the other, so take the time between their middles. */
	uint64_t ns = (d->begin_ns[1] - d->begin_ns[0] + d->end_ns[1] - d->end_ns[0]) / 2;
	struct vm_dirty_rate result = d->result;

	result.status = VM_DIRTY_RATE_MEASURED;
	result.bytes_per_s = page_samples_rate(d->m->mem.bytes, d->n, d->changed, ns);
	samples_drop(d);
	result_set(d, &result);
}

static void round_ended(struct machine_dirty_rate *d)
{
	d->end_ns[d->second] = loop_now_ns();
	d->at = 0;
	if (d->second) {
		measured(d);
		return;
	}
	d->second = true;
	loop_timer_arm(d->timer, d->begin_ns[0] + d->result.ask.seconds * 1000000000ULL);
}

static void round_step(void *opaque)
{
	struct machine_dirty_rate *d = opaque;
	uint64_t end = loop_now_ns() + STEP_NS;

	if (!d->at)
		d->begin_ns[d->second] = loop_now_ns();
	while (d->at < d->n) {
		int r = sample_take(d);

		if (r < 0) {
			log_warn(NULL, "cannot measure the dirty rate: memory cannot be read: %s", strerror(-r));
			samples_drop(d);
			result_set(d, &(struct vm_dirty_rate){ 0 });
			return;
		}
		d->at++;
		if (loop_now_ns() > end && d->at < d->n) {
			loop_timer_arm(d->timer, loop_now_ns() + PAUSE_NS);
			return;
		}
	}
	round_ended(d);
}

static int dirty_rate_new(struct machine *m, struct err *e)
{
	struct machine_dirty_rate *d = calloc(1, sizeof(*d));

	if (!d || loop_timer_new(m->host.loop, round_step, d, &d->timer) < 0) {
		free(d);
		return err_set_errno(e, -ENOMEM, "dirty rate");
	}
	d->m = m;
	m->dirty_rate = d;
	return 0;
}

int machine_dirty_rate_begin(struct machine *m, const struct vm_dirty_rate_ask *ask, struct err *e)
{
	int r = m->dirty_rate ? 0 : dirty_rate_new(m, e);
	struct machine_dirty_rate *d = m->dirty_rate;

	if (r < 0)
		return r;
	if (d->samples)
		return err_set(e, -EBUSY, ERR_BUSY, "the dirty rate is being measured already, for %u s; ask again when that is complete",
			d->result.ask.seconds);
	d->n = page_samples_count(m->mem.bytes, ask->pages_per_gib);
	d->samples = page_samples_new(&m->mem, d->n, loop_now_ns() | 1);
	if (!d->samples)
		return err_set_errno(e, -ENOMEM, "dirty rate");
	d->at = d->changed = 0;
	d->second = false;
	loop_timer_arm(d->timer, loop_now_ns());
	result_set(d, &(struct vm_dirty_rate){ .status = VM_DIRTY_RATE_MEASURING, .ask = *ask,
		.start_s = clock_realtime_ns() / 1000000000 });
	return 0;
}

void machine_dirty_rate_drop(struct machine *m)
{
	if (!m->dirty_rate || !m->dirty_rate->samples)
		return;
	samples_drop(m->dirty_rate);
	result_set(m->dirty_rate, &(struct vm_dirty_rate){ 0 });
}

void machine_dirty_rate_info(const struct machine *m, struct vm_info *i)
{
	if (m->dirty_rate)
		i->dirty_rate = m->dirty_rate->result;
}

void machine_dirty_rate_free(struct machine *m)
{
	if (!m->dirty_rate)
		return;
	samples_drop(m->dirty_rate);
	loop_timer_free(m->dirty_rate->timer);
	free(m->dirty_rate);
	m->dirty_rate = NULL;
}
