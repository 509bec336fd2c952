#include "devices/virtio/virtio_pci.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "snapshot/state.h"

#include <errno.h>
#include <string.h>

/* struct virtio_pci_common_cfg, section 4.1.4.3. */
enum {
	COMMON_DEVICE_FEATURE_SELECT = 0,
	COMMON_DEVICE_FEATURE = 4,
	COMMON_DRIVER_FEATURE_SELECT = 8,
	COMMON_DRIVER_FEATURE = 12,
	COMMON_CONFIG_VECTOR = 16,
	COMMON_NUM_QUEUES = 18,
	COMMON_STATUS = 20,
	COMMON_GENERATION = 21,
	COMMON_QUEUE_SELECT = 22,
	COMMON_QUEUE_SIZE = 24,
	COMMON_QUEUE_VECTOR = 26,
	COMMON_QUEUE_ENABLE = 28,
	COMMON_QUEUE_NOTIFY_OFF = 30,
	COMMON_QUEUE_DESC = 32, /* three addresses of two words each, up to 56 */
	COMMON_BYTES = 56,
};

#define ISR_QUEUE 1
#define ISR_CONFIG 2
#define CAP_VENDOR 0x09
#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_ISR 3
#define CAP_DEVICE 4
#define CAP_PCI 5
#define CAP_BYTES 16
#define PAGE 0x1000u

/* ---- interrupts ---- */

static void raise_isr(struct virtio_pci *t, uint8_t bit)
{
	t->isr |= bit;
	pci_function_intx(&t->fn, true);
}

static void transport_interrupt(struct virtio_pci *t, uint16_t vector, uint8_t isr)
{
	if (msix_enabled(&t->fn.msix))
		msix_raise(&t->fn, vector);
	else
		raise_isr(t, isr);
}

static void transport_queue_interrupt(void *opaque, unsigned q)
{
	struct virtio_pci *t = opaque;

	transport_interrupt(t, t->queue_vector[q], ISR_QUEUE);
}

static void transport_queue_wire(void *opaque, unsigned q, int fd)
{
	struct virtio_pci *t = opaque;

	msix_unwire(&t->fn, &t->wires[q]);
	if (fd >= 0)
		msix_wire(&t->fn, &t->wires[q], t->queue_vector[q], fd);
}

static void queue_vector_set(struct virtio_pci *t, unsigned q, uint16_t vector)
{
	t->queue_vector[q] = vector;
	transport_queue_wire(t, q, t->wires[q].fd);
}

static void transport_config_interrupt(void *opaque)
{
	struct virtio_pci *t = opaque;

	transport_interrupt(t, t->config_vector, ISR_CONFIG);
}

/* ---- doorbells ---- */

/* Register a queue's doorbell with KVM; gpa 0 removes it. The caller does so only for queues in use, because each
 * registration waits for a grace period of the host's kernel. If KVM refuses, only speed is lost: the guest's write
 * then exits to bar_write(). */
static void doorbell_set(struct virtio_pci *t, unsigned q, uint64_t gpa)
{
	struct dev_host *h = t->v->host;
	int fd = t->v->queues[q].kick_fd;

	if (t->doorbell_gpa[q] == gpa)
		return;
	if (t->doorbell_gpa[q])
		h->ops->doorbell_del(h, t->doorbell_gpa[q], 0, fd);
	t->doorbell_gpa[q] = 0;
	if (gpa && h->ops->doorbell_add(h, gpa, 0, fd) == 0)
		t->doorbell_gpa[q] = gpa;
}

static void transport_changed(void *opaque)
{
	struct virtio_pci *t = opaque;
	struct virtio_dev *v = t->v;

	for (unsigned q = 0; q < v->nqueues; q++) {
		bool wanted = t->notify_base && v->queues[q].vq.enabled &&
			(v->status & VIRTIO_STATUS_DRIVER_OK);

		doorbell_set(t, q,
			wanted ? t->notify_base + VIRTIO_PCI_NOTIFY_STRIDE * (uint64_t)q : 0);
	}
	if (msix_enabled(&t->fn.msix))
		pci_function_intx(&t->fn, false);
}

static void transport_reset(void *opaque)
{
	struct virtio_pci *t = opaque;

	t->isr = 0;
	pci_function_intx(&t->fn, false);
	t->device_feature_select = t->driver_feature_select = 0;
	t->queue_select = 0;
	t->config_vector = MSIX_NO_VECTOR;
	for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
		queue_vector_set(t, q, MSIX_NO_VECTOR);
}

