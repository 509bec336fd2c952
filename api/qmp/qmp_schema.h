/* qmp_schema: the QEMU commands and events of a VM's own socket. Names, arguments and results follow QEMU 7.2's schema.
 * schema.h has the functions to look them up. */
#ifndef CAIRN_API_QMP_QMP_SCHEMA_H
#define CAIRN_API_QMP_QMP_SCHEMA_H

#include "api/schema/schema.h"

struct call;

extern const struct command qmp_commands[];
extern const size_t qmp_commands_count;
/* An event without a name is not sent on this socket. `data` lists the members that are sent. */
extern const struct event_spec qmp_events[EVENT_ID_COUNT];

void qmp_query_version(struct call *c);
void qmp_query_name(struct call *c);
void qmp_query_uuid(struct call *c);
void qmp_query_kvm(struct call *c);
void qmp_query_status(struct call *c);
void qmp_query_memory(struct call *c);
void qmp_query_cpus(struct call *c);
void qmp_stop(struct call *c);
void qmp_cont(struct call *c);
void qmp_powerdown(struct call *c);
void qmp_reset(struct call *c);
void qmp_nmi(struct call *c);
void qmp_dump(struct call *c);
void qmp_query_dump(struct call *c);
void qmp_query_dump_capability(struct call *c);
void qmp_getfd(struct call *c);
void qmp_closefd(struct call *c);
void qmp_watchdog_set_action(struct call *c);
void qmp_balloon(struct call *c);
void qmp_query_block(struct call *c);
void qmp_query_blockstats(struct call *c);
void qmp_query_nodes(struct call *c);
void qmp_snapshot_save(struct call *c);
void qmp_snapshot_load(struct call *c);
void qmp_snapshot_delete(struct call *c);
void qmp_query_jobs(struct call *c);
void qmp_job_cancel(struct call *c);
void qmp_job_dismiss(struct call *c);
void qmp_human(struct call *c);

#endif
