/* root_inode: sets the owner, group and time of a squashfs image's root folder. sqfstar ignores the tar archive's entry
 * of the root, and of its own options for the root it ignores the owner and the time.
 *
 * Threading: one thread. */
#ifndef CAIRN_TOOLS_ROOT_ROOT_INODE_H
#define CAIRN_TOOLS_ROOT_ROOT_INODE_H

struct err;
struct merge_root;

/* Set owner, group and time. The image is one of sqfstar, without compressed inodes.
 * An owner whom no other file of the image has takes the place of this process's own user in the image's table of
 * owners, unless another file has that.
 * Returns 0; -errno with a sentence. */
int root_inode_set(const char *path, const struct merge_root *root, struct err *e);

#endif
