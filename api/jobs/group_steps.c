#include "api/jobs/group_steps.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/hex.h"
#include "base/log.h"
#include "base/loop.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define STEP_TIMEOUT_NS (10 * 1000000000ULL)
/* Time from the last message to the instant: enough for all processes to read it. */
#define LEAD_NS 2000000ULL
#define LEAD_VM_NS 200000ULL /* and this for each VM */
#define STAND_VM_US 100u     /* time that the processes need for each VM to stop the vCPUs */

int group_id_make(char id[GROUP_ID_TEXT], struct err *e)
{
	uint8_t own[(GROUP_ID_TEXT - 1) / 2];

	if (getrandom(own, sizeof(own), 0) != (ssize_t)sizeof(own))
		return err_set_errno(e, -errno, "cannot name a group");
	hex_print(own, sizeof(own), id);
	return 0;
}

void group_steps_add(struct group_steps *s, const uint8_t uuid[16], bool is_on)
{
	struct group_step_vm *vm = &s->vms[s->n++];

	memcpy(vm->uuid, uuid, sizeof(vm->uuid));
	vm->is_on = is_on;
	vm->stage = -1;
}

static void step_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)opaque;
	(void)a;
	if (r < 0 && r != -ESRCH)
		log_info("group", "a VM's process does not continue: %s", e->msg);
}

static void step_send(struct group_steps *s, enum vm_snapshot_step step)
{
	struct vm_snapshot_go go = { .step = step };

	s->step = step;
	if (step == VM_STEP_FREEZE) {
		go.at_ns = loop_now_ns() + LEAD_NS + s->n * LEAD_VM_NS;
		go.stand_us = (uint32_t)s->n * STAND_VM_US;
	}
	for (size_t i = 0; i < s->n; i++)
		s->vms[i].stage = -1;
	for (size_t i = 0; i < s->n; i++) {
		struct vm *vm = s->vms[i].is_on ? vm_find_uuid(s->host, s->vms[i].uuid) : NULL;

		if (vm && vm->proc)
			vm_process_request(vm->proc, VM_MSG_SNAPSHOT_GO, &go, sizeof(go), -1, STEP_TIMEOUT_NS, step_answered, NULL);
	}
}

void group_steps_next(struct group_steps *s)
{
	enum vm_fork_stage awaited = s->step == VM_STEP_FREEZE ? VM_GROUP_FROZEN : VM_GROUP_HELD;
	bool any = false;

	for (size_t i = 0; i < s->n; i++) {
		if (s->vms[i].is_on && s->vms[i].stage != awaited)
			return;
		any |= s->vms[i].is_on;
	}
	if (any && s->step != VM_STEP_RESUME)
		step_send(s, s->step + 1);
}

void group_put_instant(struct json_object *result, const struct vm_snapshot_done *d)
{
	if (d->instant_ns && d->instant_ns <= loop_now_ns())
		js_put_uint(result, "instant", clock_realtime_ns() - (loop_now_ns() - d->instant_ns));
}
