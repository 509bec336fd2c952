/* paths: where a daemon keeps its state and listens, and where a client looks for it. */
#ifndef CAIRN_API_STORE_PATHS_H
#define CAIRN_API_STORE_PATHS_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

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

/* Fill in what a daemon with these options uses. An option that is NULL has its default:
 * system mode for root, session mode (XDG folders) for others; CAIRN_SOCKET before the
 * default socket; the VM program next to this one or in ../libexec/cairn.
 * Returns 0; -errno with a sentence. */
int paths_for_daemon(const char *state_dir, const char *socket, const char *vm_program,
	struct daemon_paths *ret_p, struct err *e);

/* The socket a client talks to: `option`, CAIRN_SOCKET, or the default. */
int paths_client_socket(const char *option, char *buf, size_t size, struct err *e);

/* A program that ours starts: in the folder CAIRN_LIBEXEC, next to this one, or in
 * ../libexec/cairn. */
int paths_helper(const char *name, char *buf, size_t size, struct err *e);

/* option, or `cairn-vm` as above. */
int paths_vm_program(const char *option, char *buf, size_t size, struct err *e);

#endif
