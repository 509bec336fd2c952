/* change: one edit of a VM's definition for its next start, by the daemon or not at all: it compares with
 * what was read, so that of two who change a VM neither loses what the other did. */
#ifndef CAIRN_TOOLS_CHANGE_H
#define CAIRN_TOOLS_CHANGE_H

struct cli;
struct err;
struct json_object;

/* Options of all verbs that change a definition. */
#define CHANGE_OPTIONS                                                                              \
	{ "config", NULL, "change the next start of the VM [default]" },                                    \
	{ "live", NULL, "refused: the definition of a running VM does not change" },                                  \
	{ "current", NULL, "the same as --config, for a VM that is off" },                          \
	{ "print-only", NULL, "show the change, and change nothing" }

/* edit: changes the definition, canonical JSON, in place; called again when somebody else was faster.
 * Returns 0; -errno with a sentence. opaque is its own. Says on stderr what the daemon warns of.
 * Returns 0; 1: it was only shown (--print-only); -errno. */
int change_make(struct cli *c, const char *vm,
	int (*edit)(struct cli *c, struct json_object *definition, void *opaque, struct err *e),
	void *opaque, struct err *e);

/* What the next start uses; the caller puts it. */
int change_read(struct cli *c, const char *vm, struct json_object **ret_definition, struct err *e);
/* Has the daemon keep `now`, if the definition still is `was`; else the error is of
 * class ERR_BUSY. */
int change_define(struct cli *c, struct json_object *was, struct json_object *now, struct err *e);

/* One of the array's objects whose member has that value, or -1. */
int change_find(struct json_object *list, const char *key, const char *value);

#endif
