/* The interpreter: reads commands as lines on the serial port, or separated by ';' on the kernel's
 * command line. Each answer is any number of lines, then "ok" or "err WHY". */
#include "bare.h"

#define LINE_MAX 256

static const struct command *const tables[] = {
	io_commands, machine_commands, disk_commands, ring_commands, crash_commands, storm_commands,
	watchdog_commands, net_commands, gap_commands, vsock_commands, tcp_commands, balloon_commands, tablet_commands, screen_commands, keyboard_commands,
	line_commands, xstate_commands, nested_commands, midway_commands, step_commands, ping_commands};

static const struct command *command_find(const char *name)
{
	for (size_t t = 0; t < ARRAY_SIZE(tables); t++)
		for (const struct command *c = tables[t]; c->name; c++)
			if (str_equal(c->name, name))
				return c;
	return NULL;
}

static void help(void)
{
	for (size_t t = 0; t < ARRAY_SIZE(tables); t++)
		for (const struct command *c = tables[t]; c->name; c++)
			print("%s %s\n", c->name, c->help);
}

/* Split the line at its blanks. Returns the number of words, at most room. */
static int split(char *line, const char **words, int room)
{
	int n = 0;

	while (n < room) {
		while (*line == ' ')
			line++;
		if (!*line)
			break;
		words[n++] = line;
		while (*line && *line != ' ')
			line++;
		if (*line)
			*line++ = 0;
	}
	return n;
}

static const char *command_run(const struct command *c, struct args *a)
{
	if (a->n < c->min)
		return "too few arguments";
	for (int i = c->words; i < a->n; i++)
		if (!number_parse(a->s[i], &a->v[i]))
			return "not a number";
	return c->run(a);
}

static void line_run(char *line)
{
	const char *words[1 + ARGS_MAX];
	int n = split(line, words, 1 + ARGS_MAX);
	const struct command *c;
	struct args a = {.n = n - 1};
	const char *wrong = NULL;

	if (!n)
		return;
	for (int i = 1; i < n; i++)
		a.s[i - 1] = words[i];
	c = command_find(words[0]);
	if (str_equal(words[0], "help"))
		help();
	else
		wrong = c ? command_run(c, &a) : "no such command";
	if (wrong)
		print("err %s\n", wrong);
	else
		print("ok\n");
}

struct feed {
	char line[LINE_MAX];
	size_t n;
};

static struct feed feed; /* static, to survive an exception in a command */

static void feed_byte(char c, char end)
{
	char line[LINE_MAX];

	if (c != end && c != '\r' && c) {
		if (feed.n < LINE_MAX - 1)
			feed.line[feed.n++] = c;
		return;
	}
	memcpy(line, feed.line, feed.n);
	line[feed.n] = 0;
	feed.n = 0;
	line_run(line);
}

static void run_cmdline(void)
{
	uint64_t gpa = start_info_gpa ? *(uint64_t *)(start_info_gpa + 24) : 0;
	const char *s = (const char *)gpa;

	if (!gpa || !*s)
		return;
	do
		feed_byte(*s, ';');
	while (*s++);
}

void program(uint64_t again)
{
	static char input[64];
	static size_t used, have;

	if (!again) {
		serial_init();
		print("interp\n");
		run_cmdline();
	}
	/* used and have are static, so that the rest of the input is read after an exception. */
	for (;;) {
		while (used < have)
			feed_byte(input[used++], '\n');
		used = 0;
		have = serial_read(input, sizeof(input));
	}
}
