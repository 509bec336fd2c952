/* forward_check: whether forwards can lead to a guest on a network. Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_FORWARD_CHECK_H
#define CAIRN_API_NET_FORWARD_CHECK_H

#include <stdbool.h>

struct definition_forward;
struct definition_interface;
struct err;
struct vm_host;

/* Check that forwards can lead to the guest of an interface of type network. Does nothing if the network is not active,
 * since the VM cannot start then. at: index of the interface, for the sentence. is_clone: the VM is a live clone.
 * Returns 0; -EINVAL. */
int forward_check_network(struct vm_host *host, const struct definition_interface *face, unsigned at, bool is_clone,
	const struct definition_forward *list, unsigned n, struct err *e);

#endif
