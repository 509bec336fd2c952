/* vm_cgroup: the control group of each VM, which limits the memory, threads and processor time of its process. The
 * group is a folder with the VM's uuid in the daemon's tree (cgroup_tree.h). It is made when a process is spawned, and
 * removed some time after the process has ended.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_CGROUP_H
#define CAIRN_API_VM_VM_CGROUP_H

#include <stdbool.h>
#include <stdint.h>

struct cgroup_limits;
struct cgroup_place;
struct cgroup_tree;
struct config;
struct definition;
struct err;
struct vm;
struct vm_host;
struct vm_observer;

/* Compute the limits of a definition's VM. memory_bytes is the VM's memory and a budget for what the product takes:
 *   - the memory once more: the file of a live fork, the state of a save or a dump that is written to a file system in
 *     memory, or, in a clone, holes of the base file that it reads first;
 *   - an eighth of the memory: page tables of the process and of KVM, bitmaps of tracked blocks;
 *   - 1 GiB: the program, its stacks and rings, bounce buffers, old contents that a snapshot keeps (192 MiB at most);
 *   - 512 MiB for each disk: tables of its images.
 * The page cache of images counts, too, but the kernel drops it when the limit is reached. A definition may ask for
 * less (memory_max). */
void vm_cgroup_limits(const struct definition *d, struct cgroup_limits *ret);

/* Return the cpu_shares that count for the definition's VM: those of a user other than root are at most
 * DEFINITION_CPU_SHARES. */
uint32_t vm_cgroup_shares(const struct definition *d);
/* Convert to cpu.weight, and back. */
uint32_t vm_cgroup_weight_of(uint32_t shares);
uint32_t vm_cgroup_shares_of(uint32_t weight);
/* Return why the weight of the running VM's group has no effect on other VMs; NULL: it has. */
const char *vm_cgroup_weight_lack(const struct vm *vm);
/* Read or set cpu.weight of the running VM's group. Returns 0; -ENOENT: there is no such group; -errno. */
int vm_cgroup_weight(const struct vm *vm, uint32_t *ret);
int vm_cgroup_set_weight(const struct vm *vm, uint32_t weight);

/* Return the daemon's tree; NULL: there is none. */
const struct cgroup_tree *vm_cgroup_tree_of_host(const struct vm_host *host);
/* Return the tree that the VM's group is in: that of its own scope of systemd, or the daemon's; NULL: it has no
 * group. */
const struct cgroup_tree *vm_cgroup_tree(const struct vm *vm);

/* Fill in the group of a process that is about to be spawned. There is none if the host has no tree.
 * limits_memory: set the limit of memory, too. keeps: see struct cgroup_place. */
void vm_cgroup_place(struct vm *vm, bool limits_memory, bool keeps, struct cgroup_place *ret);
/* Set the limits of the group of a process that is in it. Returns 0, also without a group; -errno with a sentence. */
int vm_cgroup_enter(const struct cgroup_place *place, struct err *e);
/* Whether the process may have a limit of memory: not if it writes to an image in memory (tmpfs), which counts as its
 * memory and which the kernel cannot drop. */
bool vm_cgroup_may_limit_memory(const struct config *c);
/* Set the limit of a VM that runs, if its process was spawned without one. */
void vm_cgroup_limit_memory(const struct vm *vm);
/* Let the VM take so much more memory than it has now, for the job that begins: it writes the VM's memory to a file
 * that may be in memory. After the job, and each time that a process of a VM has ended, the limit is lowered to the
 * VM's present use and its remaining budget. */
void vm_cgroup_make_room(struct vm *vm);
extern const struct vm_observer vm_cgroup_observer;
/* Open the file of the group's memory pressure (base/memory_pressure.h). Returns the fd, owned by the caller; -ENOENT:
 * the VM has no group, or the kernel tells of no pressure; -errno. */
int vm_cgroup_open_pressure(const struct vm *vm);
/* Return the percentage of the last five minutes in which threads of the group waited for memory; NAN: not known. */
double vm_cgroup_pressure(const struct vm *vm);
/* Return a sentence if the kernel has killed the VM's process, which has ended, for lack of memory, or else NULL. */
const char *vm_cgroup_kill_reason(const struct vm *vm);

/* Remove the groups without processes, soon: those of VMs that have ended, and those that an earlier daemon left. */
void vm_cgroups_sweep(struct vm_host *host);

#endif
