/* What the files of vm_snapshot.h share. */
#ifndef CAIRN_VMM_SNAPSHOT_VM_SNAPSHOT_IMPL_H
#define CAIRN_VMM_SNAPSHOT_VM_SNAPSHOT_IMPL_H

#include "base/bitmap.h"
#include "base/err.h"
#include "snapshot/state.h"
#include "snapshot/tree.h"
#include "snapshot/vmstate.h"
#include "vmm/machine/disk_call.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/vm.h"
#include "vmm/machine/worker.h"
#include "vmm/snapshot/vm_snapshot.h"

struct vmsnap_job {
	struct work work;
	struct vm *vm;
	struct machine *m;
	struct worker *worker;
	vm_snapshot_done_fn *done;
	void *opaque;
	int r;
	struct err e;
	struct vm_snapshot_done result;
};

/* The disk that holds state and tree: the first writable qcow2 one; NULL with a sentence. */
struct machine_disk *vmsnap_first_disk(struct machine *m, struct err *e);
bool vmsnap_disk_takes_part(const struct machine *m, unsigned i);
/* Takes part, and its format has snapshots. */
bool vmsnap_disk_has_parts(const struct machine *m, unsigned i);
int vmsnap_tree(struct machine_disk *d, struct tree *ret, struct err *e);
/* The first disk and its tree at once. */
int vmsnap_open(struct machine *m, struct machine_disk **ret_d, struct tree *ret_t, struct err *e);
/* The named node of a tree, or -ENOENT with a sentence. */
int vmsnap_find(const struct tree *t, const char *name, struct tree_node **ret, struct err *e);
/* What a client sees of it. own_bytes: not known. */
void vmsnap_info(const struct tree_node *n, bool current, struct vm_snapshot_info *i);
uint64_t vmsnap_realtime_ns(void);

/* Begin a piece of long work: a zeroed struct of that many bytes, which begins with its job; done
 * and opaque are the caller's to set. NULL with a sentence: other work is under way, or no memory. */
void *vmsnap_job_new(size_t bytes, struct vm *vm, struct worker *w, const char *what, struct err *e);
/* The same for what can be done with a crashed VM that was kept, too. */
void *vmsnap_job_new_crashed(size_t bytes, struct vm *vm, struct worker *w, const char *what, struct err *e);
/* Fill in the result from r and e, end the work, tell. The caller frees the job after it. */
void vmsnap_job_finish(struct vmsnap_job *j);

/* ---- vm_snapshot_parts.c: waiting, on the main thread or the worker's ---- */

typedef int vmsnap_part_fn(struct machine_disk *d, struct tree_node *part, const struct tree_node *arg,
	struct err *e);
/* For each part that disks other than the first have of the set that `of`, of the first, belongs to. */
int vmsnap_parts(struct machine *m, const struct machine_disk *first, const struct tree_node *of,
	vmsnap_part_fn *fn, const struct tree_node *arg, struct err *e);
/* Ids of the snapshot `of`, the first disk's, on each disk that takes part, by the disk's index; disk: on that one
 * alone, "" all. -ENOENT when one has no part of it. */
int vmsnap_ids(struct machine *m, const struct machine_disk *first, const struct tree_node *of, const char *disk,
	char ret[][BLOCK_SNAPSHOT_ID_MAX + 1], struct err *e);
/* The part gets the name that n has, and is whole. */
int vmsnap_part_settle(struct machine_disk *d, struct tree_node *part, const struct tree_node *n,
	struct err *e);
/* n, of the first disk's tree t, goes from all disks. From its mark on it is gone for everybody; what
 * fails after that is done by the next vmsnap_recover(). */
int vmsnap_delete(struct machine *m, struct machine_disk *first, struct tree *t, struct tree_node *n,
	struct err *e);
/* Between the two all other disks become what they were in n; with the second the first does, in one write
 * with n as the current one and without the mark. With one disk there is nothing to mark. */
int vmsnap_revert_mark(struct machine_disk *first, const struct tree *t, struct tree_node *n,
	struct err *e);
int vmsnap_revert_first(struct machine_disk *first, const struct tree *t, struct tree_node *n,
	struct err *e);
/* End, or undo, what was cut short. The guest has not run since the disks were opened: may_revert. Logs;
 * tell: may be NULL. */
typedef void vmsnap_recovered_fn(void *opaque, enum vm_recovery what, const char *disk, const char *name);
int vmsnap_recover(struct machine *m, bool may_revert, vmsnap_recovered_fn *tell, void *opaque,
	struct err *e);

#endif