static const struct virtio_transport_ops transport_ops = {
	.queue_interrupt = transport_queue_interrupt,
	.config_interrupt = transport_config_interrupt,
	.queue_wire = transport_queue_wire,
	.changed = transport_changed,
	.reset = transport_reset,
};

/* Handle moved BARs or switched MSI-X. The config lock is held. */
static void fn_changed(struct pci_function *f)
{
	struct virtio_pci *t = container_of(f, struct virtio_pci, fn);
	const struct pci_bar *b = &f->bars[0];

	LOCK_GUARD(&t->v->lock);
	t->notify_base = b->mapped ? b->base + VIRTIO_PCI_NOTIFY : 0;
	transport_changed(t);
}

/* ---- common configuration ---- */

static uint16_t vector_valid(const struct virtio_pci *t, uint16_t vector)
{
	return vector < t->fn.msix.nvectors ? vector : MSIX_NO_VECTOR;
}

static const struct virtqueue *selected_queue(const struct virtio_pci *t)
{
	return t->queue_select < t->v->nqueues ? &t->v->queues[t->queue_select].vq : NULL;
}

/* Read a register of the selected queue. */
static uint64_t queue_register(const struct virtio_pci *t, unsigned off)
{
	const struct virtqueue *q = selected_queue(t);

	if (!q)
		return 0; /* size 0: no such queue */
	switch (off) {
	case COMMON_QUEUE_SIZE:
		return q->size;
	case COMMON_QUEUE_VECTOR:
		return t->queue_vector[t->queue_select];
	case COMMON_QUEUE_ENABLE:
		return q->enabled;
	case COMMON_QUEUE_NOTIFY_OFF:
		return t->queue_select;
	case COMMON_QUEUE_DESC:
		return q->desc_gpa;
	case COMMON_QUEUE_DESC + 8:
		return q->avail_gpa;
	default:
		return q->used_gpa;
	}
}

static void common_image(const struct virtio_pci *t, uint8_t *c)
{
	const struct virtio_dev *v = t->v;
	uint64_t offered = v->features_offered, chosen = v->features;

	memset(c, 0, COMMON_BYTES);
	store_le32(c + COMMON_DEVICE_FEATURE_SELECT, t->device_feature_select);
	if (t->device_feature_select < 2)
		store_le32(c + COMMON_DEVICE_FEATURE,
			(uint32_t)(offered >> (32 * t->device_feature_select)));
	store_le32(c + COMMON_DRIVER_FEATURE_SELECT, t->driver_feature_select);
	if (t->driver_feature_select < 2)
		store_le32(c + COMMON_DRIVER_FEATURE,
			(uint32_t)(chosen >> (32 * t->driver_feature_select)));
	store_le16(c + COMMON_CONFIG_VECTOR, t->config_vector);
	store_le16(c + COMMON_NUM_QUEUES, (uint16_t)v->nqueues);
	c[COMMON_STATUS] = v->status;
	c[COMMON_GENERATION] = v->generation;
	store_le16(c + COMMON_QUEUE_SELECT, t->queue_select);
	for (unsigned off = COMMON_QUEUE_SIZE; off <= COMMON_QUEUE_NOTIFY_OFF; off += 2)
		store_le16(c + off, (uint16_t)queue_register(t, off));
	for (unsigned off = COMMON_QUEUE_DESC; off < COMMON_BYTES; off += 8)
		store_le64(c + off, queue_register(t, off));
}

static uint64_t common_read(const struct virtio_pci *t, unsigned off, unsigned size)
{
	uint8_t c[COMMON_BYTES];

	if (!range_inside(off, size, COMMON_BYTES))
		return 0;
	common_image(t, c);
	return load_le(c + off, size);
}

static void queue_register_write(struct virtio_pci *t, unsigned off, uint32_t value)
{
	unsigned q = t->queue_select;

	if (q >= t->v->nqueues)
		return;
	switch (off) {
	case COMMON_QUEUE_SIZE:
		virtio_queue_set_size(t->v, q, (uint16_t)value);
		break;
	case COMMON_QUEUE_VECTOR:
		queue_vector_set(t, q, vector_valid(t, (uint16_t)value));
		break;
	case COMMON_QUEUE_ENABLE:
		if (value == 1)
			virtio_queue_enable(t->v, q);
		break;
	default:
		break;
	}
}

