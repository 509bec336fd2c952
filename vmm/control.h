/* control: the VM process's end of the messages in vm_msg.h. One peer at a time.
 *
 * Threading: main thread. */
#ifndef CAIRN_VMM_CONTROL_H
#define CAIRN_VMM_CONTROL_H

#include "vmm/vm_msg.h"

#include <stdbool.h>

struct control;
struct err;
struct loop;
struct memory;
struct vm;
struct worker;

/* Wait at most 10 s for the first connection, if listen_fd ≥ 0, and then for VM_MSG_CONFIG while the peer lives.
 * listen_fd, channel_fd: taken. channel_fd: an already connected socket, or -1.
 * takes_over: the peer is a process that hands its VM over (vmm/snapshot/vm_handover.h).
 * pagemap_fd: see memory_map_cow(); taken with a clone's memory.
 * ret_cfg: borrowed until control_serve(), after which requests take its place.
 * ret_fds: CHANNEL_FDS_MAX; owned by the caller afterwards.
 * Returns 0; -errno, which is also sent to the peer. */
int control_new(int listen_fd, int channel_fd, bool takes_over, int *pagemap_fd, struct control **ret_c,
	const struct vm_config **ret_cfg, int *ret_fds, unsigned *ret_nfds, struct err *e);
void control_free(struct control *c);

/* Return the memory that came before the configuration (VM_MSG_MEMORY), to be adopted by a machine; NULL: none. */
struct memory *control_memory(struct control *c);
/* Return the connection to the sender of the configuration, borrowed. */
int control_peer_fd(const struct control *c);
/* Answer the configuration request. */
void control_configured(struct control *c, int r, const struct err *e);
/* Serve requests on the loop from now on. Returns 0 or -errno. */
int control_serve(struct control *c, struct loop *l, struct vm *vm, struct err *e);
/* Set the worker for long-running requests; borrowed. */
void control_set_worker(struct control *c, struct worker *w);
/* Wait for the screenshot under way, if any, and end its thread. Call it before the VM is freed. NULL allowed. */
void control_screenshot_end(struct control *c);
/* Prepare to serve requests for clones' disks. Only in a process with vm_config.images_only (the VM is off). Call
 * before the sandbox is sealed.
 * copiers: as in clone_disks_new(). */
int control_prepare_clones(struct control *c, unsigned copiers, struct err *e);
/* Send an event to the peer; the event() of a vm_sink. */
void control_event(void *opaque, const struct vm_event *ev);
/* Carry out requests that waited for jobs on the disks; the disks_free() of a vm_sink. */
void control_disks_free(void *opaque);

#endif
