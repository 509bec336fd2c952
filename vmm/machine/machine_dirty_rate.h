/* machine_dirty_rate: measures how fast the guest changes its memory, by samples of its pages (vmm/kvm/page_samples.h),
 * in short steps of the main thread's loop. It stops no vCPU. The result lasts until the next measurement or the end of
 * the process; it is no part of a saved state.
 *
 * Threading: main thread. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_DIRTY_RATE_H
#define CAIRN_VMM_MACHINE_MACHINE_DIRTY_RATE_H

struct err;
struct machine;
struct vm_dirty_rate_ask;
struct vm_info;

/* Begin a measurement. ask: within the bounds. Returns 0; -EBUSY: one is under way; -ENOMEM. */
int machine_dirty_rate_begin(struct machine *m, const struct vm_dirty_rate_ask *ask, struct err *e);
/* Drop a measurement that is under way, since memory is about to be replaced: its status is VM_DIRTY_RATE_UNSTARTED. A
 * result stays. */
void machine_dirty_rate_drop(struct machine *m);
/* Fill in vm_info.dirty_rate. */
void machine_dirty_rate_info(const struct machine *m, struct vm_info *i);
void machine_dirty_rate_free(struct machine *m);

#endif
