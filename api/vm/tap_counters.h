/* tap_counters: the kernel's counters of a tap, for interfaces whose frames the VM's process does not see (vhost-net).
 * Threading: the daemon's loop; asks the kernel only. */
#ifndef CAIRN_API_VM_TAP_COUNTERS_H
#define CAIRN_API_VM_TAP_COUNTERS_H

struct vm_info;
struct vm_interface_info;

/* Replace the counters of the interfaces for which the process requests it, if their taps exist. info: from a VM's
 * process, whose names are not trusted. */
void tap_counters_take(struct vm_info *info);
/* The same for one interface of which the process says so. */
void tap_counters_take_one(struct vm_interface_info *i);

#endif
