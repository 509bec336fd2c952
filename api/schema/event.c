#include "api/schema/event.h"
#include "api/wire/json.h"

/* emit is NULL in unit tests; the event is dropped then. */
void event_emit(const struct event_sink *s, enum event_id id, const char *vm, struct json_object *data)
{
	if (s->emit)
		s->emit(s->opaque, id, vm, data);
	else
		json_object_put(data);
}
