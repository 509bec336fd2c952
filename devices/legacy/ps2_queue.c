/* The queue of bytes from a PS/2 device to its controller. */
#include "devices/legacy/ps2_internal.h"
#include "snapshot/state.h"

int ps2_queue_take(struct ps2_queue *q)
{
	uint8_t v = q->bytes[q->at];

	if (!q->n)
		return -1;
	q->at = (uint8_t)((q->at + 1) % PS2_QUEUE_BYTES);
	q->n--;
	return v;
}

bool ps2_queue_put(struct ps2_queue *q, const uint8_t *bytes, unsigned n)
{
	if (n > PS2_QUEUE_BYTES - q->n)
		return false;
	for (unsigned i = 0; i < n; i++)
		q->bytes[(q->at + q->n++) % PS2_QUEUE_BYTES] = bytes[i];
	return true;
}

void ps2_queue_answer(struct ps2_queue *q, uint8_t v)
{
	if (!ps2_queue_put(q, &v, 1)) {
		q->n = 0;
		ps2_queue_put(q, &v, 1);
	}
}

void ps2_queue_save(const struct ps2_queue *q, struct state_writer *w)
{
	state_put_u8(w, q->n);
	for (unsigned i = 0; i < q->n; i++)
		state_put_u8(w, q->bytes[(q->at + i) % PS2_QUEUE_BYTES]);
}

bool ps2_queue_load(struct ps2_queue *q, struct state_reader *r)
{
	q->at = 0;
	q->n = state_u8(r);
	if (q->n > PS2_QUEUE_BYTES)
		return false;
	state_bytes(r, q->bytes, q->n);
	return !r->failed;
}

bool ps2_state_flag(struct state_reader *r, bool *ret)
{
	uint8_t v = state_u8(r);

	*ret = v;
	return v <= 1;
}
