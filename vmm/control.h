/* control: a VM process's end of the messages in vm_msg.h. One peer at a time. */
#ifndef CAIRN_VMM_CONTROL_H
#define CAIRN_VMM_CONTROL_H

#include "vmm/vm_msg.h"

#include <stddef.h>

struct control;
struct err;
struct loop;
struct vm;
struct worker;

/* Wait (10 s at most) for the first connection, when listen_fd ≥ 0, and for VM_MSG_CONFIG.
 * channel_fd: an already connected socket, or -1. fds: CHANNEL_FDS_MAX, owned by the caller
 * afterwards. The fds given are taken. Returns 0; -errno with a sentence, answered to the
 * peer, too. */
int control_new(int listen_fd, int channel_fd, struct control **ret_c, struct vm_config *ret_cfg,
	int *ret_fds, unsigned *ret_nfds, struct err *e);
void control_free(struct control *c);

/* Answer the configuration. */
void control_configured(struct control *c, int r, const struct err *e);
/* From now on requests are served on the loop. */
int control_serve(struct control *c, struct loop *l, struct vm *vm, struct err *e);
/* For saves; borrowed. */
void control_set_worker(struct control *c, struct worker *w);
/* For the disks of clones, of a process for images: before the sandbox is sealed. */
int control_prepare_clones(struct control *c, unsigned copiers, struct err *e);
/* A vm_sink's event(). */
void control_event(void *opaque, const struct vm_event *ev);

#endif
