/* paths: where a daemon keeps its state and listens, and where a client looks for it. */
#ifndef CAIRN_API_STORE_PATHS_H
#define CAIRN_API_STORE_PATHS_H

#include <stddef.h>

struct daemon_paths;
struct err;

/* Longest path of a socket, without the NUL (sun_path has 108 bytes). */
#define PATHS_SOCKET_MAX 107

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
