/* vm_pins: deletes the pins of a VM's images that no clone reads any more. A fork makes them (fork_disks.h).
 *
 * The deletion is no work in the sense of vm_work_begin(): it runs on the worker's thread before any work that begins
 * later, so that no request of a user is refused because of it.
 *
 * Threading: main thread; done() runs on it, unless the function fails. */
#ifndef CAIRN_VMM_SNAPSHOT_VM_PINS_H
#define CAIRN_VMM_SNAPSHOT_VM_PINS_H

struct err;
struct vm;
struct vm_pins;
struct worker;

/* Delete the pins with these ids from all writable disks. A pin that does not exist counts as deleted. Call only while
 * no work is in progress (vm_works()), because work may have frozen a disk.
 * pins: at most VM_PINS_MAX. Returns 0; -ENOMEM. */
int vm_pins_delete(struct vm *vm, struct worker *w, const struct vm_pins *pins,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e);

#endif
