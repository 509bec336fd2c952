/* machine_balloon: the VM's balloon: its device, changes of its target, and its figures. Threading: main thread. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_BALLOON_H
#define CAIRN_VMM_MACHINE_MACHINE_BALLOON_H

#include <stdint.h>

struct device;
struct err;
struct machine;
struct vm_balloon_set;
struct vm_info;

/* Create the device if the configuration has one. *ret: NULL: it has none. Returns 0 or -errno. */
int machine_balloon_new(struct machine *m, struct device **ret, struct err *e);
void machine_balloon_free(struct machine *m);
/* Change the target or the period of the statistics. A smaller target waits for new statistics of the guest, at most a
 * second, and is refused if they say that the guest uses more.
 * done: called with seq, r and the error, unless the function returns an error; possibly at once.
 * Returns 0; -ENOTSUP: no balloon; -EPERM: no driver; -EINVAL; -EBUSY: another change waits. */
int machine_balloon_set(struct machine *m, const struct vm_balloon_set *want, uint64_t seq,
	void (*done)(void *opaque, uint64_t seq, int r, const struct err *e), void *opaque, struct err *e);
/* The guest pauses, and its state may be saved: decide on the target that waits by the statistics that there are. */
void machine_balloon_decide(struct machine *m);
/* Fill in the figures. */
void machine_balloon_info(struct machine *m, struct vm_info *i);

#endif
