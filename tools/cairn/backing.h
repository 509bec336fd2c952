/* backing: find the backing files of a qcow2 image for a definition. The daemon parses no image, so cairn runs
 * cairn-img with the rights of the user. */
#ifndef CAIRN_TOOLS_BACKING_H
#define CAIRN_TOOLS_BACKING_H

struct err;
struct json_object;

/* Add the member "backing" to a disk.
 * disk: JSON of the disk; its "path" names the image. An image that cannot be read gets no member: a later check
 * reports the cause.
 * Returns 0; -EINVAL: an image does not give the format of its backing file. */
int backing_put(struct json_object *disk, struct err *e);

#endif
