/* squash: makes a squashfs image by sqfstar. Nothing in it is compressed, because a guest's kernel would have to expand
 * it, which is slow where KVM emulates kernel mode.
 *
 * Threading: one thread. A signal whose handler restarts no system call ends both functions with -EINTR. */
#ifndef CAIRN_TOOLS_ROOT_SQUASH_H
#define CAIRN_TOOLS_ROOT_SQUASH_H

#include <stdbool.h>

struct err;
struct merge_input;

/* Merge layers into an image at the path, which must not exist. Returns 0; -errno with a sentence. */
int squash_layers(const struct merge_input *in, const char *path, struct err *e);
/* Make an image of a folder, by tar. many_alike: see size_counts.h. */
int squash_folder(const char *folder, bool many_alike, const char *path, struct err *e);

#endif
