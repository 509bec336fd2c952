/* group_steps: takes the processes of several VMs through the steps of vmm/vm_snapshot_msg.h, so that all VMs are
 * paused at one instant. The jobs of groups use it (group_job.h). Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_GROUP_STEPS_H
#define CAIRN_API_JOBS_GROUP_STEPS_H

#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct json_object;
struct vm_host;

#define GROUP_VMS_MAX 64
#define GROUP_ID_TEXT 17 /* 16 hexadecimal digits, and the NUL */

struct group_steps {
	struct vm_host *host;
	struct group_step_vm {
		uint8_t uuid[16];
		bool is_on;    /* its process waits for the steps */
		int64_t stage; /* enum vm_fork_stage of the step that is awaited; -1: not reached */
	} vms[GROUP_VMS_MAX];
	size_t n;
	enum vm_snapshot_step step; /* the last one that was sent; 0: none */
};

/* Draw a group's id. Returns 0; -errno. */
int group_id_make(char id[GROUP_ID_TEXT], struct err *e);
/* Add a VM, which is number s->n - 1 then. */
void group_steps_add(struct group_steps *s, const uint8_t uuid[16], bool is_on);
/* Send the next step if the processes of all VMs that are on wait for it. */
void group_steps_next(struct group_steps *s);
/* Add `instant`, in realtime, to the result of a job. */
void group_put_instant(struct json_object *result, const struct vm_snapshot_done *d);

#endif
