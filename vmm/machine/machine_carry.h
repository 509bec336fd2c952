/* machine_carry: data that a handover (vmm/snapshot/vm_handover.h) gives to the successor besides the guest's state:
 * the machine's figures, the blocks written since the last snapshot, and the consoles with their clients. A save and a
 * snapshot do not contain these data.
 *
 * The sections follow those of machine_save() in the same file: "figures"; "memory", if memory is tracked since a
 * snapshot; then "console" for each console of the guest, but not for the agent's. A process of an earlier build writes
 * none of them, or no "memory".
 *
 * Protecting memory with userfaultfd would lengthen the pause. So the successor does that while the guest runs
 * (ram_watch_early()), and the dirty log (vmm/kvm/dirty_log.h) is on from before the guest runs until the first
 * snapshot. That snapshot writes the blocks in the tracker, the dirty log or the section "memory". The dirty log also
 * has pages that the guest only reads, until they are protected.
 * Threading: main thread; save, load and the clients' functions while the machine is paused. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_CARRY_H
#define CAIRN_VMM_MACHINE_MACHINE_CARRY_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct machine;
struct state_writer;
struct vm_go;
struct vm_info;

/* Write the sections. From here on the consoles take no input from their clients, until machine_carry_release(). */
void machine_carry_save(struct machine *m, struct state_writer *w);
void machine_carry_release(struct machine *m);
/* Return the length of the machine's own sections in a file of len bytes, which may be malformed. The rest is for
 * machine_carry_load(). */
size_t machine_carry_find(const uint8_t *buf, size_t len);
/* Load the sections, after machine_load(). Returns 0; -EINVAL: malformed, of a newer version, or unknown. */
int machine_carry_load(struct machine *m, const uint8_t *buf, size_t len, struct err *e);

/* Add the figures of the processes that had the VM before. */
void machine_carry_figures(const struct machine *m, struct vm_info *i);

/* Fill in *go with the clients of the consoles, and fds (CHANNEL_FDS_MAX) with their sockets, which stay the
 * consoles'. */
void machine_carry_clients(struct machine *m, struct vm_go *go, int *fds);
/* Attach the clients that another process's machine_carry_clients() has returned. fds: taken. */
void machine_carry_attach(struct machine *m, const struct vm_go *go, const int *fds, unsigned nfds);

#endif
