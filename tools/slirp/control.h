/* control: messages between the daemon and cairn-slirp. cairn-slirp reports use of a forward, so that the daemon can
 * wake the VM. The daemon sets whether connections are accepted. Each new daemon connects again, and the last
 * connection counts.
 *
 * To the daemon: {"forward": N}, N as in the order on the command line, at most one per forward and
 * CONTROL_INTERVAL_NS. The last report is never lost: a killed daemon may not have read it, so it is repeated to the
 * next daemon unless the guest has sent a packet since. {"held": true}: no more connections are accepted, and all
 * earlier ones are reported, if need be before CONTROL_INTERVAL_NS is over.
 *
 * {"denied": [PACKETS, QUESTIONS]}: the numbers of packets and DNS questions that the egress rules have denied since
 * the start, after a change, at most once per CONTROL_INTERVAL_NS; each new daemon gets it, too.
 *
 * From the daemon: {"hold": true} and {"hold": false}; {"add": "tcp:-:22"} with a bound socket, and
 * {"remove": N, "socket": "tcp:127.0.0.1:8022"}; {"egress": true} with a file that has the text of new egress rules, or
 * nothing for none. The caller takes these three with control_order(), and control_answer()
 * answers {"done": true} or {"done": false}. A removed forward's number goes to the forward behind it. The address of
 * its socket names the forward, and N counts only without it, as of an older daemon: a daemon that was killed between a
 * change and its note of it knows other numbers. If no forward has that socket, it is removed already.
 *
 * {"give": "tcp:127.0.0.1:8022"} and {"take": "tcp:-:22", "socket": "tcp:127.0.0.1:8022"}, to two processes, each with
 * one end of a Unix socket pair, move a forward without closing its port: the first process sends the forward's socket
 * to the second one, and removes its forward.
 *
 * cairn-publish (tools/publish) has the same messages, and one of its own: {"lead": "10.0.0.5 vnet0"}. */
#ifndef CAIRN_TOOLS_SLIRP_CONTROL_H
#define CAIRN_TOOLS_SLIRP_CONTROL_H

#include "tools/slirp/options.h"

#include <poll.h>
#include <stdint.h>

#define CONTROL_INTERVAL_NS 500000000ULL
#define CONTROL_FDS 3
#define CONTROL_ANSWERS_MAX 8u /* the daemon waits for each answer before its next order */
#define CONTROL_FORWARD_TEXT 64 /* "udp:" with an IPv6 address and ":65535"; "255.255.255.255 " and the name of a tap */

/* A change of the forwards or of the egress rules that the daemon wants. */
struct control_order {
	enum { CONTROL_NONE, CONTROL_ADD, CONTROL_REMOVE, CONTROL_GIVE, CONTROL_LEAD, CONTROL_EGRESS } kind;
	/* CONTROL_ADD: for options_add_forward(). CONTROL_REMOVE and _GIVE: the address of the socket; CONTROL_REMOVE
	 * with "": `at` counts. CONTROL_LEAD: the guest's address and its tap */
	char text[CONTROL_FORWARD_TEXT];
	/* CONTROL_ADD: the socket; CONTROL_GIVE: where to send it (control_give()); CONTROL_EGRESS: the file; owned;
	 * otherwise -1 */
	int fd;
	unsigned at;	    /* CONTROL_REMOVE */
};

struct control {
	int listening; /* borrowed; -1: none */
	int fd;	       /* connection of the daemon; -1: none */
	bool holds;    /* accept no connections; ends when the daemon disconnects */
	bool owes;     /* {"held": true} is still to be sent */
	unsigned answers, nanswers; /* answers that are still to be sent: a bit for each, the first one lowest */
	bool told;     /* a {"forward": N} was sent since the guest's last packet */
	uint64_t denied[2]; /* packets and questions */
	bool denied_pending;
	uint64_t denied_next_ns;
	struct control_order order; /* waits for control_order() */
	struct {
		int fd; /* end of a Unix socket pair, by which a socket comes; owned; -1: none */
		char text[CONTROL_FORWARD_TEXT], from[CONTROL_FORWARD_TEXT]; /* as in the message */
	} take;
	struct {
		bool pending, told;
		uint64_t next_ns;
	} forwards[FORWARDS_MAX];
};

/* Initialize c, and make this process the peer that clients of the listening socket see. listening: borrowed; -1: none.
 * Returns 0 or -errno. */
int control_init(struct control *c, int listening);
void control_done(struct control *c);
void control_report(struct control *c, unsigned forward, uint64_t now_ns);
/* Report the counters of the egress rules' denials, if they have changed. */
void control_denied(struct control *c, uint64_t packets, uint64_t questions, uint64_t now_ns);
/* Note that the guest has sent a packet: the VM runs, so no report needs to be repeated. */
void control_awake(struct control *c);
/* Send due messages. Returns the time of the next call; UINT64_MAX: not needed. */
uint64_t control_run(struct control *c, uint64_t now_ns);
/* Add up to CONTROL_FDS entries for poll(). Returns their number. */
unsigned control_poll_add(const struct control *c, struct pollfd *fds);
void control_poll_done(struct control *c, const struct pollfd *fds, unsigned n, uint64_t now_ns);
/* Take the change that the daemon has asked for. The caller makes it, closes the order's fd if it is not used, and
 * calls control_answer(). */
struct control_order control_order(struct control *c);
void control_answer(struct control *c, bool done);
/* Send the socket of a forward by `to`, the fd of a CONTROL_GIVE. Returns whether it is sent. */
bool control_give(int to, int socket);
/* Note that the forward `at` is removed, and that those behind it moved up. */
void control_remove_forward(struct control *c, unsigned at);

#endif
