#include "api/policy/vm_space.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_figures.h"
#include "api/vm/vm_process.h"
#include "base/clock.h"
#include "base/util.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT_NS (30 * CLOCK_NS_PER_S)
#define FETCH_TIMEOUT_NS (1 * CLOCK_NS_PER_S)
/* Time between two questions while the guest writes. */
#define LOOK_NS (5 * CLOCK_NS_PER_S)

struct vm_space {
	struct vm_space_disk disks[VM_DISKS_MAX];
	size_t ndisks;
	bool answered; /* in this run */
	bool silent; /* has not answered vm_space_fetch() */
	bool asking; /* vm_space_look() waits for an answer */
	bool stale;  /* ask again, whether the guest writes or not */
	uint64_t live_changes; /* of the VM, when the process was asked last */
	uint64_t asked_ns; /* CLOCK_MONOTONIC */
	uint64_t writes; /* of the guest, when the process was asked last */
};

static struct vm_space *space_of(struct vm *vm)
{
	if (!vm->space)
		vm->space = must_alloc(calloc(1, sizeof(*vm->space)));
	return vm->space;
}

/* ---- answers ---- */

static void answer_take(struct vm_space *s, const struct vm_spaces *from)
{
	s->answered = true;
	s->ndisks = 0;
	for (unsigned i = 0; i < VM_DISKS_MAX && from->images[i].id[0]; i++) {
		const struct vm_space_image *image = &from->images[i];
		struct vm_space_disk *d = &s->disks[s->ndisks++];

		*d = (struct vm_space_disk){ .capacity_bytes = image->capacity_bytes, .allocation_bytes = image->allocation_bytes,
			.physical_bytes = image->physical_bytes, .free_bytes = from->disks[i].free_bytes, .total_bytes = from->disks[i].total_bytes };
		memcpy(d->id, image->id, sizeof(d->id) - 1);
		utf8_clean(d->id);
	}
}

const struct vm_space_disk *vm_space_of(const struct vm *vm, const char *id)
{
	const struct vm_space *s = vm->space;

	for (size_t i = 0; s && i < s->ndisks; i++)
		if (!strncmp(s->disks[i].id, id, sizeof(s->disks[i].id)))
			return &s->disks[i];
	return NULL;
}

size_t vm_space_disks(const struct vm *vm, const struct vm_space_disk **ret)
{
	*ret = vm->space ? vm->space->disks : NULL;
	return vm->space ? vm->space->ndisks : 0;
}

/* ---- questions ---- */

static void look_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)e; /* unknown; asked again later */
	if (!vm->space)
		return;
	vm->space->asking = false;
	if (!r && a->spaces)
		answer_take(vm->space, a->spaces);
}

void vm_space_look(struct vm *vm, const struct vm_sums *sums, uint64_t now_ns)
{
	struct vm_space *s = vm->space;
	uint64_t writes = sums->wr_reqs;

	if (!s && !writes)
		return;
	s = space_of(vm);
	if (s->asking || (writes == s->writes && !s->stale && vm->live_changes == s->live_changes) ||
		(s->asked_ns && now_ns - s->asked_ns < LOOK_NS))
		return;
	s->asking = true;
	s->stale = false;
	s->asked_ns = now_ns;
	s->writes = writes;
	s->live_changes = vm->live_changes;
	vm_process_request(vm->proc, VM_MSG_SPACE, NULL, 0, -1, ASK_TIMEOUT_NS, look_done, vm);
}

struct fetch {
	struct vm *vm;
	void (*done)(void *opaque);
	void *opaque;
};

static void fetch_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct fetch *f = opaque;

	(void)e;
	if (f->vm->space && !r && a->spaces)
		answer_take(f->vm->space, a->spaces);
	else if (f->vm->space)
		f->vm->space->silent = true;
	f->done(f->opaque);
	free(f);
}

void vm_space_fetch(struct vm *vm, void (*done)(void *opaque), void *opaque)
{
	struct fetch *f;

	if (!vm->proc || !vm_state_is_active(vm->state) || space_of(vm)->answered || vm->space->silent) {
		done(opaque);
		return;
	}
	f = must_alloc(calloc(1, sizeof(*f)));
	*f = (struct fetch){ vm, done, opaque };
	vm_process_request(vm->proc, VM_MSG_SPACE, NULL, 0, -1, FETCH_TIMEOUT_NS, fetch_done, f);
}

/* ---- a VM's life ---- */

/* The guest's counters do not show what a job did to the images. */
static void space_on_changed(struct vm *vm)
{
	if (vm->space)
		vm->space->stale = true;
}

static void space_on_job_concluded(struct vm_host *host, const char *name)
{
	struct vm *vm = vm_find(host, name);

	if (vm)
		space_on_changed(vm);
}

static void space_on_process_gone(struct vm *vm)
{
	if (vm->space)
		*vm->space = (struct vm_space){ 0 };
}

static void space_on_removed(struct vm *vm)
{
	free(vm->space);
	vm->space = NULL;
}

const struct vm_observer vm_space_observer = { .removed = space_on_removed, .process_gone = space_on_process_gone,
	.job_concluded = space_on_job_concluded };
