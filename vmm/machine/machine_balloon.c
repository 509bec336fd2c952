#include "vmm/machine/machine_balloon.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/virtio/virtio_balloon.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* How long a smaller target waits for statistics. Linux answers within milliseconds. */
#define ANSWER_NS 1000000000ULL

_Static_assert(VM_BALLOON_STATS == BALLOON_STATS, "a message has all statistics");

struct machine_balloon {
	struct machine *m;
	struct loop_timer *timer; /* armed while a target waits */
	uint64_t target_bytes;	  /* the request that waits */
	uint64_t seq;
	void (*done)(void *opaque, uint64_t seq, int r, const struct err *e);
	void *opaque;
	bool waits;
};

/* Return how much memory the guest needs at least, by its statistics; 0: unknown. */
static uint64_t least_bytes(const struct virtio_balloon_info *i)
{
	uint64_t total = i->stats[BALLOON_TOTAL], available = i->stats[BALLOON_AVAILABLE];

	if (!(i->known >> BALLOON_AVAILABLE & 1) || !(i->known >> BALLOON_TOTAL & 1) || available > total || available > i->guest_bytes)
		return 0;
	return i->guest_bytes - available;
}

static int target_check(const struct virtio_balloon_info *i, uint64_t bytes, struct err *e)
{
	uint64_t least = least_bytes(i);

	if (bytes >= i->guest_bytes || bytes >= least)
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "the guest uses %llu MiB of its memory, so %llu MiB is too little; give %llu MiB or "
		"more, or free memory in the guest", (unsigned long long)(least / MIB), (unsigned long long)(bytes / MIB),
		(unsigned long long)(DIV_ROUND_UP(least, MIB)));
}

/* Set the target that waits, if the guest's statistics allow it. */
static void target_decide(void *opaque)
{
	struct machine_balloon *b = opaque;
	struct virtio_balloon_info i;
	struct err e = { 0 };
	int r;

	if (!b->waits)
		return;
	b->waits = false;
	loop_timer_disarm(b->timer);
	virtio_balloon_info(b->m->balloon_dev, &i);
	r = target_check(&i, b->target_bytes, &e);
	if (!r)
		virtio_balloon_set_target(b->m->balloon_dev, b->target_bytes);
	b->done(b->opaque, b->seq, r, &e);
}

/* The device's lock is held, so the timer's callback does the rest. */
static void stats_received(void *opaque)
{
	struct machine_balloon *b = opaque;

	if (b->waits)
		loop_timer_arm(b->timer, 0);
}

int machine_balloon_new(struct machine *m, struct device **ret, struct err *e)
{
	struct machine_balloon *b;
	struct virtio_balloon_config c = { .name = "balloon0", .slot = -1, .ram_bytes = m->cfg.ram_bytes,
		.target_bytes = m->cfg.balloon_bytes ? m->cfg.balloon_bytes : m->cfg.ram_bytes, .told = stats_received };
	int r;

	*ret = NULL;
	if (!m->cfg.balloon)
		return 0;
	b = m->balloon = calloc(1, sizeof(*b));
	if (!b || loop_timer_new(m->host.loop, target_decide, b, &b->timer) < 0)
		return err_set_errno(e, -ENOMEM, "balloon");
	b->m = m;
	c.opaque = b;
	r = virtio_balloon_new(&m->host, m->pci, &c, ret, e);
	m->balloon_dev = r < 0 ? NULL : *ret;
	return r;
}

void machine_balloon_decide(struct machine *m)
{
	if (m->balloon)
		target_decide(m->balloon);
}

void machine_balloon_free(struct machine *m)
{
	if (m->balloon)
		loop_timer_free(m->balloon->timer);
	free(m->balloon);
	m->balloon = NULL;
}

static int set_check(struct machine *m, const struct vm_balloon_set *want, struct virtio_balloon_info *ret, struct err *e)
{
	if (!m->balloon_dev)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"the VM runs without a balloon; set \"balloon\": true, shut the VM down and start it");
	virtio_balloon_info(m->balloon_dev, ret);
	if (!ret->driver_ok)
		return err_set(e, -EPERM, ERR_WRONG_STATE, "the guest has no driver for its balloon, or has not loaded it yet "
			"(Linux: virtio_balloon)");
	if (want->set_target && (!want->target_bytes || want->target_bytes > m->cfg.ram_bytes))
		return err_set(e, -EINVAL, ERR_INVALID, "the VM has %llu MiB of memory; a balloon cannot give it more",
			(unsigned long long)(m->cfg.ram_bytes / MIB));
	if (want->set_target && m->balloon->waits)
		return err_set(e, -EBUSY, ERR_BUSY, "another change of the VM's memory is under way; try again in a moment");
	return 0;
}

int machine_balloon_set(struct machine *m, const struct vm_balloon_set *want, uint64_t seq,
	void (*done)(void *opaque, uint64_t seq, int r, const struct err *e), void *opaque, struct err *e)
{
	struct machine_balloon *b = m->balloon;
	struct virtio_balloon_info i;
	int r = set_check(m, want, &i, e);

	if (r < 0)
		return r;
	if (want->set_period)
		virtio_balloon_set_period(m->balloon_dev, want->period_s);
	if (!want->set_target) {
		done(opaque, seq, 0, NULL);
		return 0;
	}
	b->target_bytes = want->target_bytes;
	b->seq = seq;
	b->done = done;
	b->opaque = opaque;
	b->waits = true;
	if (b->target_bytes < i.guest_bytes && m->resumed_ns && virtio_balloon_ask(m->balloon_dev))
		loop_timer_arm(b->timer, loop_now_ns() + ANSWER_NS);
	else
		target_decide(b);
	return 0;
}

void machine_balloon_info(struct machine *m, struct vm_info *i)
{
	struct virtio_balloon_info b;

	if (!m->balloon_dev)
		return;
	virtio_balloon_info(m->balloon_dev, &b);
	i->balloon.state = b.driver_ok ? VM_BALLOON_WORKS : VM_BALLOON_NO_DRIVER;
	i->balloon.period_s = b.period_s;
	i->balloon.known = b.known;
	i->balloon.target_bytes = b.target_bytes;
	i->balloon.guest_bytes = b.guest_bytes;
	i->balloon.reported_bytes = b.reported_bytes;
	i->balloon.stats_s = b.stats_s;
	memcpy(i->balloon.stats, b.stats, sizeof(i->balloon.stats));
}
