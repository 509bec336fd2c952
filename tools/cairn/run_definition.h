/* run_definition: compose the definition of the VM of `cairn run` from a definition file, if there is one, and options.
 * Options that add a device, such as a disk, use the functions below, so that errors about the device name the
 * option. */
#ifndef CAIRN_TOOLS_RUN_DEFINITION_H
#define CAIRN_TOOLS_RUN_DEFINITION_H

#include "tools/cairn/definition_file.h"
#include "tools/cairn/guest_session.h"

#include <stddef.h>

struct cli;

struct run_definition {
	struct definition_file file; /* the definition under composition; `origins` has the options of its keys */
	bool from_file;		     /* the user has named a definition file */
	int *overlays;		     /* files of ephemeral disks: the definition has them as /proc/self/fd/N */
	size_t noverlays;
	struct guest_mount *volumes; /* shares that are mounted for the command */
	size_t nvolumes;
};

/* Compose the definition. Moves the positionals: afterwards c->pos[0] is the VM's name for messages, either the file
 * or its name, and c->pos[1] begins the command, if any.
 * d: zeroed. Returns 0; CLI_USAGE after an error message; -errno with a sentence that names the option. Call
 * run_definition_done() in either case. */
int run_definition_make(struct cli *c, struct run_definition *d, struct err *e);
void run_definition_done(struct run_definition *d);

/* Prefix an error of definition_parse(), or about a file of the definition, with the option or the place in the XML
 * that gave the key. Returns r. */
int run_definition_locate(const struct run_definition *d, int r, struct err *e);

/* Add a share. o: taken. */
void run_definition_add_share(struct run_definition *d, const char *option, struct json_object *o);
/* Add a disk behind the others, or before them, as the guest's first one.
 * option: which gave it, such as "--disk x.img". o: JSON of the disk, with an absolute path; taken. */
void run_definition_add_disk(struct run_definition *d, const char *option, struct json_object *o, bool is_first);

#endif
