/* daemon: everything cairnd holds, and its start and end. One thread, one loop. */
#ifndef CAIRN_API_DAEMON_H
#define CAIRN_API_DAEMON_H

#include "api/access/permissions.h"
#include "api/schema/schema.h"

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

struct audit;
struct autostart;
struct err;
struct event_log;
struct job;
struct json_object;
struct loop;
struct denial_log;
struct scheduler;
struct server;
struct host_shutdown;
struct store;
struct store_work;
struct usernet;
struct vm;

/* What the host bears. 0: no limit. */
struct daemon_limits {
	unsigned starting; /* VMs at a time; at least 1 */
	unsigned running;  /* VMs that have a process, or are about to */
	uint64_t memory_bytes; /* that these have together */
};

struct daemon_paths {
	char state_dir[PATH_MAX];
	char run_dir[PATH_MAX]; /* of the VM processes' sockets */
	char socket[PATH_MAX];
	char qmp_dir[PATH_MAX]; /* of the VMs' own sockets: beside the daemon's */
	char vm_program[PATH_MAX];
	struct daemon_limits limits;
	const char *bridges_for_all; /* with commas; NULL: none (api/net/tap.h) */
	char archive_program[PATH_MAX], slirp_program[PATH_MAX];
	bool system; /* root's, shared by a group */
	int listening; /* a socket at that path that was passed to us; taken. -1: none */
};

struct daemon {
	struct loop *loop;
	const struct daemon_paths *paths;
	struct store *store;
	struct permissions permissions;
	struct audit *audit;
	struct event_log *events; /* NULL until it is open */
	struct scheduler *scheduler; /* NULL until the VMs are there */
	struct host_shutdown *host_shutdown; /* NULL: not under way */
	struct autostart *autostart; /* NULL until the VMs are there */
	struct server *server; /* NULL until it listens */
	int run_dir_fd;
	struct vm **vms; /* sorted by name */
	size_t nvms, vms_cap;
	int next_id;	    /* of running VMs, as virsh shows them */
	struct job *jobs; /* oldest first */
	unsigned next_job;  /* number in the last id that was made */
	unsigned adopting;  /* VM processes that have not answered yet */
	struct denial_log *denials; /* told of */
	struct usernet *usernets; /* cairn-slirp's that have not ended (api/net/forwards.c) */
	struct vm *starts_wait; /* for one that is under way to end; by vm->start_next */
	int log_level;	    /* handed to VM processes */
};

/* Runs until SIGTERM or SIGINT; VMs keep running after it. Returns 0; -errno with a
 * sentence when it cannot start. */
int daemon_run(const struct daemon_paths *p, int log_level, struct err *e);
/* What lies between, for who has a loop of their own. d: zeroed but for loop, paths, run_dir_fd (-1) and
 * log_level. To be closed also when it could not be opened. */
int daemon_open(struct daemon *d, struct err *e);
void daemon_close(struct daemon *d);

/* What the greeting says; the caller puts it. */
struct json_object *daemon_version(void);

/* After each change of the table: in force at once for those connected, and on stable storage when w
 * (NULL: nobody waits) is done. (command_permission.c) */
void daemon_keep_permissions(struct daemon *d, struct store_work *w);

/* Send an event to all clients. vm: NULL, or put into data as "vm". data: taken, NULL: {}. */
void daemon_emit(struct daemon *d, enum event_id id, const char *vm, struct json_object *data);

#endif
