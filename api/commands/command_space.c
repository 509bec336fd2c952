/* The handler of vm-space. */
#include "api/commands/command.h"
#include "api/policy/vm_space.h"
#include "api/vm/vm.h"
#include "api/wire/json_writer.h"

static void disk_put(struct json_writer *w, const struct vm_space_disk *d)
{
	jw_object(w, NULL);
	jw_str(w, "id", d->id);
	jw_uint(w, "capacity", d->capacity_bytes);
	if (d->physical_bytes) {
		jw_uint(w, "allocation", d->allocation_bytes);
		jw_uint(w, "physical", d->physical_bytes);
	}
	if (d->total_bytes) {
		jw_uint(w, "free", d->free_bytes);
		jw_uint(w, "total", d->total_bytes);
	}
	jw_object_end(w);
}

static void space_answer(void *opaque)
{
	struct call *c = opaque;
	const struct vm_space_disk *disks;
	size_t n = vm_space_disks(c->vm, &disks);
	struct json_writer w = { 0 };

	jw_object(&w, NULL);
	jw_array(&w, "disks");
	for (size_t i = 0; i < n; i++)
		disk_put(&w, &disks[i]);
	jw_array_end(&w);
	jw_object_end(&w);
	call_return(c, jw_value(&w));
}

void command_vm_space(struct call *c)
{
	vm_space_fetch(c->vm, space_answer, c);
}
