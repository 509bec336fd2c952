/* xml: convert libvirt's domain XML with cairn-xml, a separate program, because this one does not link libxml2. */
#ifndef CAIRN_TOOLS_XML_H
#define CAIRN_TOOLS_XML_H

#include <stdbool.h>
#include <stddef.h>

struct err;
struct json_object;

/* Maximum size of an XML file. */
#define XML_FILE_MAX (1024 * 1024)

/* Return whether this text looks like XML. */
bool xml_is(const char *text, size_t len);

/* Convert XML to a definition.
 * ret_definition: JSON; ret_warnings: array of sentences; ret_origins: place of each key ("disks[0]": "line 12"). The
 * caller owns all three.
 * Returns 0; -errno with a sentence. */
int xml_to_definition(const char *text, size_t len, struct json_object **ret_definition,
	struct json_object **ret_warnings, struct json_object **ret_origins, struct err *e);
/* Convert a definition to XML.
 * definition: borrowed. id: id of a running VM; negative: none. ret_xml: the caller frees it.
 * Returns 0; -errno with a sentence. */
int xml_from_definition(struct json_object *definition, int id, char **ret_xml, struct err *e);

/* Find the keys of a definition that libvirt's elements cannot express. *ret_extra: as tools/xml/extra.h has them;
 * owned by the caller; NULL: there are none. Returns 0; -errno with a sentence. */
int xml_extra(struct json_object *definition, struct json_object **ret_extra, struct err *e);

/* The same for networks and libvirt's network XML. */
int xml_to_network(const char *text, size_t len, struct json_object **ret_definition, struct json_object **ret_warnings,
	struct json_object **ret_origins, struct err *e);
int xml_from_network(struct json_object *definition, char **ret_xml, struct err *e);
/* Convert a volume, with the members of vol-info, or a snapshot whose parent is a name. */
int xml_from_volume(struct json_object *volume, char **ret_xml, struct err *e);
int xml_from_snapshot(struct json_object *snapshot, char **ret_xml, struct err *e);
/* Convert one element of a network's XML, such as <host>. section: ip-dhcp-host, ip-dhcp-range or dns-host. The
 * caller owns the results (xml_to_definition()). Returns 0; -errno with a sentence. */
int xml_network_entry(const char *section, const char *text, size_t len, struct json_object **ret_entry,
	struct json_object **ret_warnings, struct err *e);

/* Prefix an error about a key such as "disks[0].path" with its line in the XML. */
void xml_locate(struct json_object *origins, struct err *e);

#endif
