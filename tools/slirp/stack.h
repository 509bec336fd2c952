/* stack: libslirp: the guest's TCP, UDP and ICMP become sockets of this process, and it hands out an
 * address. What the guest sends goes through the gate first.
 *
 * Around poll(): stack_poll_add(), poll(), stack_poll_done(). */
#ifndef CAIRN_TOOLS_SLIRP_STACK_H
#define CAIRN_TOOLS_SLIRP_STACK_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>

struct control;
struct err;
struct frames;
struct options;
struct stack;

/* What a round of the loop polls. */
struct poll_set {
	struct pollfd fds[2048]; /* twice what may be open: none is there twice, and some are ours */
	unsigned n;
};

/* The listening sockets of TCP's forwards are taken. All that is passed outlives the result. */
int stack_new(const struct options *o, struct frames *f, struct control *c, struct stack **ret_s,
	struct err *e);
void stack_free(struct stack *s);

/* A frame of the guest's; and after some of them. Not before stack_poll_done() in a round: libslirp knows
 * the time from that. */
void stack_input(struct stack *s, const uint8_t *frame, size_t len);
void stack_input_done(struct stack *s);

/* Its sockets. Returns how long it can wait, in ms; -1: for ever. */
int stack_poll_add(struct stack *s, struct poll_set *set, uint64_t now_ns);
void stack_poll_done(struct stack *s, struct poll_set *set, int polled, uint64_t now_ns);

#endif
