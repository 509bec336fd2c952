#include "devices/virtio/virtio_input.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/display.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_pci.h"
#include "snapshot/state.h"

#include <errno.h>
#include <linux/input-event-codes.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_EVENTS 0
#define QUEUE_STATUS 1
#define QUEUES 2
#define QUEUE_SIZE 64
#define EVENT_BYTES 8
/* Most events of one change: two axes, the buttons, the wheel, and the end. */
#define CHANGE_MAX (2 + INPUT_BUTTONS + 1 + 1)
#define WHEEL_MAX 1024

/* struct virtio_input_config, section 5.8.4. Of its union, no more is used than a bitmap of keys takes. */
enum { CONFIG_SELECT = 0, CONFIG_SUBSEL = 1, CONFIG_SIZE = 2, CONFIG_UNION = 8, CONFIG_BYTES = 64 };
enum { SELECT_NAME = 1, SELECT_SERIAL = 2, SELECT_IDS = 3, SELECT_PROPERTIES = 0x10, SELECT_EVENTS = 0x11, SELECT_AXIS = 0x12 };
_Static_assert(CONFIG_BYTES <= VIRTIO_CONFIG_BYTES_MAX && CONFIG_UNION + BTN_MIDDLE / 8 < CONFIG_BYTES, "the configuration's size");

#define NAME "Cairn virtio tablet"
#define BUS_VIRTUAL 6 /* linux/input.h */

static const uint16_t buttons[INPUT_BUTTONS] = { [INPUT_LEFT] = BTN_LEFT, [INPUT_RIGHT] = BTN_RIGHT, [INPUT_MIDDLE] = BTN_MIDDLE };

struct pointer {
	uint16_t x, y;
	uint8_t buttons; /* a bit for each enum input_button */
};

struct virtio_input {
	struct virtio_dev v;
	struct virtio_pci pci;
	struct pointer now, told; /* told: the values in the events so far */
	int32_t wheel;		  /* steps that are not sent to the driver yet */
};

static struct virtio_input *input_of(const struct virtio_dev *v)
{
	return container_of(v, struct virtio_input, v);
}

static struct virtio_input *input_of_device(const struct device *d)
{
	return container_of(d, struct virtio_input, v.dev);
}

/* ---- configuration ---- */

static void bit_set(uint8_t *bits, unsigned n)
{
	bits[n / 8] |= (uint8_t)(1u << n % 8);
}

/* Write the events of a type that the device sends. Returns the number of bytes. */
static uint8_t events_put(uint8_t *u, unsigned type)
{
	switch (type) {
	case EV_KEY:
		for (size_t i = 0; i < ARRAY_SIZE(buttons); i++)
			bit_set(u, buttons[i]);
		return BTN_MIDDLE / 8 + 1;
	case EV_REL:
		bit_set(u, REL_WHEEL);
		return REL_WHEEL / 8 + 1;
	case EV_ABS:
		bit_set(u, ABS_X);
		bit_set(u, ABS_Y);
		return 1;
	default:
		return 0;
	}
}

static uint8_t union_put(uint8_t *u, unsigned select, unsigned subsel)
{
	if (select == SELECT_EVENTS)
		return events_put(u, subsel);
	if (select == SELECT_AXIS && subsel <= ABS_Y) {
		store_le32(u + 4, VIRTIO_INPUT_AXIS - 1); /* minimum 0, maximum; no fuzz, flat, resolution */
		return 20;
	}
	if (subsel)
		return 0;
	if (select == SELECT_NAME) {
		memcpy(u, NAME, sizeof(NAME) - 1);
		return sizeof(NAME) - 1;
	}
	if (select == SELECT_IDS) {
		store_le16(u, BUS_VIRTUAL);
		store_le16(u + 2, 0x0627); /* vendor, product and version of QEMU's tablet, which guests know */
		store_le16(u + 4, 0x0003);
		store_le16(u + 6, 0x0002);
		return 8;
	}
	return 0;
}

static void config_fill(struct virtio_dev *v)
{
	memset(v->config + CONFIG_SIZE, 0, CONFIG_BYTES - CONFIG_SIZE);
	v->config[CONFIG_SIZE] = union_put(v->config + CONFIG_UNION, v->config[CONFIG_SELECT], v->config[CONFIG_SUBSEL]);
}

