/* pressure: frees memory of VMs with reclaim_on_pressure when threads wait for memory, as vm-reclaim does, and emits
 * MEMORY_RECLAIMED. The kernel reports pressure in a VM's control group, which concerns this VM, and of the host, which
 * concerns all VMs (base/memory_pressure.h). The daemon polls for these reports, so VM processes neither wake up nor
 * open a file.
 *
 * It reclaims a VM's memory at most once a minute, because the guest soon loads the memory that it still uses from the
 * image again.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_PRESSURE_H
#define CAIRN_API_POLICY_PRESSURE_H

struct vm_host;
struct vm_observer;

extern const struct vm_observer pressure_observer;

/* Free the observer's data of all VMs. Call it after vm_free_all(). */
void pressure_free(struct vm_host *host);

#endif
