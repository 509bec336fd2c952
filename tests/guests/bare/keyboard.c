/* Commands for the keyboard and the mouse behind an i8042. */
#include "bare.h"

#define DATA 0x60
#define STATUS 0x64
#define FULL 0x01
#define MOUSE 0x20

static uint8_t byte_wait(void)
{
	for (unsigned i = 0; i < 100000 && !(inb(STATUS) & FULL); i++)
		;
	return inb(DATA);
}

/* keyboard ask BYTE...: send the bytes to the keyboard, and print its answers */
/* keyboard mouse BYTE...: the same with the mouse */
static const char *keyboard_ask(const struct args *a, bool mouse)
{
	for (unsigned i = 1; i <= 6 && a->s[i]; i++) {
		if (mouse)
			outb(STATUS, 0xd4);
		outb(DATA, (uint8_t)a->v[i]);
		print("%x ", (uint64_t)byte_wait());
	}
	print("\n");
	return NULL;
}

/* keyboard read: print what has come; m marks a byte of the mouse */
static const char *keyboard_read(void)
{
	uint8_t status;

	print("got");
	while ((status = inb(STATUS)) & FULL) {
		print(" ");
		if (status & MOUSE)
			print("m");
		print("%x", (uint64_t)inb(DATA));
	}
	print(" end\n");
	return NULL;
}

static const char *cmd_keyboard(const struct args *a)
{
	if (str_equal(a->s[0], "ask"))
		return keyboard_ask(a, false);
	if (str_equal(a->s[0], "mouse"))
		return keyboard_ask(a, true);
	return str_equal(a->s[0], "read") ? keyboard_read() : "no such command";
}

const struct command keyboard_commands[] = {
	{"keyboard", 1, 1, "ask BYTE...|mouse BYTE...|read", cmd_keyboard},
	{0},
};
