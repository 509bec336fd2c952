#include "tools/cairn/screen.h"
#include "base/loop.h"
#include "base/signals.h"
#include "base/util.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* ENTER switches to the alternate screen and hides the cursor; LEAVE undoes both. */
#define ENTER "\033[?1049h\033[?25l"
#define LEAVE "\033[?25h\033[?1049l"

int screen_begin(struct screen *s)
{
	static const int watched[] = { SIGINT, SIGTERM, SIGHUP, SIGWINCH, 0 };
	struct termios t;

	s->signals = signals_open(watched, &s->before);
	if (s->signals < 0) {
		sigprocmask(SIG_SETMASK, &s->before, NULL);
		return s->signals;
	}
	s->keys = tcgetattr(0, &s->saved) == 0;
	if (s->keys) {
		t = s->saved;
		t.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		tcsetattr(0, TCSANOW, &t);
	}
	fputs(ENTER, stdout);
	return 0;
}

void screen_end(struct screen *s)
{
	fputs(LEAVE, stdout);
	fflush(stdout);
	if (s->keys)
		tcsetattr(0, TCSANOW, &s->saved);
	close(s->signals);
	sigprocmask(SIG_SETMASK, &s->before, NULL);
}

/* Returns how many bytes of the line fit into so many columns, counted in code points like tables. */
static size_t bytes_that_fit(const char *line, size_t len, unsigned columns)
{
	size_t i = 0;

	for (unsigned n = 0; i < len; i++) {
		n += ((unsigned char)line[i] & 0xc0) != 0x80;
		if (n > columns)
			break;
	}
	return i;
}

void screen_draw(const char *text)
{
	struct winsize w;
	unsigned rows = 24, columns = 80;

	if (ioctl(1, TIOCGWINSZ, &w) == 0 && w.ws_row && w.ws_col) {
		rows = w.ws_row;
		columns = w.ws_col;
	}
	fputs("\033[H", stdout);
	for (unsigned i = 0; *text && i < rows; i++) {
		size_t len = strcspn(text, "\n");

		printf("%s%.*s\033[K", i ? "\n" : "", (int)bytes_that_fit(text, len, columns), text);
		text += len + (text[len] != 0);
	}
	fputs("\033[J", stdout);
	fflush(stdout);
}

static int signal_take(const struct screen *s)
{
	struct signalfd_siginfo si;

	if (read(s->signals, &si, sizeof(si)) == (ssize_t)sizeof(si) && si.ssi_signo == SIGWINCH)
		return SCREEN_LATE; /* the caller draws again */
	return SCREEN_OVER;
}

static int key_take(struct screen *s)
{
	char key;
	ssize_t n = read(0, &key, 1);

	if (n == 1)
		return (unsigned char)key;
	if (n == 0 || errno != EINTR)
		s->keys = false; /* the terminal is gone; if it was the controlling terminal, SIGHUP arrives, too */
	return n == 0 ? SCREEN_OVER : SCREEN_LATE;
}

int screen_wait(struct screen *s, int other, uint64_t until_ns)
{
	for (;;) {
		struct pollfd p[3] = { { .fd = s->signals, .events = POLLIN }, { .fd = other, .events = POLLIN },
			{ .fd = s->keys ? 0 : -1, .events = POLLIN } };
		uint64_t now = loop_now_ns(), left = until_ns > now ? DIV_ROUND_UP(until_ns - now, 1000000) : 0;
		int r = poll(p, ARRAY_SIZE(p), (int)MIN(left, (uint64_t)INT_MAX));

		if (r < 0 && errno != EINTR)
			return SCREEN_OVER;
		if (r <= 0 && loop_now_ns() >= until_ns)
			return SCREEN_LATE;
		if (r <= 0)
			continue;
		if (p[0].revents)
			return signal_take(s);
		if (p[2].revents)
			return key_take(s);
		return SCREEN_OTHER;
	}
}
