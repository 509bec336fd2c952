/* print: a definition as libvirt's domain XML. What is printed is read again before it is handed
 * out, and has to be the same definition. */
#ifndef CAIRN_TOOLS_XML_PRINT_H
#define CAIRN_TOOLS_XML_PRINT_H

struct err;
struct json_object;
struct writer;

/* id: of a VM that runs, or NULL. *ret_xml: the caller frees it. Returns 0; -EINVAL with a
 * sentence. */
int domain_print(struct json_object *definition, const char *id, char **ret_xml, struct err *e);

/* Of one interface of type user, what other types have not. (usernet.c) */
void usernet_print(struct writer *w, struct json_object *interface);

#endif
