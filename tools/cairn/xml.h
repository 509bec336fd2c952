/* xml: libvirt's domain XML through cairn-xml, a program of its own: libxml2 is not in this one. */
#ifndef CAIRN_TOOLS_XML_H
#define CAIRN_TOOLS_XML_H

#include <stdbool.h>
#include <stddef.h>

struct err;
struct json_object;

/* The most that is read of an XML. */
#define XML_FILE_MAX (1024 * 1024)

/* Does a file with this text claim to be XML? */
bool xml_is(const char *text, size_t len);

/* Each of the three is the caller's to put: the definition's JSON, an array of warnings, and
 * where its keys come from ("disks[0]": "line 12"). Returns 0; -errno with a sentence. */
int xml_to_definition(const char *text, size_t len, struct json_object **ret_definition,
	struct json_object **ret_warnings, struct json_object **ret_origins, struct err *e);
/* definition: borrowed. id: of a VM that runs; below 0: none. The caller frees *ret_xml. */
int xml_from_definition(struct json_object *definition, int id, char **ret_xml, struct err *e);

/* Put before a sentence on "disks[0].path" the line that it comes from. */
void xml_blame(struct json_object *origins, struct err *e);

#endif
