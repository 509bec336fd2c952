#include "devices/virtio/virtio.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "snapshot/state.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define STATUS_KNOWN                                                                               \
	(VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK |              \
		VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED)

/* ---- doorbells ---- */

bool virtio_is_running(const struct virtio_dev *v)
{
	uint8_t wanted = v->early ? VIRTIO_STATUS_FEATURES_OK : VIRTIO_STATUS_DRIVER_OK;

	return (v->status & wanted) && !(v->status & VIRTIO_STATUS_NEEDS_RESET) && !v->paused;
}

static void doorbells_watch(struct virtio_dev *v, unsigned events)
{
	for (unsigned q = 0; q < v->nqueues; q++)
		loop_watch_events(v->queues[q].watch, events);
}

/* A doorbell that rang meanwhile is in its eventfd. */
static void rest_end(void *opaque)
{
	doorbells_watch(opaque, POLLIN);
}

static void share_charge(struct virtio_dev *v, uint64_t used_ns)
{
	uint64_t now_ns = loop_now_ns(), rest_ns = cpu_share_charge(&v->share, v->ops->cpu_percent, now_ns, used_ns);

	if (!rest_ns)
		return;
	log_guest(v->dev.name, "its doorbells rest, because serving them takes more than %u %% of a processor",
		v->ops->cpu_percent);
	doorbells_watch(v, 0);
	loop_timer_arm(v->rest, now_ns + rest_ns);
}

