/* spare: a process that the daemon has started in advance, before its VM exists (api/vm/vm_spare.h). It has loaded
 * its program, entered the sandbox and created an empty VM of KVM, and waits for the files of the VM that it will
 * run. It has no configuration, file or log of a VM yet.
 *
 * Threading: main thread. */
#ifndef CAIRN_VMM_SPARE_H
#define CAIRN_VMM_SPARE_H

struct err;
struct host_files;

/* Name of the process while it waits, for ps and top. */
#define SPARE_NAME "cairn-spare"

/* Prepare the objects that every VM needs, send VM_MSG_REPLY, and wait for VM_MSG_SPARE. Then take the VM's log as
 * stdout and stderr, map its end file, and answer by VM_MSG_REPLY.
 * sock: the socket to the daemon; taken.
 * host: of process_enter().
 * Returns the VM's listening socket, owned; -EPIPE: the daemon has ended or needs no process; -errno. */
int spare_wait(int sock, struct host_files *host, struct err *e);

#endif
