/* merge: merges the layers of an image into one tar archive, in a process of its own with a sandbox, because layers are
 * untrusted. It reads each layer twice: first to find the entries of the final tree, then to copy these. Memory grows
 * with the number of names, not with their content.
 *
 * Threading: one thread. */
#ifndef CAIRN_TOOLS_ROOT_MERGE_H
#define CAIRN_TOOLS_ROOT_MERGE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct layer;

/* Attributes of the root folder, from its entry. */
struct merge_root {
	uint32_t mode, uid, gid, mtime;
	bool maker_used; /* a file may have this process's user or group as owner or group */
};

struct merge_input {
	const struct layer *layers; /* the lowest first */
	unsigned n;
	bool whiteouts;
	uint32_t files_max;
};

/* Reports of the process: one after the first pass, one at the end, or one with an error. */
struct merge_report {
	int r; /* 0 or -errno */
	struct err e;
	struct merge_root root; /* in the first report */
	bool many_alike; /* in the first report; see size_counts.h */
};

/* Start the process, which ends with this one.
 * tar, report: pipes for the archive and for struct merge_report. Borrowed; the process has copies of their ends for
 * writing.
 * Returns its pid; -errno with a sentence. */
pid_t merge_start(const struct merge_input *in, const int tar[2], const int report[2], struct err *e);

#endif
