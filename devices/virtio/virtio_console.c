#include "devices/virtio/virtio_console.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/console.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_pci.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_SIZE 64
#define RUN_BYTES_MAX (1u << 20) /* bytes per call, so that the loop's other work gets a turn */
#define F_MULTIPORT (1ULL << 1)
#define CONFIG_MAX_PORTS 4
#define CONFIG_BYTES 8

/* Queue numbers (section 5.3.2): port 0 receive and transmit, control receive and transmit, then a
 * pair for each further port. */
enum { Q_CONTROL_RX = 2, Q_CONTROL_TX = 3 };

/* struct virtio_console_control: u32 id, u16 event, u16 value; optionally a name. */
#define CONTROL_BYTES 8
enum {
	C_DEVICE_READY = 0,
	C_PORT_ADD = 1,
	C_PORT_READY = 3,
	C_CONSOLE_PORT = 4,
	C_PORT_OPEN = 6,
	C_PORT_NAME = 7,
};

/* Control messages still to be sent to the driver, from the lowest bit up, as the driver provides buffers. They are
 * bits, because a queue would grow without limit if the driver asked again and again. */
enum {
	OWES_ADD = 1,
	OWES_CONSOLE = 2,
	OWES_NAME = 4,
	OWES_OPEN = 8,
	OWES_ALL = 15,
};

struct port {
	struct virtio_console *dev;
	struct console *console;
	char name[VIRTIO_CONSOLE_PORT_NAME_MAX + 1]; /* empty: a console, not a named port */
	uint8_t owes;
	bool guest_open;
	bool output_waits; /* for room in the console */
	void (*opened)(void *opaque, bool open, bool loaded);
	void *opaque;
};

struct virtio_console {
	struct virtio_dev v;
	struct virtio_pci pci;
	unsigned nports;
	bool multiport; /* F_MULTIPORT is offered */
	struct port ports[VIRTIO_CONSOLE_PORTS_MAX];
};

static void port_set_open(struct port *p, bool open, bool loaded)
{
	bool changed = p->guest_open != open;

	p->guest_open = open;
	if (changed && p->opened)
		p->opened(p->opaque, open, loaded);
}

static unsigned port_rx(unsigned port)
{
	return port ? 2 + 2 * port : 0;
}

/* Return the port that a data queue belongs to. */
static unsigned queue_port(unsigned q)
{
	return q < Q_CONTROL_RX ? 0 : q / 2 - 1;
}

static bool multiport_is_on(const struct virtio_console *c)
{
	return c->v.features & F_MULTIPORT;
}

/* ---- input and output of ports ---- */

/* Copy input into el. Returns the number of bytes; 0 when there is no input. */
static uint32_t port_fill(struct port *p, const struct virtqueue_elem *el)
{
	const struct iovec *in = el->iov + el->nout;
	uint32_t done = 0;

	for (unsigned i = 0; i < el->nin; i++) {
		size_t n = console_read(p->console, in[i].iov_base, in[i].iov_len);

		done += (uint32_t)n;
		if (n < in[i].iov_len)
			break;
	}
	return done;
}

static void port_receive(struct virtio_console *c, unsigned port)
{
	unsigned qi = port_rx(port);
	struct virtqueue *vq = &c->v.queues[qi].vq;
	struct virtqueue_elem el;
	int got;

	/* With F_MULTIPORT, hold back a port's input until the guest opens the port. */
	if (multiport_is_on(c) && !c->ports[port].guest_open)
		return;
	/* Leave doorbells off: the driver always provides buffers, and a doorbell matters only
	 * while input waits for one. */
	while ((got = virtqueue_pop(vq, &el)) > 0) {
		uint32_t n = port_fill(&c->ports[port], &el);

		if (!n) {
			virtqueue_unpop(vq);
			break;
		}
		virtqueue_push(vq, &el, n);
	}
	if (got < 0)
		virtio_fault(&c->v, vq->fault);
	else if (!got && virtqueue_notify_enable(vq))
		virtio_queue_kick(&c->v, qi);
	virtio_queue_interrupt(&c->v, qi);
}

