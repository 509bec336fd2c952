/* vm_dump: writes a guest's memory and registers at one instant into a core file (vmm/snapshot/elf_core.h). A running
 * VM is paused for that instant and runs while its memory is written, as for a snapshot: by userfaultfd's write
 * protection, or in rounds by KVM's dirty log (vmm/machine/ram_save.h). In three cases, the VM stays paused until
 * everything is written: its memory cannot be tracked (a clone's before Linux 5.19), the guest writes faster than the
 * rounds copy, or vm_dump.stay is set. A crashed VM that was preserved can be dumped, too.
 *
 * Zero pages become holes of the file, except in blocks that are written again after a round.
 *
 * Threading: main thread; done() runs on it, unless vm_dump() fails. */
#ifndef CAIRN_VMM_SNAPSHOT_VM_DUMP_H
#define CAIRN_VMM_SNAPSHOT_VM_DUMP_H

#include "vmm/snapshot/vm_snapshot.h"
#include "vmm/vm_msg.h"

struct err;
struct vm;
struct worker;

/* Start a dump.
 * fd: of an empty regular file; taken.
 * done: receives the result, with pause, total and ram_bytes_written filled in.
 * Returns 0 or -errno. */
int vm_dump(struct vm *vm, struct worker *w, const struct vm_dump *how, int fd, vm_snapshot_done_fn *done,
	void *opaque, struct err *e);

#endif
