/* screen: a terminal that is drawn anew every moment, and keys that work at once. */
#ifndef CAIRN_TOOLS_SCREEN_H
#define CAIRN_TOOLS_SCREEN_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <termios.h>

struct screen {
	bool keys; /* standard input is a terminal, too */
	struct termios saved;
	sigset_t before;
	int signals;
};

/* Whatever ends the program by a signal that can be caught ends screen_wait() from here on. Returns 0 or -errno. */
int screen_begin(struct screen *s);
/* The terminal is as it was. */
void screen_end(struct screen *s);

/* So much of the text as there is room for, from its beginning; each line as wide as the terminal at most. */
void screen_draw(const char *text);

#define SCREEN_LATE 0 /* it is time */
#define SCREEN_OVER (-1)
#define SCREEN_OTHER (-2)
/* Until a key, or until_ns (CLOCK_MONOTONIC). other: readable: SCREEN_OTHER. Returns one of these, or the key. */
int screen_wait(struct screen *s, int other, uint64_t until_ns);

#endif
