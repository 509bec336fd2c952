#include "api/vm/disk_doubt.h"
#include "api/access/authors.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"

#include <stdio.h>

#define STATE_KEY "disk_change"

void disk_doubt_forget(struct vm_disk_change *c)
{
	definition_free(c->before);
	*c = (struct vm_disk_change){ 0 };
}

void disk_doubt_put(const struct vm_disk_change *c, struct json_object *state)
{
	struct json_object *o, *before;

	if (!c->before)
		return;
	before = definition_to_json(c->before);
	authors_put(before, c->before);
	o = json_object_new_object();
	js_put_str(o, "id", c->id);
	js_put_int(o, "dev", (int64_t)c->image.dev);
	js_put_int(o, "ino", (int64_t)c->image.ino);
	js_put(o, "before", before);
	js_put(state, STATE_KEY, o);
}

void disk_doubt_load(struct vm *vm, struct json_object *state)
{
	struct vm_disk_change *c = &vm->disk_change;
	struct json_object *o = js_get(state, STATE_KEY), *before = js_get(o, "before");
	struct err e;

	if (!before)
		return;
	snprintf(c->id, sizeof(c->id), "%s", js_get_str_or(o, "id", ""));
	c->image.dev = (uint64_t)js_get_int(o, "dev", 0);
	c->image.ino = (uint64_t)js_get_int(o, "ino", 0);
	if (authors_parse_stored(before, &c->before, &e) < 0)
		log_warn("state", "VM '%s': the change of disk %s is damaged in state.json: %s", vm->def->name, c->id, e.msg);
}
