/* vm_socket: the sockets of VM processes in the run folder, and the fork.
 *
 * Sockets are reached through /proc/self/fd, so that the length of the folder's path does
 * not count against the 107 bytes of a Unix address. A name that is too long even so
 * appears as its hash. */
#ifndef CAIRN_API_VM_VM_SOCKET_H
#define CAIRN_API_VM_VM_SOCKET_H

#include <stddef.h>
#include <sys/types.h>

struct err;
struct vm;

/* Listen for `name` in run_dir; what is there is replaced: the caller knows that no process
 * of that VM runs. Returns 0 and an owned fd, close-on-exec; -errno. */
int vm_socket_listen(int run_dir, const char *name, int *ret_fd, struct err *e);
/* Returns 0 and an owned non-blocking fd that receives credentials; -ENOENT;
 * -ECONNREFUSED: nobody listens; -errno. */
int vm_socket_connect(int run_dir, const char *name, int *ret_fd);
void vm_socket_remove(int run_dir, const char *name);
/* The sender of the message that waits in sock. Returns 0; -EAGAIN; -errno. */
int vm_socket_peek_pid(int sock, pid_t *ret_pid);

/* `program --listen 3` in a session of its own: fd 3 is `listening`, 1 and 2 are log_fd,
 * 0 is /dev/null, all else closed; no signal blocked or ignored. */
int vm_process_spawn(const char *program, int listening, int log_fd, pid_t *ret_pid,
	struct err *e);

/* A socket is named after the VM's uuid in base64, since a socket's path is limited to 107 bytes. */
#define VM_QMP_NAME_CHARS 22
#define VM_QMP_NAME_ALPHABET "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
/* Print the path of the VM's socket, whether it is open or not. Returns 0; -ENAMETOOLONG. */
int vm_qmp_path(const struct vm *vm, char *buf, size_t size, struct err *e);

#endif
