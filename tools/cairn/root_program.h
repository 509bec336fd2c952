/* root_program: cairn-root, which makes, lists and removes the images of `cairn run --image` (tools/root/main.c). */
#ifndef CAIRN_TOOLS_ROOT_PROGRAM_H
#define CAIRN_TOOLS_ROOT_PROGRAM_H

struct err;
struct json_object;

/* Run cairn-root, and wait for it.
 * subject: the beginning of an error's sentence. ret: its answer; the caller owns it; NULL: it has none.
 * Returns 0; -EBUSY: a run uses the image to remove; -errno with a sentence. */
int root_program_run(char *const argv[], const char *subject, struct json_object **ret, struct err *e);
/* As root_program_run(), for argv with --hand-over ROOT_PROGRAM_SOCKET.
 * *ret_lock: an fd of the image, which stays in the cache until the fd is closed; the caller owns it. */
int root_program_take(char *const argv[], const char *subject, struct json_object **ret, int *ret_lock, struct err *e);
#define ROOT_PROGRAM_SOCKET "3"

#endif
