/* vnc_start: starts the process that shows a VM's screen. */
#ifndef CAIRN_API_DEFINITION_VNC_START_H
#define CAIRN_API_DEFINITION_VNC_START_H

struct definition;
struct err;

/* Start cairn-vnc, which ends when the returned fd and its copies are closed. May wait and fork, so do that in a
 * process of its own.
 * listener: a listening socket for VNC clients; borrowed.
 * Returns an owned fd for vm_config.display_fd; -errno with a sentence. */
int vnc_start(const struct definition *d, int listener, struct err *e);

#endif
