/* cairn-xml: convert libvirt's domain XML to a definition and back. `cairn` is linked statically and runs this program.
 * It reads standard input, except for `elements`, after entering its sandbox, and writes standard output.
 *
 *   to-json    XML → {"definition": …, "warnings": […], "origins": {"disks[0]": "line 12", …}}
 *   to-xml     {"definition": …, "id": "3"} → {"xml": "…"}
 *   to-extra   {"definition": …} → {"extra": …}: the keys that no element has; without a member: there are none
 *   net-to-json, net-to-xml, net-SECTION-to-json   the same for libvirt's network XML and parts of it
 *   vol-to-xml, snapshot-to-xml   a volume or a snapshot, as "definition", to XML
 *   elements   → all known elements and their treatment: path, word, attributes, why; separated by tabs
 *
 * Errors: {"error": {"class": number of enum err_class, "desc": sentence}}, exit status 1. If several elements are
 * refused, desc is the first one's, "refusals" has the sentences of the first 32, and "refused" the number of all. */
#include "tools/xml/domain.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/program.h"
#include "base/util.h"
#include "tools/xml/elements.h"
#include "tools/xml/network.h"
#include "tools/xml/print.h"
#include "tools/xml/reading.h"
#include "tools/xml/sandbox.h"
#include "tools/xml/shown.h"

#include <libxml/parser.h>
#include <stdio.h>
#include <string.h>

#define INPUT_MAX (1 * MIB)
static void doc_free_p(xmlDocPtr *doc)
{
	xmlFreeDoc(*doc);
}

/* Convert with read(), which gets opaque. */
static int convert(const char *text, size_t len, struct json_object *out,
	int (*read)(struct reading *r, struct _xmlDoc *doc, const char *opaque), const char *opaque, struct err *e)
{
	xmlDocPtr doc CLEANUP(doc_free_p) = NULL;
	struct reading r CLEANUP(reading_done) = { 0 };
	int ret = domain_parse(text, len, &doc, e);

	if (!ret)
		ret = reading_init(&r, e);
	if (!ret)
		ret = read(&r, doc, opaque);
	if (ret < 0) {
		if (r.nrefusals > 1)
			reading_put_refusals(&r, out);
		return ret;
	}
	js_put(out, "definition", STEAL_PTR(r.definition));
	js_put(out, "warnings", STEAL_PTR(r.warnings));
	js_put(out, "origins", STEAL_PTR(r.origins));
	return 0;
}

static int read_domain(struct reading *r, struct _xmlDoc *doc, const char *unused)
{
	(void)unused;
	return domain_read(r, doc);
}

static int read_network(struct reading *r, struct _xmlDoc *doc, const char *unused)
{
	(void)unused;
	return network_read(r, doc);
}

static int to_json(const char *text, size_t len, struct json_object *out, struct err *e)
{
	return convert(text, len, out, read_domain, NULL, e);
}

static int net_to_json(const char *text, size_t len, struct json_object *out, struct err *e)
{
	return convert(text, len, out, read_network, NULL, e);
}

static int net_host_to_json(const char *text, size_t len, struct json_object *out, struct err *e)
{
	return convert(text, len, out, network_entry_read, "ip-dhcp-host", e);
}

static int net_range_to_json(const char *text, size_t len, struct json_object *out, struct err *e)
{
	return convert(text, len, out, network_entry_read, "ip-dhcp-range", e);
}

static int net_dns_host_to_json(const char *text, size_t len, struct json_object *out, struct err *e)
{
	return convert(text, len, out, network_entry_read, "dns-host", e);
}

static int print(const char *text, size_t len, struct json_object *out, int (*how)(struct json_object *o, char **ret_xml, struct err *e),
	struct err *e)
{
	CLEANUP_JS struct json_object *in = NULL;
	CLEANUP_FREE char *xml = NULL;
	int r = js_parse(text, len, "the definition", &in, e);

	if (!r)
		r = how(js_get(in, "definition"), &xml, e);
	if (!r)
		js_put_str(out, "xml", xml);
	return r;
}

