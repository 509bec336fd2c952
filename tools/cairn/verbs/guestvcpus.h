/* guestvcpus: the processors that the guest of a running VM uses, by its guest agent. */
#ifndef CAIRN_TOOLS_VERBS_GUESTVCPUS_H
#define CAIRN_TOOLS_VERBS_GUESTVCPUS_H

struct cli;
struct err;

/* Count the processors that the guest uses. Returns the number; -errno. */
int vcpus_count_online(struct cli *c, struct err *e);
/* Let the guest use n of its processors. Returns 0; -EINVAL: it has fewer, or cannot take so many offline; -errno. */
int vcpus_set_online(struct cli *c, long n, struct err *e);

#endif
