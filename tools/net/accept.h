/* accept: other firewalls of the host (Docker, ufw, firewalld, an administrator's own). In nftables a packet must pass
 * every table, so an accept in the network's table does not help where another one drops. This module inserts rules
 * that accept the network's packets at the head of each forward chain that drops packets which match none of its rules,
 * or, with Docker, in DOCKER-USER. They name the uplinks, so a guest reaches no container. Each has the network's UUID
 * in its comment; so they are found again. A table that another process owns cannot be changed; a note names the
 * command for it, until a rule there names the bridge. iptables-legacy keeps such chains outside of nftables; for
 * these, a note names the commands. */
#ifndef CAIRN_TOOLS_NET_ACCEPT_H
#define CAIRN_TOOLS_NET_ACCEPT_H

#include "tools/net/nft.h"
#include "tools/net/uplink.h"

/* A sentence for the user. */
typedef void note_fn(void *arg, const char *sentence);

/* Add the rules, in place of the present ones. A chain that cannot be changed gives a note with the command that does
 * it, unless the table names the bridge already. Returns 0; -errno with a sentence. */
int accept_add(struct nft *nft, const struct network *n, const struct uplinks *up, note_fn *note, void *arg, struct err *e);
/* Add a note for each family whose filter table of iptables-legacy drops packets of the network, with the commands that
 * let them pass. */
void accept_legacy_notes(const struct network *n, const struct uplinks *up, note_fn *note, void *arg);
/* Delete all rules of the network in tables of others. removed(): called with each chain. Returns 0; -errno. */
int accept_remove(struct nft *nft, const struct network *n, note_fn *removed, void *arg, struct err *e);
/* Whether each chain that drops has the rules, or names the bridge if its table belongs to another process.
 * Returns 1, 0; -errno. */
int accept_is_complete(struct nft *nft, const struct network *n, const struct uplinks *up, struct err *e);

#endif
