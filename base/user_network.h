/* user_network: the addresses in a network of an interface of type user, as host parts: the prefix of the network
 * replaces the bits that it covers. QEMU's user network has the same addresses (docs/slirp.md). */
#ifndef CAIRN_BASE_USER_NETWORK_H
#define CAIRN_BASE_USER_NETWORK_H

#define USER_NETWORK_GATEWAY 0x0202
#define USER_NETWORK_RESOLVER 0x0203
#define USER_NETWORK_GUEST 0x020f /* of the first guest */

#endif