static void input_config_written(struct virtio_dev *v, unsigned off, unsigned len)
{
	(void)off;
	(void)len;
	config_fill(v);
}

/* ---- events ---- */

struct change {
	struct {
		uint16_t type, code;
		uint32_t value;
	} events[CHANGE_MAX];
	unsigned n;
};

static void change_add(struct change *c, uint16_t type, uint16_t code, uint32_t value)
{
	c->events[c->n].type = type;
	c->events[c->n].code = code;
	c->events[c->n++].value = value;
}

/* List the changes that are not sent to the driver yet. */
static void change_find(const struct virtio_input *t, struct change *c)
{
	c->n = 0;
	if (t->now.x != t->told.x)
		change_add(c, EV_ABS, ABS_X, t->now.x);
	if (t->now.y != t->told.y)
		change_add(c, EV_ABS, ABS_Y, t->now.y);
	for (unsigned i = 0; i < INPUT_BUTTONS; i++)
		if ((t->now.buttons ^ t->told.buttons) >> i & 1)
			change_add(c, EV_KEY, buttons[i], t->now.buttons >> i & 1);
	if (t->wheel)
		change_add(c, EV_REL, REL_WHEEL, (uint32_t)t->wheel);
	if (c->n)
		change_add(c, EV_SYN, SYN_REPORT, 0);
}

static bool event_send(struct virtio_dev *v, const struct change *c, unsigned i)
{
	struct virtqueue *vq = &v->queues[QUEUE_EVENTS].vq;
	struct virtqueue_elem el;
	uint8_t event[EVENT_BYTES];
	int r = virtqueue_pop(vq, &el);

	if (r < 0)
		virtio_fault(v, vq->fault);
	if (r <= 0)
		return false;
	store_le16(event, c->events[i].type);
	store_le16(event + 2, c->events[i].code);
	store_le32(event + 4, c->events[i].value);
	virtqueue_push(vq, &el, (uint32_t)iov_write(el.iov + el.nout, el.nin, 0, event, sizeof(event)));
	return true;
}

/* Send the changes to the driver, if its buffers have room for all of them. */
static void change_send(struct virtio_input *t)
{
	struct virtio_dev *v = &t->v;
	struct virtqueue *vq = &v->queues[QUEUE_EVENTS].vq;
	uint16_t waiting;
	struct change c;

	if (!virtio_is_running(v) || !vq->enabled)
		return;
	change_find(t, &c);
	if (!c.n)
		return;
	while ((waiting = virtqueue_waiting(vq)) < c.n)
		if (!virtqueue_notify_enable_beyond(vq, waiting))
			return;
	for (unsigned i = 0; i < c.n; i++)
		if (!event_send(v, &c, i))
			return;
	t->told = t->now;
	t->wheel = 0;
	virtio_queue_interrupt(v, QUEUE_EVENTS);
}

/* Complete the driver's buffers without using them: a tablet has no lamps. */
static void status_run(struct virtio_dev *v)
{
	struct virtqueue *vq = &v->queues[QUEUE_STATUS].vq;
	struct virtqueue_elem el;
	unsigned budget = vq->size;
	int got = 0;

	do {
		while (budget && (got = virtqueue_pop(vq, &el)) > 0) {
			virtqueue_push(vq, &el, 0);
			budget--;
		}
	} while (!got && budget && virtqueue_notify_enable(vq));
	if (got < 0)
		virtio_fault(v, vq->fault);
	else if (got)
		virtio_queue_kick(v, QUEUE_STATUS);
	virtio_queue_interrupt(v, QUEUE_STATUS);
}

static void input_run(struct virtio_dev *v, unsigned q)
{
	if (q == QUEUE_EVENTS)
		change_send(input_of(v));
	else
		status_run(v);
}

bool virtio_input_takes(struct device *d)
{
	struct virtio_dev *v = &input_of_device(d)->v;

	LOCK_GUARD(&v->lock);
	return (v->status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_NEEDS_RESET)) == VIRTIO_STATUS_DRIVER_OK;
}

