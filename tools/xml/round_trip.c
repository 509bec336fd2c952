#include "tools/xml/round_trip.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/xml/domain.h"
#include "tools/xml/extra.h"
#include "tools/xml/reading.h"

#include <errno.h>
#include <libxml/tree.h>
#include <string.h>

static void doc_free_p(xmlDocPtr *doc)
{
	xmlFreeDoc(*doc);
}

static int text_read_again(const struct round_trip *kind, const char *xml, struct json_object **ret_o, struct err *e)
{
	xmlDocPtr doc CLEANUP(doc_free_p) = NULL;
	struct reading reading CLEANUP(reading_done) = { 0 };
	int r = domain_parse(xml, strlen(xml), &doc, e);

	if (!r)
		r = reading_init(&reading, e);
	if (!r)
		r = kind->read(&reading, doc);
	return r < 0 ? r : kind->canonical(reading.definition, ret_o, e);
}

/* Print the XML and read it again. *ret_got: canonical form; the caller owns it. */
static int print_attempt(const struct round_trip *kind, struct json_object *want, const char *id, struct json_object *extra,
	char **ret_xml, struct json_object **ret_got, struct err *e)
{
	CLEANUP_FREE char *xml = kind->print(want, id, extra);
	int r;

	if (!xml)
		return err_set_errno(e, -ENOMEM, "XML");
	r = text_read_again(kind, xml, ret_got, e);
	if (r < 0) {
		err_prefix(e, "the definition cannot be expressed in XML");
		return r;
	}
	*ret_xml = STEAL_PTR(xml);
	return 0;
}

static int not_the_same(struct json_object *want, struct json_object *got, struct err *e)
{
	json_object_object_foreach(want, key, v)
	{
		if (!json_object_equal(v, js_get(got, key)))
			return err_set(e, -EINVAL, ERR_UNSUPPORTED,
				"the definition cannot be expressed in XML: %.40s; use cairn dumpjson or net-dumpjson", key);
	}
	return err_set(e, -EINVAL, ERR_UNSUPPORTED,
		"the definition cannot be expressed in XML; use cairn dumpjson or net-dumpjson");
}

int round_trip_extra(const struct round_trip *kind, struct json_object *definition, struct json_object **ret_extra, struct err *e)
{
	CLEANUP_JS struct json_object *want = NULL, *got = NULL;
	CLEANUP_FREE char *xml = NULL;
	int r = kind->canonical(definition, &want, e);

	if (!r)
		r = print_attempt(kind, want, NULL, NULL, &xml, &got, e);
	if (!r)
		*ret_extra = extra_make(want, got);
	return r;
}

int round_trip_print(const struct round_trip *kind, struct json_object *definition, const char *id, char **ret_xml,
	struct err *e)
{
	CLEANUP_JS struct json_object *want = NULL, *got = NULL, *extra = NULL, *again = NULL;
	CLEANUP_FREE char *first = NULL, *second = NULL;
	int r = kind->canonical(definition, &want, e);

	if (!r)
		r = print_attempt(kind, want, id, NULL, &first, &got, e);
	if (r < 0)
		return r;
	extra = extra_make(want, got);
	if (!extra && json_object_equal(want, got)) {
		*ret_xml = STEAL_PTR(first);
		return 0;
	}
	r = print_attempt(kind, want, id, extra, &second, &again, e);
	if (r < 0)
		return r;
	if (!json_object_equal(want, again))
		return not_the_same(want, again, e);
	*ret_xml = STEAL_PTR(second);
	return 0;
}
