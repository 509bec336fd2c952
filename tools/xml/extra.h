/* extra: keys of a definition for which libvirt has no element. They are in <metadata> as
 *
 *   <cairn:definition xmlns:cairn='urn:cairn:definition:1'>{"debug_exit": true}</cairn:definition>
 *
 * and only add to the elements: they cannot change values that are in the XML. Disks and interfaces are objects with
 * their ids as keys: {"disks": {"vda": {"data_file": "/x"}}}. */
#ifndef CAIRN_TOOLS_XML_EXTRA_H
#define CAIRN_TOOLS_XML_EXTRA_H

struct _xmlNode;
struct json_object;
struct reading;
struct writer;

/* Add the keys to the definition in r. Returns 0; -EINVAL with a sentence. */
int extra_read(struct reading *r, struct _xmlNode *domain);

/* Returns the keys of `want` that `got` lacks, or has with another value; both are in canonical form. The caller owns
 * the result; NULL: none. */
struct json_object *extra_make(struct json_object *want, struct json_object *got);
/* Print <metadata> with the keys. extra: NULL: print nothing. */
void extra_print(struct writer *w, struct json_object *extra);

#endif
