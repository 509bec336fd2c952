#include "devices/virtio/virtio_balloon.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/figures.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_pci.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { INFLATE, DEFLATE, STATS, HINTS, REPORTS, QUEUES };

/* Linux reports free pages only if a queue has 32 entries or more. */
#define QUEUE_SIZE 128
#define PAGE_BYTES 4096ULL
#define F_STATS_VQ (1ULL << 1)
#define F_DEFLATE_ON_OOM (1ULL << 2)
#define F_REPORTING (1ULL << 5)
#define CONFIG_BYTES 8
#define CONFIG_TARGET 0 /* le32: pages that the balloon is to have */
#define CONFIG_ACTUAL 4 /* le32: pages that it has; the driver writes it */
#define STAT_BYTES 10	/* le16 tag, le64 value */
#define STATS_READ_MAX 32
/* The most that a call of queue_run does, so that the loop serves other work in between: page frame numbers read,
 * ranges and bytes freed. Freeing 4 MiB takes about 1 ms. */
#define TURN_PFNS 4096u
#define TURN_RANGES 256u
#define TURN_BYTES (8 * MIB)
#define PFNS_AT_ONCE 256u
#define SECOND_NS 1000000000ULL

_Static_assert(BALLOON_FIGURES == BALLOON_STAT + BALLOON_STATS, "the page has all statistics");

struct virtio_balloon {
	struct virtio_dev v;
	struct virtio_pci pci;
	struct virtio_balloon_config c;
	struct loop_timer *tell, *poll;
	uint64_t told_ns; /* when the last DEV_EVENT_BALLOON was sent */
	/* protected by v.lock: */
	uint64_t done[QUEUES]; /* bytes of the queue's first request that were handled in earlier turns */
	bool changed, telling; /* the driver has written its number of pages; the timer is armed */
	struct virtio_balloon_info info; /* period_s, the statistics and reported_bytes */
	_Atomic uint64_t *shown; /* BALLOON_FIGURES on the page; borrowed; NULL: none */
};

/* The remaining budget of a turn. */
struct turn {
	struct virtio_balloon *b;
	unsigned q, pfns, ranges;
	uint64_t bytes;
};

static struct virtio_balloon *balloon_of(struct virtio_dev *v)
{
	return container_of(v, struct virtio_balloon, v);
}

static struct virtio_balloon *balloon_of_dev(struct device *d)
{
	return container_of(d, struct virtio_balloon, v.dev);
}

/* ---- giving memory back ---- */

/* Returns false if the range has to be returned later; wakes the queue then. */
static bool range_give(struct turn *t, uint64_t gpa, uint64_t len)
{
	struct virtio_dev *v = &t->b->v;

	t->ranges -= t->ranges > 0;
	t->bytes -= MIN(t->bytes, len);
	return !v->host->ops->ram_give_back || v->host->ops->ram_give_back(v->host, gpa, len, v->queues[t->q].kick_fd);
}

static bool turn_is_over(const struct turn *t)
{
	return !t->pfns || !t->ranges || !t->bytes;
}

/* Return the number of page frames from the first that are adjacent, in either direction. *ret_low: the lowest. */
static unsigned run_length(const uint8_t *pfns, unsigned n, uint32_t *ret_low)
{
	uint32_t first = load_le32(pfns), low = first, high = first;
	unsigned i = 1;

	for (; i < n; i++) {
		uint32_t pfn = load_le32(pfns + 4 * i);

		if (pfn == high + 1 && pfn)
			high = pfn;
		else if (pfn + 1 == low && low)
			low = pfn;
		else
			break;
	}
	*ret_low = low;
	return i;
}

/* Return the pages of a run of page numbers to the host. A number that is not of RAM is ignored, as in QEMU. */
static bool run_give(struct turn *t, uint32_t low, unsigned n)
{
	uint64_t gpa = low * PAGE_BYTES;

	return !dev_ram(t->b->v.host, gpa, n * PAGE_BYTES) || range_give(t, gpa, n * PAGE_BYTES);
}