static void queue_address_write(struct virtio_pci *t, unsigned off, unsigned size, uint64_t value)
{
	unsigned part = (off - COMMON_QUEUE_DESC) / 8, word = off / 4 % 2;

	if (t->queue_select >= t->v->nqueues || off % size || size < 4)
		return;
	virtio_queue_set_address(t->v, t->queue_select, part, word, (uint32_t)value);
	if (size == 8)
		virtio_queue_set_address(t->v, t->queue_select, part, 1, (uint32_t)(value >> 32));
}

/* Write a field. Section 4.1.3.1 demands accesses of the field's width; others are ignored. */
static void common_write(struct virtio_pci *t, unsigned off, unsigned size, uint64_t value)
{
	if (off >= COMMON_QUEUE_DESC && range_inside(off, size, COMMON_BYTES)) {
		queue_address_write(t, off, size, value);
		return;
	}
	switch (off << 4 | size) {
	case COMMON_DEVICE_FEATURE_SELECT << 4 | 4:
		t->device_feature_select = (uint32_t)value;
		break;
	case COMMON_DRIVER_FEATURE_SELECT << 4 | 4:
		t->driver_feature_select = (uint32_t)value;
		break;
	case COMMON_DRIVER_FEATURE << 4 | 4:
		virtio_set_features(t->v, t->driver_feature_select, (uint32_t)value);
		break;
	case COMMON_CONFIG_VECTOR << 4 | 2:
		t->config_vector = vector_valid(t, (uint16_t)value);
		break;
	case COMMON_STATUS << 4 | 1:
		virtio_set_status(t->v, (uint8_t)value);
		break;
	case COMMON_QUEUE_SELECT << 4 | 2:
		t->queue_select = (uint16_t)value;
		break;
	default:
		if (size == 2)
			queue_register_write(t, off, (uint32_t)value);
		break;
	}
}

/* ---- BAR 0 ---- */

static uint8_t isr_read(struct virtio_pci *t)
{
	uint8_t v = t->isr;

	t->isr = 0;
	pci_function_intx(&t->fn, false);
	return v;
}

static uint64_t bar_read(void *opaque, uint64_t off, unsigned size)
{
	struct virtio_pci *t = opaque;
	unsigned at = off % PAGE;
	uint8_t buf[8] = { 0 };
	uint64_t v = 0;

	LOCK_GUARD(&t->v->lock);
	switch (off - at) {
	case VIRTIO_PCI_COMMON:
		v = common_read(t, at, size);
		break;
	case VIRTIO_PCI_ISR:
		v = at ? 0 : isr_read(t);
		break;
	case VIRTIO_PCI_DEVICE:
		virtio_config_read(t->v, at, buf, size);
		v = load_le64(buf);
		break;
	default:
		break;
	}
	return v;
}

static void bar_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct virtio_pci *t = opaque;
	unsigned at = off % PAGE;
	uint8_t buf[8];

	/* A doorbell that is not registered with KVM. */
	if (off - at == VIRTIO_PCI_NOTIFY) {
		if (at / VIRTIO_PCI_NOTIFY_STRIDE < t->v->nqueues)
			virtio_queue_kick(t->v, at / VIRTIO_PCI_NOTIFY_STRIDE);
		return;
	}
	LOCK_GUARD(&t->v->lock);
	if (off - at == VIRTIO_PCI_COMMON) {
		common_write(t, at, size, value);
	} else if (off - at == VIRTIO_PCI_DEVICE) {
		store_le64(buf, value);
		virtio_config_write(t->v, at, buf, size);
	}
}

static const struct bus_ops bar_ops = { bar_read, bar_write };

/* ---- access to BARs through configuration space, section 4.1.4.9 ---- */

/* Return the BAR, offset and size that the guest selected; NULL when they are invalid. */
static const struct pci_bar *access_target(const struct virtio_pci *t, uint32_t *ret_off,
	uint32_t *ret_size)
{
	const uint8_t *c = t->fn.config + t->access_cap;
	const struct pci_bar *b;

	if (c[4] >= PCI_BARS)
		return NULL;
	b = &t->fn.bars[c[4]];
	*ret_off = load_le32(c + 8);
	*ret_size = load_le32(c + 12);
	if (*ret_size != 1 && *ret_size != 2 && *ret_size != 4)
		return NULL;
	if (*ret_off % *ret_size || !range_inside(*ret_off, *ret_size, b->bytes))
		return NULL;
	return b;
}

