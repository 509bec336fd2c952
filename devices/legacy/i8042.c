#include "devices/legacy/i8042.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "snapshot/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define I8042_DATA_PORT 0x60
#define I8042_STATUS_PORT 0x64
#define I8042_FAST_A20_PORT 0x92

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM 0x04 /* self-test passed */
#define STATUS_COMMAND 0x08 /* the last write was to port 0x64 */
#define STATUS_UNLOCKED 0x10
#define STATUS_INPUT_FULL 0x02
#define FAST_A20 0x02
#define FAST_RESET 0x01
#define CTR_POWER_ON 0x34 /* both ports' clocks off, system flag: nothing is attached */
#define OUTPUT_PORT_RESET_N 0x01
#define OUTPUT_PORT_A20 0x02

struct i8042 {
	struct device dev;
	struct dev_host *host;
	struct bus *pio;
	pthread_mutex_t lock;
	uint8_t ctr;	 /* command byte */
	uint8_t output;	 /* byte waiting at port 0x60 */
	bool full;
	uint8_t command; /* command that waits for its byte at port 0x60; 0: none */
	bool last_was_command;
	bool hidden; /* constant while vCPUs run */
	uint8_t a20; /* port 0x92; A20 is always open, and the register only keeps its value */
};

static void i8042_guest_reset(struct i8042 *k)
{
	struct dev_event ev = { .kind = DEV_EVENT_RESET, .device = k->dev.name };

	dev_event(k->host, &ev);
}

static void i8042_answer(struct i8042 *k, uint8_t v)
{
	k->output = v;
	k->full = true;
}

/* Execute a command. Returns true when the guest asked for a reset. */
static bool i8042_do_command(struct i8042 *k, uint8_t c)
{
	k->last_was_command = true;
	k->command = 0;
	switch (c) {
	case 0x20: /* read the command byte */
		i8042_answer(k, k->ctr);
		break;
	case 0x60: /* write the command byte */
	case 0xd1: /* write the output port */
	case 0xd2: /* put a byte into the output buffer */
	case 0xd3: /* put a byte into the output buffer, as from the mouse */
	case 0xd4: /* send a byte to the mouse */
		k->command = c;
		break;
	case 0xaa: /* self-test */
		i8042_answer(k, 0x55);
		break;
	case 0xa9: /* test of the mouse port: "clock line stuck low", that is, no mouse */
	case 0xab:
		i8042_answer(k, 0x01);
		break;
	case 0xa7:
		k->ctr |= 0x20;
		break;
	case 0xa8:
		k->ctr &= (uint8_t)~0x20;
		break;
	case 0xad:
		k->ctr |= 0x10;
		break;
	case 0xae:
		k->ctr &= (uint8_t)~0x10;
		break;
	case 0xd0:
		i8042_answer(k, OUTPUT_PORT_RESET_N | OUTPUT_PORT_A20);
		break;
	default:
		/* 0xf0..0xff pulse output lines; a clear bit 0 pulses reset. */
		return c >= 0xf0 && !(c & 1);
	}
	return false;
}

static bool i8042_data_write(struct i8042 *k, uint8_t v)
{
	uint8_t c = k->command;

	k->last_was_command = false;
	k->command = 0;
	switch (c) {
	case 0x60:
		k->ctr = v;
		break;
	case 0xd1:
		return !(v & OUTPUT_PORT_RESET_N);
	case 0xd2:
	case 0xd3:
		i8042_answer(k, v);
		break;
	default:
		/* Data for a keyboard or mouse, which do not exist. Answer 0xFE (resend), the error
		 * that drivers of both understand: without an answer, a driver waits for a
		 * time-out. */
		i8042_answer(k, 0xfe);
		break;
	}
	return false;
}

static uint64_t i8042_data_read(void *opaque, uint64_t off, unsigned size)
{
	struct i8042 *k = opaque;
	uint8_t v;

	(void)off;
	(void)size;
	LOCK_GUARD(&k->lock);
	v = k->output;
	k->full = false;
	return v;
}

static void i8042_data_bus_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct i8042 *k = opaque;
	bool reset;

	(void)off;
	(void)size;
	pthread_mutex_lock(&k->lock);
	reset = i8042_data_write(k, (uint8_t)value);
	pthread_mutex_unlock(&k->lock);
	if (reset)
		i8042_guest_reset(k);
}

static uint64_t i8042_status_read(void *opaque, uint64_t off, unsigned size)
{
	struct i8042 *k = opaque;
	uint8_t v = STATUS_UNLOCKED;

	(void)off;
	(void)size;
	LOCK_GUARD(&k->lock);
	v |= (k->full ? STATUS_OUTPUT_FULL : 0) | (k->ctr & STATUS_SYSTEM) |
		(k->last_was_command ? STATUS_COMMAND : 0);
	return k->hidden ? (uint8_t)~STATUS_INPUT_FULL : v;
}

