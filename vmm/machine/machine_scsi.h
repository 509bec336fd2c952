/* machine_scsi: the SCSI controller, at which all disks with bus scsi are. The controller exists as long as it has a
 * disk: the first disk that is attached adds it as a PCI device, and the last one that is detached removes it. So a
 * configuration's disks determine whether the machine has a controller.
 *
 * Threading: main thread, unless a comment says otherwise. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_SCSI_H
#define CAIRN_VMM_MACHINE_MACHINE_SCSI_H

#include <stdbool.h>

struct err;
struct machine;
struct state_section;

/* Create the controller for the disks of m, if one has bus scsi. Returns 0 or -errno. */
int machine_scsi_new(struct machine *m, struct err *e);
/* Give disk i, which is open and the next one, to the controller, while its loop's thread does not run.
 * ret_made: whether the controller is new. Returns 0 or -errno. */
int machine_scsi_attach(struct machine *m, unsigned i, bool *ret_made, struct err *e);
/* Return whether disk i is at the controller, and whether no other disk is. */
bool machine_scsi_has(const struct machine *m, unsigned i);
bool machine_scsi_is_last(const struct machine *m, unsigned i);
/* Let no command of disk i begin, and wait for those in flight, at most 2 s. patient: wait without a limit. what: the
 * part that stays unchanged after -EBUSY, for the error. Returns 0; -EBUSY. */
int machine_scsi_hold(struct machine *m, unsigned i, bool patient, const char *what, struct err *e);
/* Take the controller from the machine's disks: its device is about to be freed. */
void machine_scsi_detached(struct machine *m);
/* Compare the section of the controller with its disks. Set ret_lacks[i] if the state lacks disk i. Any thread.
 * Returns 0; -EINVAL. */
int machine_scsi_check(const struct machine *m, const struct state_section *s, bool *ret_lacks, struct err *e);
/* A state was loaded, or the load has failed: disks may be other targets than before. */
void machine_scsi_loaded(struct machine *m);

#endif