static bool access_is_to_data(const struct virtio_pci *t, unsigned off)
{
	unsigned data = t->access_cap + CAP_BYTES;

	return t->access_cap && off >= data && off < data + 4;
}

static bool fn_config_read(struct pci_function *f, unsigned off, unsigned size, uint32_t *ret_v)
{
	struct virtio_pci *t = container_of(f, struct virtio_pci, fn);
	const struct pci_bar *b;
	uint32_t at, len;

	if (!access_is_to_data(t, off))
		return false;
	b = access_target(t, &at, &len);
	if (!b || size > len || off != t->access_cap + CAP_BYTES)
		return false;
	*ret_v = (uint32_t)b->ops->read(b->opaque, at, len);
	if (size < 4)
		*ret_v &= (1u << (8 * size)) - 1;
	return true;
}

static bool fn_config_write(struct pci_function *f, unsigned off, unsigned size, uint32_t v)
{
	struct virtio_pci *t = container_of(f, struct virtio_pci, fn);
	const struct pci_bar *b;
	uint32_t at, len;

	if (!access_is_to_data(t, off))
		return false;
	b = access_target(t, &at, &len);
	if (b && size == len && off == t->access_cap + CAP_BYTES)
		b->ops->write(b->opaque, at, len, v);
	return true;
}

static const struct pci_function_ops fn_ops = { fn_config_read, fn_config_write, fn_changed };

/* ---- creating and removing the transport ---- */

static unsigned add_capability(struct virtio_pci *t, uint8_t type, uint32_t off, uint32_t len,
	unsigned extra)
{
	unsigned cap = pci_function_capability(&t->fn, CAP_VENDOR, CAP_BYTES + extra);
	uint8_t *c = t->fn.initial + cap;

	c[2] = (uint8_t)(CAP_BYTES + extra);
	c[3] = type;
	c[4] = 0; /* BAR */
	store_le32(c + 8, off);
	store_le32(c + 12, len);
	return cap;
}

static void add_capabilities(struct virtio_pci *t)
{
	uint8_t *w;
	unsigned cap;

	add_capability(t, CAP_COMMON, VIRTIO_PCI_COMMON, COMMON_BYTES, 0);
	cap = add_capability(t, CAP_NOTIFY, VIRTIO_PCI_NOTIFY,
		t->v->nqueues * VIRTIO_PCI_NOTIFY_STRIDE, 4);
	store_le32(t->fn.initial + cap + CAP_BYTES, VIRTIO_PCI_NOTIFY_STRIDE);
	t->notify_cap = cap;
	add_capability(t, CAP_ISR, VIRTIO_PCI_ISR, 1, 0);
	if (t->v->config_bytes)
		add_capability(t, CAP_DEVICE, VIRTIO_PCI_DEVICE, t->v->config_bytes, 0);
	t->access_cap = add_capability(t, CAP_PCI, 0, 0, 4);
	w = t->fn.writable + t->access_cap;
	w[4] = 0xff;
	memset(w + 8, 0xff, 8);
}

int virtio_pci_init(struct virtio_pci *t, struct virtio_dev *v, struct pci_host *p, int slot,
	struct err *e)
{
	struct pci_ids ids = { .vendor = VIRTIO_PCI_VENDOR,
		.device = (uint16_t)(VIRTIO_PCI_DEVICE_BASE + v->ops->id),
		.subsystem_vendor = VIRTIO_PCI_VENDOR,
		.subsystem = (uint16_t)(VIRTIO_PCI_DEVICE_BASE + v->ops->id),
		.revision = 1,
		.class_code = v->ops->class_code };
	int r;

	t->v = v;
	v->transport = t;
	v->transport_ops = &transport_ops;
	t->config_vector = MSIX_NO_VECTOR;
	memset(t->queue_vector, 0xff, sizeof(t->queue_vector));
	for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
		t->wires[q].fd = -1;
	pci_function_init(&t->fn, &ids, &fn_ops);
	pci_function_bar(&t->fn, 0, VIRTIO_PCI_BAR_BYTES, false, &bar_ops, t);
	r = pci_function_msix(&t->fn, 1, v->nqueues + 1);
	if (r)
		return err_set_errno(e, r, "%s: MSI-X", v->dev.name);
	add_capabilities(t);
	return pci_host_add(p, &t->fn, slot > 0 ? slot : -1, e);
}

