/* schema: what the daemon's commands are: their words, roles, states and arguments, as it says itself. */
#ifndef CAIRN_TOOLS_SCHEMA_H
#define CAIRN_TOOLS_SCHEMA_H

#include "tools/cairn/cli.h"

/* Return the schema of the daemon that was built with this program, as query-qmp-schema answers. The caller puts it. */
struct json_object *schema_load(void);
/* A command, an event or a type. Borrowed; NULL: it has none of that name. */
struct json_object *schema_entry(struct json_object *schema, const char *name);
/* One of a command's arguments. As above. */
struct json_object *schema_argument(struct json_object *schema, const char *command, const char *name);
/* The words that an argument takes, as an array. Borrowed; NULL: it takes anything of its type. */
struct json_object *schema_words(struct json_object *schema, struct json_object *argument);

/* Names of all events, as an array. The caller puts it. */
struct json_object *schema_events(struct json_object *schema);

/* A verb's commands one after another: its list, or where the last one ended. Returns where this one ends, and its
 * name; NULL behind the last. */
const char *verb_command_next(const char *list, char name[64]);

/* Of which VMs a command is possible. */
struct legal_vms {
	char states[128]; /* words, with commas; empty: any */
	bool never_templates;
};

/* As the daemon says. */
int legal_vms_ask(struct cli *c, const char *command, struct legal_vms *ret, struct err *e);
/* Is a VM whose state is `word` in one of those states? */
bool legal_states_have(const char *states, const char *word);

#endif
