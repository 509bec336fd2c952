#include "devices/legacy/i8042.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "devices/legacy/ps2.h"
#include "snapshot/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define I8042_DATA_PORT 0x60
#define I8042_STATUS_PORT 0x64
#define I8042_FAST_A20_PORT 0x92

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM 0x04 /* self-test passed */
#define STATUS_COMMAND 0x08 /* the last write was to port 0x64 */
#define STATUS_UNLOCKED 0x10
#define STATUS_INPUT_FULL 0x02
#define STATUS_FROM_MOUSE 0x20
#define FAST_A20 0x02
#define FAST_RESET 0x01
#define CTR_KEYBOARD_INTERRUPT 0x01
#define CTR_MOUSE_INTERRUPT 0x02
#define CTR_KEYBOARD_OFF 0x10
#define CTR_MOUSE_OFF 0x20
#define CTR_TRANSLATE 0x40
#define CTR_POWER_ON 0x34 /* both ports' clocks off, system flag: nothing is attached */
/* As a BIOS leaves it: a kernel that boots without one expects that. */
#define CTR_WITH_KEYBOARD (CTR_TRANSLATE | CTR_MOUSE_OFF | STATUS_SYSTEM | CTR_KEYBOARD_INTERRUPT)
#define KEYBOARD_GSI 1
#define MOUSE_GSI 12
#define BREAK_PREFIX 0xf0
#define OUTPUT_PORT_RESET_N 0x01
#define OUTPUT_PORT_A20 0x02

struct i8042 {
	struct device dev;
	struct dev_host *host;
	struct bus *pio;
	pthread_mutex_t lock;
	uint8_t ctr;	 /* command byte */
	uint8_t output;	 /* the controller's own answer, waiting at port 0x60 */
	bool full;
	bool output_from_mouse; /* the answer counts as sent by the mouse */
	uint8_t command; /* command that waits for its byte at port 0x60; 0: none */
	bool last_was_command;
	bool hidden; /* constant while vCPUs run */
	uint8_t a20; /* port 0x92; A20 is always open, and the register only keeps its value */

	bool with_keyboard; /* constant */
	bool has_keyboard;  /* false: the state was saved by a controller without one */
	bool paused;
	struct ps2_keyboard keyboard;
	struct ps2_mouse mouse;
	uint8_t byte; /* from keyboard or mouse, waiting at port 0x60 behind the controller's answer */
	bool byte_waits, byte_from_mouse;
	bool breaks; /* BREAK_PREFIX was taken: the next byte is a key that was released */
	bool lines[2]; /* levels of KEYBOARD_GSI and MOUSE_GSI */
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
	k->output_from_mouse = false;
}

/* ---- keyboard and mouse ---- */

static void line_set(struct i8042 *k, unsigned i, bool level)
{
	static const uint8_t gsis[] = { KEYBOARD_GSI, MOUSE_GSI };

	if (k->lines[i] != level)
		dev_irq_set(k->host, gsis[i], level);
	k->lines[i] = level;
}

static void lines_update(struct i8042 *k)
{
	bool any = k->full || k->byte_waits, mouse = k->full ? k->output_from_mouse : k->byte_from_mouse;

	if (!k->has_keyboard)
		return;
	line_set(k, 0, any && !mouse && (k->ctr & CTR_KEYBOARD_INTERRUPT));
	line_set(k, 1, any && mouse && (k->ctr & CTR_MOUSE_INTERRUPT));
}

/* Take the keyboard's next byte, in the scan code set that the guest wants. Returns -1 if there is none. */
static int keyboard_take(struct i8042 *k)
{
	int v = ps2_queue_take(&k->keyboard.queue);

	if (v < 0 || !(k->ctr & CTR_TRANSLATE))
		return v;
	if (v == BREAK_PREFIX) {
		k->breaks = true;
		v = ps2_queue_take(&k->keyboard.queue);
	}
	if (v < 0)
		return v;
	v = ps2_translate((uint8_t)v) | (k->breaks ? 0x80 : 0);
	k->breaks = false;
	return v;
}

