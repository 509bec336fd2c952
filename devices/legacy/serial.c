#include "devices/legacy/serial.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/console.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "snapshot/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SERIAL_PORTS 8
#define FIFO_BYTES 16

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCRATCH };

#define IER_RDA 0x01
#define IER_THRE 0x02
#define IER_LINE 0x04
#define IER_MODEM 0x08
#define IIR_NONE 0x01
#define IIR_MODEM 0x00
#define IIR_THRE 0x02
#define IIR_RDA 0x04
#define IIR_LINE 0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFOS 0xc0
#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_KEPT 0xc9 /* bits that are kept: enable, DMA mode, trigger level */
#define LCR_DLAB 0x80
#define MCR_LOOP 0x10
#define MCR_OUT2 0x08 /* gates the interrupt on a PC */
#define LSR_DATA 0x01
#define LSR_OVERRUN 0x02
#define LSR_ERRORS 0x1e
#define LSR_THRE 0x20
#define LSR_TEMT 0x40
#define MSR_DELTAS 0x0f
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80

struct serial {
	struct device dev;
	struct dev_host *host;
	struct bus *pio;
	struct console *console;
	uint16_t port;
	unsigned gsi;

	pthread_mutex_t lock;
	uint8_t ier, fcr, lcr, mcr, scratch;
	uint8_t lsr_errors; /* sticky until LSR is read */
	uint8_t msr;
	uint16_t divisor;
	bool thre_pending; /* the transmitter became empty, and the guest has not read IIR since */
	bool irq_level;
	bool paused; /* leave input in the console */
	uint8_t fifo[FIFO_BYTES];
	unsigned fifo_start, fifo_len;
};

static unsigned fifo_size(const struct serial *s)
{
	return s->fcr & FCR_ENABLE ? FIFO_BYTES : 1;
}

static unsigned fifo_trigger(const struct serial *s)
{
	static const uint8_t levels[4] = { 1, 4, 8, 14 };

	return s->fcr & FCR_ENABLE ? levels[s->fcr >> 6] : 1;
}

/* Return the pending interrupt of highest priority, in the data sheet's order. */
static uint8_t serial_iir(const struct serial *s)
{
	if ((s->ier & IER_LINE) && s->lsr_errors)
		return IIR_LINE;
	if ((s->ier & IER_RDA) && s->fifo_len)
		return s->fifo_len >= fifo_trigger(s) ? IIR_RDA : IIR_TIMEOUT;
	if ((s->ier & IER_THRE) && s->thre_pending)
		return IIR_THRE;
	if ((s->ier & IER_MODEM) && (s->msr & MSR_DELTAS))
		return IIR_MODEM;
	return IIR_NONE;
}

/* Update the interrupt line. On a PC, OUT2 gates it; in loopback mode the pin is high-impedance. */
static void serial_update_irq(struct serial *s)
{
	bool level = serial_iir(s) != IIR_NONE && (s->mcr & MCR_OUT2) && !(s->mcr & MCR_LOOP);

	if (level == s->irq_level)
		return;
	s->irq_level = level;
	dev_irq_set(s->host, s->gsi, level);
}

static void fifo_push(struct serial *s, uint8_t v)
{
	if (s->fifo_len >= fifo_size(s)) {
		s->lsr_errors |= LSR_OVERRUN;
		return;
	}
	s->fifo[(s->fifo_start + s->fifo_len++) % FIFO_BYTES] = v;
}

/* Take only as much input from the console as fits: flow control without loss. */
static void serial_pull(struct serial *s)
{
	uint8_t buf[FIFO_BYTES];
	size_t n;

	if (s->paused || (s->mcr & MCR_LOOP) || s->fifo_len >= fifo_size(s))
		return;
	n = console_read(s->console, buf, fifo_size(s) - s->fifo_len);
	for (size_t i = 0; i < n; i++)
		fifo_push(s, buf[i]);
}

static void serial_input_ready(void *opaque)
{
	struct serial *s = opaque;

	LOCK_GUARD(&s->lock);
	serial_pull(s);
	serial_update_irq(s);
}

