/* vm_handover: hands a running VM over to another process, its successor, which may be of a newer version of Cairn. The
 * guest's memory stays where it is: both processes map the same memfd. The pages that a live clone has for itself are
 * copied (vmm/machine/ram_carry.h).
 *
 * The daemon starts the successor (`cairn-vm --take-over FD`) with one end of a socket pair and sends the other end to
 * the VM's process. The order of events, with each process's operations on the images:
 *
 *   VM's process (the old one)                        successor
 *   1 loads the rest of a saved memory, sends    -->  maps a clone's memory and reads its own pages;
 *     VM_MSG_MEMORY for each piece of a clone's       waits for VM_MSG_CONFIG
 *     memory, and flushes the disks, while the
 *     guest runs
 *   2 pauses the VM, saves the machine's state
 *     and what machine_carry.h has
 *   3 stops the disks' threads, flushes the
 *     images, copies what is left of a clone's
 *     memory: from here on it writes nothing
 *   4 sends VM_MSG_CONFIG with the fds: images,  -->  builds the machine on the fds, opens the
 *     memory, state, taps, listening socket, …        images without a write, loads the state
 *   5                                            <--  answers: ready, or an error
 *   6 sends VM_MSG_GO with the sockets of the    -->  7 attaches these clients, accepts on the listening
 *     consoles' clients, and calls _exit()             socket, runs the guest
 *
 * VM_MSG_GO is the point of no return. Before it, the successor neither writes to an image nor touches a lock. If it
 * fails or ends, or does not answer in time, the old process closes the socket pair and keeps the VM. If the old
 * process ends before it has sent VM_MSG_GO, the successor ends, too: the VM has then ended as by a crash. The image
 * locks belong to the fds that both processes share, so no third process can open an image in between. The process
 * that has the VM serves the clients of the listening socket.
 *
 * Threading: main thread; done() runs on it, unless the function fails. */
#ifndef CAIRN_VMM_SNAPSHOT_VM_HANDOVER_H
#define CAIRN_VMM_SNAPSHOT_VM_HANDOVER_H

struct err;
struct vm;
struct worker;

/* Begin to hand the VM over. If the handover succeeds, the process ends without a call of done().
 * leave: called before VM_MSG_GO is sent. It takes no further request.
 * pair: connected to the successor; state_fd: an empty memfd; both taken. listen_fd: the VM's listening socket,
 * borrowed; -1: none.
 * done: called when the handover has failed; the VM continues in its previous phase.
 * Returns 0; -ENOTSUP (ERR_UNSUPPORTED) if this VM cannot be handed over; -errno. */
int vm_handover(struct vm *vm, struct worker *w, int pair, int state_fd, int listen_fd,
	void (*leave)(void *opaque), void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e);

#endif
