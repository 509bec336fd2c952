/* vm_socket: spawns VM processes and makes their sockets in the run folder.
 *
 * The daemon addresses the sockets through /proc/self/fd, so that the length of the folder's path does not count
 * against the 107 bytes of a Unix address. If a VM's name is still too long, parts of it become folders. Sockets of VMs
 * that an older daemon started are found by their old names.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_SOCKET_H
#define CAIRN_API_VM_VM_SOCKET_H

#include <stdbool.h>
#include <sys/types.h>

struct closer;
struct err;
struct vm;
struct vm_process_paths;

/* Create the listening socket of VM `name` in run_dir. Replaces an existing socket, so the caller has to know that no
 * process of that VM runs.
 * *ret_fd: owned, close-on-exec. Returns 0; -errno. */
int vm_socket_listen(int run_dir, const char *name, int *ret_fd, struct err *e);
/* Return whether the socket of VM `name` has been created, by this daemon or one that gave it the same name. */
bool vm_socket_exists(int run_dir, const char *name);
/* Whether an older daemon gave the VM's socket a name that may be another VM's, too: of a long name it took a hash, and
 * another VM's name may be that hash. */
bool vm_socket_old_name_is_hash(const char *name);
/* Return whether an older daemon gave the sockets of two VMs the same name. */
bool vm_socket_old_names_meet(const char *a, const char *b);
/* Connect to the socket of VM `name`.
 * owns_hash: if it has no socket of today's name, connect to that of the old name, although this is a hash; false: only
 * to an old name that no other VM can have.
 * *ret_fd: owned, non-blocking; receives credentials.
 * Returns 0; -ENOENT: there is no socket; -ECONNREFUSED: nobody listens; -EAGAIN: a process listens, which has not
 * accepted as many connections as its backlog holds: try again later; -errno. */
int vm_socket_connect(int run_dir, const char *name, bool owns_hash, int *ret_fd);
/* Close a connection: a VM's process that a guest has taken over may have sent files, which the kernel closes with the
 * socket. c: closes it beside the loop then (api/wire/close_async.h). */
void vm_socket_close(int sock, struct closer *c);
/* Remove the socket of VM `name`, if there is one, but not one whose old name another VM may have, too. */
void vm_socket_remove(int run_dir, const char *name);
/* Give the socket of VM `from` the name of that of VM `to`, too, which replaces a socket of this name. Any thread.
 * Returns 0, also if only the new name exists; -ENOENT: there is no socket; -errno. */
int vm_socket_link(int run_dir, const char *from, const char *to, struct err *e);
/* Get the sender's pid of the first message in sock, without receiving it. Returns 0; -EAGAIN: no message; -errno. */
int vm_socket_peek_pid(int sock, pid_t *ret_pid);

#define VM_PROCESS_LISTEN "--listen"
#define VM_PROCESS_TAKE_OVER "--take-over"
#define VM_PROCESS_SPARE "--spare"
#define VM_SPAWN_FD_MIN 16 /* above all fds that the process gets */
/* Spawn `program OPTION 3` in a new session, with no signal blocked or ignored. Its fd 0 is /dev/null, 1 and 2 are
 * log_fd, 3 is `sock`, and the namespaces of the sandbox follow, and then, for VM_PROCESS_TAKE_OVER, the end file; the
 * daemon's other fds are close-on-exec.
 * paths: its program, sandbox, uid, log_fd and end_fd, which is VM_SPAWN_FD_MIN or above.
 * option: VM_PROCESS_LISTEN: sock listens; VM_PROCESS_TAKE_OVER and _SPARE: sock is one end of a
 * socket pair.
 * Returns 0; -errno. */
int vm_process_spawn(const struct vm_process_paths *paths, const char *option, int sock, pid_t *ret_pid, struct err *e);

/* The name of a VM's own QMP socket is the VM's uuid in base64url: a VM's name could be too long for a socket's path,
 * which has at most 107 bytes. */
#define VM_QMP_NAME_CHARS 22
#define VM_QMP_NAME_ALPHABET "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
/* Print the path of the VM's own QMP socket, whether the socket exists or not. Returns 0; -ENAMETOOLONG. */
int vm_qmp_path(const struct vm *vm, char *buf, size_t size, struct err *e);

#endif
