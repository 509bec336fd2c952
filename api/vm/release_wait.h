/* release_wait: calls that wait until a guest has released a device (vm_plug.h) or vCPUs (vm_vcpus.h) by ACPI hot-plug.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_RELEASE_WAIT_H
#define CAIRN_API_VM_RELEASE_WAIT_H

#include "api/schema/schema.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct call;
struct err;
struct loop_timer;
struct release_wait;
struct vm;

/* Limits of the argument "timeout", in seconds. */
#define RELEASE_DEFAULT_S 5
#define RELEASE_MAX_S 600

struct release_kind {
	enum role role; /* clients that may still view the VM get the failure; others get the refusal */
	bool stored;    /* answer a success when the VM's changes are stored */
	/* Whether there is nothing to wait for once the process has answered. */
	bool (*is_over)(const struct release_wait *w);
	/* Set the error of a guest that has not released it in time. */
	void (*late)(const struct release_wait *w, struct err *e);
};

struct release_wait {
	const struct release_kind *kind;
	struct release_wait *next;
	struct vm *vm;
	struct call *call;
	struct loop_timer *timer;
	unsigned seconds;
	bool asking; /* the process has not answered the request yet */
	char id[16]; /* of a device */
	unsigned vcpus; /* wait until the guest has no more; 0: wait only for the process's answer */
};

/* Check the argument "timeout". Returns 0; -EINVAL. */
int release_timeout_check(int64_t seconds, struct err *e);
/* Send the process a request, and let the call wait for its end. what: kind, seconds and what is released; copied. */
void release_wait_begin(struct call *c, const struct release_wait *what, enum vm_msg_type type, const void *body, size_t len);
/* Answer a call that waits, and free w. r < 0: with e. */
void release_wait_end(struct release_wait *w, int r, const struct err *e);
/* The process has ended: answer all calls that wait. */
void release_waits_gone(struct vm *vm);

#endif
