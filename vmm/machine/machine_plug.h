/* machine_plug: adds disks and interfaces to a machine that runs or is paused, and removes them.
 *
 * The sandbox forbids new loops. So an attached disk uses the loop of a detached disk, or shares the loop of another
 * disk, and the main thread serves an attached interface.
 *
 * Threading: main thread, while no work is in progress (vm_works()), and no reader of the list of disks (struct
 * machine). */
#ifndef CAIRN_VMM_MACHINE_MACHINE_PLUG_H
#define CAIRN_VMM_MACHINE_MACHINE_PLUG_H

#include <stdbool.h>

struct device;
struct err;
struct machine;
struct vm_config;

/* Add a device at index `at` of the list if its constructor succeeded, with its PCI slot.
 * r: the constructor's result; made: the device, set when r is 0. Returns r. */
int machine_device_insert(struct machine *m, unsigned at, int r, struct device *made);
/* Add the disks and interfaces of c, behind those of the machine, and notify the guest. c was checked.
 * fds: those of c; the fds that are taken are replaced by -1. running: the guest runs.
 * Returns 0; -errno, and then the machine is as before. */
int machine_plug(struct machine *m, const struct vm_config *c, int *fds, bool running, struct err *e);
/* Give a CD drive with bus scsi the medium in c, which has this disk alone and was checked, and close its tray.
 * fds: as of machine_plug(). Returns 0; -EBUSY: the guest keeps the tray locked, and c does not force it; -ENOENT;
 * -ENOTSUP; -errno. After an error the drive has its medium. */
int machine_set_medium(struct machine *m, const struct vm_config *c, int *fds, struct err *e);
/* Ask the guest to release a disk or an interface. Returns 0; -ENOENT; -ENOTSUP. */
int machine_ask_release(struct machine *m, const char *id, struct err *e);
/* Return whether a disk goes without the guest's help, since only a target of the SCSI controller goes with it. */
bool machine_goes_at_once(const struct machine *m, const char *id);
/* Hold the requests of such a disk, for machine_unplug(). Returns 0; -EBUSY: its image does not answer. */
int machine_hold_target(struct machine *m, const char *id, struct err *e);
bool machine_has(const struct machine *m, const char *id);
/* Whether guest memory is still to be read from the disk's image, as after a revert, so that the disk must stay. Then
 * let all of it be read now. */
bool machine_loads_from(struct machine *m, const char *id);
/* Returns 0; -EBUSY with a sentence: memory is still to be read from the image, as machine_loads_from() says. */
int machine_check_loaded(struct machine *m, const char *id, struct err *e);
/* Return the id of the disk or the interface in a PCI slot; of several disks, the first one; NULL: there is none.
 * Valid until the next change. */
const char *machine_in_slot(const struct machine *m, unsigned slot);
/* Remove a disk or an interface, even if the guest uses it. Returns 0; -ENOENT; -errno: it is removed, but its last
 * data could not be written. */
int machine_unplug(struct machine *m, const char *id, bool running, struct err *e);

#endif
