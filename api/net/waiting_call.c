#include "api/net/waiting_call.h"
#include "api/definition/definition.h"
#include "api/schema/call.h"
#include "api/vm/vm.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/cleanup.h"

#include <string.h>

void waiting_call_begin(struct waiting_call *w, struct call *c)
{
	*w = (struct waiting_call){ .call = c, .host = c->host };
	memcpy(w->uuid, c->vm->def->uuid, sizeof(w->uuid));
}

struct vm *waiting_call_vm(const struct waiting_call *w)
{
	return vm_find_uuid(w->host, w->uuid);
}

void waiting_call_answer(struct waiting_call *w, int r, struct json_object *value, const struct err *e)
{
	struct call *c = STEAL_PTR(w->call);

	if (!c || r < 0)
		json_object_put(value);
	if (!c)
		return;
	c->vm = waiting_call_vm(w);
	if (r < 0) {
		call_fail(c, e);
		return;
	}
	c->when_stored = true;
	call_return(c, value);
}
