/* definition_schema: the JSON Schemas (draft 2020-12) of definitions of VMs and of networks, generated from the
 * parser's tables. A schema cannot state some rules, such as unique ids; only the parser checks those. */
#ifndef CAIRN_API_DEFINITION_DEFINITION_SCHEMA_H
#define CAIRN_API_DEFINITION_DEFINITION_SCHEMA_H

struct json_object;

/* Return the schema, owned by the caller. */
struct json_object *definition_schema(void);
struct json_object *network_definition_schema(void);

#endif
