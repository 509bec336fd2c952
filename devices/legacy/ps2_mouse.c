#include "devices/legacy/ps2_internal.h"
#include "snapshot/state.h"

#include <string.h>

static void mouse_defaults(struct ps2_mouse *m)
{
	m->queue.n = 0;
	m->reporting = m->remote = m->wraps = false;
	m->resolution = 2;
	m->scaling = 1;
	m->rates[0] = 100;
	m->dx = m->dy = m->wheel = 0;
}

void ps2_mouse_reset(struct ps2_mouse *m)
{
	memset(m, 0, sizeof(*m));
	m->x = m->y = -1;
	mouse_defaults(m);
}

static int32_t clamp(int32_t v, int32_t least, int32_t most)
{
	return v < least ? least : v > most ? most : v;
}

static bool packet_send(struct ps2_mouse *m)
{
	int32_t dx = clamp(m->dx, -255, 255), dy = clamp(-m->dy, -255, 255), wheel = clamp(-m->wheel, -8, 7);
	uint8_t packet[4] = { (uint8_t)(0x08 | m->buttons | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0)), (uint8_t)dx, (uint8_t)dy,
		(uint8_t)wheel };

	if (!ps2_queue_put(&m->queue, packet, m->id == 3 ? 4 : 3))
		return false;
	m->told = m->buttons;
	m->dx -= dx;
	m->dy += dy;
	m->wheel = m->id == 3 ? m->wheel + wheel : 0;
	return true;
}

void ps2_mouse_send_movement(struct ps2_mouse *m)
{
	if (!m->reporting || m->remote || m->wraps)
		return;
	while ((m->dx || m->dy || (m->wheel && m->id == 3) || m->told != m->buttons) && packet_send(m))
		;
}

static void mouse_argument(struct ps2_mouse *m, uint8_t v)
{
	static const uint8_t wheel[3] = { 80, 100, 200 };

	if (m->command == 0xe8) {
		m->resolution = v & 3;
	} else {
		m->rates[2] = m->rates[1];
		m->rates[1] = m->rates[0];
		m->rates[0] = v;
		if (!memcmp(m->rates, wheel, sizeof(wheel)))
			m->id = 3;
	}
	m->command = 0;
	ps2_queue_answer(&m->queue, PS2_ACK);
}

static void mouse_status(struct ps2_mouse *m)
{
	ps2_queue_answer(&m->queue, (uint8_t)((m->buttons & 1) << 2 | (m->buttons & 4) >> 1 | (m->buttons & 2) >> 1 | (m->scaling - 1) << 4 |
		m->reporting << 5 | m->remote << 6));
	ps2_queue_answer(&m->queue, m->resolution);
	ps2_queue_answer(&m->queue, m->rates[0]);
}

static void mouse_command(struct ps2_mouse *m, uint8_t v)
{
	if (v < 0xe6 || v == 0xed || v == 0xef || v == 0xf1 || (v > 0xf6 && v < 0xff)) {
		ps2_queue_answer(&m->queue, PS2_RESEND);
		return;
	}
	if (v == 0xff || v == 0xf6)
		mouse_defaults(m);
	ps2_queue_answer(&m->queue, PS2_ACK);
	switch (v) {
	case 0xe6:
	case 0xe7:
		m->scaling = (uint8_t)(v - 0xe5);
		break;
	case 0xe8: /* resolution */
	case 0xf3: /* sample rate */
		m->command = v;
		break;
	case 0xe9:
		mouse_status(m);
		break;
	case 0xea:
	case 0xf0:
		m->remote = v == 0xf0;
		break;
	case 0xeb:
		packet_send(m);
		break;
	case 0xec:
	case 0xee:
		m->wraps = v == 0xee;
		break;
	case 0xf2:
		ps2_queue_answer(&m->queue, m->id);
		break;
	case 0xf4:
	case 0xf5:
		m->reporting = v == 0xf4;
		break;
	case 0xff:
		m->id = 0;
		ps2_queue_answer(&m->queue, PS2_SELF_TEST_PASSED);
		ps2_queue_answer(&m->queue, 0);
		break;
	default:
		break;
	}
}

void ps2_mouse_write(struct ps2_mouse *m, uint8_t v)
{
	if (m->wraps && v != 0xec && v != 0xff)
		ps2_queue_answer(&m->queue, v);
	else if (m->command && v != 0xff)
		mouse_argument(m, v);
	else {
		m->command = 0;
		mouse_command(m, v);
	}
}

void ps2_mouse_input(struct ps2_mouse *m, const struct input_event *ev)
{
	/* The sums stay far below an overflow: nobody moves a pointer that fast. */
	const int32_t most = 1 << 20;

	if (ev->kind == INPUT_BUTTON) {
		m->buttons = (uint8_t)((m->buttons & ~(1u << ev->code)) | (unsigned)ev->down << ev->code);
	} else if (ev->kind == INPUT_WHEEL) {
		m->wheel = clamp(m->wheel + ev->x, -64, 64);
	} else {
		if (m->x >= 0 && m->reporting) {
			m->dx = clamp(m->dx + ev->x - m->x, -most, most);
			m->dy = clamp(m->dy + ev->y - m->y, -most, most);
		}
		m->x = ev->x;
		m->y = ev->y;
	}
	ps2_mouse_send_movement(m);
}

void ps2_mouse_save(const struct ps2_mouse *m, struct state_writer *w)
{
	ps2_queue_save(&m->queue, w);
	state_put_u8(w, m->reporting);
	state_put_u8(w, m->wraps);
	state_put_u8(w, m->remote);
	state_put_u8(w, m->command);
	state_put_bytes(w, m->rates, sizeof(m->rates));
	state_put_u8(w, m->resolution);
	state_put_u8(w, m->scaling);
	state_put_u8(w, m->id);
	state_put_u8(w, m->told);
}

bool ps2_mouse_load(struct ps2_mouse *m, struct state_reader *r)
{
	bool ok;

	memset(m, 0, sizeof(*m));
	m->x = m->y = -1;
	ok = ps2_queue_load(&m->queue, r) && ps2_state_flag(r, &m->reporting) && ps2_state_flag(r, &m->wraps) && ps2_state_flag(r, &m->remote);
	m->command = state_u8(r);
	state_bytes(r, m->rates, sizeof(m->rates));
	m->resolution = state_u8(r);
	m->scaling = state_u8(r);
	m->id = state_u8(r);
	m->told = state_u8(r);
	return ok && !r->failed && (!m->command || m->command == 0xe8 || m->command == 0xf3) && m->resolution <= 3 &&
		(m->scaling == 1 || m->scaling == 2) && (m->id == 0 || m->id == 3) && m->told < 1 << INPUT_BUTTONS;
}
