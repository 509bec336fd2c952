/* net: helpers of the verbs of networks (verbs/net.c). */
#ifndef CAIRN_TOOLS_NET_H
#define CAIRN_TOOLS_NET_H

#include <stdbool.h>

struct cli;
struct err;
struct json_object;

/* Return a new object {"network": name}, to which the caller may add arguments. */
struct json_object *cli_net_args(const char *name);
/* Read the definition of a network. inactive: that of the next start. *ret: the caller owns it. Returns 0; -errno. */
int net_definition_read(struct cli *c, const char *name, bool inactive, struct json_object **ret, struct err *e);

#endif
