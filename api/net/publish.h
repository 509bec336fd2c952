/* publish: forwards that a VM gets at its start, for vm-start, or that a live clone gets. They belong to this run only,
 * like those of forward-add: they are in vm->live, the definition that the VM runs with, and not in its next start's
 * definition. Their sockets are opened with the VM's other files, and its cairn-slirp begins with them, so they need no
 * request and no sync of their own, and without one of them the VM does not start.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_PUBLISH_H
#define CAIRN_API_NET_PUBLISH_H

#include <stdbool.h>
#include <stdint.h>

struct config;
struct definition;
struct err;
struct json_object;
struct rights;
struct vm;
struct vm_host;

/* Check forwards as forward-add takes them, for one VM or for several clones, which cannot share a port.
 * forwards: an array of objects; borrowed. source: the VM's definition, or that of the VM that is cloned.
 * Returns 0; -EINVAL; -ENOENT: no such interface. */
int publish_validate(struct vm_host *host, struct json_object *forwards, const struct definition *source, bool several, struct err *e);
/* Check that no forward has a port of its own, which several clones cannot share. Returns 0; -EINVAL. */
int publish_check_shared(struct json_object *forwards, struct err *e);
/* Make the definition with which a VM starts. own: the VM's definition. rights: of the user who adds the forwards;
 * NULL: the daemon's own. *ret: the caller's; a forward that gets its port from the kernel has the port 0.
 * Returns 0; -errno. */
int publish_define(struct json_object *forwards, const struct rights *rights, const struct definition *own, struct definition **ret,
	struct err *e);
/* Note the ports that the kernel has chosen, in the definition that the VM starts with. c: its last files are the
 * sockets of the forwards. Returns 0; -errno. */
int publish_record_ports(struct vm *vm, const struct config *c, struct err *e);
/* Add an object for each such forward to the list: name (of the VM), protocol, address, port, to, guest. own: how many
 * forwards each interface has without them; NULL: none. */
void publish_list(const struct vm *vm, const uint32_t *own, struct json_object *list);

#endif
