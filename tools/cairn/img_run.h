/* img_run: runs cairn-img and other programs, with the rights of the user. */
#ifndef CAIRN_TOOLS_IMG_RUN_H
#define CAIRN_TOOLS_IMG_RUN_H

struct err;
struct json_object;

/* Run cairn-img, and wait for it.
 * args: behind "cairn-img"; the last one is NULL. ret: its output, parsed; owned by the caller; NULL: not wanted.
 * Returns 0; -errno with a sentence, cairn-img's own if it has failed. */
int img_run(const char *const *args, struct json_object **ret, struct err *e);
/* The same for another program: a path, or a name to look up in PATH. Returns -ENOENT if there is none. */
int program_run(const char *program, const char *const *args, struct json_object **ret, struct err *e);

#endif
