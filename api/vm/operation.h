/* operation: the operations under way on a VM, and the requests that they exclude. docs/ARCHITECTURE.md, "Operations".
 *
 * A VM has at most one owner operation, such as a job, an undefine or a rename. The owner may run steps (a stop, work
 * of the offline process, a start) and may own several VMs: a fork owns its source and the clones. In addition to the
 * owner, a VM has at most one start, at most one stop, which takes precedence over all other operations, and any
 * number of readers (the offline process).
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_OPERATION_H
#define CAIRN_API_VM_OPERATION_H

#include <stdbool.h>
#include <stdint.h>

struct call;
struct err;
struct job;
struct vm;

/* Sorted: if a claim is refused, the error names the first operation under way (a job that owns the VM may come first:
 * OF_JOBS in operation.c). */
enum vm_operation_kind {
	VM_OP_NONE,
	/* The start: struct vm_start_op. */
	VM_OP_START_WAITS,  /* waiting for the offline process, a managed save or a port of the host */
	VM_OP_START_QUEUED, /* waiting for other VMs' starts (--max-starting) */
	VM_OP_START_OPENS,  /* the VM's files are being opened */
	VM_OP_START_HOLDS,  /* the managed save is being renamed to SAVE_MANAGED_USED */
	VM_OP_START_PORTS,  /* the host is being prepared: filters of its taps (api/net/network_ports.h), a scope (systemd_scope.h) */
	VM_OP_START,	    /* the VM process was spawned and has not answered, or is ending after a failed start */
	/* The stop: struct vm_stop_op. */
	VM_OP_STOP,
	/* derived: the VM is off, but has a process: a start's (VM_OP_START), a stuck one, or an earlier daemon's */
	VM_OP_END,
	/* The owner: struct vm_operation. */
	VM_OP_JOB,
	VM_OP_SAVE,	    /* a save job */
	VM_OP_SAVE_ADOPTED, /* a save job that an earlier daemon began, so no reply will come */
	VM_OP_SAVE_KEPT,    /* the VM is saved; its saved state is being renamed to SAVE_MANAGED */
	VM_OP_MAKE,	    /* the job that creates this VM: fork, clone or import */
	VM_OP_REMOVE,	    /* derived: the VM is incomplete, and no job creates it */
	VM_OP_UNDEFINE,
	VM_OP_TEMPLATE,
	VM_OP_RENAME,
	VM_OP_PROMOTE, /* both VMs of a promotion */
	VM_OP_DROP_SAVED,
	VM_OP_READ, /* derived: the VM has an offline process */
	VM_OP_COUNT,
};

/* The access to a VM that a request needs. */
enum vm_claim {
	VM_CLAIM_ALL,	    /* exclusive: undefine, restore, fork … */
	VM_CLAIM_START,	    /* start; readers and VM_OP_SAVE_KEPT do not exclude it: a start waits for them */
	VM_CLAIM_AFTER_READ, /* exclusive: rename, clone; readers do not exclude it: these wait for them */
	VM_CLAIM_SNAPSHOTS, /* change or copy the images; readers are allowed */
	VM_CLAIM_JOB,	    /* become the owner; the command's trigger (vm_state.h) restricts the states */
	VM_CLAIM_READ,	    /* read the images */
	VM_CLAIM_DEFINE,    /* change the definition for the next start */
	VM_CLAIM_CONTROL,   /* suspend, resume, reset or press the power button; allowed during any job */
	VM_CLAIM_COUNT,
};

/* The operation that owns the VM. */
struct vm_operation {
	enum vm_operation_kind kind; /* VM_OP_NONE: no owner */
	struct job *job;	     /* NULL: the owner is no job */
	const char *id, *type;	     /* the job's; borrowed */
	uint64_t stopped_ns;	     /* a save: time at which the vCPUs stopped; 0: unknown */
	uint8_t copiers;	     /* clone jobs: number of disks that the offline process copies concurrently */
};

/* The stop under way, and the actions after the end of the VM's process. */
struct vm_stop_op {
	enum vm_operation_kind kind; /* VM_OP_NONE or VM_OP_STOP */
	struct call *calls;	     /* answered when the process has ended or is stuck */
	bool stuck;		     /* the process was killed and has not ended; earlier calls were answered with
				      * that error */
	/* Set by the owner: called once when the process has ended, also if nobody requested a stop. May be NULL. */
	void (*when_gone)(struct vm *vm, void *opaque);
	void *when_gone_opaque;
};

/* Check that no operation under way excludes the claim.
 * what: verb phrase for the error, such as "rename it".
 * Returns 0; -EBUSY with an error that names the operation. */
int vm_check_claim(const struct vm *vm, enum vm_claim claim, const char *what, struct err *e);

/* Set the owner. The VM must have none. op: copied. */
void vm_operation_begin(struct vm *vm, const struct vm_operation *op);
/* Remove the owner, if there is one. */
void vm_operation_end(struct vm *vm);

/* Return whether a start is under way: from its request until the VM runs or the start has failed. */
bool vm_is_starting(const struct vm *vm);
bool vm_is_stopping(const struct vm *vm);
/* Return whether the owner is a save: the process writes the state, or the store makes the file durable. */
bool vm_is_saving(const struct vm *vm);

#endif
