#include "api/vm/release_wait.h"
#include "api/schema/call.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>

#define REQUEST_TIMEOUT_NS (30 * 1000000000ULL)

int release_timeout_check(int64_t seconds, struct err *e)
{
	if (seconds < 1 || seconds > RELEASE_MAX_S)
		return err_set(e, -EINVAL, ERR_INVALID, "timeout: must be 1 to %d seconds", RELEASE_MAX_S);
	return 0;
}

void release_wait_end(struct release_wait *w, int r, const struct err *e)
{
	struct release_wait **at = &w->vm->release_waits;
	struct err own;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	if (r < 0 && call_check_role(w->call, w->kind->role, w->vm, &own) < 0)
		e = &own;
	if (r >= 0 && w->kind->stored)
		w->call->when_stored = true;
	call_done(w->call, r, e);
	loop_timer_free(w->timer);
	free(w);
}

static void wait_timeout(void *opaque)
{
	struct release_wait *w = opaque;
	struct err e;

	w->kind->late(w, &e);
	release_wait_end(w, -ETIMEDOUT, &e);
}

static void asked(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct release_wait *w = opaque;

	(void)a;
	w->asking = false;
	if (r < 0 || w->kind->is_over(w))
		release_wait_end(w, r, e);
	else
		loop_timer_arm(w->timer, loop_now_ns() + w->seconds * 1000000000ULL);
}

void release_wait_begin(struct call *c, const struct release_wait *what, enum vm_msg_type type, const void *body, size_t len)
{
	struct release_wait *w = must_alloc(malloc(sizeof(*w)));
	struct err e;
	int r;

	*w = *what;
	w->vm = c->vm;
	w->call = c;
	w->asking = true;
	r = loop_timer_new(c->host->loop, wait_timeout, w, &w->timer);
	if (r < 0) {
		free(w);
		err_set_errno(&e, r, "timer");
		call_fail(c, &e);
		return;
	}
	w->next = c->vm->release_waits;
	c->vm->release_waits = w;
	vm_process_request(c->vm->proc, type, body, len, -1, REQUEST_TIMEOUT_NS, asked, w);
}

void release_waits_gone(struct vm *vm)
{
	struct err e;

	err_set(&e, -ESRCH, ERR_WRONG_STATE, "the VM has ended meanwhile");
	while (vm->release_waits)
		release_wait_end(vm->release_waits, -ESRCH, &e);
}
