/* console: where a guest's terminal device meets the host. Keeps the last 64 KiB of
 * output, gives it to any number of readers, and queues their input for the device.
 *
 * A reader that lags more than 64 KiB loses the oldest bytes and gets a note; the guest
 * never waits. Input is bounded: when the device does not take it, readers are not read.
 *
 * Threading: console_write() and console_read() from any thread. The rest on the loop's
 * thread (or before it runs). */
#ifndef CAIRN_DEVICES_CONSOLE_H
#define CAIRN_DEVICES_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>

struct console;
struct err;
struct loop;

#define CONSOLE_HISTORY_BYTES (64 * 1024)
#define CONSOLE_INPUT_BYTES 4096

/* name: for the log, copied. Returns 0 or -errno. */
int console_new(struct loop *l, const char *name, struct console **ret_c, struct err *e);
/* Detaches everybody (their fds are closed). The loop is not run any more afterwards, or has
 * nothing of this console's posted. NULL allowed. */
void console_free(struct console *c);

/* Attach a connected stream socket; it is made non-blocking.
 * fd: taken on success only; closed when the peer hangs up.
 * history: first send what is kept.
 * Returns 0; -EMFILE at the limit of 64 readers; -errno. */
int console_attach(struct console *c, int fd, bool history, struct err *e);
/* The foreground's terminal: input from in_fd (-1: none), output to out_fd (-1: none), which
 * may be anything, blocking or not. fds: borrowed. The end of input ends only input. */
int console_attach_stdio(struct console *c, int in_fd, int out_fd, struct err *e);
/* Write what stdio has not got yet, waiting at most timeout_ns; before the process ends.
 * Runs the loop (its thread must not be running it). */
void console_drain(struct console *c, unsigned long long timeout_ns);
unsigned console_readers(struct console *c);
/* Bytes of output so far. Any thread. */
unsigned long long console_written(struct console *c);

/* ---- the device's side ---- */
/* Output. Never waits for a reader; wakes the loop only when it has to. */
void console_write(struct console *c, const void *buf, size_t len);
/* Take up to max bytes of input; returns how many. */
size_t console_read(struct console *c, void *buf, size_t max);
/* input_ready runs on the loop when there is input; borrowed until replaced (NULL: nobody). */
void console_set_device(struct console *c, void (*input_ready)(void *opaque), void *opaque);

#endif
