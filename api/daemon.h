/* daemon: creates and frees all parts of cairnd, and runs its loop. Threading: the loop's thread. */
#ifndef CAIRN_API_DAEMON_H
#define CAIRN_API_DAEMON_H

#include "api/commands/command.h"
#include "api/vm/vm_host.h"

struct err;

struct daemon {
	struct vm_host host;
	struct command_context commands;
};

/* Run the daemon until SIGTERM, SIGINT or the command daemon-stop. VMs that run then keep running. Returns 0; -errno:
 * the daemon cannot start. */
int daemon_run(const struct daemon_paths *p, int log_level, struct err *e);
/* Open the daemon on an existing loop: load the state, adopt VM processes and listen.
 * d: zero except host.loop, host.paths, host.run_dir_fd (-1) and host.log_level.
 * Returns 0; -errno. The caller calls daemon_close() also after an error. */
int daemon_open(struct daemon *d, struct err *e);
void daemon_close(struct daemon *d);

#endif