static void queue_kicked(void *opaque, unsigned revents)
{
	struct virtio_queue *q = opaque;
	struct virtio_dev *v = q->dev;
	uint64_t n, began_ns = v->rest ? clock_thread_ns() : 0;

	(void)revents;
	if (read(q->kick_fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		return;
	LOCK_GUARD(&v->lock);
	/* Drivers of FreeBSD's console and OpenBSD's disks wait for an answer before they set DRIVER_OK. */
	v->early |= q->vq.enabled && !(v->status & VIRTIO_STATUS_DRIVER_OK);
	if (virtio_is_running(v) && q->vq.enabled)
		v->ops->queue_run(v, q->index);
	if (v->rest)
		share_charge(v, clock_thread_ns() - began_ns);
}

void virtio_queue_kick(struct virtio_dev *v, unsigned q)
{
	uint64_t one = 1;

	while (write(v->queues[q].kick_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

bool virtio_doorbell_enable(struct virtio_dev *v, unsigned q, bool polled)
{
	v->queues[q].quiet = polled && loop_polls(v->loop);
	return !v->queues[q].quiet && virtqueue_notify_enable(&v->queues[q].vq);
}

void virtio_doorbell_disable(struct virtio_dev *v, unsigned q)
{
	if (v->queues[q].quiet || !loop_polls(v->loop))
		return;
	virtqueue_notify_cancel(&v->queues[q].vq);
	v->queues[q].quiet = true;
}

bool virtio_doorbell_wake(struct virtio_dev *v, unsigned q)
{
	if (!v->queues[q].quiet)
		return false;
	v->queues[q].quiet = false;
	if (!virtqueue_notify_enable(&v->queues[q].vq))
		return false;
	virtio_queue_kick(v, q);
	return true;
}

void virtio_kick_all(struct virtio_dev *v)
{
	for (unsigned q = 0; q < v->nqueues; q++) {
		if (v->queues[q].vq.enabled)
			virtio_queue_kick(v, q);
	}
}

/* ---- interrupts and faults ---- */

void virtio_queue_interrupt(struct virtio_dev *v, unsigned q)
{
	if (virtqueue_should_interrupt(&v->queues[q].vq))
		v->transport_ops->queue_interrupt(v->transport, q);
}

void virtio_fault(struct virtio_dev *v, const char *sentence)
{
	struct dev_event ev = { .kind = DEV_EVENT_NEEDS_RESET, .device = v->dev.name,
		.detail = sentence };

	if (v->faulted)
		return;
	v->faulted = true;
	v->status |= VIRTIO_STATUS_NEEDS_RESET;
	log_guest(v->dev.name, "the guest's driver is at fault: %s; waiting for its reset",
		sentence);
	if (v->status & VIRTIO_STATUS_DRIVER_OK)
		v->transport_ops->config_interrupt(v->transport);
	dev_event(v->host, &ev);
}

void virtio_config_changed(struct virtio_dev *v)
{
	v->generation++;
	if (v->status & VIRTIO_STATUS_DRIVER_OK)
		v->transport_ops->config_interrupt(v->transport);
}

/* ---- actions of the driver ---- */

static bool features_are_acceptable(const struct virtio_dev *v)
{
	return !(v->features & ~v->features_offered) && (v->features & VIRTIO_F_VERSION_1);
}

/* quiesce releases the lock while it waits. No other vCPU may set the status meanwhile: the device would run with
 * the queues of the driver before the reset. */
static void reset_wait(struct virtio_dev *v)
{
	while (v->resetting)
		pthread_cond_wait(&v->reset_done, &v->lock);
}

/* Reset registers and queues to power-on values. Waits for requests in flight. */
static void reset_locked(struct virtio_dev *v)
{
	reset_wait(v);
	v->resetting = true;
	v->status = 0; /* set first, so that nothing new is taken while quiesce waits */
	if (v->ops->quiesce)
		v->ops->quiesce(v);
	v->features = 0;
	v->faulted = v->early = false;
	for (unsigned q = 0; q < v->nqueues; q++) {
		virtqueue_reset(&v->queues[q].vq);
		v->queues[q].quiet = false;
	}
	if (v->ops->reset)
		v->ops->reset(v);
	v->transport_ops->reset(v->transport);
	v->transport_ops->changed(v->transport);
	v->resetting = false;
	pthread_cond_broadcast(&v->reset_done);
}

void virtio_set_status(struct virtio_dev *v, uint8_t status)
{
	uint8_t before;

	if (!status) {
		reset_locked(v);
		return;
	}
	reset_wait(v);
	before = v->status;
	/* The driver can only add bits; only the device sets NEEDS_RESET. */
	status = (uint8_t)((status & STATUS_KNOWN & ~VIRTIO_STATUS_NEEDS_RESET) | before);
	if (!(before & VIRTIO_STATUS_FEATURES_OK) && !features_are_acceptable(v))
		status &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
	if (!(status & VIRTIO_STATUS_FEATURES_OK))
		status &= (uint8_t)~VIRTIO_STATUS_DRIVER_OK;
	v->status = status;
	if (((before ^ status) & VIRTIO_STATUS_FEATURES_OK) && v->ops->features_set)
		v->ops->features_set(v);
	if (!((before ^ status) & VIRTIO_STATUS_DRIVER_OK))
		return;
	v->transport_ops->changed(v->transport);
	if (v->faulted)
		v->transport_ops->config_interrupt(v->transport);
	virtio_kick_all(v);
}

void virtio_set_features(struct virtio_dev *v, unsigned word, uint32_t bits)
{
	if (word > 1 || (v->status & VIRTIO_STATUS_FEATURES_OK))
		return;
	v->features &= word ? 0xffffffffULL : ~0xffffffffULL;
	v->features |= (uint64_t)bits << (32 * word);
}

void virtio_queue_set_size(struct virtio_dev *v, unsigned q, uint16_t size)
{
	struct virtqueue *vq = &v->queues[q].vq;

	if (!vq->enabled && is_power_of_two(size) && size <= vq->size_max)
		vq->size = size;
}

void virtio_queue_set_address(struct virtio_dev *v, unsigned q, unsigned part, unsigned word,
	uint32_t value)
{
	struct virtqueue *vq = &v->queues[q].vq;
	uint64_t *gpa = part == 0 ? &vq->desc_gpa : part == 1 ? &vq->avail_gpa : &vq->used_gpa;

	if (vq->enabled)
		return;
	if (word)
		*gpa = (*gpa & 0xffffffffULL) | (uint64_t)value << 32;
	else
		*gpa = (*gpa & ~0xffffffffULL) | value;
}

void virtio_queue_enable(struct virtio_dev *v, unsigned q)
{
	struct virtqueue *vq = &v->queues[q].vq;

	if (vq->enabled || vq->fault || !(v->status & VIRTIO_STATUS_FEATURES_OK))
		return;
	if (virtqueue_start(vq, v->features & VIRTIO_F_EVENT_IDX,
		    v->features & VIRTIO_F_INDIRECT_DESC)) {
		virtio_fault(v, vq->fault);
		return;
	}
	v->transport_ops->changed(v->transport);
}

void virtio_config_read(struct virtio_dev *v, unsigned off, void *dst, unsigned len)
{
	if (range_inside(off, len, v->config_bytes))
		memcpy(dst, v->config + off, len);
	else
		memset(dst, 0, len);
}

void virtio_config_write(struct virtio_dev *v, unsigned off, const void *src, unsigned len)
{
	const uint8_t *s = src;

	if (!range_inside(off, len, v->config_bytes))
		return;
	for (unsigned i = 0; i < len; i++) {
		uint8_t w = v->config_writable[off + i];

		v->config[off + i] = (uint8_t)((v->config[off + i] & ~w) | (s[i] & w));
	}
	if (v->ops->config_written)
		v->ops->config_written(v, off, len);
}

/* ---- device ---- */

void virtio_reset(struct virtio_dev *v)
{
	LOCK_GUARD(&v->lock);
	reset_locked(v);
}

void virtio_pause(struct virtio_dev *v)
{
	LOCK_GUARD(&v->lock);
	v->paused = true;
	if (v->ops->quiesce)
		v->ops->quiesce(v);
}

void virtio_resume(struct virtio_dev *v)
{
	LOCK_GUARD(&v->lock);
	v->paused = false;
	if (virtio_is_running(v))
		virtio_kick_all(v);
}

void virtio_save(struct virtio_dev *v, struct state_writer *w)
{
	LOCK_GUARD(&v->lock);
	state_put_u64(w, v->features_offered);
	state_put_u64(w, v->features);
	state_put_u8(w, v->status);
	state_put_u8(w, v->generation);
	state_put_u16(w, (uint16_t)v->nqueues);
	state_put_u16(w, (uint16_t)v->config_bytes);
	state_put_bytes(w, v->config, v->config_bytes);
	for (unsigned q = 0; q < v->nqueues; q++)
		virtqueue_save(&v->queues[q].vq, w);
	if (v->ops->save)
		v->ops->save(v, w);
}

static int load_malformed(const struct virtio_dev *v, const char *what, struct err *e)
{
	return err_set(e, -EINVAL, ERR_CORRUPT, "%s: malformed state (%s)", v->dev.name, what);
}

static int load_queues(struct virtio_dev *v, struct state_reader *r, struct err *e)
{
	for (unsigned q = 0; q < v->nqueues; q++) {
		struct virtqueue *vq = &v->queues[q].vq;
		bool enabled = false;

		if (virtqueue_load(vq, r, &enabled))
			return load_malformed(v, "queue", e);
		if (enabled && !(v->status & VIRTIO_STATUS_FEATURES_OK))
			return load_malformed(v, "queue enabled before features", e);
		if (enabled && virtqueue_resume(vq, v->features & VIRTIO_F_EVENT_IDX,
				       v->features & VIRTIO_F_INDIRECT_DESC))
			return load_malformed(v, vq->fault, e);
		v->early |= enabled && (vq->last_avail || virtqueue_waiting(vq)) && !(v->status & VIRTIO_STATUS_DRIVER_OK);
	}
	return 0;
}

/* Refuse an intact state of a device with other features. */
static int features_differ(const struct virtio_dev *v, uint64_t offered, struct err *e)
{
	uint64_t gone = offered & ~v->features_offered, new = v->features_offered & ~offered;

	return err_set(e, -EINVAL, ERR_INVALID,
		"%s: the state needs other device features (0x%llx is gone, 0x%llx is new): the "
		"definition or the host has changed; restore the definition, or drop the state with "
		"cairn start --force-boot", v->dev.name, (unsigned long long)gone, (unsigned long long)new);
}

static bool status_is_possible(const struct virtio_dev *v)
{
	if (v->status & ~STATUS_KNOWN)
		return false;
	if ((v->status & VIRTIO_STATUS_DRIVER_OK) && !(v->status & VIRTIO_STATUS_FEATURES_OK))
		return false;
	return !(v->status & VIRTIO_STATUS_FEATURES_OK) || features_are_acceptable(v);
}

/* Load the registers. Refuse a state of a device that offered other features than this one (for example a read-only
 * disk). Only configuration bytes that the driver can write come from the state; the others come from the
 * machine. */
static int load_registers(struct virtio_dev *v, struct state_reader *r, struct err *e)
{
	uint8_t config[VIRTIO_CONFIG_BYTES_MAX] = { 0 };
	uint64_t offered = state_u64(r);

	v->features = state_u64(r);
	v->status = state_u8(r);
	v->generation = state_u8(r);
	if (state_u16(r) != v->nqueues || state_u16(r) != v->config_bytes)
		return load_malformed(v, "another number of queues", e);
	state_bytes(r, config, v->config_bytes);
	if (r->failed)
		return load_malformed(v, "cut short", e);
	if ((offered ^ v->features_offered) & ~v->ops->features_newer)
		return features_differ(v, offered, e);
	v->features_offered = offered;
	if (!status_is_possible(v))
		return load_malformed(v, "status", e);
	for (unsigned i = 0; i < v->config_bytes; i++) {
		uint8_t w = v->config_writable[i];

		v->config[i] = (uint8_t)((v->config[i] & ~w) | (config[i] & w));
	}
	v->faulted = v->status & VIRTIO_STATUS_NEEDS_RESET;
	return 0;
}

static void load_undo(struct virtio_dev *v)
{
	reset_locked(v);
	v->features_offered |= v->ops->features_newer;
}

int virtio_load(struct virtio_dev *v, struct state_reader *r, struct err *e)
{
	int ret;

	LOCK_GUARD(&v->lock);
	v->features_offered |= v->ops->features_newer;
	ret = load_registers(v, r, e);
	if (!ret)
		ret = load_queues(v, r, e);
	if (!ret && v->ops->load)
		ret = v->ops->load(v, r, e);
	if (!ret)
		v->transport_ops->changed(v->transport);
	else
		load_undo(v);
	return ret;
}

static int queue_init(struct virtio_dev *v, unsigned i, unsigned queue_size)
{
	struct virtio_queue *q = &v->queues[i];

	virtqueue_init(&q->vq, v->host, (uint16_t)queue_size);
	q->dev = v;
	q->index = i;
	q->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	v->nqueues = i + 1;
	if (q->kick_fd < 0)
		return -errno;
	return loop_watch(v->loop, q->kick_fd, POLLIN, queue_kicked, q, &q->watch);
}

int virtio_init(struct virtio_dev *v, struct dev_host *h, struct loop *l, const char *name,
	const struct device_ops *dev_ops, const struct virtio_ops *ops, unsigned nqueues,
	unsigned queue_size, struct err *e)
{
	int r = 0;

	v->dev.ops = dev_ops;
	snprintf(v->dev.name, sizeof(v->dev.name), "%s", name);
	v->host = h;
	v->loop = l;
	v->ops = ops;
	v->features_offered = VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC;
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->reset_done, NULL);
	if (!nqueues || nqueues > VIRTIO_QUEUES_MAX || !is_power_of_two(queue_size) ||
		queue_size > VIRTQUEUE_SIZE_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: %u queues of %u entries", name,
			nqueues, queue_size);
	v->queues = calloc(nqueues, sizeof(*v->queues));
	if (!v->queues)
		r = -ENOMEM;
	for (unsigned i = 0; i < nqueues && !r; i++)
		r = queue_init(v, i, queue_size);
	if (!r && ops->cpu_percent)
		r = loop_timer_new(l, rest_end, v, &v->rest);
	return r ? err_set_errno(e, r, "%s: queues", name) : 0;
}

void virtio_done(struct virtio_dev *v)
{
	loop_timer_free(v->rest);
	for (unsigned i = 0; i < v->nqueues; i++) {
		loop_unwatch(v->queues[i].watch);
		if (v->queues[i].kick_fd >= 0)
			close(v->queues[i].kick_fd);
	}
	free(v->queues);
	pthread_cond_destroy(&v->reset_done);
	pthread_mutex_destroy(&v->lock);
}
