/* tree: the names that the layers of an image leave, as if each layer were unpacked over the ones before it. It holds
 * names only. The content of a name is given by the number of an entry, counted from 0 over all layers.
 *
 * Names come from untrusted archives. No name leaves the tree: a ".." in a name is an error, the leading "/" of a name
 * does not count, and ".." in the target of a symbolic link ends at the root. A tree is freed with its process.
 *
 * Threading: one thread. */
#ifndef CAIRN_TOOLS_ROOT_TREE_H
#define CAIRN_TOOLS_ROOT_TREE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

struct err;
struct tree;
struct tree_name; /* a name of a folder or file */

enum tree_kind { TREE_FOLDER, TREE_FILE, TREE_SYMLINK, TREE_HARD_LINK };

/* entries_max: limit of the entries of all layers. Returns NULL if there is no memory. */
struct tree *tree_new(uint32_t entries_max);

/* Add the next entry.
 * layer: does not decrease.
 * whiteouts: names with the prefix ".wh." remove names of earlier layers (OCI image specification, "Whiteouts").
 * target: of a symbolic or hard link; else NULL.
 * ret_is_root: whether the entry is the root folder.
 * Returns 0; -errno with a sentence. */
int tree_add(struct tree *t, unsigned layer, bool whiteouts, enum tree_kind kind, const char *path, const char *target,
	bool *ret_is_root, struct err *e);

/* Call it after the last entry, before the functions below. */
void tree_finish(struct tree *t);
/* Returns the first name of an entry's object; NULL: a later entry has replaced or removed it, or it is the root. */
struct tree_name *tree_entry(struct tree *t, uint32_t entry);
/* Returns the next name (hard link) of the same file; NULL: none. */
struct tree_name *tree_link(struct tree_name *n);
/* Returns the first name, and the next one, of the folders that no entry describes; NULL: none. */
struct tree_name *tree_bare_folder(struct tree *t, struct tree_name *after);
/* Write the path, without a leading "/". Returns 0; -ENAMETOOLONG. */
int tree_path(const struct tree_name *n, char ret[PATH_MAX]);

#endif
