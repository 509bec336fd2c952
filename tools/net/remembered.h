/* remembered: stores the IPv4 addresses that each MAC address has had by DHCP, in FOLDER/addresses. A guest that is
 * reverted or restored after its lease has ended still uses one of them. Lines "MAC ADDRESS", the newest first; at
 * most REMEMBERED_OF_MAC of a MAC address, and REMEMBERED_MAX in total. */
#ifndef CAIRN_TOOLS_NET_REMEMBERED_H
#define CAIRN_TOOLS_NET_REMEMBERED_H

#include "tools/net/address.h"

#define REMEMBERED_OF_MAC 8
#define REMEMBERED_MAX 4096

struct err;

struct remembered {
	uint8_t mac[MAC_BYTES];
	struct address address;
};

struct remembered_list {
	struct remembered list[REMEMBERED_MAX + 1]; /* the newest first */
	size_t n;
	bool changed;
};

/* Read the file. Malformed lines are ignored, and a missing file counts as empty. Returns 0; -errno with a sentence. */
int remembered_read(const char *folder, struct remembered_list *ret, struct err *e);
/* Add an address; nothing changes if it is there. */
void remembered_add(struct remembered_list *l, const uint8_t mac[MAC_BYTES], const struct address *a);
/* Replace the file if something has changed. Returns 0; -errno with a sentence. */
int remembered_write(const char *folder, const struct remembered_list *l, struct err *e);

#endif