/* Take a request of the inflate queue: a list of page frame numbers. Returns true when it is complete. */
static bool pages_take(struct turn *t, const struct virtqueue_elem *el)
{
	uint8_t pfns[4 * PFNS_AT_ONCE];
	uint64_t *done = &t->b->done[INFLATE];

	for (;;) {
		size_t want = 4 * MIN(PFNS_AT_ONCE, t->pfns);
		unsigned n = (unsigned)(iov_read(el->iov, el->nout, *done, pfns, want) / 4), i = 0;

		if (!n)
			return !turn_is_over(t) || *done + 4 > el->out_bytes;
		while (i < n && !turn_is_over(t)) {
			uint32_t low;
			unsigned run = run_length(pfns + 4 * i, n - i, &low);

			/* A run that goes beyond the end of RAM names each page by itself. */
			if (!dev_ram(t->b->v.host, low * PAGE_BYTES, run * PAGE_BYTES)) {
				run = 1;
				low = load_le32(pfns + 4 * i);
			}
			if (!run_give(t, low, run))
				return false;
			i += run;
			t->pfns -= MIN(t->pfns, run);
			*done += 4ULL * run;
		}
		if (i < n)
			return false;
	}
}

static uint64_t gpa_of(const struct dev_host *h, const uint8_t *p)
{
	for (int i = 0; i < 2; i++)
		if (p >= h->ram[i].host && p < h->ram[i].host + h->ram[i].bytes)
			return h->ram[i].gpa + (uint64_t)(p - h->ram[i].host);
	return UINT64_MAX;
}

/* Give back the whole pages in [from, from + len) of one segment, in pieces. *done: bytes of it that were handled. */
static bool segment_give(struct turn *t, const struct iovec *seg, uint64_t *done)
{
	uint64_t base = gpa_of(t->b->v.host, seg->iov_base);

	while (*done < seg->iov_len) {
		uint64_t n = MIN(seg->iov_len - *done, TURN_BYTES), from, to;

		if (turn_is_over(t))
			return false;
		n = MIN(n, MAX(ROUND_DOWN(t->bytes, PAGE_BYTES), PAGE_BYTES));
		if (n < seg->iov_len - *done)
			n = MAX(ROUND_DOWN(base + *done + n, PAGE_BYTES), base + *done + 1) - (base + *done);
		from = ROUND_UP(base + *done, PAGE_BYTES);
		to = ROUND_DOWN(base + *done + n, PAGE_BYTES);
		if (from < to && !range_give(t, from, to - from))
			return false;
		if (from < to)
			t->b->info.reported_bytes += to - from;
		else
			t->ranges--;
		*done += n;
	}
	return true;
}

/* Take a request of the reporting queue: its writable segments are free. Returns true when it is complete. */
static bool report_take(struct turn *t, const struct virtqueue_elem *el)
{
	uint64_t *all = &t->b->done[t->q], before = 0;

	for (unsigned i = el->nout; i < el->nout + el->nin; before += el->iov[i++].iov_len) {
		uint64_t done = *all > before ? *all - before : 0;
		bool complete;

		if (done >= el->iov[i].iov_len)
			continue;
		complete = segment_give(t, &el->iov[i], &done);
		*all = before + done;
		if (!complete)
			return false;
	}
	return true;
}

/* ---- figures ---- */

static uint64_t bytes_of(const struct virtio_balloon *b, unsigned field)
{
	uint64_t pages = load_le32(b->v.config + field), all = b->c.ram_bytes / PAGE_BYTES;

	return b->c.ram_bytes - MIN(pages, all) * PAGE_BYTES;
}

static struct virtio_balloon_info info_now(const struct virtio_balloon *b)
{
	struct virtio_balloon_info i = b->info;

	i.driver_ok = (b->v.status & VIRTIO_STATUS_DRIVER_OK) && !(b->v.status & VIRTIO_STATUS_NEEDS_RESET);
	i.target_bytes = bytes_of(b, CONFIG_TARGET);
	i.guest_bytes = bytes_of(b, CONFIG_ACTUAL);
	return i;
}

