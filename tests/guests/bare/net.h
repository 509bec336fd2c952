/* Frames of the interface that "net open" has opened. */
#ifndef CAIRN_TESTS_GUESTS_NET_H
#define CAIRN_TESTS_GUESTS_NET_H

#include "bare.h"

bool net_is_open(void);
/* Let each frame that comes raise VECTOR_MSI. Returns NULL or what is wrong. */
const char *net_interrupts_enable(void);
const uint8_t *net_mac(void);
/* Wait for a frame. Returns its length and the frame, which stays until the next one; 0: none in time. */
uint32_t net_frame_receive(const uint8_t **ret_f, uint64_t cycles);
/* Return room for a frame of up to 64 KiB. */
uint8_t *net_frame_new(void);
/* Send that frame. Returns NULL or what is wrong. */
const char *net_frame_send(uint32_t bytes);

/* Numbers in network byte order. */
void put16(uint8_t *p, unsigned v);
unsigned get16(const uint8_t *p);
uint64_t get32(const uint8_t *p);

#endif
