/* vm_pins: deletes the pins of a VM's images that no clone reads any more. A fork makes them (fork_disks.h).
 *
 * The deletion is no work in the sense of vm_work_begin(): it runs on the worker's thread before any work that begins
 * later, so that no request of a user is refused because of it.
 *
 * Idle pins are read by no overlay, either. The daemon keeps them for a while, because a further fork may share them.
 * They are deleted earlier if they are in the way.
 *
 * Threading: main thread; done() runs on it, unless the function fails. */
#ifndef CAIRN_VMM_SNAPSHOT_VM_PINS_H
#define CAIRN_VMM_SNAPSHOT_VM_PINS_H

#include "vmm/vm_msg.h"

#include <stdint.h>

struct err;
struct machine;
struct vm;
struct worker;

/* Delete the pins with these ids from all writable disks. A pin that does not exist counts as deleted. Call only while
 * no work is in progress (vm_works()), because work may have frozen a disk.
 * pins: at most VM_PINS_MAX. Returns 0; -ENOMEM. */
int vm_pins_delete(struct vm *vm, struct worker *w, const struct vm_pins *pins,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e);
/* Replace the list of idle pins. pins: copied; NULL: none. Returns 0; -ENOMEM, and there are none. */
int vm_pins_set_idle(struct vm *vm, const struct vm_pins *pins, struct err *e);
/* A fork may share this pin, so it is idle no more. */
void vm_pins_unset_idle(struct machine *m, const uint8_t id[VM_PIN_ID_BYTES]);
/* Begin to delete the idle pins on the worker, which the caller may wait for. Call only while no work is in progress. A
 * failure is logged. */
void vm_pins_begin_delete_idle(struct vm *vm, struct worker *w);
/* Delete the idle pins, because the work that begins allows none, or the VM has ended. A failure is logged. Worker, or
 * the main thread if there is no worker. */
void vm_pins_delete_idle(struct machine *m);

#endif
