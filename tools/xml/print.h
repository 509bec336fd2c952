/* print: convert a definition to libvirt's domain XML (round_trip.h). */
#ifndef CAIRN_TOOLS_XML_PRINT_H
#define CAIRN_TOOLS_XML_PRINT_H

struct err;
struct json_object;
struct writer;

/* Convert a definition to XML. id: id of a running VM; NULL: none. *ret_xml: the caller frees it. Returns 0; -EINVAL
 * with a sentence. */
int domain_print(struct json_object *definition, const char *id, char **ret_xml, struct err *e);
/* Find the keys of a definition that no element expresses. *ret_extra: as in extra.h; owned by the caller; NULL: there
 * are none. Returns 0; -EINVAL with a sentence; -ENOMEM. */
int domain_extra(struct json_object *definition, struct json_object **ret_extra, struct err *e);

/* Print the properties that only an interface of type user has (usernet.c). */
void usernet_print(struct writer *w, struct json_object *interface);

#endif
