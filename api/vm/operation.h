/* operation: what is under way on a VM, and which requests it excludes. docs/ARCHITECTURE.md, "Operations".
 *
 * A VM has at most one owner operation: a job, an undefine, a rename … It may run steps of its own (stop, work of the
 * offline process, start), and it may own several VMs: a fork owns its source and the clones. Beside the owner there are
 * at most one start, at most one stop, which overtakes all, and any number of readers (the offline process).
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_OPERATION_H
#define CAIRN_API_VM_OPERATION_H

#include <stdbool.h>
#include <stdint.h>

struct call;
struct err;
struct job;
struct vm;

/* In the order in which a refusal names them. */
enum vm_operation_kind {
	VM_OP_NONE,
	/* The start: struct vm_start_op. */
	VM_OP_START_WAITS,  /* for the offline process, a managed save or a port of the host */
	VM_OP_START_QUEUED, /* for other VMs' starts (--max-starting) */
	VM_OP_START_OPENS,  /* its files are being opened */
	VM_OP_START_HOLDS,  /* its managed save is being set aside */
	VM_OP_START,	    /* its process has been spawned and has not answered yet */
	/* The stop: struct vm_stop_op. */
	VM_OP_STOP,
	VM_OP_END, /* derived: the VM is off, and its process is not gone yet */
	/* The owner: struct vm_operation. */
	VM_OP_JOB,
	VM_OP_SAVE,	    /* the job of a save */
	VM_OP_SAVE_ADOPTED, /* the same, begun by an earlier daemon: no reply comes */
	VM_OP_SAVE_KEPT,    /* the VM is saved, and its state is being put on stable storage */
	VM_OP_MAKE,	    /* the job that makes this VM */
	VM_OP_FORGET,	    /* derived: incomplete, and no job makes it */
	VM_OP_UNDEFINE,
	VM_OP_TEMPLATE,
	VM_OP_RENAME,
	VM_OP_DROP_SAVED,
	VM_OP_READ, /* derived: an offline process, and no owner that it works for */
	VM_OP_COUNT,
};

/* What a request needs of a VM. */
enum vm_claim {
	VM_CLAIM_ALL,	    /* the VM for itself: undefine, rename, restore, fork … */
	VM_CLAIM_START,	    /* waits for readers, and for a save that is being kept */
	VM_CLAIM_CLONE,	    /* its disks as they are; waits for readers */
	VM_CLAIM_SNAPSHOTS, /* to change or copy its images beside readers */
	VM_CLAIM_JOB,	    /* to be the owner; the table of states says the rest */
	VM_CLAIM_READ,	    /* to look at its images */
	VM_CLAIM_DEFINE,    /* another definition, for the next start */
	VM_CLAIM_CONTROL,   /* suspend, resume, reset, the power button: beside any job */
	VM_CLAIM_COUNT,
};

/* The owner. */
struct vm_operation {
	enum vm_operation_kind kind; /* VM_OP_NONE: no owner */
	struct job *job;	     /* NULL: it is none */
	const char *id, *type;	     /* of the job; borrowed */
	uint8_t copiers;	     /* of a clone: disks that the offline process copies at a time */
};

/* The stop. */
struct vm_stop_op {
	enum vm_operation_kind kind; /* VM_OP_NONE or VM_OP_STOP */
	struct call *calls;	     /* answered when the process is gone */
	/* The owner's: called once when the process is gone, also if nobody asked for a stop. NULL: it does not wait. */
	void (*when_gone)(struct vm *vm, void *opaque);
	void *when_gone_opaque;
};

/* Is something under way that excludes the claim? what: a verb phrase for the sentence ("rename").
 * Returns 0; -EBUSY with a sentence that names the operation. */
int vm_check_claim(const struct vm *vm, enum vm_claim claim, const char *what, struct err *e);

/* op: copied. The VM has no owner. */
void vm_operation_begin(struct vm *vm, const struct vm_operation *op);
/* Does nothing without an owner. */
void vm_operation_end(struct vm *vm);

/* From the request until the VM runs or the start has failed. */
bool vm_is_starting(const struct vm *vm);
bool vm_is_stopping(const struct vm *vm);
/* Does its process write its state, or is that being kept? */
bool vm_is_saving(const struct vm *vm);

#endif
