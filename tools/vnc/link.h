/* link: the connection to the VM's process, which gives the screen's memory and takes input (base/display.h). */
#ifndef CAIRN_TOOLS_VNC_LINK_H
#define CAIRN_TOOLS_VNC_LINK_H

#include "base/display.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct link {
	int fd; /* borrowed; blocking */
	const uint8_t *memory; /* NULL: none yet */
	size_t bytes; /* of the framebuffer */
};

/* Take the VM's next message. Returns 1: the memory is another one; 0: the VM's process has ended; -errno. */
int link_receive(struct link *l);
/* Get the mode, which lies in the framebuffer. Returns false if the guest shows nothing. */
bool link_mode(const struct link *l, struct display_mode *ret);
/* Send input. It is lost if the VM's process does not take it in time. */
void link_send(const struct link *l, struct input_event ev);

#endif
