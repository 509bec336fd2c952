/* pin_release: asks the VM processes to delete the pins (api/vm/pins.h) that no overlay reads any more. A pin in an
 * image of a VM that is off is deleted after the VM's next start.
 *
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_PIN_RELEASE_H
#define CAIRN_API_JOBS_PIN_RELEASE_H

struct vm_host;
struct vm_observer;

/* Store the list of pins, and ask the processes of running VMs to delete the pins that are due. Call it after
 * pins_forget(). */
void pin_release_due(struct vm_host *host);

extern const struct vm_observer pin_release_observer;

#endif
