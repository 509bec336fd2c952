/* sandbox: restricts cairn-share once its folder is open. */
#ifndef CAIRN_TOOLS_SHARE_SANDBOX_H
#define CAIRN_TOOLS_SHARE_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>

struct err;

/* The most files and folders that a guest knows at a time, and of those that it has open: as many fds of this process,
 * and the kernel's memory for them. */
#define SHARE_NODES_MAX 131072u
#define SHARE_HANDLES_MAX 4096u

/* Raise the limit of open files for these as far as that is allowed. Returns 0, and how many nodes and handles there
 * may be; -errno with a sentence. */
int share_limit_files(uint32_t *ret_nodes, uint32_t *ret_handles, struct err *e);
/* Drop all rights except those to the files beneath the folder: to read them, and to change them unless read_only.
 * folder: borrowed. Returns 0; -errno with a sentence. */
int share_sandbox(int folder, bool read_only, struct err *e);

#endif
