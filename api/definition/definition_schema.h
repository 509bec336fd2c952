/* definition_schema: the JSON Schema (draft 2020-12) of a definition, out of the tables that it is parsed
 * by. What a schema cannot say, such as ids that are unique, only the parser refuses. */
#ifndef CAIRN_API_DEFINITION_DEFINITION_SCHEMA_H
#define CAIRN_API_DEFINITION_DEFINITION_SCHEMA_H

struct json_object;

/* The caller puts it. */
struct json_object *definition_schema(void);

#endif
