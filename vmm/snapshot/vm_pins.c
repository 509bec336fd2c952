#include "vmm/snapshot/vm_pins.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct pins_job {
	struct work work;
	struct machine *m;
	struct vm_pins pins;
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
	int r;
	struct err e;
};

static int pins_delete(struct machine *m, const struct vm_pins *pins, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < m->ndisks && !r; i++)
		for (uint32_t k = 0; k < pins->n && !r && vmsnap_disk_has_parts(m, i); k++) {
			r = disk_pin_delete(&m->disks[i], pins->ids[k], e);
			r = r == -ENOENT ? 0 : r;
		}
	return r;
}

static void pins_run(struct work *w)
{
	struct pins_job *x = container_of(w, struct pins_job, work);

	x->r = pins_delete(x->m, &x->pins, &x->e);
	x->m->worker_readers--;
}

static void pins_done(struct work *w)
{
	struct pins_job *x = container_of(w, struct pins_job, work);

	x->done(x->opaque, x->r, &x->e);
	free(x);
}

int vm_pins_delete(struct vm *vm, struct worker *w, const struct vm_pins *pins,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e)
{
	struct pins_job *x = calloc(1, sizeof(*x));

	if (!x)
		return err_set_errno(e, -ENOMEM, "pins");
	*x = (struct pins_job){ .work = { .run = pins_run, .done = pins_done }, .m = vm_machine(vm), .pins = *pins,
		.done = done, .opaque = opaque };
	x->m->worker_readers++;
	worker_submit(w, x->m->host.loop, &x->work);
	return 0;
}

int vm_pins_set_idle(struct vm *vm, const struct vm_pins *pins, struct err *e)
{
	bool any = pins && pins->n;
	struct vm_pins *copy = any ? malloc(sizeof(*copy)) : NULL;

	if (copy)
		*copy = *pins;
	free(atomic_exchange(&vm_machine(vm)->idle_pins, copy));
	return any && !copy ? err_set_errno(e, -ENOMEM, "pins") : 0;
}

/* Meanwhile the list is empty for the worker. */
void vm_pins_unset_idle(struct machine *m, const uint8_t id[VM_PIN_ID_BYTES])
{
	struct vm_pins *pins = atomic_exchange(&m->idle_pins, NULL);

	for (uint32_t k = 0; pins && k < pins->n;) {
		if (memcmp(pins->ids[k], id, VM_PIN_ID_BYTES) != 0)
			k++;
		else
			memmove(pins->ids[k], pins->ids[--pins->n], VM_PIN_ID_BYTES);
	}
	free(atomic_exchange(&m->idle_pins, pins));
}

static void idle_deleted(void *opaque, int r, const struct err *e)
{
	if (r < 0)
		log_warn(NULL, "cannot delete a pin: %s; it is deleted later", e->msg);
	vm_plug_remove_released(opaque); /* devices that the guest has released meanwhile */
}

void vm_pins_begin_delete_idle(struct vm *vm, struct worker *w)
{
	struct vm_pins *pins = atomic_exchange(&vm_machine(vm)->idle_pins, NULL);
	struct err e;
	int r = pins ? worker_start(w, &e) : 0;

	if (pins && !r)
		r = vm_pins_delete(vm, w, pins, idle_deleted, vm, &e);
	if (r < 0)
		idle_deleted(vm, r, &e);
	free(pins);
}

void vm_pins_delete_idle(struct machine *m)
{
	struct vm_pins *pins = atomic_exchange(&m->idle_pins, NULL);
	struct err e;

	if (pins && pins_delete(m, pins, &e) < 0)
		log_warn(NULL, "cannot delete a pin: %s; it is deleted later", e.msg);
	free(pins);
}
