#include "api/schema/event.h"
#include "api/wire/json.h"

/* emit is NULL in unit tests; the event is dropped then. */
void event_emit(const struct event_sink *s, enum event_id id, const char *vm, const uint8_t *uuid,
	struct json_object *data)
{
	if (s->emit)
		s->emit(s->opaque, id, vm, uuid, data);
	else
		json_object_put(data);
}