/* Call after each change of a value that virtio_balloon_info() returns. */
static void figures_update(struct virtio_balloon *b)
{
	const struct virtio_balloon_info i = info_now(b);

	if (!b->shown)
		return;
	figure_set(b->shown, NULL, BALLOON_DRIVER, i.driver_ok);
	figure_set(b->shown, NULL, BALLOON_TARGET, i.target_bytes);
	figure_set(b->shown, NULL, BALLOON_GUEST, i.guest_bytes);
	figure_set(b->shown, NULL, BALLOON_REPORTED, i.reported_bytes);
	figure_set(b->shown, NULL, BALLOON_PERIOD_S, i.period_s);
	figure_set(b->shown, NULL, BALLOON_STATS_S, i.stats_s);
	figure_set(b->shown, NULL, BALLOON_KNOWN, i.known);
	for (unsigned k = 0; k < BALLOON_STATS; k++)
		figure_set(b->shown, NULL, BALLOON_STAT + k, i.stats[k]);
}

/* ---- statistics ---- */

static void stats_read(struct virtio_balloon *b, const struct virtqueue_elem *el)
{
	uint8_t all[STAT_BYTES * STATS_READ_MAX];
	size_t n = iov_read(el->iov, el->nout, 0, all, sizeof(all)) / STAT_BYTES;

	b->info.known = 0;
	for (size_t i = 0; i < n; i++) {
		uint16_t tag = load_le16(all + STAT_BYTES * i);

		if (tag >= BALLOON_STATS)
			continue;
		b->info.stats[tag] = load_le64(all + STAT_BYTES * i + 2);
		b->info.known |= 1u << tag;
	}
	b->info.stats_s = clock_realtime_ns() / SECOND_NS;
}

/* Read the statistics, and leave the buffer in the ring until the next poll gives it back to the driver. */
static void stats_run(struct virtio_balloon *b)
{
	struct virtqueue *vq = &b->v.queues[STATS].vq;
	struct virtqueue_elem el;
	int got = virtqueue_pop(vq, &el);

	if (got < 0)
		virtio_fault(&b->v, vq->fault);
	if (got <= 0) {
		virtqueue_notify_enable(vq);
		return;
	}
	stats_read(b, &el);
	virtqueue_unpop(vq);
	virtqueue_notify_enable_beyond(vq, 1);
	if (b->c.told)
		b->c.told(b->c.opaque);
}

static bool has_stats(const struct virtio_balloon *b)
{
	return b->v.features & F_STATS_VQ;
}

static bool stats_ask(struct virtio_balloon *b)
{
	struct virtqueue *vq = &b->v.queues[STATS].vq;
	struct virtqueue_elem el;
	int got;

	if (!virtio_is_running(&b->v) || !has_stats(b) || !vq->enabled)
		return false;
	got = virtqueue_pop(vq, &el);
	if (got < 0)
		virtio_fault(&b->v, vq->fault);
	if (got <= 0)
		return got == 0;
	virtqueue_push(vq, &el, 0);
	virtio_queue_interrupt(&b->v, STATS);
	/* The driver may have filled the buffer again by now. */
	if (virtqueue_notify_enable(vq))
		virtio_queue_kick(&b->v, STATS);
	return true;
}

static void poll_fire(void *opaque)
{
	struct virtio_balloon *b = opaque;

	LOCK_GUARD(&b->v.lock);
	if (!b->info.period_s)
		return;
	stats_ask(b);
	loop_timer_arm(b->poll, loop_now_ns() + b->info.period_s * SECOND_NS);
}

/* ---- the size of the balloon ---- */

