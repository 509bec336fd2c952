/* config: a definition turned into what a VM process is sent: struct vm_config and the
 * opened files. The VM process opens no path itself. */
#ifndef CAIRN_API_CONFIG_H
#define CAIRN_API_CONFIG_H

#include "vmm/vm_msg.h"

struct definition;
struct err;

struct config {
	struct vm_config vm;
	int fds[CHANNEL_FDS_MAX]; /* owned */
	unsigned nfds;
};

/* Opens every file of d. Options that are no part of a definition (start_paused,
 * foreground, log_level, the log) are the caller's to set afterwards.
 * Returns 0; -errno with the path to the key; ret_c then holds nothing. */
int config_open(const struct definition *d, struct config *ret_c, struct err *e);
/* The same for work on the disks alone: images_only. */
int config_open_images(const struct definition *d, struct config *ret_c, struct err *e);
/* Adds an fd (taken, also on failure). Returns its index, or VM_NO_FD when full. */
unsigned config_add_fd(struct config *c, int fd);
/* Sends it as VM_MSG_CONFIG. Returns 0 or -errno. */
int config_send(const struct config *c, int sock, uint64_t seq);
/* Closes the fds. */
void config_done(struct config *c);

#endif
