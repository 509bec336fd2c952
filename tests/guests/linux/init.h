/* init: pid 1 of the small test Linux. One process without forks; commands arrive on one port.
 * Protocol and commands: README.md in this folder. */
#ifndef CAIRN_GUEST_INIT_H
#define CAIRN_GUEST_INIT_H

#include <stdint.h>
#include <stddef.h>

#define GUEST_IO_BYTES (256 * 1024)

/* A command's handler. argv[0] is the command's name; argv is valid until the handler returns.
 * Returns 0, -errno, or -1 after fail() has set the error's text. */
typedef int command_fn(int argc, char **argv);

struct command {
	const char *name;
	int min_args, max_args; /* not counting the name */
	command_fn *run;
	const char *usage;
};

/* One table per topic; each ends with a NULL name. */
extern const struct command file_commands[];
extern const struct command disk_commands[];
extern const struct command ram_commands[];
extern const struct command vectors_commands[];
extern const struct command info_commands[];
extern const struct command power_commands[];
extern const struct command agent_commands[];
extern const struct command net_commands[];

/* Append to the running command's answer, which is sent at once with its last line. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void say_bytes(const void *data, size_t len);
/* Append a small file (of /proc or /sys) unchanged. Returns 0 or -errno. */
int say_file(const char *path);
/* Set the error's text and return -1, for `return fail(...)`. */
int fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Write a line to the kernel's console, whichever port has the commands. */
void console_line(const char *text);

/* Read a one-line file without its newline; an empty string if it cannot be read. */
const char *line_of(char *buf, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Parse a number: decimal or 0x..., with K, M or G. Returns 0, or -1 with the error's text set. */
int number(const char *text, uint64_t *ret);

uint64_t now_ns(void);

/* Fill buf with the test pattern: byte `pos` of the stream that `seed` defines. */
void pattern_fill(void *buf, size_t len, uint64_t pos, uint64_t seed);
/* Return the index of the first byte that differs from the pattern, or `len`. */
size_t pattern_check(const void *buf, size_t len, uint64_t pos, uint64_t seed);

/* A page-aligned buffer of GUEST_IO_BYTES that any handler may use until it returns. */
extern uint8_t guest_io[GUEST_IO_BYTES];

/* The power button. The mode sets the effect of a press; presses are counted in every mode. */
int button_open(void); /* an fd to poll, or -1 */
void button_read(int fd);

#endif
