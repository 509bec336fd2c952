/* The steps of a snapshot or a fork of a group (vmm/vm_snapshot_msg.h), for fake_vm. */
#ifndef CAIRN_TESTS_HELPERS_FAKE_GROUP_H
#define CAIRN_TESTS_HELPERS_FAKE_GROUP_H

#include "base/channel.h"
#include "vmm/vm_msg.h"

#include <stdlib.h>

static inline bool group_begins(const struct channel_msg *m)
{
	if (m->head.type == VM_MSG_FORK)
		return ((const struct vm_fork *)m->body)->flatten & VM_FORK_GROUP;
	return m->head.type == VM_MSG_SNAPSHOT_CREATE && ((const struct vm_snapshot_create *)m->body)->group;
}

/* Return the stage to tell after a step; 0: none; -1: the snapshot goes on alone.
 * stays: number of the step that is ignored; NULL: none. */
static inline int group_step(const struct channel_msg *m, const char *stays)
{
	uint32_t step = ((const struct vm_snapshot_go *)m->body)->step;

	if (stays && strtoul(stays, NULL, 10) == step)
		return 0;
	return step == VM_STEP_SETTLE ? VM_GROUP_HELD : step == VM_STEP_FREEZE ? VM_GROUP_FROZEN : -1;
}

#endif
