/* folder: tells whether a folder has changed since an image of it was made.
 *
 * Threading: one thread. */
#ifndef CAIRN_TOOLS_ROOT_FOLDER_H
#define CAIRN_TOOLS_ROOT_FOLDER_H

#include <nettle/sha2.h>
#include <stdbool.h>
#include <stdint.h>

struct err;

/* Compute a digest of the names, numbers (inode), owners, modes, sizes and times of change of all files below a folder;
 * content is not read. Changed content has another time of change, which only root can set back.
 * files_max: limit of the number of files. ret_many_alike: see size_counts.h.
 * Returns 0; -errno with a sentence. */
int folder_digest(const char *path, uint32_t files_max, uint8_t ret[SHA256_DIGEST_SIZE], bool *ret_many_alike, struct err *e);

#endif
