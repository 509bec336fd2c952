/* config: a definition turned into what a VM process is sent: struct vm_config and the
 * opened files. The VM process opens no path itself. */
#ifndef CAIRN_API_DEFINITION_VM_CONFIG_H
#define CAIRN_API_DEFINITION_VM_CONFIG_H

#include "vmm/vm_msg.h"

#include <stdbool.h>

struct definition;
struct definition_forward;
struct err;

struct config {
	struct vm_config vm;
	int fds[CHANNEL_FDS_MAX]; /* owned */
	unsigned nfds;
	unsigned nforwards; /* how many of them, the last ones, are sockets of forwards (api/net/usernet.h) */
};

/* A file to open; its index in the list is its fd's in the configuration. */
struct config_file {
	char key[64]; /* "disks[0].path" */
	const char *path; /* the definition's; NULL: an empty one, for a drive without a medium */
	bool write, block; /* a block device will do as well */
	const struct definition_forward *forward; /* NULL: a file; else a socket that listens there */
};

struct config_files {
	struct config_file list[CHANNEL_FDS_MAX];
	unsigned n;
};

/* Everything but the fds, and which they are. images_only: for work on the disks alone.
 * Options that are no part of a definition (start_paused, foreground, log_level, the log) are
 * the caller's to set afterwards. Returns 0; -EINVAL: too many files. */
int config_prepare(const struct definition *d, bool images_only, struct config *ret_c,
	struct config_files *ret_files, struct err *e);
/* The sockets of the forwards of all user interfaces whose link is up, in order, behind what is in both. Returns 0;
 * -EINVAL: too many. */
int config_prepare_forwards(const struct definition *d, struct config *c, struct config_files *files, struct err *e);
/* Returns an owned fd; -errno with the path to the key. */
int config_open_file(const struct config_file *f, struct err *e);
/* All of them. Returns 0; -errno, and c holds none. */
int config_open_files(struct config *c, const struct config_files *files, struct err *e);
/* Those that somebody else opened, in the order of the list: taken. */
void config_take_fds(struct config *c, const int *fds, unsigned n);
/* Prepares it and opens every file. Returns 0; -errno; ret_c then holds nothing. */
int config_open(const struct definition *d, struct config *ret_c, struct err *e);
/* Adds an fd (taken, also on failure). Returns its index, or VM_NO_FD when full. */
unsigned config_add_fd(struct config *c, int fd);
/* Sends it as VM_MSG_CONFIG. Returns 0 or -errno. */
int config_send(const struct config *c, int sock, uint64_t seq);
/* Closes the fds. */
void config_done(struct config *c);

#endif
