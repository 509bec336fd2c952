/* egress_rules: the nft rules about the destinations that a network's guests may reach (base/egress.h). */
#ifndef CAIRN_TOOLS_NET_EGRESS_RULES_H
#define CAIRN_TOOLS_NET_EGRESS_RULES_H

#include <stdbool.h>
#include <stdio.h>

struct egress_rule;
struct err;
struct network;
struct operation;
struct service;

#define EGRESS_COUNTER "denied" /* of packets, in the network's table */
#define EGRESS_QUESTIONS "refused" /* counter of DNS questions */

/* Print the chains `egress`, for packets to others, and `input`, for those to the host, with their sets, if the
 * network has rules. A packet that may pass returns from `egress`. */
void egress_rules_print(FILE *f, const struct network *n, const struct service *s);
/* Return whether it is the name of a set with open addresses of a name that the network's rules have. */
bool egress_has_set(const struct network *n, const char *name);
/* Print the rules of the chain prerouting of the table of the family bridge: only dnsmasq's link has its address. */
void egress_bridge_print(FILE *f, const struct network *n);
/* Print the rules at the head of the chain `forward`: drop packets that guests send from addresses outside the network
 * or from the gateway's, and judge the others. Prints nothing without rules. */
void egress_forward_print(FILE *f, const struct network *n);
/* The verb `denied`: answer how many packets and questions the rules have denied since they were made. Takes no
 * lock. */
int network_denied(struct operation *o, struct err *e);

#endif
