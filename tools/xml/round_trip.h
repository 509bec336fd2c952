/* round_trip: prints a definition as XML. The XML is read again before it is returned, and must give the same
 * definition. */
#ifndef CAIRN_TOOLS_XML_ROUND_TRIP_H
#define CAIRN_TOOLS_XML_ROUND_TRIP_H

struct _xmlDoc;
struct err;
struct json_object;
struct reading;

/* A kind of definition. */
struct round_trip {
	/* Print a definition in canonical form. id: of a running VM; NULL: none. extra: keys for <metadata>; NULL:
	 * none. Returns the XML, which the caller frees; NULL: no memory. */
	char *(*print)(struct json_object *o, const char *id, struct json_object *extra);
	int (*read)(struct reading *r, struct _xmlDoc *doc); /* as domain_read() */
	/* Check a definition, and convert it to canonical form. The caller owns *ret_o. Returns 0; -errno. */
	int (*canonical)(struct json_object *o, struct json_object **ret_o, struct err *e);
};

/* Convert a definition to XML. *ret_xml: the caller frees it. Returns 0; -EINVAL with a sentence; -ENOMEM. */
int round_trip_print(const struct round_trip *kind, struct json_object *definition, const char *id, char **ret_xml,
	struct err *e);
/* Find what the elements cannot say (extra.h). *ret_extra: owned by the caller; NULL: nothing. Returns as
 * round_trip_print(). */
int round_trip_extra(const struct round_trip *kind, struct json_object *definition, struct json_object **ret_extra, struct err *e);

#endif
