/* event: emits events. Modules emit into a sink; the daemon's sink (api/daemon.c) adds an event to the event log,
 * unless its row has `passing`, and sends it to clients. Threading: the daemon's loop. */
#ifndef CAIRN_API_SCHEMA_EVENT_H
#define CAIRN_API_SCHEMA_EVENT_H

#include "api/schema/schema.h"

#include <stdint.h>

struct event_sink {
	void (*emit)(void *opaque, enum event_id id, const char *vm, const uint8_t *uuid, struct json_object *data);
	void *opaque;
};

/* Emit an event.
 * vm: the VM's name, put into data as "vm"; NULL: the event is about no VM. uuid: the VM's, put into data as "vm-uuid":
 * it decides which clients get the event. NULL: not known, so only roles for all VMs count. data: taken; NULL: {}. */
void event_emit(const struct event_sink *s, enum event_id id, const char *vm, const uint8_t *uuid,
	struct json_object *data);

#endif
