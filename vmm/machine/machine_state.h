/* machine_state: everything of a paused machine but its RAM and disks, as sections of the VM
 * state: "machine", "vcpu" × n, "irqchip" × 3, "pit", "clock", then each device's, and "frozen" when the guest's file systems are.
 *
 * Main thread; the machine is paused (machine_pause()). */
#ifndef CAIRN_VMM_MACHINE_MACHINE_STATE_H
#define CAIRN_VMM_MACHINE_MACHINE_STATE_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct machine;
struct state_writer;

/* Returns 0 or -errno with a sentence. */
int machine_save(struct machine *m, struct state_writer *w, struct err *e);

/* Does this state belong to a machine like m: memory, vCPUs, devices by type and name, every
 * section whole and of a version we know? Changes nothing.
 * Returns 0; -EINVAL (ERR_CORRUPT, or ERR_INVALID when it is another machine's). */
int machine_state_check(struct machine *m, const uint8_t *buf, size_t len, struct err *e);

/* Check, then set everything; the guest sees a new generation id. When it fails after the check, the machine has to be reset.
 * RAM has to be in place first: devices look at their rings. */
int machine_load(struct machine *m, const uint8_t *buf, size_t len, struct err *e);

#endif
