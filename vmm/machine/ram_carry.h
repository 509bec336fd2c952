/* ram_carry: brings the memory of a live clone, which is a private view of its base file (vmm/kvm/memory.h), to the
 * successor of a handover (vmm/snapshot/vm_handover.h). The successor maps the base file, too, so the clone still
 * shares memory. The pages that the clone wrote exist only in its process. So they are copied into the clone's own
 * file, memory.fd, from which the successor reads them into its mapping. While the guest runs, this is done piece by
 * piece, and repeated for pages that were written meanwhile (ram_save.h). The last pages are copied in the pause.
 *
 *     while (ram_carry_next() == 1)
 *             let the successor read memory.fd
 *     pause the VM
 *     ram_carry_freeze()
 *     ram_carry_finish()
 *     let the successor read memory.fd
 *
 * No reset may come in between (vm_work_begin()). Only for a machine with memory_view().
 * Threading: next and finish on the worker; freeze and done on the main thread. */
#ifndef CAIRN_VMM_MACHINE_RAM_CARRY_H
#define CAIRN_VMM_MACHINE_RAM_CARRY_H

#include "vmm/machine/ram_save.h"

struct err;
struct vm;

struct ram_carry {
	struct vm *vm;
	struct machine *m; /* NULL: not begun */
	struct ram_save save;
	uint64_t piece_bytes, bytes; /* copied in this piece, and in all */
	bool handed; /* a piece was returned */
	bool log_was_on; /* before */
};

/* Copy the next piece. Begins with the first call.
 * c: zeroed at first.
 * Returns 1; 0, but not for the first call: few pages are left, so pause the VM; -ECANCELED; -errno. */
int ram_carry_next(struct ram_carry *c, struct vm *vm, struct err *e);
/* Find the remaining pages. The VM is paused, with drained devices. Call it before machine_carry_save(), which also
 * reads the dirty log. Returns 0 or -errno. */
int ram_carry_freeze(struct ram_carry *c, struct err *e);
/* Copy the remaining pages. Returns 0 or -errno. */
int ram_carry_finish(struct ram_carry *c, struct err *e);
/* Free the copies: the VM stays in this process. Does nothing if c is zeroed. */
void ram_carry_done(struct ram_carry *c);

#endif
