/* fork_files: checks and opens the images of a VM's disks, and creates the files of its live clones' disks. The
 * functions run in a process with the rights of the disks' author, or on a thread if these are the daemon's own
 * (fork_as.h), so they take no lock. fork_images.h calls them for each author. */
#ifndef CAIRN_API_JOBS_FORK_FILES_H
#define CAIRN_API_JOBS_FORK_FILES_H

#include "base/channel.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>

struct definition_disk;
struct err;
struct fork_as_result;

struct fork_file {
	const char *path; /* borrowed */
	bool copy;	  /* a clone's file, which is created; else an image of the source */
	uint16_t at;	  /* its place among the files of all authors; that of the state is 0 */
	uint16_t disk;	  /* number of the disk that it belongs to */
};

struct fork_files {
	struct fork_file list[CHANNEL_FDS_MAX];
	unsigned n;
	bool relayed; /* for fork_files_open(): the input is a relay (base/relay.h) of files that others have opened */
	/* For fork_files_check(): the disks that are copied. */
	struct {
		const struct definition_disk *disk; /* borrowed until the check has begun */
		unsigned nlayers; /* the copy gets the content of so many layers */
	} copied[VM_DISKS_MAX];
	unsigned ncopied;
};

/* Check that each image is a regular file, and that no clone's file exists yet. files: struct fork_files.
 * out->bytes: bytes that a clone's copies of disks add to a quota.
 * Returns 0; -EEXIST: a clone's file exists; -ENOTSUP: an image is no regular file; -errno. */
int fork_files_check(const void *files, struct fork_as_result *out, struct err *e);
/* Open the images for reading and create the clones' files. out holds the input, or the files of its relay, and these
 * files, in the order of their places. On failure, the created files are removed.
 * files: struct fork_files. Returns 0 or -errno. */
int fork_files_open(const void *files, struct fork_as_result *out, struct err *e);
/* Remove the clones' files that fork_files_open() has created. files: struct fork_files. Returns 0. */
int fork_files_remove(const void *files, struct fork_as_result *out, struct err *e);
/* Fill out->sizes, by disk, with the bytes that the files occupy; 0: unknown. files: struct fork_files, of which only
 * the list is used. Returns 0. */
int fork_files_measure(const void *files, struct fork_as_result *out, struct err *e);

/* Copy the list with its paths, and free the copy. */
void *fork_files_copy(const void *files);
void fork_files_drop(void *copy);

#endif
