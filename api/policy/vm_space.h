/* vm_space: the space that the images of running VMs take, and the space of their file systems. The event DISK_SPACE
 * reports that a file system has little space (space_fill.h), and when it has enough again. A VM's process has the
 * files open, so the daemon asks it (VM_MSG_SPACE): a file system that hangs blocks a thread of that process, and the
 * daemon opens no file of a user.
 *
 * The daemon asks when a client wants the figures for the first time in a run, and then within some seconds after the
 * guest has written, a job has ended or the definition has changed. Samples of trends (trends.h) show the writes, so a
 * VM that writes nothing is not woken. The sooner a file system can be full, the sooner is the next question, each
 * second at the most; while space is low, the daemon asks each half minute also without writes, and each minute if the
 * VM has a threshold of disk-space (thresholds.h), which gets each answer.
 *
 * Other programs fill file systems, too. So once a minute the daemon itself measures each file system that holds an
 * image which a running VM writes (fs_space.h). It measures a new file system at once, and all of them when a process
 * reports that one has become low or has enough space again. All VMs with an image on a low file system get DISK_SPACE,
 * and no VM's process is woken for that. The daemon knows a VM's file systems from the VM's start. After a change of
 * the disks or a restart of the daemon, it asks the VM's process once.
 *
 * space.json in the VM's folder keeps the sizes of two weeks, an hour apart, which show how fast the VM grows.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_VM_SPACE_H
#define CAIRN_API_POLICY_VM_SPACE_H

#include <stdbool.h>
#include <stdint.h>

struct vm;
struct vm_host;
struct vm_observer;
struct vm_sums;

/* A disk as the VM's process described it last; untrusted. */
struct vm_space_disk {
	char id[16];
	uint64_t capacity_bytes; /* size that the guest sees */
	uint64_t allocation_bytes, physical_bytes; /* of the top image; physical 0: both are unknown */
	uint64_t free_bytes, total_bytes; /* of the file system; total 0: unknown, or the disk is read-only */
};

extern const struct vm_observer vm_space_observer;

/* Return the figures of a disk; NULL: none. id: terminated, or of 16 bytes. Borrowed until the loop's next turn. */
const struct vm_space_disk *vm_space_of(const struct vm *vm, const char *id);
/* Ask the process, unless it has answered in this run, or was asked without success. done: called once, in this call or
 * from the loop, also if the process ends, or does not answer within a second. */
void vm_space_fetch(struct vm *vm, void (*done)(void *opaque), void *opaque);
/* How fast the images grew that the VM writes, of the last week. */
struct vm_space_growth {
	double bytes_a_day;
	double days_left; /* until they have the size that the guest sees; -1: they do not grow */
};
/* Returns false if that is not known: the guest has not written for six hours yet. */
bool vm_space_growth(const struct vm *vm, struct vm_space_growth *ret);
/* Load the figures of all VMs that earlier daemons have stored. */
void vm_space_load(struct vm_host *host);
/* A second's sample of a running VM: ask the process, if it is time. now_ns: CLOCK_MONOTONIC. */
void vm_space_update(struct vm *vm, const struct vm_sums *sums, uint64_t now_ns);
/* A second's sample of all VMs: look at their file systems, if it is time. */
void vm_spaces_update(struct vm_host *host, uint64_t now_ns);
/* End these looks. */
void vm_spaces_finish(struct vm_host *host);

#endif
