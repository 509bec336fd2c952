#ifndef CAIRN_BASE_HOME_H
#define CAIRN_BASE_HOME_H

/* Return the home folder of the process's user: $HOME, unless root has the HOME of another user, as under sudo. Then
 * it is root's own from /etc/passwd, because the user could not remove files that root leaves in $HOME. If $HOME is
 * not set, as in a service of systemd, or is no absolute path, it is the user's from /etc/passwd, too.
 * Returns NULL: there is none. The text is valid until the next call, or a change of $HOME.
 * Threading: one thread. */
const char *home_folder(void);

#endif