void virtio_pci_done(struct virtio_pci *t)
{
	if (!t->v)
		return;
	for (unsigned q = 0; q < t->v->nqueues; q++)
		doorbell_set(t, q, 0);
	pci_host_remove(&t->fn);
}

/* ---- functions of struct device_ops ---- */

static struct virtio_pci *transport_of(struct device *d)
{
	return container_of(d, struct virtio_dev, dev)->transport;
}

void virtio_pci_device_reset(struct device *d)
{
	struct virtio_pci *t = transport_of(d);

	virtio_reset(t->v);
	pci_function_reset(&t->fn);
}

void virtio_pci_device_pause(struct device *d)
{
	virtio_pause(transport_of(d)->v);
}

void virtio_pci_device_resume(struct device *d)
{
	virtio_resume(transport_of(d)->v);
}

void virtio_pci_device_save(struct device *d, struct state_writer *w)
{
	struct virtio_pci *t = transport_of(d);

	pci_function_save(&t->fn, w);
	pthread_mutex_lock(&t->v->lock);
	state_put_u32(w, t->device_feature_select);
	state_put_u32(w, t->driver_feature_select);
	state_put_u16(w, t->queue_select);
	state_put_u16(w, t->config_vector);
	for (unsigned q = 0; q < t->v->nqueues; q++)
		state_put_u16(w, t->queue_vector[q]);
	state_put_u8(w, t->isr);
	pthread_mutex_unlock(&t->v->lock);
	virtio_save(t->v, w);
}

static bool vector_is_valid(const struct virtio_pci *t, uint16_t vector)
{
	return vector == vector_valid(t, vector);
}

static int registers_load(struct virtio_pci *t, struct state_reader *r, struct err *e)
{
	bool ok;

	pthread_mutex_lock(&t->v->lock);
	t->device_feature_select = state_u32(r);
	t->driver_feature_select = state_u32(r);
	t->queue_select = state_u16(r);
	t->config_vector = state_u16(r);
	ok = vector_is_valid(t, t->config_vector);
	for (unsigned q = 0; q < t->v->nqueues; q++) {
		t->queue_vector[q] = state_u16(r);
		ok = ok && vector_is_valid(t, t->queue_vector[q]);
	}
	t->isr = state_u8(r);
	ok = ok && !r->failed && !(t->isr & ~(ISR_QUEUE | ISR_CONFIG));
	pthread_mutex_unlock(&t->v->lock);
	return ok ? 0 : err_set(e, -EINVAL, ERR_CORRUPT, "%s: malformed state (transport)",
				t->v->dev.name);
}

unsigned virtio_pci_state_queues(const struct state_reader *r)
{
	unsigned vectors = r->len - r->pos < PCI_CONFIG_BYTES + 3 ? 0 : load_le16(r->buf + r->pos + PCI_CONFIG_BYTES + 1);

	return vectors ? vectors - 1 : 0;
}

void virtio_pci_state_skip(struct state_reader *r)
{
	unsigned queues = virtio_pci_state_queues(r);
	/* pci_function_save(), registers, features, status, generation, numbers of queues and of bytes of
	 * configuration */
	size_t bytes = PCI_CONFIG_BYTES + 1 + 2 + 8 + 16 * (queues + 1) + 12 + 2 * queues + 1 + 22, left = r->len - r->pos;

	if (queues && left >= bytes)
		bytes += load_le16(r->buf + r->pos + bytes - 2) + VIRTQUEUE_STATE_BYTES * queues;
	r->failed |= !queues || left < bytes;
	r->pos += r->failed ? 0 : bytes;
}

/* Load transport registers before virtio_load(), which ends by calling changed(). */
int virtio_pci_device_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct virtio_pci *t = transport_of(d);
	int ret = pci_function_load(&t->fn, r, e);

	(void)version;
	if (!ret)
		ret = registers_load(t, r, e);
	if (!ret)
		ret = virtio_load(t->v, r, e);
	if (!ret && !state_reader_complete(r))
		ret = err_set(e, -EINVAL, ERR_CORRUPT, "%s: malformed state (too long)",
			t->v->dev.name);
	if (ret)
		virtio_pci_device_reset(d);
	return ret;
}
