/* console: connects a guest's terminal device with the host. Keeps the last 64 KiB of output, sends it to up to 64
 * readers, and queues their input for the device.
 *
 * A reader that lags by more than 64 KiB loses the oldest bytes and gets a note; the guest never waits, unless the
 * console is lossless: then its device leaves output to the guest until the readers have room. Input is bounded:
 * while CONSOLE_INPUT_BYTES wait for the device, the console does not read from its readers.
 *
 * Threading: console_write(), console_read() and console_written() from any thread. All others on the loop's thread,
 * or while the loop does not run. */
#ifndef CAIRN_DEVICES_CONSOLE_H
#define CAIRN_DEVICES_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct console;
struct err;
struct loop;

struct state_reader;
struct state_writer;

#define CONSOLE_READERS_MAX 64
#define CONSOLE_USER_MAX 16 /* of one user other than root and the process's own */
#define CONSOLE_NOTE_BYTES 72
#define CONSOLE_HISTORY_BYTES (64 * 1024)
#define CONSOLE_INPUT_BYTES 4096

/* Create a console. name: for the log; copied. Returns 0 or -errno. */
int console_new(struct loop *l, const char *name, struct console **ret_c, struct err *e);
/* Lose no output, because a program reads it, and not a person. Call before the device writes. */
void console_set_lossless(struct console *c);
/* Send the sockets as much of the output as they take at once, detach all readers, close the sockets and free the
 * console. Call when the loop no longer runs or has no posted task of this console. NULL allowed. */
void console_free(struct console *c);

/* The user of a client's socket; the console only keeps this. */
struct console_user {
	uint32_t user;	/* 1 + uid; 0: unknown */
	uint32_t group; /* 1 + gid; 0: none */
	uint32_t agent; /* 1: of a connection to cairn-agent in the guest, which needs another role */
};

/* Attach a connected stream socket and make it non-blocking.
 * fd: taken on success only; closed when the peer hangs up. A peer that ends only its input first gets the output so
 * far.
 * history: first send the retained output. who: copied.
 * Returns 0; -EMFILE at the limit of 64 readers, or of the user's; -errno. */
int console_attach(struct console *c, int fd, bool history, struct console_user who, struct err *e);
/* Detach the sockets for which stays() is false, and close them. NULL allowed. */
void console_end(struct console *c, bool (*stays)(const void *opaque, struct console_user who), const void *opaque);
/* Attach the foreground's terminal: input from in_fd (-1: none), output to out_fd (-1: none). Both
 * may be any kind of file, blocking or not; borrowed. End of file on in_fd ends only the input.
 * Returns 0 or -errno. */
int console_attach_stdio(struct console *c, int in_fd, int out_fd, struct err *e);
/* Write the output that the readers have not received yet, for at most timeout_ns. Called when the process is about to
 * end. Runs the loop, so the loop's thread must not be running it. */
void console_drain(struct console *c, unsigned long long timeout_ns);
unsigned console_readers(struct console *c);
/* Return the number of bytes of output so far. Any thread. */
unsigned long long console_written(struct console *c);

/* ---- a console that another process continues ----
 *
 * console_hold(): read nothing more from the readers, until console_release(). NULL allowed.
 * console_save(), console_load(): the output that is kept, and the input that the device has not taken. The loading
 * console is new, and its device is loaded; console_load() fails the reader if the content is malformed.
 * console_clients(): fill in the attached sockets, at most CONSOLE_READERS_MAX; borrowed. Returns their number.
 * console_attach_client(): attach a socket that was attached to the saved console, which continues where that console
 * stopped. fd: taken on success only. Returns as console_attach(), and -EINVAL. */
struct console_client {
	int fd;
	uint64_t sent; /* position in the output */
	struct console_user who;
	char note[CONSOLE_NOTE_BYTES]; /* to send first; NUL-terminated */
};
void console_hold(struct console *c);
void console_release(struct console *c);
void console_save(struct console *c, struct state_writer *w);
void console_load(struct console *c, struct state_reader *r);
unsigned console_clients(struct console *c, struct console_client *ret);
int console_attach_client(struct console *c, const struct console_client *client, struct err *e);

/* ---- functions for the device ---- */
/* Whether a lossless console takes len bytes of output now; other consoles always do. If not, the function for input is
 * called when there is more room. A len above CONSOLE_HISTORY_BYTES needs that much room. Loop's thread. */
bool console_has_room(struct console *c, size_t len);
/* Append output. Never waits for a reader, and wakes the loop only when necessary. */
void console_write(struct console *c, const void *buf, size_t len);
/* Take up to max bytes of input. Returns their number. */
size_t console_read(struct console *c, void *buf, size_t max);
/* Set the function that runs on the loop when there is input, or room again (console_has_room()); NULL: none.
 * opaque: borrowed until replaced. */
void console_set_device(struct console *c, void (*input_ready)(void *opaque), void *opaque);

#endif