static void change_report(struct virtio_balloon *b)
{
	struct dev_event ev = { .kind = DEV_EVENT_BALLOON, .device = b->v.dev.name };
	uint64_t now = loop_now_ns();

	if (!b->changed || b->telling)
		return;
	if (b->told_ns && now - b->told_ns < SECOND_NS) {
		b->telling = true;
		loop_timer_arm(b->tell, b->told_ns + SECOND_NS);
		return;
	}
	b->changed = false;
	b->told_ns = now;
	ev.value = (int64_t)bytes_of(b, CONFIG_ACTUAL);
	dev_event(b->v.host, &ev);
}

static void tell_fire(void *opaque)
{
	struct virtio_balloon *b = opaque;

	LOCK_GUARD(&b->v.lock);
	b->telling = false;
	change_report(b);
}

/* ---- virtio ---- */

static bool request_take(struct turn *t, const struct virtqueue_elem *el)
{
	if (t->q == INFLATE)
		return pages_take(t, el);
	t->ranges--;
	return t->q == DEFLATE || report_take(t, el); /* the guest's next access brings a page back */
}

static void balloon_run(struct virtio_dev *v, unsigned qi)
{
	struct virtio_balloon *b = balloon_of(v);
	struct virtqueue *vq = &v->queues[qi].vq;
	struct turn t = { b, qi, TURN_PFNS, TURN_RANGES, TURN_BYTES };
	struct virtqueue_elem el;
	bool waits = false;
	int got = 0;

	change_report(b);
	if (qi == STATS && has_stats(b)) {
		stats_run(b);
		figures_update(b);
		return;
	}
	do {
		virtqueue_notify_disable(vq);
		while (!waits && !turn_is_over(&t) && (got = virtqueue_pop(vq, &el)) > 0) {
			waits = !request_take(&t, &el);
			if (waits) {
				virtqueue_unpop(vq);
				break;
			}
			b->done[qi] = 0;
			virtqueue_push(vq, &el, 0);
		}
	} while (!waits && !turn_is_over(&t) && virtqueue_notify_enable(vq));
	if (got < 0)
		virtio_fault(v, vq->fault);
	virtio_queue_interrupt(v, qi);
	if (turn_is_over(&t))
		virtio_queue_kick(v, qi);
	figures_update(b);
}

static void balloon_reset(struct virtio_dev *v)
{
	struct virtio_balloon *b = balloon_of(v);

	memset(b->done, 0, sizeof(b->done));
	memset(v->config + CONFIG_ACTUAL, 0, 4);
	b->info.known = 0;
	b->info.stats_s = 0;
	figures_update(b);
}

/* On a vCPU's thread. */
static void config_written(struct virtio_dev *v, unsigned off, unsigned len)
{
	if (off + len <= CONFIG_ACTUAL)
		return;
	balloon_of(v)->changed = true;
	figures_update(balloon_of(v));
	virtio_queue_kick(v, INFLATE);
}

static void balloon_save(struct virtio_dev *v, struct state_writer *w)
{
	struct virtio_balloon *b = balloon_of(v);

	state_put_u32(w, load_le32(v->config + CONFIG_TARGET));
	state_put_u32(w, b->info.period_s);
}

static int balloon_load(struct virtio_dev *v, struct state_reader *r, struct err *e)
{
	struct virtio_balloon *b = balloon_of(v);
	uint32_t pages = state_u32(r), period = state_u32(r);

	if (r->failed || pages > b->c.ram_bytes / PAGE_BYTES)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s: malformed state (target)", v->dev.name);
	store_le32(v->config + CONFIG_TARGET, pages);
	b->info.period_s = period;
	memset(b->done, 0, sizeof(b->done));
	figures_update(b);
	return 0;
}

static const struct virtio_ops balloon_virtio_ops = {
	.id = 5,
	.class_code = 0xff0000, /* no class fits */
	.cpu_percent = 60,
	.queue_run = balloon_run,
	.reset = balloon_reset,
	.config_written = config_written,
	.save = balloon_save,
	.load = balloon_load,
};

static void balloon_free(struct device *d)
{
	struct virtio_balloon *b = balloon_of_dev(d);

	loop_timer_free(b->tell);
	loop_timer_free(b->poll);
	virtio_pci_done(&b->pci);
	virtio_done(&b->v);
	free(b);
}

