/* state_file: the definition in a saved state that cairn save has written to a file (snapshot/vmstate.h). */
#ifndef CAIRN_TOOLS_STATE_FILE_H
#define CAIRN_TOOLS_STATE_FILE_H

#include "snapshot/vmstate.h"

#include <stdbool.h>
#include <time.h>

struct err;
struct json_object;

struct state_file {
	int fd;
	struct timespec since; /* time of the file's last change */
	struct vmstate_file store;
	struct vmstate_header header;
	struct json_object *definition; /* NULL: none, or damaged */
};

/* Open a saved state, and read its header and its definition.
 * write: for state_file_set(). A definition that is missing or damaged is then no error.
 * Returns 0; -errno with a sentence. Call state_file_done() in either case. */
int state_file_open(const char *path, bool write, struct state_file *ret, struct err *e);
void state_file_done(struct state_file *f);
/* Check that the guest sees the same machine with this definition, and write it to the file.
 * now: a definition. folder: base of relative paths; NULL: there are none. paused: whether the VM is to be paused after
 * a restore. Returns 0; -errno with a sentence. */
int state_file_set(struct state_file *f, struct json_object *now, const char *folder, bool paused, struct err *e);

#endif
