/* run_root: a root file system for the VM of `cairn run`: cairn-root makes a squashfs image of --root or --image, the
 * image becomes the guest's first disk, and cairn-agent mounts it as init (tools/agent/root.h). */
#ifndef CAIRN_TOOLS_RUN_ROOT_H
#define CAIRN_TOOLS_RUN_ROOT_H

#include <stdbool.h>
#include <stddef.h>

struct cli;
struct err;
struct json_object;
struct run_definition;

struct run_root {
	struct json_object *image; /* answer of cairn-root, empty with `shared`; owned. NULL: the VM has no such root */
	const char *user, *folder; /* of the image: for commands; "": root, / */
	int lock;    /* fd: the image stays in the cache; -1: none */
	int layer;   /* fd: lock of the layer of --keep, which is the second disk; -1: none */
	bool is_new; /* the image was made for this run, or just before */
	bool shared; /* there is no image: the guest writes to the folder itself */
};

/* Make the image, if the user has given --root or --image, add the disk, and put the image's entry point before the
 * command, or its whole command in place of a missing one.
 * root: zeroed but for lock and layer.
 * Returns 0; CLI_USAGE after an error message; -errno with a sentence. Call run_root_done() in either case. */
int run_root_make(struct cli *c, struct run_definition *d, struct run_root *root, struct err *e);
void run_root_done(struct run_root *root);
/* Returns a variable of the image's environment, "NAME=VALUE"; NULL: there are no more. */
const char *run_root_variable(const struct run_root *root, size_t i);

#define RUN_ROOT_VARIABLES_MAX 3000

/* Write the words for the kernel's command line that tell the agent to be the init of such a root, and which addresses
 * the guest has on a user network. definition: a valid one. */
#define RUN_ROOT_WORDS_BYTES 128
void run_root_words(const struct run_root *root, struct json_object *definition, char ret[RUN_ROOT_WORDS_BYTES]);

#endif
