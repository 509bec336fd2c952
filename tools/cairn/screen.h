/* screen: a full-screen display that is redrawn periodically, with keys that act at once. */
#ifndef CAIRN_TOOLS_SCREEN_H
#define CAIRN_TOOLS_SCREEN_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <termios.h>

struct screen {
	bool keys; /* standard input is a terminal, so keys are read */
	struct termios saved;
	sigset_t before; /* signal mask to restore */
	int signals;	 /* signalfd */
};

/* Switch the terminal to the alternate screen. From now on, SIGINT, SIGTERM and SIGHUP end screen_wait() instead of the
 * program.
 * Returns 0 or -errno. */
int screen_begin(struct screen *s);
/* Restore the terminal. */
void screen_end(struct screen *s);

/* Draw as many lines of the text as fit, each cut to the width of the terminal. */
void screen_draw(const char *text);

#define SCREEN_LATE 0 /* until_ns has passed, or the terminal has another size */
#define SCREEN_OVER (-1) /* the program must end: a signal, an error, or standard input has ended */
#define SCREEN_OTHER (-2) /* the fd `other` is readable */
/* Wait for a key, for until_ns (CLOCK_MONOTONIC), or until the fd `other` is readable. Returns one of the values above,
 * or the key. */
int screen_wait(struct screen *s, int other, uint64_t until_ns);

#endif
