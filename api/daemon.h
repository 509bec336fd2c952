/* daemon: everything cairnd holds, and its start and end. One thread, one loop. */
#ifndef CAIRN_API_DAEMON_H
#define CAIRN_API_DAEMON_H

#include "api/commands/command.h"
#include "api/vm/vm_host.h"

struct err;

struct daemon {
	struct vm_host host;
	struct command_context commands;
};

/* Runs until SIGTERM or SIGINT; VMs keep running after it. Returns 0; -errno with a
 * sentence when it cannot start. */
int daemon_run(const struct daemon_paths *p, int log_level, struct err *e);
/* What lies between, for who has a loop of their own. d: zeroed but for host.loop, host.paths, host.run_dir_fd (-1) and
 * host.log_level. To be closed also when it could not be opened. */
int daemon_open(struct daemon *d, struct err *e);
void daemon_close(struct daemon *d);

#endif
