/* A firmware for tests of the flash memory, of 64 KiB below 4 GiB. It prints "flash ready" and then obeys lines from
 * COM1, with numbers in hexadecimal:
 *   r ADDRESS        print the byte there
 *   w ADDRESS VALUE  write the byte
 *   i PORT           read a byte from the port and print it
 *   o PORT VALUE     write 16 bits to the port
 *   n NUMBER         print the number
 *   k                reset by the keyboard controller
 * It has no data but constants; its stack is in RAM. */
#include "port.h"

void rom_main(void);

/* Read a number and the character behind it. */
static uint32_t number(void)
{
	uint32_t v = 0;

	for (;;) {
		char c = com1_take();

		if (c >= '0' && c <= '9')
			v = v << 4 | (uint32_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (uint32_t)(c - 'a' + 10);
		else
			return v;
	}
}

static void print_number(uint32_t v, unsigned digits)
{
	while (digits--)
		port_write(COM1, (uint8_t)"0123456789abcdef"[v >> 4 * digits & 15]);
	com1_print("\r\n");
}

static void obey(char c)
{
	uint32_t at = number();

	if (c == 'r')
		print_number(*(volatile uint8_t *)(uintptr_t)at, 2);
	else if (c == 'w')
		*(volatile uint8_t *)(uintptr_t)at = (uint8_t)number();
	else if (c == 'i')
		print_number(port_read((uint16_t)at), 2);
	else if (c == 'o')
		port_write16((uint16_t)at, (uint16_t)number());
	else
		print_number(at, 8);
}

void rom_main(void)
{
	com1_print("flash ready\r\n");
	for (;;) {
		char c = com1_take();

		if (c == 'k')
			port_write(0x64, 0xfe);
		if (c != 'r' && c != 'w' && c != 'i' && c != 'o' && c != 'n')
			continue;
		com1_take();
		obey(c);
	}
}