/* Write a request's data to the console. Returns the cost in bytes: the length of the data, but at most
 * CONSOLE_HISTORY_BYTES for each segment. */
static size_t port_write(struct port *p, const struct virtqueue_elem *el)
{
	size_t cost = 0;

	for (unsigned i = 0; i < el->nout; i++) {
		console_write(p->console, el->iov[i].iov_base, el->iov[i].iov_len);
		cost += MIN(el->iov[i].iov_len, (size_t)CONSOLE_HISTORY_BYTES);
	}
	return cost;
}

/* Return whether the console takes the request's data now. If not, port_input_ready() comes when it has more room. */
static bool port_has_room(struct port *p, const struct virtqueue_elem *el)
{
	size_t len = 0;

	for (unsigned i = 0; i < el->nout; i++)
		len += el->iov[i].iov_len;
	return console_has_room(p->console, len);
}

static void port_transmit(struct virtio_console *c, unsigned port, unsigned qi)
{
	struct virtqueue *vq = &c->v.queues[qi].vq;
	struct virtqueue_elem el;
	size_t budget = RUN_BYTES_MAX;
	bool full = false;
	int got = 0;

	do {
		virtqueue_notify_disable(vq);
		while (budget && (got = virtqueue_pop(vq, &el)) > 0) {
			size_t cost;

			full = !port_has_room(&c->ports[port], &el);
			c->ports[port].output_waits = full;
			if (full) {
				virtqueue_unpop(vq);
				break;
			}
			/* Minimum cost, for empty or tiny requests. */
			cost = port_write(&c->ports[port], &el) + 256;

			budget -= MIN(budget, cost);
			virtqueue_push(vq, &el, 0);
		}
	} while (budget && !full && virtqueue_notify_enable(vq));
	if (got < 0)
		virtio_fault(&c->v, vq->fault);
	virtio_queue_interrupt(&c->v, qi);
	if (!budget)
		virtio_queue_kick(&c->v, qi);
}

/* ---- control messages ---- */

static size_t control_message(const struct port *p, unsigned id, uint8_t owed, uint8_t *buf)
{
	static const struct {
		uint8_t owed, event, value;
	} kinds[] = { { OWES_ADD, C_PORT_ADD, 0 }, { OWES_CONSOLE, C_CONSOLE_PORT, 1 },
		{ OWES_NAME, C_PORT_NAME, 1 }, { OWES_OPEN, C_PORT_OPEN, 1 } };
	size_t len = CONTROL_BYTES;

	store_le32(buf, id);
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (kinds[i].owed == owed) {
			store_le16(buf + 4, kinds[i].event);
			store_le16(buf + 6, kinds[i].value);
		}
	}
	if (owed == OWES_NAME) {
		memcpy(buf + len, p->name, strlen(p->name));
		len += strlen(p->name);
	}
	return len;
}

/* Send pending messages while the driver has buffers. Returns false when the driver violated the
 * protocol. */
static bool control_send(struct virtio_console *c)
{
	struct virtqueue *vq = &c->v.queues[Q_CONTROL_RX].vq;

	for (unsigned id = 0; id < c->nports; id++) {
		struct port *p = &c->ports[id];

		while (p->owes) {
			uint8_t owed = p->owes & (uint8_t)-p->owes; /* the lowest bit that is set */
			uint8_t buf[CONTROL_BYTES + VIRTIO_CONSOLE_PORT_NAME_MAX];
			size_t len = control_message(p, id, owed, buf);
			struct virtqueue_elem el;
			int got = virtqueue_pop(vq, &el);

			if (got <= 0)
				return got == 0;
			len = iov_write(el.iov + el.nout, el.nin, 0, buf, len);
			virtqueue_push(vq, &el, (uint32_t)len);
			p->owes &= (uint8_t)~owed;
		}
	}
	return true;
}

