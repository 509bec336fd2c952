/* machine_restore: builds a machine's state from a saved state (snapshot/vmstate.h), from the sealed
 * file of a fork, or from the state that another process hands over, instead of booting a kernel. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_RESTORE_H
#define CAIRN_VMM_MACHINE_MACHINE_RESTORE_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct machine;

/* Map the memory of a clone from the file of the fork, m->fork_fd, which may still be written. Call before
 * memory_attach(): later, KVM would search all of the slot's shadow pages for each page that the mapping replaces.
 * Returns 0 or -errno. */
int machine_map_fork(struct machine *m, struct err *e);
/* Wait until that file and the disks' images are written, and check the file. Call it before anything reads them.
 * ready_fd: readable then; borrowed. -1: do not wait. Returns 0 or -errno. */
int machine_await_fork(struct machine *m, int ready_fd, struct err *e);
/* Restore a machine from a saved state; replaces machine_boot(). Call before the threads are
 * created. Checks everything except memory before it changes anything. A RAM reader loads memory on
 * demand; without userfaultfd, or when the configuration says so, all memory is loaded before the
 * return.
 * fd: taken; the file of a fork or of a handover if the configuration says so. Returns 0 or -errno. */
int machine_restore(struct machine *m, int fd, struct err *e);
/* Return whether the VM has this UUID, or had it before a promotion. */
bool machine_has_uuid(const struct machine *m, const uint8_t uuid[16]);

#endif