static int net_to_xml(const char *text, size_t len, struct json_object *out, struct err *e)
{
	return print(text, len, out, network_print, e);
}

static int vol_to_xml(const char *text, size_t len, struct json_object *out, struct err *e)
{
	return print(text, len, out, volume_print, e);
}

static int snapshot_to_xml(const char *text, size_t len, struct json_object *out, struct err *e)
{
	return print(text, len, out, snapshot_print, e);
}

static int to_xml(const char *text, size_t len, struct json_object *out, struct err *e)
{
	CLEANUP_JS struct json_object *in = NULL;
	CLEANUP_FREE char *xml = NULL;
	int r = js_parse(text, len, "the definition", &in, e);

	if (!r)
		r = domain_print(js_get(in, "definition"), js_get_str(in, "id"), &xml, e);
	if (!r)
		js_put_str(out, "xml", xml);
	return r;
}

static int to_extra(const char *text, size_t len, struct json_object *out, struct err *e)
{
	CLEANUP_JS struct json_object *in = NULL;
	struct json_object *extra = NULL;
	int r = js_parse(text, len, "the definition", &in, e);

	if (!r)
		r = domain_extra(js_get(in, "definition"), &extra, e);
	if (!r && extra)
		js_put(out, "extra", extra);
	return r;
}

static int elements_print(void)
{
	static const char *const words[] = { [ELEMENT_READ] = "read", [ELEMENT_REPEATED] = "read",
		[ELEMENT_SILENT] = "not needed", [ELEMENT_NONE] = "no effect",
		[ELEMENT_OPTIONAL] = "no effect", [ELEMENT_REFUSED] = "refused" };

	for (const struct element *e = elements; e->path; e++)
		printf("%s\t%s\t%s\t%s\n", *e->path ? e->path : "domain", words[e->action], e->attrs,
			e->why ? e->why : "");
	return program_end("cairn-xml", 0);
}

static int answer_print(struct json_object *out, int r, const struct err *e)
{
	struct json_object *error;

	if (r < 0) {
		error = json_object_new_object();
		js_put_int(error, "class", e->cls);
		js_put_str(error, "desc", e->msg);
		js_put(out, "error", error);
	}
	puts(json_object_to_json_string_ext(out, JSON_C_TO_STRING_PLAIN));
	return program_end("cairn-xml", r < 0);
}

typedef int run_mode(const char *text, size_t len, struct json_object *out, struct err *e);

static run_mode *mode_find(const char *name)
{
	static const struct {
		const char *name;
		run_mode *run;
	} modes[] = { { "to-json", to_json }, { "to-xml", to_xml }, { "to-extra", to_extra }, { "net-to-json", net_to_json }, { "net-to-xml", net_to_xml },
		{ "net-ip-dhcp-host-to-json", net_host_to_json }, { "net-ip-dhcp-range-to-json", net_range_to_json },
		{ "net-dns-host-to-json", net_dns_host_to_json }, { "vol-to-xml", vol_to_xml }, { "snapshot-to-xml", snapshot_to_xml } };

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
		if (!strcmp(modes[i].name, name))
			return modes[i].run;
	return NULL;
}

int main(int argc, char **argv)
{
	CLEANUP_JS struct json_object *out = json_object_new_object();
	const char *mode = argc == 2 ? argv[1] : "";
	CLEANUP_FREE char *text = NULL;
	struct err e;
	size_t len;
	int r;

	program_outlive_file_limit();
	if (!strcmp(mode, "elements"))
		return elements_print();
	if (!mode_find(mode)) {
		fputs("usage: cairn-xml to-json|to-xml|to-extra|net-to-json|net-SECTION-to-json|net-to-xml|vol-to-xml|snapshot-to-xml|elements <INPUT >OUTPUT\n", stderr);
		return 2;
	}
	r = xml_sandbox(&e);
	if (!r)
		r = file_read_fd(0, "the input", INPUT_MAX, &text, &len, &e);
	if (!r)
		r = mode_find(mode)(text, len, out, &e);
	return answer_print(out, r, &e);
}
