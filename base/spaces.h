/* spaces: namespaces in which a process has nothing of its host: a user namespace with its own user only, and a mount
 * namespace whose root is empty. Threading: a process with one thread. */
#ifndef CAIRN_BASE_SPACES_H
#define CAIRN_BASE_SPACES_H

/* Enter a new user namespace, in which the calling process has all rights over namespaces that it makes, and in which
 * its user and group keep their numbers. Files of no other user can be named there. Returns 0; -errno. */
int spaces_enter_user(void);

/* Enter a new mount namespace, whose only file system is an empty, read-only one. Open files stay usable.
 * Returns 0; -errno: the process may still be in the old one, or in a new one with all its file systems. */
int spaces_enter_empty_root(void);

#endif
