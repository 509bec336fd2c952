/* foreground: a VM process without a daemon, which `cairn run` becomes by exec(): console on stdin
 * and stdout, shutdown on SIGTERM, sd_notify.
 *
 * First SIGTERM (or SIGINT, SIGHUP): press the ACPI power button and start the deadline. Second:
 * stop at once. While the VM exists, a terminal is in raw mode; Ctrl-] sends SIGINT.
 *
 * Threading: main thread. */
#ifndef CAIRN_VMM_FOREGROUND_H
#define CAIRN_VMM_FOREGROUND_H

#include <stdint.h>

struct err;
struct foreground;
struct loop;
struct vm;

/* Set up console, signals and notification. Call before the sandbox is sealed.
 * deadline_s: seconds from the first signal; 0: 30.
 * notify_fd: of notify_open(); taken on success. Returns 0 or -errno. */
int foreground_new(struct loop *l, struct vm *vm, uint32_t deadline_s, int notify_fd, struct foreground **ret_f,
	struct err *e);
/* Tell the service manager that the VM runs: READY=1. */
void foreground_started(struct foreground *f);
/* Restore the terminal and write the console's remaining output. Call when the loop does not
 * run. */
void foreground_free(struct foreground *f);

#endif
