#include "api/commands/command.h"
#include "api/definition/definition.h"
#include "api/jobs/snapshots.h"
#include "api/schema/call.h"
#include "api/vm/pins.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/hex.h"
#include "base/pin_name.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* The query asks the VM's process, or its offline process, for the size of one pin after the other. */
struct query {
	struct call *call;
	struct json_object *all;
	size_t next;
};

static void query_next(struct query *q);

static void query_end(struct query *q)
{
	struct json_object *o = json_object_new_object();

	js_put(o, "pins", q->all);
	call_return(q->call, o);
	free(q);
}

static void pin_sized(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct query *q = opaque;
	const struct vm_snapshots *s = a ? a->snapshots : NULL;

	(void)e;
	if (!r && s && s->n == 1 && s->list[0].own_bytes <= INT64_MAX)
		js_put_uint(json_object_array_get_idx(q->all, q->next), "own-size", s->list[0].own_bytes);
	q->next++;
	/* After another error, such as a timeout or the end of the process, the other sizes stay unknown. */
	if (!r || r == -EREMOTEIO)
		query_next(q);
	else
		query_end(q);
}

static void query_next(struct query *q)
{
	struct vm_snapshot_name body = { "" };

	if (q->next == json_object_array_length(q->all)) {
		query_end(q);
		return;
	}
	snprintf(body.name, sizeof(body.name), PIN_NAME_IN_IMAGE "%s",
		js_get_str_or(json_object_array_get_idx(q->all, q->next), "pin", ""));
	snapshots_request(q->call->vm, VM_MSG_SNAPSHOT_SIZE, &body, sizeof(body), SNAPSHOT_SIZE_TIMEOUT_NS, pin_sized, q);
}

static void pins_add_disk(const struct vm *vm, const struct definition_disk *d, struct json_object *all)
{
	struct pin_use *list = NULL;
	size_t n = d->read_only ? 0 : pins_of_image(vm->host, d->layers[0].path, &list);
	char id[2 * VM_PIN_ID_BYTES + 1];

	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_new_object();

		hex_print(list[i].id, sizeof(list[i].id), id);
		js_put_str(o, "disk", d->id);
		js_put_str(o, "pin", id);
		js_put_uint(o, "clones", list[i].overlays);
		json_object_array_add(all, o);
	}
	free(list);
}

void command_vm_pins(struct call *c)
{
	const struct definition *def = vm_live(c->vm);
	struct query *q;
	struct err e;
	int r = vm_check_claim(c->vm, VM_CLAIM_READ, "read its pins", &e);

	if (r < 0) {
		call_fail(c, &e);
		return;
	}
	q = must_alloc(calloc(1, sizeof(*q)));
	*q = (struct query){ .call = c, .all = json_object_new_array() };
	for (uint32_t i = 0; i < def->ndisks; i++)
		pins_add_disk(c->vm, &def->disks[i], q->all);
	c->on_images = json_object_array_length(q->all);
	query_next(q);
}
