/* vm_host: all VMs of this host and the objects that they share. The daemon owns it (api/daemon.h); every VM points to
 * it. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_HOST_H
#define CAIRN_API_VM_VM_HOST_H

#include "api/access/journal.h"
#include "api/access/permissions.h"
#include "api/access/quotas.h"
#include "api/schema/event.h"
#include "api/store/paths.h"
#include "api/store/pools.h"

struct approver;
struct audit;
struct balancer;
struct autostart;
struct call;
struct closer;
struct event_log;
struct fork_as;
struct helpers;
struct hook_ask;
struct hooks;
struct host_shutdown;
struct job;
struct loop;
struct network_port_end;
struct networks;
struct network_watch;
struct pins;
struct quota_claim;
struct scheduler;
struct server;
struct staged_run;
struct store;
struct fs_spaces;
struct pool_space;
struct pressure;
struct systemd_scope;
struct timetables;
struct transients;
struct trends;
struct usernet;
struct vm;
struct vm_logs;
struct vm_observer;
struct vm_sandbox;
struct vm_spare;
struct threshold_watch;
struct web_hooks;

#define JOB_TYPES_MAX 32 /* rows of the table in api/jobs/job.c */

struct vm_host {
	struct loop *loop;
	struct helpers *helpers; /* processes with users' rights (api/access/fork_as.h) */
	struct hooks *hooks;	 /* api/policy/hooks.h; NULL: none */
	struct hook_ask *hook_asks; /* first of those under way (api/policy/hook_ask.h) */
	struct closer *closer;	 /* closes sockets in which files may be queued (api/wire/close_async.h) */
	const struct daemon_paths *paths;
	const struct vm_sandbox *sandbox; /* of VM processes; NULL: nothing is prepared for them */
	struct vm_logs *logs; /* of the VMs (api/vm/vm_log.h); NULL: they have none */
	struct store *store;
	struct permissions permissions;
	struct quotas quotas;
	struct pools pools;
	struct quota_claim *claims; /* first of the claims of jobs (api/vm/quota_use.h) */
	struct event_sink sink;	  /* takes every event */
	struct event_log *events; /* NULL until it is open */
	struct audit *audit;	  /* NULL until it is open */
	struct journal journal;	  /* gets the events of VMs, too */
	const struct vm_observer *const *observers; /* NULL-terminated, in the order of calls; NULL: none */
	struct server *server;	  /* NULL until the daemon listens */
	int run_dir_fd;
	int log_level; /* handed to VM processes */
	struct {
		uint64_t build, looked_ns;
		struct fork_as *look; /* under way; NULL: none */
	} program; /* of VM processes (api/vm/vm_compat.h) */
	/* The registry (vm.c). */
	struct vm **vms; /* sorted by name */
	size_t nvms, vms_cap;
	int next_id;		/* the last id given to a running VM; users see these ids, as in virsh */
	bool new_boot;		/* boot.json names no or another boot of the host: assume that no VM process is left */
	unsigned preparing;	/* clones whose starts wait for the rules of their taps (api/jobs/start_gate.h) */
	unsigned adopting;	/* number of adopted VM processes that have not answered the first query yet */
	struct pins *pins;	/* api/vm/pins.h; NULL until they are loaded */
	uint64_t pins_wait_ns;	/* how long a pin that is due waits for a further fork */
	bool pins_told; /* a VM's process may have been notified of pins that wait */
	uint64_t pins_notify_at_ns; /* when the processes are notified again (api/jobs/pin_release.h); 0: never */
	struct loop_timer *pins_timer; /* api/jobs/pin_release.h; NULL: not used yet */
	struct loop_timer *consoles_retry; /* api/vm/consoles.h; NULL: not used yet */
	struct pressure *pressure; /* api/policy/pressure.h; NULL: not used yet */
	struct balancer *balancer; /* api/policy/balancer.h; NULL: not used yet */
	struct loop_timer *cgroup_sweep; /* api/vm/vm_cgroup.h; NULL: not used yet */
	struct vm_spare *spares; /* first of the processes made ahead (api/vm/vm_spare.h) */
	struct systemd_scope *scopes; /* first of those with a process (api/vm/systemd_scope.h) */
	uint64_t scopes_after_ns; /* systemd did not answer: no VM asks it before this time */
	struct vm *starts_wait; /* first of the starts in VM_OP_START_QUEUED; linked by vm->start.next */
	bool starts_continue;	/* a call continues queued starts, which may end in it */
	/* Modules in the folders above vm/ own these members. Of them, vm/ reads only host_shutdown. */
	struct usernet *usernets;	     /* cairn-slirp processes, until each is reaped (api/net/forwards.c) */
	struct network_port_end *port_ends;  /* under way (api/net/network_ports.c) */
	struct port_calls *port_calls;	     /* api/net/port_calls.h; NULL: none yet */
	struct networks *networks;	     /* api/net/network.h; NULL: none */
	struct network_watch *network_watch; /* api/net/network_watch.h; NULL: not root's daemon */
	struct call *calls;		     /* those that are not answered, newest first (api/commands/command.c) */
	struct job *jobs;		     /* oldest first */
	struct { uint64_t finished, failed, cancelled; } job_counts[JOB_TYPES_MAX]; /* since the daemon's start, by type */
	struct job_wait *job_waits;	     /* calls that wait for a job (api/jobs/job_wait.h) */
	struct volume_call *volume_calls;    /* work on volumes under way (api/jobs/pool_volumes.h) */
	uint64_t volume_looks_after_ns;	     /* a file of a VM did not answer: lists of volumes look at none before this time */
	unsigned next_job;		     /* number in the last generated job id */
	struct scheduler *scheduler;	     /* NULL until the VMs are loaded */
	struct timetables *timetables;	     /* NULL until the VMs are loaded */
	struct approver *approver;	     /* api/policy/approver.h; NULL until the VMs are loaded */
	struct host_shutdown *host_shutdown; /* NULL: not under way */
	struct staged_run *staged_runs;	     /* first of those under way (api/policy/staged_run.h) */
	struct pool_space *pool_space;	     /* api/policy/pool_space.h; NULL until the VMs are loaded */
	struct fs_spaces *fs_spaces;	     /* api/policy/vm_space.h; NULL: no VM has run yet */
	uint64_t fs_spaces_due_ns;	     /* of the next look at all of them */
	bool fs_spaces_more;		     /* VMs may have others since the last look */
	struct threshold_watch *threshold_watch; /* api/policy/thresholds.h; NULL until the VMs are loaded */
	struct web_hooks *web_hooks;	     /* api/policy/web_hooks.h; NULL until the VMs are loaded */
	struct transients *transients;	     /* api/policy/transient.h; NULL until the VMs are loaded */
	struct trends *trends;		     /* api/policy/trends.h; NULL: no VM has run yet */
	struct autostart *autostart;	     /* NULL until the VMs are loaded */
};

#endif
