/* share_start: starts the process that serves a shared folder. */
#ifndef CAIRN_API_DEFINITION_SHARE_START_H
#define CAIRN_API_DEFINITION_SHARE_START_H

#include <stdbool.h>

struct definition;
struct err;

/* Open the folder and start cairn-share for it, with the rights of the calling process. cairn-share ends when the
 * returned fd and its copies are closed. May wait and fork, so do that in a process of its own.
 * key: "shares[0].path", for the error. write: the guest may change the folder.
 * Returns an owned fd for vm_share.fd; -errno with a sentence. */
int share_start(const struct definition *d, const char *key, const char *path, bool write, struct err *e);

#endif
