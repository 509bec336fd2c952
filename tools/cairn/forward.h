/* forward: ports of the host that lead to a guest (interfaces of type user): their texts and their changes. */
#ifndef CAIRN_TOOLS_FORWARD_H
#define CAIRN_TOOLS_FORWARD_H

#include <stdbool.h>
#include <stdio.h>

struct cli;
struct err;
struct json_object;

/* Parse "tcp:127.0.0.1:2222:22", "udp:53:53", "2222:22" or, with `any`, "auto:22" as well, whose result has no port.
 * option: for the error. The caller owns the result; NULL: wrong, and the usage was printed. */
struct json_object *forward_parse(struct cli *c, const char *option, const char *text, bool any);
/* Print "WHOSE: tcp 127.0.0.1:2222 leads to port 22". */
void forward_print(FILE *f, const char *whose, struct json_object *forward);

/* Add a forward to a running VM, and its port to the object. Returns 0 or -errno. */
int forward_publish(struct cli *c, const char *vm, struct json_object *forward, struct err *e);
/* Check the values of --publish. Returns 0 or CLI_USAGE. */
int publish_check(struct cli *c);
/* Put the forwards of --publish, which publish_check() has checked, into the arguments of vm-start or a clone. */
void publish_put(struct cli *c, struct json_object *args);
/* Print each row of "published". list: NULL: none. */
void published_print(struct json_object *list);
/* Add the forwards of --publish to a running VM and print them. Returns an exit code. */
int publish_all(struct cli *c, const char *vm);

#endif
