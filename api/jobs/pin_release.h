/* pin_release: asks the VM processes to delete the pins (api/vm/pins.h) that no overlay reads any more. A pin in an
 * image of a VM that is off is deleted after the VM's next start, or before the next fork of one of its snapshots.
 *
 * A pin that a further fork may share waits for that fork (pins.h). The VM's process knows it as an idle pin
 * (vmm/snapshot/vm_pins.h), and deletes it if it is in the way.
 *
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_PIN_RELEASE_H
#define CAIRN_API_JOBS_PIN_RELEASE_H

#include <stdint.h>

struct vm;
struct vm_host;
struct vm_observer;

/* Store the list of pins, and ask the processes of running VMs to delete the pins that are due. Call it after
 * pins_remove(). */
void pin_release_due(struct vm_host *host);

/* If the VM is off, let its offline process delete the pins that are due. Call it before a request for a fork, which
 * may make a pin: otherwise a client that forks a snapshot and removes the clone, again and again, fills the image. */
void pin_release_before_fork(struct vm *vm);
/* Delete the VM's pins that wait for a further fork. */
void pin_release_idle(struct vm *vm);
/* How long a pin waits for a further fork: 60 s, or CAIRN_PIN_WAIT in seconds, for tests. */
uint64_t pin_release_wait_ns(void);

extern const struct vm_observer pin_release_observer;

#endif
