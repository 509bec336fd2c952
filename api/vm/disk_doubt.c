#include "api/vm/disk_doubt.h"
#include "api/access/authors.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>

#define STATE_KEY "disk_change"

void disk_doubt_clear(struct vm_disk_change *c)
{
	definition_free(c->before);
	*c = (struct vm_disk_change){ 0 };
}

static void disk_put(const struct vm_changed_disk *d, struct json_object *o)
{
	js_put_str(o, "id", d->id);
	js_put_int(o, "dev", (int64_t)d->image.dev);
	js_put_int(o, "ino", (int64_t)d->image.ino);
}

static void disk_load(struct vm_changed_disk *d, struct json_object *o)
{
	snprintf(d->id, sizeof(d->id), "%s", js_get_str_or(o, "id", ""));
	d->image.dev = (uint64_t)js_get_int(o, "dev", 0);
	d->image.ino = (uint64_t)js_get_int(o, "ino", 0);
}

/* An older daemon knows the first disk only. */
void disk_doubt_put(const struct vm_disk_change *c, struct json_object *state)
{
	struct json_object *o, *before, *more = json_object_new_array();

	if (!c->before) {
		json_object_put(more);
		return;
	}
	before = definition_to_json(c->before);
	authors_put(before, c->before);
	o = json_object_new_object();
	disk_put(&c->disks[0], o);
	for (unsigned i = 1; i < c->n; i++) {
		struct json_object *d = json_object_new_object();

		disk_put(&c->disks[i], d);
		json_object_array_add(more, d);
	}
	js_put(o, "more", more);
	js_put(o, "before", before);
	js_put(state, STATE_KEY, o);
}

int disk_doubt_load(struct vm *vm, struct json_object *state, struct err *e)
{
	struct vm_disk_change *c = &vm->disk_change;
	struct json_object *o = js_get(state, STATE_KEY), *before = js_get(o, "before"), *more = js_get_array(o, "more");
	int r;

	if (!before)
		return 0;
	c->n = 1;
	disk_load(&c->disks[0], o);
	for (size_t i = 0; more && i < json_object_array_length(more) && c->n < VM_DISKS_MAX; i++)
		disk_load(&c->disks[c->n++], json_object_array_get_idx(more, i));
	r = authors_parse_stored(before, &c->before, e);
	if (r < 0 && e->cls == ERR_UNSUPPORTED)
		return -ENOTSUP;
	if (r < 0)
		log_warn("state", "VM '%s': the change of disk %s is damaged in state.json: %s", vm->def->name, c->disks[0].id, e->msg);
	return 0;
}