void virtio_input_event(struct device *d, const struct input_event *ev)
{
	struct virtio_input *t = input_of_device(d);
	uint8_t bit = (uint8_t)(1u << ev->code % INPUT_BUTTONS);

	LOCK_GUARD(&t->v.lock);
	if (ev->kind == INPUT_POINT) {
		t->now.x = ev->x < 0 ? t->now.x : (uint16_t)MIN(ev->x, VIRTIO_INPUT_AXIS - 1);
		t->now.y = ev->y < 0 ? t->now.y : (uint16_t)MIN(ev->y, VIRTIO_INPUT_AXIS - 1);
	} else if (ev->kind == INPUT_BUTTON) {
		t->now.buttons = (uint8_t)(ev->down ? t->now.buttons | bit : t->now.buttons & ~bit);
	} else if (ev->kind == INPUT_WHEEL) {
		t->wheel = MAX(MIN(t->wheel + ev->x, WHEEL_MAX), -WHEEL_MAX);
	}
	change_send(t);
}

void virtio_input_release(struct device *d)
{
	struct virtio_input *t = input_of_device(d);

	LOCK_GUARD(&t->v.lock);
	t->now.buttons = 0;
	change_send(t);
}

/* ---- device ---- */

static void input_reset(struct virtio_dev *v)
{
	struct virtio_input *t = input_of(v);

	t->now = t->told = (struct pointer){ 0 };
	t->wheel = 0;
	v->config[CONFIG_SELECT] = v->config[CONFIG_SUBSEL] = 0;
	config_fill(v);
}

/* Do not save held buttons: after a load nobody holds one, so the guest gets a release for each button in told.buttons.
 */
static void input_save(struct virtio_dev *v, struct state_writer *w)
{
	const struct virtio_input *t = input_of(v);

	state_put_u16(w, t->now.x);
	state_put_u16(w, t->now.y);
	state_put_u16(w, t->told.x);
	state_put_u16(w, t->told.y);
	state_put_u8(w, t->told.buttons);
}

static int input_load(struct virtio_dev *v, struct state_reader *r, struct err *e)
{
	struct virtio_input *t = input_of(v);

	t->now = (struct pointer){ .x = state_u16(r) };
	t->now.y = state_u16(r);
	t->told.x = state_u16(r);
	t->told.y = state_u16(r);
	t->told.buttons = state_u8(r);
	if (MAX(MAX(t->now.x, t->now.y), MAX(t->told.x, t->told.y)) >= VIRTIO_INPUT_AXIS || t->told.buttons >> INPUT_BUTTONS)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s: malformed state", v->dev.name);
	t->wheel = 0;
	config_fill(v); /* the rest of the configuration depends on the driver's selection */
	return 0;
}

static const struct virtio_ops input_virtio_ops = {
	.id = 18,
	.class_code = 0x098000, /* input device, other */
	.cpu_percent = 25,
	.queue_run = input_run,
	.reset = input_reset,
	.config_written = input_config_written,
	.save = input_save,
	.load = input_load,
};

static void input_free(struct device *d)
{
	struct virtio_input *t = input_of_device(d);

	virtio_pci_done(&t->pci);
	virtio_done(&t->v);
	free(t);
}

static const struct device_ops input_ops = {
	.type = "virtio-input",
	.state_version = 1,
	.reset = virtio_pci_device_reset,
	.pause = virtio_pci_device_pause,
	.resume = virtio_pci_device_resume,
	.save = virtio_pci_device_save,
	.load = virtio_pci_device_load,
	.free = input_free,
};

int virtio_input_new(struct dev_host *h, struct pci_host *p, const char *name, int slot, struct device **ret_dev, struct err *e)
{
	struct virtio_input *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return err_set_errno(e, -ENOMEM, "%s", name);
	r = virtio_init(&t->v, h, h->loop, name, &input_ops, &input_virtio_ops, QUEUES, QUEUE_SIZE, e);
	if (!r) {
		t->v.config_bytes = CONFIG_BYTES;
		t->v.config_writable[CONFIG_SELECT] = t->v.config_writable[CONFIG_SUBSEL] = 0xff;
		r = virtio_pci_init(&t->pci, &t->v, p, slot, e);
	}
	if (r) {
		input_free(&t->v.dev);
		return r;
	}
	*ret_dev = &t->v.dev;
	return 0;
}
