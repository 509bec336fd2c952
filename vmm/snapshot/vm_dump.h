/* vm_dump: a guest's memory and registers as they are at one instant, into a core file (vmm/snapshot/elf_core.h). A VM that runs
 * stands still for that instant and goes on while its memory is written, as for a snapshot; where
 * memory cannot be watched (huge pages, a clone, a host without userfaultfd's write protection) it stands still
 * until all is written, and so does one that is to stay so. A crashed VM that was kept can be dumped, too.
 *
 * Pages of zeros are holes of the file. Main thread; done() runs on it, unless the call fails at once. */
#ifndef CAIRN_VMM_SNAPSHOT_VM_DUMP_H
#define CAIRN_VMM_SNAPSHOT_VM_DUMP_H

#include "vmm/snapshot/vm_snapshot.h"
#include "vmm/vm_msg.h"

struct err;
struct vm;
struct worker;

/* fd: of an empty regular file; taken. Of the result, pause, total and ram_bytes_written are filled in. */
int vm_dump(struct vm *vm, struct worker *w, const struct vm_dump *how, int fd, vm_snapshot_done_fn *done,
	void *opaque, struct err *e);

#endif
