#include "vmm/snapshot/vm_pins.h"
#include "base/util.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>

struct pins_job {
	struct work work;
	struct machine *m;
	struct vm_pins pins;
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
	int r;
	struct err e;
};

static void pins_run(struct work *w)
{
	struct pins_job *x = container_of(w, struct pins_job, work);

	for (unsigned i = 0; i < x->m->ndisks && !x->r; i++)
		for (uint32_t k = 0; k < x->pins.n && !x->r && vmsnap_disk_has_parts(x->m, i); k++) {
			x->r = disk_pin_delete(&x->m->disks[i], x->pins.ids[k], &x->e);
			x->r = x->r == -ENOENT ? 0 : x->r;
		}
	x->m->disk_readers--;
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
	x->m->disk_readers++;
	worker_submit(w, x->m->host.loop, &x->work);
	return 0;
}
