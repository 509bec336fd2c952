#include "api/vm/operation.h"
#include "api/definition/definition.h"
#include "api/vm/vm.h"
#include "base/err.h"

#include <assert.h>
#include <errno.h>

#define BIT(claim) (1u << (claim))
#define EACH (BIT(VM_CLAIM_COUNT) - 1)
#define DEFINE BIT(VM_CLAIM_DEFINE)
#define READ BIT(VM_CLAIM_READ)
#define JOB BIT(VM_CLAIM_JOB)
#define CONTROL BIT(VM_CLAIM_CONTROL)
/* If a job owns the VM, only the job's row decides about these claims, not the rows of a start or stop that the job
 * runs as a step. So the error names the job's id, which helps the user more than the step. */
#define OF_JOBS (BIT(VM_CLAIM_SNAPSHOTS) | READ | JOB)

#define STARTS " is being started"

/* For each operation, the claims that it excludes, and the text that follows the VM's name in the error; NULL: the
 * error names the job. */
static const struct {
	unsigned excludes; /* mask of BIT(enum vm_claim) */
	const char *says;
} rows[VM_OP_COUNT] = {
	[VM_OP_START_WAITS] = { EACH & ~(JOB | DEFINE | CONTROL), STARTS },
	[VM_OP_START_QUEUED] = { EACH & ~(JOB | DEFINE | CONTROL), STARTS },
	[VM_OP_START_OPENS] = { EACH & ~(JOB | CONTROL), STARTS },
	[VM_OP_START_HOLDS] = { EACH & ~(JOB | CONTROL), STARTS },
	[VM_OP_START_PORTS] = { EACH & ~(JOB | CONTROL), STARTS },
	[VM_OP_START] = { EACH & ~(JOB | DEFINE), STARTS },
	[VM_OP_STOP] = { EACH & ~(JOB | DEFINE), " is being stopped" },
	[VM_OP_END] = { EACH & ~(JOB | DEFINE | CONTROL), ": its old process is still ending" },
	[VM_OP_JOB] = { EACH & ~(READ | DEFINE | CONTROL), NULL },
	[VM_OP_SAVE] = { EACH & ~(READ | DEFINE | CONTROL), NULL },
	[VM_OP_SAVE_ADOPTED] = { EACH & ~(READ | DEFINE | CONTROL), NULL },
	[VM_OP_SAVE_KEPT] = { EACH & ~(READ | DEFINE | CONTROL | BIT(VM_CLAIM_START)), NULL },
	[VM_OP_MAKE] = { EACH & ~CONTROL, NULL },
	[VM_OP_REMOVE] = { EACH & ~CONTROL, " was never completed and is being removed" },
	[VM_OP_UNDEFINE] = { EACH & ~(READ | CONTROL), " is being undefined" },
	[VM_OP_TEMPLATE] = { EACH & ~(READ | CONTROL), " is being changed" },
	[VM_OP_RENAME] = { EACH & ~CONTROL, " is being renamed" },
	[VM_OP_PROMOTE] = { EACH & ~CONTROL, " is part of a promotion" },
	[VM_OP_DROP_SAVED] = { EACH & ~(READ | DEFINE | CONTROL), ": its managed save is being removed" },
	[VM_OP_READ] = { BIT(VM_CLAIM_ALL), ": its snapshots are being read" },
};

/* ---- operations under way ---- */

static bool is_under_way(const struct vm *vm, enum vm_operation_kind kind)
{
	switch (kind) {
	case VM_OP_NONE:
		return false;
	case VM_OP_END:
		return vm->proc && !vm_state_is_active(vm->state);
	case VM_OP_REMOVE:
		return vm_has(vm, VM_FACT_INCOMPLETE) && !vm->operation.kind;
	case VM_OP_READ:
		return vm->offline;
	default:
		return vm->start.kind == kind || vm->stop.kind == kind || vm->operation.kind == kind;
	}
}

bool vm_is_starting(const struct vm *vm)
{
	return vm->start.kind;
}

bool vm_is_stopping(const struct vm *vm)
{
	return vm->stop.kind;
}

bool vm_is_saving(const struct vm *vm)
{
	return vm->operation.kind >= VM_OP_SAVE && vm->operation.kind <= VM_OP_SAVE_KEPT;
}

void vm_operation_begin(struct vm *vm, const struct vm_operation *op)
{
	assert(!vm->operation.kind);
	vm->operation = *op;
}

void vm_operation_end(struct vm *vm)
{
	vm->operation = (struct vm_operation){ .kind = VM_OP_NONE };
}

/* ---- checking claims against operations under way ---- */

static int refuse(const struct vm *vm, enum vm_operation_kind kind, const char *what, struct err *e)
{
	const struct vm_operation *op = &vm->operation;

	if (rows[kind].says)
		return err_set(e, -EBUSY, ERR_BUSY, "VM '%s'%s; %s afterwards", vm->def->name, rows[kind].says, what);
	return err_set(e, -EBUSY, ERR_BUSY,
		"VM '%s': job %s (%s) is under way; %s afterwards, or end the job with: cairn job-cancel %s",
		vm->def->name,
		op->id, op->type, what, op->id);
}

/* Return the mask of claims that the operations under way exclude. *ret_first: the first of these operations. */
static unsigned excluded_by(const struct vm *vm, enum vm_operation_kind *ret_first)
{
	unsigned excluded = 0;

	*ret_first = VM_OP_NONE;
	for (unsigned k = 0; k < VM_OP_COUNT; k++) {
		if (!is_under_way(vm, k))
			continue;
		if (!*ret_first)
			*ret_first = k;
		excluded |= rows[k].excludes;
	}
	return excluded;
}

int vm_check_claim(const struct vm *vm, enum vm_claim claim, const char *what, struct err *e)
{
	bool job_decides = vm->operation.job && (BIT(claim) & OF_JOBS);
	enum vm_operation_kind first = vm->operation.kind;
	unsigned excluded = job_decides ? rows[first].excludes : excluded_by(vm, &first);

	return excluded & BIT(claim) ? refuse(vm, first, what, e) : 0;
}
