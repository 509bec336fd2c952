/* pin_release: has the VM processes delete the pins (api/vm/pins.h) that no overlay reads any more. A pin of a VM that
 * is off is deleted soon after the VM's next start.
 *
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_PIN_RELEASE_H
#define CAIRN_API_JOBS_PIN_RELEASE_H

struct vm_host;
struct vm_observer;

/* Store the list of pins, and delete those that are due in the images of running VMs. Call it after
 * pins_forget(). */
void pin_release_due(struct vm_host *host);

extern const struct vm_observer pin_release_observer;

#endif
