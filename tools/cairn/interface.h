/* interface: finds a network interface that a user named. */
#ifndef CAIRN_TOOLS_INTERFACE_H
#define CAIRN_TOOLS_INTERFACE_H

struct json_object;

/* Find an interface of a list by id, tap device or MAC address; NULL: none. Borrowed from the list. */
struct json_object *interface_find(struct json_object *list, const char *which);

#endif