static void control_flush(struct virtio_console *c)
{
	struct virtqueue *vq = &c->v.queues[Q_CONTROL_RX].vq;

	if (!control_send(c))
		virtio_fault(&c->v, vq->fault);
	else if (virtqueue_notify_enable(vq) && !control_send(c))
		virtio_fault(&c->v, vq->fault);
	virtio_queue_interrupt(&c->v, Q_CONTROL_RX);
}

static void control_handle(struct virtio_console *c, const uint8_t *msg)
{
	uint32_t id = load_le32(msg);
	uint16_t event = load_le16(msg + 4), value = load_le16(msg + 6);

	if (event == C_DEVICE_READY) {
		for (unsigned i = 0; i < c->nports && value; i++)
			c->ports[i].owes |= OWES_ADD;
		return;
	}
	if (id >= c->nports)
		return;
	if (event == C_PORT_READY && value) {
		c->ports[id].owes |= c->ports[id].name[0] ? OWES_NAME : OWES_CONSOLE;
		c->ports[id].owes |= OWES_OPEN;
	} else if (event == C_PORT_OPEN) {
		port_set_open(&c->ports[id], value, false);
		if (value)
			port_receive(c, id);
	}
}

static void control_receive(struct virtio_console *c)
{
	struct virtqueue *vq = &c->v.queues[Q_CONTROL_TX].vq;
	unsigned budget = 2u * vq->size;
	struct virtqueue_elem el;
	int got = 0;

	do {
		virtqueue_notify_disable(vq);
		while (budget && (got = virtqueue_pop(vq, &el)) > 0) {
			uint8_t msg[CONTROL_BYTES];

			if (iov_read(el.iov, el.nout, 0, msg, sizeof(msg)) == sizeof(msg))
				control_handle(c, msg);
			virtqueue_push(vq, &el, 0);
			budget--;
		}
	} while (budget && virtqueue_notify_enable(vq));
	if (got < 0)
		virtio_fault(&c->v, vq->fault);
	virtio_queue_interrupt(&c->v, Q_CONTROL_TX);
	control_flush(c);
	if (!budget)
		virtio_queue_kick(&c->v, Q_CONTROL_TX);
}

static void console_run(struct virtio_dev *v, unsigned q)
{
	struct virtio_console *c = container_of(v, struct virtio_console, v);

	if (c->multiport && q == Q_CONTROL_RX)
		control_flush(c);
	else if (c->multiport && q == Q_CONTROL_TX)
		control_receive(c);
	else if (q % 2 == 0)
		port_receive(c, queue_port(q));
	else
		port_transmit(c, queue_port(q), q);
}

static void port_input_ready(void *opaque)
{
	struct port *p = opaque;
	struct virtio_console *c = p->dev;
	unsigned port = (unsigned)(p - c->ports);

	LOCK_GUARD(&c->v.lock);
	if (!virtio_is_running(&c->v))
		return; /* virtio_resume() runs all queues */
	if (c->v.queues[port_rx(port)].vq.enabled)
		port_receive(c, port);
	if (p->output_waits && c->v.queues[port_rx(port) + 1].vq.enabled)
		virtio_queue_kick(&c->v, port_rx(port) + 1);
}

/* ---- device ---- */

static void console_drop(struct virtio_dev *v)
{
	struct virtio_console *c = container_of(v, struct virtio_console, v);

	for (unsigned i = 0; i < c->nports; i++) {
		c->ports[i].owes = 0;
		port_set_open(&c->ports[i], false, false);
	}
}

static void ports_save(struct virtio_dev *v, struct state_writer *w)
{
	struct virtio_console *c = container_of(v, struct virtio_console, v);

	state_put_u8(w, (uint8_t)c->nports);
	for (unsigned i = 0; i < c->nports; i++) {
		state_put_u8(w, c->ports[i].owes);
		state_put_u8(w, c->ports[i].guest_open);
	}
}

