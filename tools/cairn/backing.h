/* backing: the layers below a qcow2 image, which a definition lists and the daemon, that parses no image,
 * cannot find. cairn-img reads them, as whoever types. */
#ifndef CAIRN_TOOLS_BACKING_H
#define CAIRN_TOOLS_BACKING_H

struct err;
struct json_object;

/* Puts "backing" into a disk's JSON, from its "path". An image that cannot be read has none: what is wrong
 * with it, others say. Returns 0; -EINVAL: a layer's format stands nowhere. */
int backing_put(struct json_object *disk, struct err *e);

#endif
