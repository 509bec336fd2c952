/* vm_config: converts a definition to the configuration that a VM process receives: struct vm_config and
 * the opened files. The VM process itself opens no path that the definition names. */
#ifndef CAIRN_API_DEFINITION_VM_CONFIG_H
#define CAIRN_API_DEFINITION_VM_CONFIG_H

#include "base/file.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>

struct definition;
struct definition_forward;
struct err;

struct config {
	struct vm_config vm;
	/* Files that other processes opened and hold (api/access/open_as.h): those of the indices 0 to nheld - 1. Then
	 * the first fds are the relays from which the VM process takes them (base/relay.h). 0: the daemon has all
	 * files. */
	unsigned nheld;
	struct file_id held[CHANNEL_FDS_MAX];
	int fds[CHANNEL_FDS_MAX]; /* owned; fds[i] has the index nheld + i */
	unsigned nfds;
	unsigned nforwards; /* number of sockets of forwards at the end of fds; usernets_start() takes them */
};

enum config_file_kind {
	CONFIG_FILE,
	CONFIG_LISTENS, /* make a Unix socket at path and listen on it */
	CONFIG_DIALS,	/* start cairn-dial for path */
	CONFIG_SHOWS,	/* start cairn-vnc for the definition */
	CONFIG_SHARES,	/* start cairn-share for the folder */
};

/* A file to open. Its index in the list is also its index in struct config; without relays, which come between the
 * files and the sockets of forwards. */
struct config_file {
	char key[64]; /* "disks[0].path" */
	const char *path; /* borrowed from the definition; NULL: an empty file, for a drive without a medium */
	bool write, block; /* write: open for writing; block: a block device is allowed */
	enum config_file_kind kind;
	const char *drive; /* id of the CD drive that has the file as its medium; borrowed; NULL: no medium */
	const struct definition *definition; /* with CONFIG_SHOWS and CONFIG_SHARES; borrowed */
	const struct definition_forward *forward; /* NULL: a file; else open a socket that listens for this forward */
};

struct config_files {
	struct config_file list[CHANNEL_FDS_MAX];
	unsigned n;
};

/* Fill in the configuration without its fds, and list the files to open.
 * images_only: for a process that works only on the disks.
 * The caller then sets the options that are not in a definition, such as start_paused, foreground, log_level and the
 * log.
 * Returns 0; -EINVAL: too many files. */
int config_prepare(const struct definition *d, bool images_only, struct config *ret_c,
	struct config_files *ret_files, struct err *e);
/* Boot devices of one start; they precede the definition's boot order. */
struct boot_choice {
	enum vm_boot_kind first; /* VM_BOOT_ANY: nothing */
	bool menu;		 /* offer the boot menu */
};
/* Set the boot order of a VM with a firmware. If the network has a place in it, open the ROM for that, from a fixed
 * path of the host, and add the file to c. Call after usernets_start(), whose sockets are last in c.
 * Returns 0; -EINVAL: the VM has no firmware, or no device of the kind that was chosen; -errno. */
int config_choose_boot(const struct definition *d, const struct boot_choice *choice, struct config *c, struct err *e);
/* Add the file of the VM's UEFI variables.
 * fd: taken, also on failure; negative: errno says why there is none.
 * Returns 0; -EMFILE; -errno. */
int config_add_nvram(struct config *c, int fd, struct err *e);
/* Append to c and files the sockets of a vsock device with a path, one for the host's clients and one to cairn-dial;
 * the socket to cairn-vnc of a VM with `vnc`; and those to cairn-share. Opening them waits up to 2 s for the end of a
 * VM that was killed, and forks, so do that in a process of its own. Returns 0; -EINVAL: too many files. */
int config_prepare_sockets(const struct definition *d, struct config *c, struct config_files *files, struct err *e);
/* Append the sockets of the forwards of all user interfaces whose link is up, in order, to c and files.
 * Returns 0; -EINVAL: too many files. */
int config_prepare_forwards(const struct definition *d, struct config *c, struct config_files *files, struct err *e);
/* Check that the forward's port is free: bind a socket to it for a moment, as the start does later. Returns as
 * config_open_file() does, but for the fd. */
int config_check_forward(const struct definition_forward *f, const char *key, struct err *e);
/* Open a file of the list. foreign: this process acts for another user; links of /proc to files that this process has
 * open are errors. before: the fd of the file before it in the list, which CONFIG_DIALS needs; -1: it was another kind.
 * Returns an owned fd; -errno with an error that names the key. */
int config_open_file(const struct config_file *f, bool foreign, int before, struct err *e);
/* Check that the file exists and is a regular file or, for disks, a block device. Opens nothing.
 * Returns 0 or -errno. */
int config_check_file(const struct config_file *f, struct err *e);
/* Open all files of the list into c. Returns 0; -errno, and then c has no fds. */
int config_open_files(struct config *c, const struct config_files *files, struct err *e);
/* Add fds that another process opened, in the order of the list. fds: taken, also on failure. Returns 0; -EMFILE: some
 * found no room beside the relays, and were closed. */
int config_take_fds(struct config *c, const int *fds, unsigned n, struct err *e);
/* Prepare the configuration and open all its files, without forwards. May wait as
 * config_prepare_sockets() says. The UEFI variables of such a VM are in memory: they end with its process.
 * Returns 0; -errno, and then *ret_c has no fds. */
int config_open(const struct definition *d, struct config *ret_c, struct err *e);
/* Add an fd. fd: taken, also on failure. Returns its index; VM_NO_FD: the list is full. */
unsigned config_add_fd(struct config *c, int fd);
/* Identify one of the definition's files. Returns 0 or -errno. */
int config_identify(const struct config *c, unsigned index, struct file_id *ret);
/* Send the configuration as VM_MSG_CONFIG. Returns 0 or -errno. */
int config_send(const struct config *c, int sock, uint64_t seq);
/* Close the fds. */
void config_done(struct config *c);

#endif
