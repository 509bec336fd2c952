/* backing: look at images for a definition: find the backing files of a qcow2 image. The daemon parses no image, so
 * cairn runs cairn-img with the rights of the user. */
#ifndef CAIRN_TOOLS_BACKING_H
#define CAIRN_TOOLS_BACKING_H

#include <stdbool.h>

struct err;
struct json_object;

/* Return whether the file has a qcow2 header. This process reads it, because the daemon reads no image. */
bool image_looks_like_qcow2(const char *path);

/* Return whether two paths name one file. Paths of files that are missing name one file if they are equal. */
bool image_is_same(const char *a, const char *b);

/* Add the member "backing" to a disk.
 * disk: JSON of the disk; its "path" names the image. An image that cannot be read gets no member: a later check
 * reports the cause.
 * Returns 0; -EINVAL: an image does not give the format of its backing file. */
int backing_put(struct json_object *disk, struct err *e);

#endif