static void balloon_resume(struct device *d)
{
	struct virtio_balloon *b = balloon_of_dev(d);

	virtio_pci_device_resume(d);
	if (b->info.period_s)
		loop_timer_arm(b->poll, loop_now_ns() + b->info.period_s * SECOND_NS);
}

static void balloon_pause(struct device *d)
{
	loop_timer_disarm(balloon_of_dev(d)->poll);
	virtio_pci_device_pause(d);
}

static const struct device_ops balloon_ops = {
	.type = "virtio-balloon",
	.state_version = 1,
	.reset = virtio_pci_device_reset,
	.pause = balloon_pause,
	.resume = balloon_resume,
	.save = virtio_pci_device_save,
	.load = virtio_pci_device_load,
	.free = balloon_free,
};

/* ---- for the machine ---- */

static uint32_t pages_of(const struct virtio_balloon *b, uint64_t guest_bytes)
{
	return (uint32_t)((b->c.ram_bytes - MIN(b->c.ram_bytes, guest_bytes)) / PAGE_BYTES);
}

int virtio_balloon_new(struct dev_host *h, struct pci_host *p, const struct virtio_balloon_config *c,
	struct device **ret_dev, struct err *e)
{
	struct virtio_balloon *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return err_set_errno(e, -ENOMEM, "%s", c->name);
	b->c = *c;
	r = virtio_init(&b->v, h, h->loop, c->name, &balloon_ops, &balloon_virtio_ops, QUEUES, QUEUE_SIZE, e);
	b->v.features_offered |= F_STATS_VQ | F_DEFLATE_ON_OOM | F_REPORTING;
	b->v.config_bytes = CONFIG_BYTES;
	memset(b->v.config_writable + CONFIG_ACTUAL, 0xff, 4);
	store_le32(b->v.config + CONFIG_TARGET, pages_of(b, c->target_bytes));
	if (!r && (loop_timer_new(h->loop, tell_fire, b, &b->tell) < 0 || loop_timer_new(h->loop, poll_fire, b, &b->poll) < 0))
		r = err_set_errno(e, -ENOMEM, "%s", c->name);
	if (!r)
		r = virtio_pci_init(&b->pci, &b->v, p, c->slot, e);
	if (r) {
		balloon_free(&b->v.dev);
		return r;
	}
	*ret_dev = &b->v.dev;
	return 0;
}

void virtio_balloon_set_target(struct device *d, uint64_t bytes)
{
	struct virtio_balloon *b = balloon_of_dev(d);
	uint32_t pages = pages_of(b, bytes);

	LOCK_GUARD(&b->v.lock);
	if (pages == load_le32(b->v.config + CONFIG_TARGET))
		return;
	store_le32(b->v.config + CONFIG_TARGET, pages);
	figures_update(b);
	virtio_config_changed(&b->v);
}

void virtio_balloon_set_period(struct device *d, uint32_t seconds)
{
	struct virtio_balloon *b = balloon_of_dev(d);

	LOCK_GUARD(&b->v.lock);
	b->info.period_s = seconds;
	figures_update(b);
	if (seconds)
		loop_timer_arm(b->poll, loop_now_ns());
	else
		loop_timer_disarm(b->poll);
}

bool virtio_balloon_ask(struct device *d)
{
	struct virtio_balloon *b = balloon_of_dev(d);

	LOCK_GUARD(&b->v.lock);
	return stats_ask(b);
}

void virtio_balloon_info(struct device *d, struct virtio_balloon_info *ret)
{
	struct virtio_balloon *b = balloon_of_dev(d);

	LOCK_GUARD(&b->v.lock);
	*ret = info_now(b);
}

void virtio_balloon_show(struct device *d, _Atomic uint64_t *shown)
{
	struct virtio_balloon *b = balloon_of_dev(d);

	LOCK_GUARD(&b->v.lock);
	b->shown = shown;
	figures_update(b);
}
