/* flatten: pulls the disks of live clones whose chain of backing files has become long, in the background. Reads become
 * slower with each layer, and a chain ends at VM_DISK_LAYERS_MAX.
 *
 * A disk is due if it is writable and an overlay on a pin (pins.h), has more than FLATTEN_LAYERS layers, and its own
 * image has no pin. That follows from the definition and the list of pins, so nothing is stored, and the next daemon
 * continues. The daemon pulls one disk at a time (pull.h), of VMs that run or are paused. If a pull fails or a user
 * cancels it, this daemon begins no further pull for that VM before the VM's next start.
 *
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_FLATTEN_H
#define CAIRN_API_JOBS_FLATTEN_H

struct vm_observer;

#define FLATTEN_LAYERS 12

extern const struct vm_observer flatten_observer;

#endif
