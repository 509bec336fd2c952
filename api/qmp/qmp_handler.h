/* qmp_handler: the handlers of a VM's own socket, one per row of QEMU's schema (api/schema/schema_qmp.c). */
#ifndef CAIRN_API_QMP_QMP_HANDLER_H
#define CAIRN_API_QMP_QMP_HANDLER_H

#include "api/commands/command.h"

/* The handlers of QEMU's commands; the last row has no name. */
extern const struct command_handler qmp_handlers[];

void qmp_query_version(struct call *c);
void qmp_query_name(struct call *c);
void qmp_query_uuid(struct call *c);
void qmp_query_kvm(struct call *c);
void qmp_query_status(struct call *c);
void qmp_query_memory(struct call *c);
void qmp_query_cpus(struct call *c);
void qmp_query_hotpluggable_cpus(struct call *c);
void qmp_query_pci(struct call *c);
void qmp_query_target(struct call *c);
void qmp_query_machines(struct call *c);
void qmp_query_cpu_definitions(struct call *c);
void qmp_query_iothreads(struct call *c);
void qmp_query_mice(struct call *c);
void qmp_query_chardev(struct call *c);
void qmp_query_vnc(struct call *c);
void qmp_query_spice(struct call *c);
void qmp_query_display_options(struct call *c);
void qmp_query_replay(struct call *c);
void qmp_query_migrate(struct call *c);
void qmp_query_nothing(struct call *c);
void qmp_query_rx_filter(struct call *c);
void qmp_query_block_jobs(struct call *c);
void qmp_qom_list(struct call *c);
void qmp_qom_get(struct call *c);
void qmp_stop(struct call *c);
void qmp_cont(struct call *c);
void qmp_powerdown(struct call *c);
void qmp_reset(struct call *c);
void qmp_nmi(struct call *c);
void qmp_dump(struct call *c);
void qmp_send_key(struct call *c);
void qmp_input_send_event(struct call *c);
void qmp_screendump(struct call *c);
void qmp_query_dump(struct call *c);
void qmp_query_dump_capability(struct call *c);
void qmp_getfd(struct call *c);
void qmp_closefd(struct call *c);
void qmp_watchdog_set_action(struct call *c);
void qmp_balloon(struct call *c);
void qmp_query_balloon(struct call *c);
void qmp_calc_dirty_rate(struct call *c);
void qmp_query_dirty_rate(struct call *c);
void qmp_query_memory_devices(struct call *c);
void qmp_blockdev_add(struct call *c);
void qmp_blockdev_del(struct call *c);
void qmp_netdev_add(struct call *c);
void qmp_netdev_del(struct call *c);
void qmp_object_add(struct call *c);
void qmp_object_del(struct call *c);
void qmp_device_add(struct call *c);
void qmp_device_del(struct call *c);
void qmp_set_link(struct call *c);
void qmp_query_block(struct call *c);
void qmp_query_blockstats(struct call *c);
void qmp_query_nodes(struct call *c);
void qmp_snapshot_save(struct call *c);
void qmp_snapshot_load(struct call *c);
void qmp_snapshot_delete(struct call *c);
void qmp_block_stream(struct call *c);
void qmp_block_commit(struct call *c);
void qmp_block_job_complete(struct call *c);
void qmp_block_job_cancel(struct call *c);
void qmp_job_complete(struct call *c);
void qmp_blockdev_snapshot_sync(struct call *c);
void qmp_block_resize(struct call *c);
void qmp_agent_exec(struct call *c);
void qmp_agent_exec_output(struct call *c);
void qmp_query_jobs(struct call *c);
void qmp_job_cancel(struct call *c);
void qmp_job_dismiss(struct call *c);
void qmp_human(struct call *c);

#endif
