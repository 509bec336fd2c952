/* definition_file: a file that a user wrote, JSON or libvirt's domain XML, turned into the JSON of
 * a definition. */
#ifndef CAIRN_TOOLS_DEFINITION_FILE_H
#define CAIRN_TOOLS_DEFINITION_FILE_H

#include <limits.h>

struct err;
struct json_object;

struct definition_file {
	struct json_object *definition; /* not parsed yet: definition_parse() judges it */
	struct json_object *warnings;	/* an array of sentences, about what the file's format says and a
					 * definition cannot */
	struct json_object *origins;	/* NULL: it is JSON; or the lines that keys come from */
	char folder[PATH_MAX];		/* relative paths are taken from it */
};

/* path: "-" is standard input, and its folder the present one. Returns 0; -errno. */
int definition_file_read(const char *path, struct definition_file *f, struct err *e);
void definition_file_done(struct definition_file *f);
/* A sentence on a key of the definition: say where in the file that is, when the file has no such
 * key. Returns r. */
int definition_file_blame(const struct definition_file *f, int r, struct err *e);

/* On stderr. list: an array, or NULL. */
void warnings_print(struct json_object *list);

#endif
