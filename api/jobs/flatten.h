/* flatten: pulls the disks of live clones whose chain of backing files has become long, in the background. Reads become
 * slower with each layer, and a chain ends at VM_DISK_LAYERS_MAX.
 *
 * A disk is due if it is an overlay on a pin (pins.h), has more than FLATTEN_LAYERS layers, and no live clone reads its
 * image in turn. That follows from the definition and the list of pins, so nothing is stored, and the next daemon goes
 * on. The daemon pulls one disk at a time (pull.h), of VMs that run. A disk whose pull has failed, or that a user has
 * cancelled, is due again after the VM's next start.
 *
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_FLATTEN_H
#define CAIRN_API_JOBS_FLATTEN_H

struct vm_observer;

#define FLATTEN_LAYERS 12

extern const struct vm_observer flatten_observer;

#endif
