/* stack: libslirp, which turns the guest's TCP, UDP and ICMP into sockets of cairn-slirp and serves DHCP. Frames of
 * the guest pass loopback_filter first.
 *
 * Order of calls: stack_poll_add(), poll(), stack_poll_done(). */
#ifndef CAIRN_TOOLS_SLIRP_STACK_H
#define CAIRN_TOOLS_SLIRP_STACK_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct control;
struct err;
struct frames;
struct options;
struct stack;

/* Poll set of one round. */
struct poll_set {
	struct pollfd fds[2048]; /* more than enough: no fd occurs twice, and there are at most FDS_MAX */
	unsigned n;
};

/* Create the stack.
 * The listening sockets of TCP forwards are taken. All arguments outlive the result. Returns 0; -errno with a
 * sentence. */
int stack_new(const struct options *o, struct frames *f, struct control *c, struct stack **ret_s,
	struct err *e);
void stack_free(struct stack *s);

/* Begin to accept connections of the TCP forward `at` of the options; takes the forward's socket. Returns 0; -errno
 * with a sentence. */
int stack_add_forward(struct stack *s, unsigned at, struct err *e);
/* Return the listening socket of the TCP forward `at`, which libslirp owns; -1: none. */
int stack_listener(const struct stack *s, unsigned at);
/* Close the socket of the forward `at`, if it is a TCP forward. Open connections continue. The forwards behind it move
 * up. */
void stack_remove_forward(struct stack *s, unsigned at);

/* End the guest's connections to addresses outside that may be reached no more, and give each of its datagram sockets
 * another port, so that answers from outside end, too. Connections of forwards continue.
 * may_go_on: returns whether a connection to the address (IPv4 in its IPv6 form) may. */
void stack_end_connections(struct stack *s, bool (*may_go_on)(void *opaque, const uint8_t to[16], uint16_t port), void *opaque);

/* Handle a frame of the guest; call stack_input_done() after a batch. Call both only after stack_poll_done(), which
 * updates libslirp's time. */
void stack_input(struct stack *s, const uint8_t *frame, size_t len);
void stack_input_done(struct stack *s);

/* Add libslirp's sockets. Returns the maximum wait in ms; -1: no limit. */
int stack_poll_add(struct stack *s, struct poll_set *set, uint64_t now_ns);
/* polled: how many entries of the set have events; 0 or less: those of libslirp's sockets have none. */
void stack_poll_done(struct stack *s, struct poll_set *set, int polled, uint64_t now_ns);

#endif
