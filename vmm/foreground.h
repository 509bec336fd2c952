/* foreground: a VM process that is somebody's child without a daemon (`cairn run`):
 * the console on stdin and stdout, the SIGTERM contract, sd_notify.
 *
 * First SIGTERM (or SIGINT, SIGHUP): the ACPI power button, then a deadline. Second: stop now.
 * On a terminal, which is raw meanwhile, Ctrl-] sends the SIGINT. */
#ifndef CAIRN_VMM_FOREGROUND_H
#define CAIRN_VMM_FOREGROUND_H

#include <stdint.h>

struct err;
struct foreground;
struct loop;
struct vm;

/* Before the sandbox is sealed. deadline_s: from the first signal. */
int foreground_new(struct loop *l, struct vm *vm, uint32_t deadline_s, struct foreground **ret_f,
	struct err *e);
/* The VM runs: READY=1. */
void foreground_started(struct foreground *f);
/* Gives the terminal back, writes what the console still holds. The loop is not running. */
void foreground_free(struct foreground *f);

#endif
