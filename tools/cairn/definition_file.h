/* definition_file: read a user's file, JSON or libvirt's XML, as the JSON of a definition. */
#ifndef CAIRN_TOOLS_DEFINITION_FILE_H
#define CAIRN_TOOLS_DEFINITION_FILE_H

#include <limits.h>
#include <stdbool.h>

struct err;
struct json_object;

struct definition_file {
	struct json_object *definition; /* not checked yet: definition_parse() does that */
	struct json_object *warnings;	/* array of sentences about XML that a definition cannot express */
	struct json_object *origins;	/* line of each key in the XML; NULL: the file is JSON */
	char folder[PATH_MAX];		/* base of relative paths */
	bool is_network;		/* set by the caller: the file defines a network, not a VM */
};

/* Read a definition file.
 * path: "-" is standard input. For standard input and pipes, the folder is the working directory. f: zeroed but for
 * is_network. Returns 0; -errno with a sentence. Call definition_file_done() in either case. */
int definition_file_read(const char *path, struct definition_file *f, struct err *e);
/* Read a file with one device: {"disk": {…}}, {"interface": {…}}, or libvirt's <disk> or <interface>. The definition is
 * one that has only this device. Otherwise as definition_file_read(). */
int device_file_read(const char *path, struct definition_file *f, struct err *e);
void definition_file_done(struct definition_file *f);
/* Prefix an error about a key with the place in the XML file.
 * e: an error of definition_parse(). Returns r. */
int definition_file_locate(const struct definition_file *f, int r, struct err *e);

/* Print the warnings on stderr. list: an array of sentences, or NULL. */
void warnings_print(struct json_object *list);

#endif
