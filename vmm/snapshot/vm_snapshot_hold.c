/* The snapshot or the fork of a group waits for the daemon (vmm/vm_snapshot_msg.h). */
#include "base/cleanup.h"
#include "base/loop.h"
#include "base/util.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <time.h>

#define LOOK_NS (10 * 1000000ULL)    /* interval of looks for a cancellation */
#define FROZEN_NS (2000 * 1000000ULL) /* a guest waits this long at most for the other VMs to freeze */
#define EARLY_NS 1000000ULL	      /* a timer may be late by this much, so sleep for the rest */
#define AHEAD_MAX_NS 1000000000ULL
#define STAND_MAX_US 100000u

void vmsnap_sleep_until(uint64_t ns)
{
	struct timespec at = { .tv_sec = (time_t)(ns / 1000000000ULL), .tv_nsec = (long)(ns % 1000000000ULL) };

	if (ns > loop_now_ns())
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

static void hold_end(struct vmsnap_hold *h, enum vm_snapshot_step step, int r, const struct err *e)
{
	vm_machine(h->vm)->held = NULL;
	h->vm = NULL;
	loop_timer_free(STEAL_PTR(h->timer));
	h->over(h, step, r, e);
}

static void hold_fire(void *opaque)
{
	struct vmsnap_hold *h = opaque;
	uint64_t now = loop_now_ns();
	struct err e;

	if (vm_work_cancelled(h->vm)) {
		hold_end(h, 0, err_set(&e, -ECANCELED, ERR_CANCELLED, "the job was cancelled"), &e);
	} else if (h->until_ns && now >= h->until_ns) {
		hold_end(h, 0, err_set(&e, -ETIMEDOUT, ERR_TIMEOUT, "the other VMs of the group did not stop in time"), &e);
	} else if (h->at_ns && now + EARLY_NS >= h->at_ns) {
		vmsnap_sleep_until(h->at_ns);
		hold_end(h, VM_STEP_FREEZE, 0, NULL);
	} else {
		loop_timer_arm(h->timer, h->at_ns ? MIN(h->at_ns - EARLY_NS, now + LOOK_NS) : now + LOOK_NS);
	}
}

int vmsnap_hold_begin(struct vmsnap_hold *h, struct vm *vm, enum vm_fork_stage stage, struct err *e)
{
	struct machine *m = vm_machine(vm);
	int r = loop_timer_new(m->host.loop, hold_fire, h, &h->timer);

	if (r < 0)
		return err_set_errno(e, r, "group");
	h->vm = vm;
	h->stage = stage;
	h->at_ns = 0;
	h->until_ns = stage == VM_GROUP_FROZEN ? loop_now_ns() + FROZEN_NS : 0;
	m->held = h;
	loop_timer_arm(h->timer, loop_now_ns() + LOOK_NS);
	vm_fork_event_send(vm, stage);
	return 0;
}

int vm_snapshot_go(struct vm *vm, const struct vm_snapshot_go *go, struct err *e)
{
	struct vmsnap_hold *h = vm_machine(vm)->held;
	bool frozen = h && h->stage == VM_GROUP_FROZEN;

	if (!h || h->at_ns || (go->step == VM_STEP_RESUME) != frozen || go->step < VM_STEP_SETTLE || go->step > VM_STEP_RESUME)
		return err_set(e, -EPERM, ERR_WRONG_STATE, "no snapshot or fork of a group waits for this step");
	if (go->step != VM_STEP_FREEZE) {
		hold_end(h, go->step, 0, NULL);
		return 0;
	}
	h->at_ns = MAX(1, MIN(go->at_ns, loop_now_ns() + AHEAD_MAX_NS));
	h->stand_until_ns = h->at_ns + MIN(go->stand_us, STAND_MAX_US) * 1000ULL;
	hold_fire(h);
	return 0;
}

void vm_snapshot_give_up(struct vm *vm)
{
	struct vmsnap_hold *h = vm ? vm_machine(vm)->held : NULL;
	struct err e;

	if (h)
		hold_end(h, 0, err_set(&e, -ECANCELED, ERR_CANCELLED, "the VM ended meanwhile"), &e);
}
