/* renew: give a guest its own identity if it continues from a state that other guests share (AGENT_FRAME_RENEW). */
#ifndef CAIRN_TOOLS_AGENT_RENEW_H
#define CAIRN_TOOLS_AGENT_RENEW_H

#include <stddef.h>
#include <stdint.h>

/* Set the clock and the host name, and seed the kernel's random numbers anew.
 * data: of the frame; at least AGENT_RENEW_BYTES. Returns 0; -errno. */
int renew(const uint8_t *data, size_t len);

#endif