/* Return the modem lines. In loopback the four outputs of MCR feed the four inputs. */
static uint8_t serial_modem_lines(const struct serial *s)
{
	uint8_t v = 0;

	if (!(s->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	if (s->mcr & 0x01)
		v |= MSR_DSR;
	if (s->mcr & 0x02)
		v |= MSR_CTS;
	if (s->mcr & 0x04)
		v |= MSR_RI;
	if (s->mcr & MCR_OUT2)
		v |= MSR_DCD;
	return v;
}

static void serial_set_mcr(struct serial *s, uint8_t v)
{
	uint8_t before = s->msr & 0xf0, now, changed;

	s->mcr = v & 0x1f;
	now = serial_modem_lines(s);
	changed = before ^ now;
	s->msr = now | (s->msr & MSR_DELTAS);
	s->msr |= (changed & (MSR_CTS | MSR_DSR | MSR_DCD)) >> 4;
	if ((before & MSR_RI) && !(now & MSR_RI))
		s->msr |= MSR_RI >> 4; /* RI counts on its trailing edge */
	serial_pull(s);
}

static void serial_transmit(struct serial *s, uint8_t v)
{
	if (s->mcr & MCR_LOOP)
		fifo_push(s, v);
	else
		console_write(s->console, &v, 1);
	s->thre_pending = true;
}

static void serial_set_fcr(struct serial *s, uint8_t v)
{
	if (((s->fcr ^ v) & FCR_ENABLE) || (v & FCR_CLEAR_RX))
		s->fifo_len = 0;
	s->fcr = v & FCR_ENABLE ? v & FCR_KEPT : 0;
	serial_pull(s);
}

static void serial_set_ier(struct serial *s, uint8_t v)
{
	/* Enabling THRE while the transmitter is empty raises the interrupt; drivers rely on it. */
	if ((v & IER_THRE) && !(s->ier & IER_THRE))
		s->thre_pending = true;
	s->ier = v & 0x0f;
}

static void serial_register_write(struct serial *s, unsigned reg, uint8_t v)
{
	switch (reg) {
	case REG_DATA:
		if (s->lcr & LCR_DLAB)
			s->divisor = (s->divisor & 0xff00) | v;
		else
			serial_transmit(s, v);
		break;
	case REG_IER:
		if (s->lcr & LCR_DLAB)
			s->divisor = (uint16_t)((s->divisor & 0x00ff) | v << 8);
		else
			serial_set_ier(s, v);
		break;
	case REG_IIR_FCR:
		serial_set_fcr(s, v);
		break;
	case REG_LCR:
		s->lcr = v;
		break;
	case REG_MCR:
		serial_set_mcr(s, v);
		break;
	case REG_SCRATCH:
		s->scratch = v;
		break;
	default:
		break; /* LSR and MSR are read-only */
	}
}

static uint8_t serial_receive(struct serial *s)
{
	uint8_t v = 0;

	if (s->fifo_len) {
		v = s->fifo[s->fifo_start];
		s->fifo_start = (s->fifo_start + 1) % FIFO_BYTES;
		s->fifo_len--;
	}
	serial_pull(s);
	return v;
}

static uint8_t serial_read_iir(struct serial *s)
{
	uint8_t v = serial_iir(s);

	if (v == IIR_THRE)
		s->thre_pending = false;
	return v | (s->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static uint8_t serial_register_read(struct serial *s, unsigned reg)
{
	uint8_t v;

	switch (reg) {
	case REG_DATA:
		return s->lcr & LCR_DLAB ? (uint8_t)s->divisor : serial_receive(s);
	case REG_IER:
		return s->lcr & LCR_DLAB ? (uint8_t)(s->divisor >> 8) : s->ier;
	case REG_IIR_FCR:
		return serial_read_iir(s);
	case REG_LCR:
		return s->lcr;
	case REG_MCR:
		return s->mcr;
	case REG_LSR:
		v = LSR_THRE | LSR_TEMT | s->lsr_errors | (s->fifo_len ? LSR_DATA : 0);
		s->lsr_errors = 0;
		return v;
	case REG_MSR:
		v = s->msr;
		s->msr &= (uint8_t)~MSR_DELTAS;
		return v;
	default:
		return s->scratch;
	}
}

static uint64_t serial_bus_read(void *opaque, uint64_t off, unsigned size)
{
	struct serial *s = opaque;
	uint64_t v = 0;

	LOCK_GUARD(&s->lock);
	for (unsigned i = 0; i < size; i++)
		v |= (uint64_t)serial_register_read(s, (unsigned)off + i) << (8 * i);
	serial_update_irq(s);
	return v;
}

static void serial_bus_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct serial *s = opaque;

	LOCK_GUARD(&s->lock);
	for (unsigned i = 0; i < size; i++)
		serial_register_write(s, (unsigned)off + i, (uint8_t)(value >> (8 * i)));
	serial_update_irq(s);
}

static const struct bus_ops serial_bus_ops = { serial_bus_read, serial_bus_write };

static void serial_reset(struct device *d)
{
	struct serial *s = container_of(d, struct serial, dev);

	LOCK_GUARD(&s->lock);
	s->ier = s->fcr = s->lcr = s->scratch = s->lsr_errors = 0;
	s->mcr = 0;
	s->msr = serial_modem_lines(s);
	s->divisor = 12; /* 9600 baud, as a BIOS leaves it */
	s->thre_pending = false;
	s->fifo_start = s->fifo_len = 0;
	serial_update_irq(s);
}

static void serial_set_paused(struct serial *s, bool paused)
{
	LOCK_GUARD(&s->lock);
	s->paused = paused;
	serial_pull(s);
	serial_update_irq(s);
}

static void serial_pause(struct device *d)
{
	serial_set_paused(container_of(d, struct serial, dev), true);
}

static void serial_resume(struct device *d)
{
	serial_set_paused(container_of(d, struct serial, dev), false);
}

static void serial_save(struct device *d, struct state_writer *w)
{
	struct serial *s = container_of(d, struct serial, dev);

	LOCK_GUARD(&s->lock);
	state_put_u8(w, s->ier);
	state_put_u8(w, s->fcr);
	state_put_u8(w, s->lcr);
	state_put_u8(w, s->mcr);
	state_put_u8(w, s->scratch);
	state_put_u8(w, s->lsr_errors);
	state_put_u8(w, s->msr);
	state_put_u16(w, s->divisor);
	state_put_u8(w, s->thre_pending);
	state_put_u8(w, (uint8_t)s->fifo_len);
	for (unsigned i = 0; i < s->fifo_len; i++)
		state_put_u8(w, s->fifo[(s->fifo_start + i) % FIFO_BYTES]);
}

static bool serial_state_is_valid(const struct serial *s, const struct state_reader *r,
	unsigned thre)
{
	return state_reader_complete(r) && s->ier <= 0x0f && s->mcr <= 0x1f && thre <= 1 &&
		!(s->fcr & (uint8_t)~FCR_KEPT) && !(s->lsr_errors & (uint8_t)~LSR_ERRORS) &&
		(!s->fcr || (s->fcr & FCR_ENABLE));
}

static int serial_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct serial *s = container_of(d, struct serial, dev), t = { 0 };
	unsigned thre, n;

	(void)version;
	t.ier = state_u8(r);
	t.fcr = state_u8(r);
	t.lcr = state_u8(r);
	t.mcr = state_u8(r);
	t.scratch = state_u8(r);
	t.lsr_errors = state_u8(r);
	t.msr = state_u8(r);
	t.divisor = state_u16(r);
	thre = state_u8(r);
	n = state_u8(r);
	if (n > fifo_size(&t))
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s: %u bytes in the FIFO", d->name, n);
	state_bytes(r, t.fifo, n);
	if (!serial_state_is_valid(&t, r, thre))
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s: malformed state", d->name);
	LOCK_GUARD(&s->lock);
	s->ier = t.ier;
	s->fcr = t.fcr;
	s->lcr = t.lcr;
	s->mcr = t.mcr;
	s->scratch = t.scratch;
	s->lsr_errors = t.lsr_errors;
	s->msr = t.msr;
	s->divisor = t.divisor;
	s->thre_pending = thre;
	memcpy(s->fifo, t.fifo, sizeof(s->fifo));
	s->fifo_start = 0;
	s->fifo_len = n;
	serial_update_irq(s);
	return 0;
}

static void serial_free(struct device *d)
{
	struct serial *s = container_of(d, struct serial, dev);

	bus_remove(s->pio, s->port, s);
	console_set_device(s->console, NULL, NULL);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static const struct device_ops serial_ops = {
	.type = "serial",
	.state_version = 1,
	.reset = serial_reset,
	.pause = serial_pause,
	.resume = serial_resume,
	.save = serial_save,
	.load = serial_load,
	.free = serial_free,
};

int serial_new(struct dev_host *h, struct bus *pio, const struct serial_config *c,
	struct device **ret_dev, struct err *e)
{
	struct serial *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_set_errno(e, -ENOMEM, "%s", c->name);
	s->dev.ops = &serial_ops;
	snprintf(s->dev.name, sizeof(s->dev.name), "%s", c->name);
	s->host = h;
	s->pio = pio;
	s->console = c->console;
	s->port = c->port ? c->port : SERIAL_COM1_PORT;
	s->gsi = c->gsi ? c->gsi : SERIAL_COM1_GSI;
	pthread_mutex_init(&s->lock, NULL);
	serial_reset(&s->dev);
	r = bus_add(pio, s->port, SERIAL_PORTS, &serial_bus_ops, s);
	if (r) {
		pthread_mutex_destroy(&s->lock);
		free(s);
		return err_set_errno(e, r, "%s: port 0x%x", c->name, c->port);
	}
	console_set_device(s->console, serial_input_ready, s);
	*ret_dev = &s->dev;
	return 0;
}
