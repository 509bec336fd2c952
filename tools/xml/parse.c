/* Parse XML text. Entity bombs and external files both need a DOCTYPE, and no domain has one: stop the parser at a
 * DOCTYPE. */
#include "tools/xml/domain.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <libxml/SAX2.h>
#include <libxml/parser.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define OPTIONS (XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NOCDATA | \
	XML_PARSE_BIG_LINES)

static void doctype_refuse(void *context, const xmlChar *name, const xmlChar *id,
	const xmlChar *system)
{
	xmlParserCtxtPtr c = context;

	(void)name;
	(void)id;
	(void)system;
	*(long *)c->_private = xmlSAX2GetLineNumber(c);
	xmlStopParser(c);
}

/* Replace bytes that are not printable ASCII: libxml2's messages quote the input, which may be binary data. */
static void ascii_only(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || (unsigned char)*s > 0x7e)
			*s = '?';
}

/* Set an error such as "Opening and ending tag mismatch: name line 2 and domain", without the newline. */
static int parse_error(xmlParserCtxtPtr c, struct err *e)
{
	const xmlError *last = xmlCtxtGetLastError(c);
	const char *msg = last && last->message ? last->message : "the text ends too early";
	char why[200];

	snprintf(why, sizeof(why), "%.*s", (int)MIN(strcspn(msg, "\n"), sizeof(why) - 1), msg);
	ascii_only(why);
	return err_set(e, -EINVAL, ERR_INVALID, "line %d, column %d: not well-formed XML: %s",
		last ? last->line : 1, last ? last->int2 : 1, why);
}

int domain_parse(const char *text, size_t len, struct _xmlDoc **ret_doc, struct err *e)
{
	xmlParserCtxtPtr c = xmlNewParserCtxt();
	long doctype_line = 0;
	xmlDocPtr doc;
	int ret = 0;

	if (!c || len > INT_MAX) {
		xmlFreeParserCtxt(c);
		return err_set_errno(e, -ENOMEM, "domain XML");
	}
	c->_private = &doctype_line;
	c->sax->internalSubset = doctype_refuse;
	doc = xmlCtxtReadMemory(c, text, (int)len, NULL, NULL, OPTIONS);
	if (doctype_line)
		ret = err_set(e, -EINVAL, ERR_INVALID,
			"line %ld: a DOCTYPE is not accepted; remove it",
			doctype_line);
	else if (!doc || !c->wellFormed)
		ret = parse_error(c, e);
	if (ret < 0)
		xmlFreeDoc(doc);
	else
		*ret_doc = doc;
	xmlFreeParserCtxt(c);
	return ret;
}
