/* privileges: reduces cairn-net to the capabilities that it needs. */
#ifndef CAIRN_TOOLS_NET_PRIVILEGES_H
#define CAIRN_TOOLS_NET_PRIVILEGES_H

struct err;

/* Give up all other capabilities, and set no_new_privs and limits. Call it before reading any input. Returns 0;
 * -errno with a sentence. */
int privileges_drop(struct err *e);
/* Check for CAP_NET_ADMIN. Returns 0; -EPERM with a sentence. */
int privileges_check(struct err *e);

/* Return the remedy for a missing capability, for the end of a sentence: root may lack it in a container. */
const char *privileges_remedy(void);

#endif
