#ifndef CAIRN_BASE_HOME_H
#define CAIRN_BASE_HOME_H

/* Return the home folder of the process's user: $HOME. If $HOME is not set, as in a service of systemd, or is no
 * absolute path, return the user's folder in /etc/passwd. Return root's folder in /etc/passwd, too, if root has the
 * $HOME of another user, as under sudo: that user could not remove files that root leaves there.
 * Returns NULL: there is none. The text is valid until the next call, or a change of $HOME.
 * Threading: one thread. */
const char *home_folder(void);

#endif
