/* ps2_internal: functions that keyboard and mouse share. Inner header of ps2_keyboard.c and ps2_mouse.c. */
#ifndef CAIRN_DEVICES_LEGACY_PS2_INTERNAL_H
#define CAIRN_DEVICES_LEGACY_PS2_INTERNAL_H

#include "devices/legacy/ps2.h"

#define PS2_ACK 0xfa
#define PS2_RESEND 0xfe
#define PS2_SELF_TEST_PASSED 0xaa

/* Put all bytes or none into the queue. Returns whether there was room. */
bool ps2_queue_put(struct ps2_queue *q, const uint8_t *bytes, unsigned n);
/* Put an answer into the queue, in place of all that is in it if there is no room: answers always come. */
void ps2_queue_answer(struct ps2_queue *q, uint8_t v);
void ps2_queue_save(const struct ps2_queue *q, struct state_writer *w);
/* Returns false if the state is malformed. */
bool ps2_queue_load(struct ps2_queue *q, struct state_reader *r);
bool ps2_state_flag(struct state_reader *r, bool *ret);

#endif
