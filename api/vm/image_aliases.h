/* image_aliases: finds files that a new definition and another VM name by different paths, as over a symbolic link.
 * image_users.h compares paths as text, so it would not know that the VMs share the file.
 * A file of another VM is looked at only if its path ends with the same file name as a file of the definition, before
 * or after the symbolic links of that one, or if the definition's file has hard links. So a file system that hangs
 * delays few definitions. Not found: an image that only the other VM names by a symbolic link of another name. */
#ifndef CAIRN_API_VM_IMAGE_ALIASES_H
#define CAIRN_API_VM_IMAGE_ALIASES_H

#include <stdbool.h>

struct definition;
struct err;
struct fork_as_result;
struct vm_host;

struct image_aliases {
	struct vm_host *host;
	const struct definition *def;
};

/* Return whether image_aliases_check() has files to compare. Looks at no file. */
bool image_aliases_possible(const struct image_aliases *a);
/* Check that no other VM has an image of the definition by another path. Paths that the VM has already are not checked,
 * nor are files that both VMs only read.
 * arg: a struct image_aliases. Runs in a process of fork_as.h. Returns 0; -EINVAL. */
int image_aliases_check(const void *arg, struct fork_as_result *out, struct err *e);

#endif
