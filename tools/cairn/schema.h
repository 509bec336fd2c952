/* schema: the daemon's commands, types and events, as the daemon's schema describes them. */
#ifndef CAIRN_TOOLS_SCHEMA_H
#define CAIRN_TOOLS_SCHEMA_H

#include "tools/cairn/cli.h"

/* Return the schema of the daemon that was built with this program, as query-qmp-schema answers. The caller owns it. */
struct json_object *schema_load(void);
/* Return whether a command changes something. */
bool schema_mutates(const char *command);
/* Find a command, an event or a type by name. Borrowed; NULL: none. */
struct json_object *schema_entry(struct json_object *schema, const char *name);
/* Find an argument of a command. Borrowed; NULL: none. */
struct json_object *schema_argument(struct json_object *schema, const char *command, const char *name);
/* Returns an array of the words that an argument accepts. Borrowed; NULL: any value of its type. */
struct json_object *schema_words(struct json_object *schema, struct json_object *argument);

/* Returns an array of the names of all events. The caller owns it. */
struct json_object *schema_events(struct json_object *schema);

/* Copy the next command's name from the list of a verb (struct verb, commands).
 * list: the verb's list, or the previous return value. name: set to the next command.
 * Returns the place behind that command; NULL behind the last. */
const char *verb_command_next(const char *list, char name[64]);

/* The VMs that a command accepts. */
struct legal_vms {
	char states[128]; /* state words, separated by commas; empty: any state */
	bool never_templates;
};

/* Read the rules of a command from the schema. Returns 0; -errno with a sentence. */
int legal_vms_ask(struct cli *c, const char *command, struct legal_vms *ret, struct err *e);
/* Return whether a VM of vm-list is one of them. */
bool legal_vms_have(const struct legal_vms *can, struct json_object *vm);
/* Return whether the state `word` is in the list `states`, or the list is empty. */
bool legal_states_have(const char *states, const char *word);

#endif