static void i8042_command_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct i8042 *k = opaque;
	bool reset;

	(void)off;
	(void)size;
	pthread_mutex_lock(&k->lock);
	reset = i8042_do_command(k, (uint8_t)value);
	pthread_mutex_unlock(&k->lock);
	if (reset)
		i8042_guest_reset(k);
}

static uint64_t i8042_a20_read(void *opaque, uint64_t off, unsigned size)
{
	struct i8042 *k = opaque;

	(void)off;
	(void)size;
	LOCK_GUARD(&k->lock);
	return k->a20;
}

static void i8042_a20_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct i8042 *k = opaque;
	bool reset;

	(void)off;
	(void)size;
	pthread_mutex_lock(&k->lock);
	reset = (value & FAST_RESET) && !(k->a20 & FAST_RESET);
	k->a20 = (uint8_t)value;
	pthread_mutex_unlock(&k->lock);
	if (reset)
		i8042_guest_reset(k);
}

static const struct {
	uint16_t port;
	struct bus_ops ops;
} i8042_ports[] = {
	{ I8042_DATA_PORT, { i8042_data_read, i8042_data_bus_write } },
	{ I8042_STATUS_PORT, { i8042_status_read, i8042_command_write } },
	{ I8042_FAST_A20_PORT, { i8042_a20_read, i8042_a20_write } },
};

static void i8042_reset(struct device *d)
{
	struct i8042 *k = container_of(d, struct i8042, dev);

	LOCK_GUARD(&k->lock);
	k->ctr = CTR_POWER_ON;
	k->output = 0;
	k->full = false;
	k->command = 0;
	k->last_was_command = false;
	k->a20 = FAST_A20;
}

static void i8042_save(struct device *d, struct state_writer *w)
{
	struct i8042 *k = container_of(d, struct i8042, dev);

	LOCK_GUARD(&k->lock);
	state_put_u8(w, k->ctr);
	state_put_u8(w, k->output);
	state_put_u8(w, k->full);
	state_put_u8(w, k->command);
	state_put_u8(w, k->last_was_command);
	state_put_u8(w, k->a20);
}

static bool i8042_command_takes_byte(uint8_t c)
{
	return !c || c == 0x60 || (c >= 0xd1 && c <= 0xd4);
}

static int i8042_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct i8042 *k = container_of(d, struct i8042, dev);
	uint8_t ctr = state_u8(r), output = state_u8(r), full = state_u8(r), command = state_u8(r);
	uint8_t last = state_u8(r), a20 = state_u8(r);

	(void)version;
	if (!state_reader_complete(r) || full > 1 || last > 1 || !i8042_command_takes_byte(command))
		return err_set(e, -EINVAL, ERR_CORRUPT, "i8042: malformed state");
	LOCK_GUARD(&k->lock);
	k->ctr = ctr;
	k->output = output;
	k->full = full;
	k->command = command;
	k->last_was_command = last;
	k->a20 = a20;
	return 0;
}

static void i8042_free(struct device *d)
{
	struct i8042 *k = container_of(d, struct i8042, dev);

	for (size_t i = 0; i < ARRAY_SIZE(i8042_ports); i++)
		bus_remove(k->pio, i8042_ports[i].port, k);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

static const struct device_ops i8042_ops = {
	.type = "i8042",
	.state_version = 1,
	.reset = i8042_reset,
	.save = i8042_save,
	.load = i8042_load,
	.free = i8042_free,
};

void i8042_hide(struct device *d)
{
	container_of(d, struct i8042, dev)->hidden = true;
}

int i8042_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e)
{
	struct i8042 *k = calloc(1, sizeof(*k));

	if (!k)
		return err_set_errno(e, -ENOMEM, "i8042");
	k->dev.ops = &i8042_ops;
	snprintf(k->dev.name, sizeof(k->dev.name), "i8042");
	k->host = h;
	k->pio = pio;
	pthread_mutex_init(&k->lock, NULL);
	i8042_reset(&k->dev);
	for (size_t i = 0; i < ARRAY_SIZE(i8042_ports); i++) {
		int r = bus_add(pio, i8042_ports[i].port, 1, &i8042_ports[i].ops, k);

		if (r) {
			i8042_free(&k->dev);
			return err_set_errno(e, r, "i8042: port 0x%x", i8042_ports[i].port);
		}
	}
	*ret_dev = &k->dev;
	return 0;
}
