/* port: I/O ports, and the serial port COM1, for programs that do not link lib.c. */
#ifndef GUESTS_BARE_PORT_H
#define GUESTS_BARE_PORT_H

#include <stdint.h>

#define COM1 0x3f8
#define LINE_STATUS (COM1 + 5)
#define STATUS_INPUT 0x01
#define STATUS_CAN_SEND 0x20

static inline void port_write(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline void port_write16(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint8_t port_read(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline void com1_print(const char *s)
{
	for (; *s; s++) {
		while (!(port_read(LINE_STATUS) & STATUS_CAN_SEND))
			;
		port_write(COM1, (uint8_t)*s);
	}
}

/* Wait for a character. */
static inline char com1_take(void)
{
	while (!(port_read(LINE_STATUS) & STATUS_INPUT))
		;
	return (char)port_read(COM1);
}

#endif
