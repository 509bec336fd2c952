/* schema_qmp: tables of the commands and events on a VM's own QMP socket. Names, arguments and results follow QEMU
 * 7.2's schema. schema.h has the functions that look up their rows. */
#ifndef CAIRN_API_SCHEMA_SCHEMA_QMP_H
#define CAIRN_API_SCHEMA_SCHEMA_QMP_H

#include "api/schema/schema.h"

extern const struct command qmp_commands[];
extern const size_t qmp_commands_count;
/* An event without a name is not sent on this socket. `data` lists the members that are sent. */
extern const struct event_spec qmp_events[EVENT_ID_COUNT];

#endif
