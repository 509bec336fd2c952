/* network_programs: watches dnsmasq and cairn-dns of an active network. If one ends by itself, the network is checked,
 * and so started again: at once, then with delays up to a minute. Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_NETWORK_PROGRAMS_H
#define CAIRN_API_NET_NETWORK_PROGRAMS_H

#include <stdbool.h>

struct json_object;
struct network;
struct network_programs;

/* Watch the processes that an answer of cairn-net names, in place of the earlier ones. The answers of verbs without
 * processes change nothing. answer: borrowed.
 * ended: called from the loop when one has ended while the network is active, with its name.
 * check:  called from the loop to have the network checked. Returns false: ask again later. */
void network_programs_watch(struct network *n, struct json_object *answer, void (*ended)(struct network *n, const char *program),
	bool (*check)(struct network *n));
/* Report programs that have ended although the loop has not called ended() yet. */
void network_programs_notice(struct network *n);
/* NULL allowed. */
void network_programs_free(struct network_programs *p);

#endif