/* Fetch the next byte of keyboard or mouse, and set the interrupt lines. A line falls between two bytes. */
static void bytes_move(struct i8042 *k)
{
	int v = -1;

	lines_update(k);
	if (!k->has_keyboard || k->byte_waits)
		return;
	ps2_keyboard_send_releases(&k->keyboard);
	ps2_mouse_send_movement(&k->mouse);
	if (!(k->ctr & CTR_KEYBOARD_OFF))
		v = keyboard_take(k);
	k->byte_from_mouse = v < 0;
	if (v >= 0)
		k->keyboard.last = (uint8_t)v;
	else if (!(k->ctr & CTR_MOUSE_OFF))
		v = ps2_queue_take(&k->mouse.queue);
	if (v < 0)
		return;
	k->byte = (uint8_t)v;
	k->byte_waits = true;
	lines_update(k);
}

void i8042_input(struct device *d, const struct input_event *ev)
{
	struct i8042 *k = container_of(d, struct i8042, dev);

	LOCK_GUARD(&k->lock);
	if (!k->has_keyboard)
		return;
	if (k->paused) {
		if (ev->kind == INPUT_KEY && !ev->down)
			k->keyboard.held[ev->code / 8] &= (uint8_t)~(1u << ev->code % 8);
		else if (ev->kind == INPUT_BUTTON && !ev->down)
			k->mouse.buttons &= (uint8_t)~(1u << ev->code);
		return;
	}
	if (ev->kind == INPUT_KEY)
		ps2_keyboard_key(&k->keyboard, ev->code, ev->down);
	else
		ps2_mouse_input(&k->mouse, ev);
	bytes_move(k);
}

void i8042_release(struct device *d)
{
	struct i8042 *k = container_of(d, struct i8042, dev);

	LOCK_GUARD(&k->lock);
	memset(k->keyboard.held, 0, sizeof(k->keyboard.held));
	k->mouse.buttons = 0;
	if (!k->paused)
		bytes_move(k);
}

static void i8042_pause(struct device *d)
{
	struct i8042 *k = container_of(d, struct i8042, dev);

	LOCK_GUARD(&k->lock);
	k->paused = true;
}

static void i8042_resume(struct device *d)
{
	struct i8042 *k = container_of(d, struct i8042, dev);

	LOCK_GUARD(&k->lock);
	k->paused = false;
	bytes_move(k);
}

/* ---- controller ---- */

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
	case 0xa9: /* test of the mouse port; without a mouse: "clock line stuck low" */
	case 0xab:
		i8042_answer(k, k->has_keyboard ? 0x00 : 0x01);
		break;
	case 0xa7:
		k->ctr |= CTR_MOUSE_OFF;
		break;
	case 0xa8:
		k->ctr &= (uint8_t)~CTR_MOUSE_OFF;
		break;
	case 0xad:
		k->ctr |= CTR_KEYBOARD_OFF;
		break;
	case 0xae:
		k->ctr &= (uint8_t)~CTR_KEYBOARD_OFF;
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
		k->output_from_mouse = c == 0xd3 && k->has_keyboard;
		break;
	default:
		if (!k->has_keyboard) {
			/* Answer 0xFE (resend), the error that drivers of both understand: without an answer, a driver
			 * waits for a time-out. */
			i8042_answer(k, 0xfe);
		} else if (c == 0xd4) {
			k->ctr &= (uint8_t)~CTR_MOUSE_OFF;
			ps2_mouse_write(&k->mouse, v);
		} else {
			k->ctr &= (uint8_t)~CTR_KEYBOARD_OFF;
			ps2_keyboard_write(&k->keyboard, v);
		}
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
	if (!k->full && k->has_keyboard) {
		v = k->byte;
		k->byte_waits = false;
	} else {
		v = k->output;
		k->full = false;
	}
	bytes_move(k);
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
	bytes_move(k);
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
	v |= (k->full || k->byte_waits ? STATUS_OUTPUT_FULL : 0) | (k->ctr & STATUS_SYSTEM) |
		(k->last_was_command ? STATUS_COMMAND : 0);
	if (k->full ? k->output_from_mouse : k->byte_waits && k->byte_from_mouse)
		v |= STATUS_FROM_MOUSE;
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
	bytes_move(k);
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
	k->has_keyboard = k->with_keyboard;
	k->ctr = k->has_keyboard ? CTR_WITH_KEYBOARD : CTR_POWER_ON;
	k->output = 0;
	k->full = k->output_from_mouse = false;
	k->command = 0;
	k->last_was_command = false;
	k->a20 = FAST_A20;
	ps2_keyboard_reset(&k->keyboard);
	ps2_mouse_reset(&k->mouse);
	k->byte_waits = k->byte_from_mouse = k->breaks = false;
	lines_update(k);
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

