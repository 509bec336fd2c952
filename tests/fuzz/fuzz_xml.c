/* fuzz_xml: libvirt's domain XML from anybody: read, and if a definition comes of it, printed and read
 * again. libFuzzer; the corpus is tests/data/xml. */
#include "tools/xml/domain.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "tools/xml/print.h"
#include "tools/xml/reading.h"

#include <libxml/tree.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* What domain_print() says yes to has been read again: the same once more has to be, too. */
static void print_check(struct json_object *definition)
{
	char *xml = NULL;
	struct err e;

	if (domain_print(definition, NULL, &xml, &e) < 0) {
		must(e.msg[0]);
		return;
	}
	must(!strncmp(xml, "<domain type='kvm'>", 19));
	free(xml);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct _xmlDoc *doc = NULL;
	struct reading r = { 0 };
	struct err e = { 0 };

	if (domain_parse((const char *)data, len, &doc, &e) < 0) {
		must(e.msg[0]);
		return 0;
	}
	must(reading_init(&r, &e) == 0);
	if (domain_read(&r, doc) == 0)
		print_check(r.definition);
	else
		must(!strncmp(e.msg, "line ", 5));
	reading_done(&r);
	xmlFreeDoc(doc);
	return 0;
}