static int ports_load(struct virtio_dev *v, struct state_reader *r, struct err *e)
{
	struct virtio_console *c = container_of(v, struct virtio_console, v);
	bool ok = state_u8(r) == c->nports;

	for (unsigned i = 0; i < c->nports && ok; i++) {
		uint8_t owes = state_u8(r), open = state_u8(r);

		ok = !(owes & ~OWES_ALL) && open <= 1;
		c->ports[i].owes = owes & OWES_ALL;
		port_set_open(&c->ports[i], open == 1, true);
	}
	return ok && !r->failed ? 0 : err_set(e, -EINVAL, ERR_CORRUPT, "%s: malformed ports",
					      v->dev.name);
}

static const struct virtio_ops console_virtio_ops = {
	.id = 3,
	.class_code = 0x078000, /* communication, other */
	.cpu_percent = 25,
	.queue_run = console_run,
	.reset = console_drop,
	.save = ports_save,
	.load = ports_load,
};

static struct virtio_console *console_of(struct device *d)
{
	return container_of(d, struct virtio_console, v.dev);
}

static void console_dev_free(struct device *d)
{
	struct virtio_console *c = console_of(d);

	for (unsigned i = 0; i < c->nports; i++)
		console_set_device(c->ports[i].console, NULL, NULL);
	virtio_pci_done(&c->pci);
	virtio_done(&c->v);
	free(c);
}

static const struct device_ops console_device_ops = {
	.type = "virtio-console",
	.state_version = 1,
	.reset = virtio_pci_device_reset,
	.pause = virtio_pci_device_pause,
	.resume = virtio_pci_device_resume,
	.save = virtio_pci_device_save,
	.load = virtio_pci_device_load,
	.free = console_dev_free,
};

static int ports_init(struct virtio_console *c, const struct virtio_console_config *cfg,
	struct err *e)
{
	c->multiport = cfg->nports > 1;
	for (unsigned i = 0; i < cfg->nports; i++) {
		const char *name = cfg->ports[i].name;
		struct port *p = &c->ports[i];

		if (name && (!*name || strlen(name) > VIRTIO_CONSOLE_PORT_NAME_MAX))
			return err_set(e, -EINVAL, ERR_INVALID,
				"%s: a port's name has 1 to %u characters", cfg->name, VIRTIO_CONSOLE_PORT_NAME_MAX);
		c->multiport |= name != NULL;
		p->dev = c;
		p->console = cfg->ports[i].console;
		p->opened = cfg->ports[i].opened;
		p->opaque = cfg->ports[i].opaque;
		snprintf(p->name, sizeof(p->name), "%s", name ? name : "");
	}
	return 0;
}

static int console_init(struct virtio_console *c, struct dev_host *h, struct pci_host *p,
	const struct virtio_console_config *cfg, struct err *e)
{
	unsigned queues = c->multiport ? 2 * (cfg->nports + 1) : 2;
	int r = virtio_init(&c->v, h, h->loop, cfg->name, &console_device_ops, &console_virtio_ops,
		queues, QUEUE_SIZE, e);

	if (r)
		return r;
	if (c->multiport)
		c->v.features_offered |= F_MULTIPORT;
	c->v.config_bytes = CONFIG_BYTES;
	store_le32(c->v.config + CONFIG_MAX_PORTS, cfg->nports);
	r = virtio_pci_init(&c->pci, &c->v, p, cfg->slot, e);
	if (r)
		return r;
	c->nports = cfg->nports;
	for (unsigned i = 0; i < c->nports; i++)
		console_set_device(c->ports[i].console, port_input_ready, &c->ports[i]);
	return 0;
}

int virtio_console_new(struct dev_host *h, struct pci_host *p,
	const struct virtio_console_config *cfg, struct device **ret_dev, struct err *e)
{
	struct virtio_console *c;
	int r;

	if (!cfg->nports || cfg->nports > VIRTIO_CONSOLE_PORTS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: 1 to %u ports", cfg->name,
			VIRTIO_CONSOLE_PORTS_MAX);
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_set_errno(e, -ENOMEM, "%s", cfg->name);
	r = ports_init(c, cfg, e);
	if (r) {
		free(c);
		return r;
	}
	r = console_init(c, h, p, cfg, e);
	if (r) {
		console_dev_free(&c->v.dev);
		return r;
	}
	*ret_dev = &c->v.dev;
	return 0;
}
