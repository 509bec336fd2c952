/* clone: output of the verbs about live clones. */
#ifndef CAIRN_TOOLS_VERBS_CLONE_H
#define CAIRN_TOOLS_VERBS_CLONE_H

struct cli;
struct json_object;

/* Put the values of --cpus, --memory-max and --publish into the arguments of vm-fork or group-clone. Returns 0 or
 * CLI_USAGE. */
int clone_limits_put(struct cli *c, struct json_object *args);

/* List the forwards of the source that the clone lacks. list: array of texts; NULL: none. */
void clone_forwards_print(struct json_object *list);
/* List the addresses of clones in networks. list: array of objects; NULL: none. */
void clone_addresses_print(struct json_object *list);

#endif