static void i8042_save_with_keyboard(struct device *d, struct state_writer *w)
{
	struct i8042 *k = container_of(d, struct i8042, dev);

	i8042_save(d, w);
	LOCK_GUARD(&k->lock);
	state_put_u8(w, k->has_keyboard);
	state_put_u8(w, k->output_from_mouse);
	state_put_u8(w, k->byte);
	state_put_u8(w, (uint8_t)(k->byte_waits | k->byte_from_mouse << 1 | k->breaks << 2));
	ps2_keyboard_save(&k->keyboard, w);
	ps2_mouse_save(&k->mouse, w);
}

static bool i8042_command_takes_byte(uint8_t c)
{
	return !c || c == 0x60 || (c >= 0xd1 && c <= 0xd4);
}

struct keyboard_state {
	bool there, output_from_mouse;
	uint8_t byte, flags;
	struct ps2_keyboard keyboard;
	struct ps2_mouse mouse;
};

static bool keyboard_state_read(struct keyboard_state *s, struct state_reader *r)
{
	uint8_t there = state_u8(r), from_mouse = state_u8(r);

	s->there = there;
	s->output_from_mouse = from_mouse;
	s->byte = state_u8(r);
	s->flags = state_u8(r);
	return there <= 1 && from_mouse <= 1 && s->flags < 8 && ps2_keyboard_load(&s->keyboard, r) && ps2_mouse_load(&s->mouse, r);
}

/* KVM has the levels of the lines. */
static void keyboard_state_use(struct i8042 *k, const struct keyboard_state *s)
{
	bool mouse = k->full ? s->output_from_mouse : s->flags & 2;
	bool any = k->full || (s->flags & 1);

	k->has_keyboard = s->there;
	k->output_from_mouse = s->output_from_mouse;
	k->byte = s->byte;
	k->byte_waits = s->flags & 1;
	k->byte_from_mouse = s->flags & 2;
	k->breaks = s->flags & 4;
	k->keyboard = s->keyboard;
	k->mouse = s->mouse;
	k->lines[0] = any && !mouse && (k->ctr & CTR_KEYBOARD_INTERRUPT);
	k->lines[1] = any && mouse && (k->ctr & CTR_MOUSE_INTERRUPT);
}

static int i8042_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct i8042 *k = container_of(d, struct i8042, dev);
	struct keyboard_state keyboard = { 0 };
	uint8_t ctr = state_u8(r), output = state_u8(r), full = state_u8(r), command = state_u8(r);
	uint8_t last = state_u8(r), a20 = state_u8(r);

	ps2_keyboard_reset(&keyboard.keyboard);
	ps2_mouse_reset(&keyboard.mouse);
	if ((version > 1 && !keyboard_state_read(&keyboard, r)) || !state_reader_complete(r) || full > 1 || last > 1 || !i8042_command_takes_byte(command))
		return err_set(e, -EINVAL, ERR_CORRUPT, "i8042: malformed state");
	LOCK_GUARD(&k->lock);
	k->ctr = ctr;
	k->output = output;
	k->full = full;
	k->command = command;
	k->last_was_command = last;
	k->a20 = a20;
	keyboard_state_use(k, &keyboard);
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

static const struct device_ops i8042_ops_with_keyboard = {
	.type = "i8042",
	.state_version = 2,
	.reset = i8042_reset,
	.pause = i8042_pause,
	.resume = i8042_resume,
	.save = i8042_save_with_keyboard,
	.load = i8042_load,
	.free = i8042_free,
};

void i8042_hide(struct device *d)
{
	container_of(d, struct i8042, dev)->hidden = true;
}

static int controller_new(struct dev_host *h, struct bus *pio, bool keyboard, struct device **ret_dev, struct err *e)
{
	struct i8042 *k = calloc(1, sizeof(*k));

	if (!k)
		return err_set_errno(e, -ENOMEM, "i8042");
	k->dev.ops = keyboard ? &i8042_ops_with_keyboard : &i8042_ops;
	k->with_keyboard = keyboard;
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

int i8042_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e)
{
	return controller_new(h, pio, false, ret_dev, e);
}

int i8042_new_with_keyboard(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e)
{
	return controller_new(h, pio, true, ret_dev, e);
}
