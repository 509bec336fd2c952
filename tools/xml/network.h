/* network: convert libvirt's network XML to the JSON of a network and back. */
#ifndef CAIRN_TOOLS_XML_NETWORK_H
#define CAIRN_TOOLS_XML_NETWORK_H

struct _xmlDoc;
struct err;
struct json_object;
struct reading;

/* Convert a whole <network>. r: from reading_init(). Returns 0; -EINVAL with a sentence that names line and element. */
int network_read(struct reading *r, struct _xmlDoc *doc);
/* Convert one element, <host> or <range>, into r->definition. section: ip-dhcp-host, ip-dhcp-range or dns-host. Returns
 * as network_read(). */
int network_entry_read(struct reading *r, struct _xmlDoc *doc, const char *section);
/* Convert a network's definition to XML (round_trip.h). *ret_xml: the caller frees it. Returns 0; -EINVAL with a
 * sentence; -ENOMEM. */
int network_print(struct json_object *o, char **ret_xml, struct err *e);

#endif
