/* A firmware for tests of the flash memory, of 64 KiB below 4 GiB. It prints "flash ready" and then obeys lines from
 * COM1, with numbers in hexadecimal:
 *   r ADDRESS        print the byte there
 *   w ADDRESS VALUE  write the byte
 *   k                reset by the keyboard controller
 * It has no data but constants; its stack is in RAM. */
#include <stdint.h>

#define COM1 0x3f8
#define LINE_STATUS (COM1 + 5)
#define STATUS_INPUT 1

void rom_main(void);

static void port_write(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static uint8_t port_read(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static void print(const char *s)
{
	while (*s)
		port_write(COM1, (uint8_t)*s++);
}

static char take(void)
{
	while (!(port_read(LINE_STATUS) & STATUS_INPUT))
		;
	return (char)port_read(COM1);
}

/* Read a number and the character behind it. */
static uint32_t number(void)
{
	uint32_t v = 0;

	for (;;) {
		char c = take();

		if (c >= '0' && c <= '9')
			v = v << 4 | (uint32_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (uint32_t)(c - 'a' + 10);
		else
			return v;
	}
}

static void print_byte(uint8_t v)
{
	port_write(COM1, (uint8_t)"0123456789abcdef"[v >> 4]);
	port_write(COM1, (uint8_t)"0123456789abcdef"[v & 15]);
	print("\r\n");
}

void rom_main(void)
{
	print("flash ready\r\n");
	for (;;) {
		char c = take();
		volatile uint8_t *at;

		if (c == 'k')
			port_write(0x64, 0xfe);
		if (c != 'r' && c != 'w')
			continue;
		take();
		at = (volatile uint8_t *)(uintptr_t)number();
		if (c == 'w')
			*at = (uint8_t)number();
		else
			print_byte(*at);
	}
}
