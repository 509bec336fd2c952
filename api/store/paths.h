/* paths: computes the paths of the daemon's state, sockets and helper programs, and of the socket for clients. */
#ifndef CAIRN_API_STORE_PATHS_H
#define CAIRN_API_STORE_PATHS_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct err;

/* Limits for all VMs together. */
struct daemon_limits {
	unsigned starting; /* VMs that start concurrently; at least 1 */
	unsigned running;  /* VMs that run or start; 0: no limit */
	uint64_t memory_bytes; /* guest memory of the VMs that run or start; 0: no limit */
	/* Bounds of VMs whose definer is neither root nor the daemon's user (api/policy/bounds.h). */
	unsigned user_order;	  /* least order */
	unsigned user_delay_s;	  /* most start_delay */
	unsigned user_deadline_s; /* most shutdown.deadline at a shutdown of the host */
	unsigned user_autostarts; /* VMs of each definer that start at boot; 0: no limit */
	unsigned shutdown_s;	  /* time in which guests must shut down with the host; 0: no limit */
};

struct daemon_paths {
	char state_dir[PATH_MAX];
	char run_dir[PATH_MAX]; /* folder of the VM processes' sockets */
	char socket[PATH_MAX];
	char qmp_dir[PATH_MAX]; /* folder of the VMs' QMP sockets, beside `socket` */
	char vm_program[PATH_MAX];
	struct daemon_limits limits;
	uid_t uid_first, uid_last; /* user ids for VMs' processes (api/vm/vm_uid.h); 0: none */
	bool audit_required; /* refuse commands that the audit log cannot record (api/access/audit.h) */
	const char *cgroup; /* folder for VMs' control groups, or "none" (api/vm/cgroup_tree.h); NULL: as the host offers */
	bool replace; /* kill a daemon that has the state folder and does not answer (api/store/store_lock.h) */
	bool require_sandbox; /* no VM runs without a part of its sandbox (api/vm/vm_sandbox.h) */
	const char *bridges_for_all; /* comma-separated; NULL: none (api/net/tap.h) */
	char archive_program[PATH_MAX], diff_program[PATH_MAX], slirp_program[PATH_MAX], groups_program[PATH_MAX], log_program[PATH_MAX],
		net_program[PATH_MAX], publish_program[PATH_MAX], scope_program[PATH_MAX], hook_program[PATH_MAX], webhook_program[PATH_MAX],
		img_program[PATH_MAX];
	char hooks_dir[PATH_MAX]; /* folder of the host admin's hooks (api/policy/hooks.h) */
	bool system; /* root's daemon with the default state folder; a group may use its socket */
	const char *journal; /* socket of the systemd journal; NULL: none (api/access/journal.h) */
	int listening; /* the listening socket that the service manager passed; taken. -1: none */
};

/* Compute the daemon's paths from its options. A NULL option has its default: system paths for root and XDG folders for
 * other users; CAIRN_SOCKET or the default socket; the VM program as for paths_vm_program(). Also finds the helper
 * programs and sets system. The other members become empty: limits 0, bridges_for_all NULL, listening -1.
 * Returns 0; -errno. */
int paths_for_daemon(const char *state_dir, const char *socket, const char *vm_program,
	struct daemon_paths *ret_p, struct err *e);

/* Compute the socket for a client: `option`, CAIRN_SOCKET, or the default. Returns 0; -ENAMETOOLONG; -ENOENT: no
 * default is known; -EACCES: the user may not use its folder. */
int paths_client_socket(const char *option, char *buf, size_t size, struct err *e);

/* Get the path of the running program. Returns 0; -ENOSYS: /proc is not mounted; -errno. */
int paths_self(char buf[PATH_MAX], struct err *e);
/* Find a helper program in the folder CAIRN_LIBEXEC, beside the running program, or in ../libexec/cairn from there.
 * Returns 0; -ENOENT; -errno. */
int paths_helper(const char *name, char *buf, size_t size, struct err *e);

/* Find a file of Cairn that is no program, in ../share/cairn from the running program's folder, or in that folder,
 * which is the one of a build. Returns 0; -ENOENT, and the sentence says where it was looked for; -errno. */
int paths_shared(const char *name, char *buf, size_t size, struct err *e);

/* Compute the path of a folder of this user's cache: $XDG_CACHE_HOME/cairn/NAME, or ~/.cache/cairn/NAME; ~ is
 * home_folder().
 * Returns 0; -ENOENT: neither variable is set; -ENAMETOOLONG. */
int paths_cache(const char *name, char *buf, size_t size, struct err *e);
/* The same for data that must not be lost: $XDG_DATA_HOME/cairn/NAME, or ~/.local/share/cairn/NAME. */
int paths_data(const char *name, char *buf, size_t size, struct err *e);

/* Find the VM program: `option`, CAIRN_VM, or the helper cairn-vm. Returns 0; -errno. */
int paths_vm_program(const char *option, char *buf, size_t size, struct err *e);

#endif
