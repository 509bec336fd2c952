/* helper: common functions of cairn-archive and cairn-diff, which the daemon starts with a specification and with
 * disks as open fds. Stdout carries lines of JSON, and the last one is {"result":...} or {"error":...}.
 * Threading: the main thread. */
#ifndef CAIRN_TOOLS_ARCHIVE_HELPER_H
#define CAIRN_TOOLS_ARCHIVE_HELPER_H

struct block_layer;
struct err;
struct json_object;

#define HELPER_SPEC_FD 3
#define HELPER_SPEC_MAX (1024 * 1024)

/* Read the specification. ret: the caller owns it. Returns 0; -errno with a sentence. */
int helper_spec_read(struct json_object **ret, struct err *e);
/* Take the files that other processes hold (base/relay.h), as if they had come with the program.
 * first: number of the first relay, and then of the first file. Returns 0; -errno with a sentence. */
int helper_held_take(struct json_object *spec, int first, struct err *e);
/* Read a disk's list "layers".
 * layers: room for BLOCK_LAYERS_MAX. Returns 0; -EINVAL with a sentence. */
int helper_layers_take(struct json_object *list, struct block_layer *layers, unsigned *ret_n, struct err *e);
/* Print a line {what: o}. o: taken. */
void helper_print(const char *what, struct json_object *o);
/* Print a line with the error. Returns 1, the exit status. */
int helper_fail(const struct err *e);

#endif
