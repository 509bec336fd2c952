/* clone: what the verbs about live clones print. */
#ifndef CAIRN_TOOLS_VERBS_CLONE_H
#define CAIRN_TOOLS_VERBS_CLONE_H

struct json_object;

/* List the forwards of the source that the clone lacks. list: array of texts; NULL: none. */
void clone_forwards_print(struct json_object *list);
/* List the addresses of clones in networks. list: array of objects; NULL: none. */
void clone_addresses_print(struct json_object *list);

#endif
